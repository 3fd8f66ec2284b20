"""The package's networks as contestants: one forward pass, one training step, one sequence through an LSTM.

The same three as at the end of torch_nets.py, each (step, answer) as peers.Contestant has them. On a GPU, inputs lie there
beforehand, and every step ends by waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emonet_scratch.backend import import_cupy, to_device
from emonet_scratch.losses import softmax_cross_entropy


def wait(device: str) -> None:
    """Until the GPU has done all that it was told."""
    if device != "cpu":
        import_cupy().cuda.Device().synchronize()


def gradients(net: Any) -> dict[str, np.ndarray]:
    """Copies on the host, by name."""
    return {p.name: np.array(to_device(p.grad, "cpu")) for p in net.parameters()}


def forward(net: Any, inputs: Sequence[np.ndarray], device: str = "cpu") -> tuple[Callable, Callable]:
    """A forward pass, in the mode that net is in."""
    inputs = [to_device(a, device) for a in inputs]

    def step() -> Any:
        logits, _ = net.forward(*inputs)
        wait(device)
        return logits
    return step, lambda: {"logits": to_device(step(), "cpu")}


def training(net: Any, inputs: Sequence[np.ndarray], labels: np.ndarray, optimizer: Any,
             device: str = "cpu") -> tuple[Callable, Callable]:
    """Forward, mean cross-entropy, backward and one step of the optimizer, which has the parameters of net."""
    inputs = [to_device(a, device) if a.ndim > 1 else a for a in inputs]                 # lengths stay on the host

    def forward_backward() -> Any:
        net.zero_grad()
        logits, cache = net.forward(*inputs)
        net.backward(softmax_cross_entropy(logits, labels)[1], cache)
        return logits

    def step() -> None:
        forward_backward()
        optimizer.step()
        wait(device)

    def answer() -> dict:
        logits = to_device(forward_backward(), "cpu")
        return {"logits": logits, "gradients": gradients(net)}
    return step, answer


def sequence(lstm: Any, x: np.ndarray, dy: np.ndarray, device: str = "cpu") -> tuple[Callable, Callable]:
    """Forward and backward of an LSTM, dy the gradient of its output, to all parameters and to x (T, N, D)."""
    x, dy = to_device(x, device), to_device(dy, device)

    def step() -> tuple[Any, Any]:
        lstm.zero_grad()
        (y, _), cache = lstm.forward(x)
        dx, _ = lstm.backward(dy, None, cache)
        wait(device)
        return y, dx

    def answer() -> dict:
        y, dx = (to_device(a, "cpu") for a in step())
        return {"y": y, "gradients": gradients(lstm) | {"x": dx}}
    return step, answer
