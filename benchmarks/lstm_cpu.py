"""A 3-layer LSTM over 16 sequences, forward and backward, against torch.nn.LSTM with the same weights.

    python benchmarks/lstm_cpu.py [--threads 1 2] [--hidden 256 512] [--inputs 64 4096] [--steps 25 100]

The gradient flows to the parameters and to the input, which in the network comes from the trunk.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from peers import TUNED_MALLOC, Contestant, Work, arguments, machine, measure, peak, summarise, summary_row, table


def ours(case: dict) -> tuple[Callable, Callable]:
    """The package; the environment says with which kernels."""
    from emonet_scratch.layers import LSTM

    x, dy = case["x"], case["dy"]
    lstm = LSTM(x.shape[2], dy.shape[2], num_layers=3)
    lstm.load_state_dict(case["state"])

    def step() -> tuple[np.ndarray, np.ndarray]:
        lstm.zero_grad()
        (y, _), cache = lstm.forward(x)
        dx, _ = lstm.backward(dy, None, cache)
        return y, dx

    def answer() -> dict:
        y, dx = step()
        return {"y": y, "gradients": {p.name: p.grad.copy() for p in lstm.parameters()} | {"x": dx}}
    return step, answer


def _peer(case: dict, how: str) -> tuple[Callable, Callable]:
    import torch
    import torch_nets

    x, dy = torch.from_numpy(case["x"]).requires_grad_(), torch.from_numpy(case["dy"])
    state = {f"lstm.{name}": a for name, a in case["state"].items()}
    net = torch.nn.Module()
    net.lstm = torch.nn.LSTM(x.shape[2], dy.shape[2], num_layers=3)
    torch_nets.load(net, state)
    if how == "bf16":
        net, x, dy = net.bfloat16(), x.detach().bfloat16().requires_grad_(), dy.bfloat16()
    run = torch.compile(net.lstm) if how == "compile" else net.lstm

    def step() -> torch.Tensor:
        net.zero_grad()
        x.grad = None
        y, _ = run(x)
        y.backward(dy)
        return y

    def answer() -> dict:
        y = step().detach().float().numpy()
        gradients = {name.removeprefix("lstm."): g for name, g in torch_nets.gradients(net, state).items()}
        return {"y": y, "gradients": gradients | {"x": x.grad.float().numpy()}}
    return step, answer


def eager(case: dict) -> tuple[Callable, Callable]:
    """torch.nn.LSTM, which has its own kernel for the whole sequence."""
    return _peer(case, "eager")


def compiled(case: dict) -> tuple[Callable, Callable]:
    """torch.compile of it."""
    return _peer(case, "compile")


def bf16(case: dict) -> tuple[Callable, Callable]:
    """Weights, input and states in bfloat16."""
    return _peer(case, "bf16")


CONTESTANTS = [Contestant("ours", ours, "ours"),
               Contestant("ours, NumPy definitions", ours, "definitions", {"EMONET_KERNELS": "off"}),
               Contestant("PyTorch eager", eager, "eager"),
               Contestant("PyTorch eager, tuned malloc", eager, "float32", TUNED_MALLOC),
               Contestant("torch.compile", compiled, "compile", TUNED_MALLOC),
               Contestant("PyTorch bf16", bf16, "bf16", TUNED_MALLOC)]


def work(T: int, N: int, D: int, H: int) -> Work:
    """Three passes over the products with W_ih and W_hh; weights once a pass, W_hh once a step; input, gates, states."""
    flops = bytes_ = 0.0
    for C in (D, H, H):
        flops += 2 * T * N * (C + H) * 4 * H
        bytes_ += 4 * (C * 4 * H + T * H * 4 * H + T * N * (C + 4 * H + 2 * H))
    return Work(3 * flops, 3 * bytes_)


def main() -> None:
    sizes = (("--hidden", [256, 512]), ("--inputs", [64, 4096]), ("--steps", [25, 100]))
    options = arguments(__doc__, *((name, dict(type=int, nargs="+", default=default)) for name, default in sizes))
    machine()
    from emonet_scratch.layers import LSTM

    rows, N = [], 2 if options.quick else 16
    hidden, inputs, steps = ([8], [4], [3]) if options.quick else (options.hidden, options.inputs, options.steps)
    for threads in options.threads:
        top = peak(options, threads)
        for D in inputs:
            for H in hidden:
                for T in steps:
                    rng = np.random.default_rng(0)
                    case = {"state": LSTM(D, H, num_layers=3, rng=rng).state_dict(),
                            "x": rng.standard_normal((T, N, D)).astype(np.float32),
                            "dy": rng.standard_normal((T, N, H)).astype(np.float32)}
                    title = f"LSTM, 3 layers, D {D}, H {H}, T {T}, N {N}, forward + backward, {threads} thread(s)"
                    found = measure(CONTESTANTS, case, options, threads, {"y": 1e-4, "gradients": 1e-3})
                    table(title, found, work(T, N, D, H), top, ("steps", T * N))
                    rows.append(summary_row(title, found))
    summarise(rows)


if __name__ == "__main__":
    main()
