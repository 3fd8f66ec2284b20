"""All that the scripts need of PyTorch: the package's networks, their weights and gradients by name, and what is timed.

The networks carry the package's names inside. A script says which network, which optimizer, and which `variant` of PyTorch
(`as_run`); `half` means bfloat16. Imported by workers only: PyTorch is no dependency of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class PadShortcut(nn.Module):
    """He et al. 2016, option A: subsample, then as many channels of zeros as are missing, half of them before."""

    def __init__(self, C: int, M: int, stride: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, (M - C) // 2, M - C - (M - C) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::self.stride, ::self.stride], [0, 0, 0, 0, self.before, self.after])


class Body(nn.Sequential):
    """conv1, bn1, ReLU, conv2, bn2"""

    def __init__(self, C: int, M: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, M, 3, stride, padding=1, bias=False), nn.BatchNorm2d(M)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(M, M, 3, padding=1, bias=False), nn.BatchNorm2d(M)


class ResidualBlock(nn.Module):
    """ReLU(body(x) + shortcut(x))"""

    def __init__(self, C: int, M: int, stride: int) -> None:
        super().__init__()
        self.body = Body(C, M, stride)
        self.shortcut = nn.Identity() if C == M and stride == 1 else PadShortcut(C, M, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


class Trunk(nn.Sequential):
    """The CIFAR ResNet without pooling and classifier: (N, 3, H, W) -> (N, 4 width, H / 4, W / 4)."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        for k, (C, M, stride) in enumerate([(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)], 1):
            blocks = [ResidualBlock(C, M, stride), *(ResidualBlock(M, M, 1) for _ in range((depth - 2) // 6 - 1))]
            setattr(self, f"stage{k}", nn.Sequential(*blocks))


class ResNet(nn.Module):
    """`models.ResNet`; x is (N, 3, H, W), channels last in memory."""

    def __init__(self, depth: int = 20, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.features, self.dense = Trunk(depth, width), nn.Linear(4 * width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.features(x).mean((2, 3)))


class EmoNet(nn.Module):
    """`models.EmoNet` with both modalities and a flattened trunk, as in the presets `small` and `paper`."""

    def __init__(self, config: dict, audio_features: int) -> None:
        super().__init__()
        c, size = config, (config["frame_size"] + 3) // 4
        D = 4 * c["trunk_width"] * size**2
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        self.resnet = Trunk(c["trunk_depth"], c["trunk_width"])
        self.norm = nn.BatchNorm1d(D) if c["feature_norm"] else nn.Identity()
        self.fixed, self.chunk, self.top = c["trunk_norm"] == "running", c["frames_per_chunk"], c["lstm_output"] == "top"
        self.lstm = nn.LSTM(D, c["lstm_size"], c["lstm_layers"])
        self.audio = dense_stack((audio_features, *c["audio_layers"]), c["dropout"], open_end=False)
        fused = c["lstm_size"] * (1 if self.top else c["lstm_layers"]) + c["audio_layers"][-1]
        self.fusion = dense_stack((fused, *c["fusion_layers"], 7), c["dropout"], open_end=not c["relu_on_logits"])

    def train(self, mode: bool = True) -> EmoNet:
        """With fixed statistics the trunk's norms stay as in evaluation."""
        super().train(mode)
        if self.fixed:
            self.resnet.eval()
            self.norm.eval()
        return self

    def trunk(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 -> (B, D)"""
        x = normalize(frames.permute(0, 3, 1, 2), self.mean, self.std)                # channels last in memory
        return self.norm(self.resnet(x).permute(0, 2, 3, 1).flatten(1))

    def forward(self, frames: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """frames (N T, H, W, 3) uint8, clip after clip of equal length; audio (N, D)."""
        if self.chunk is None:
            x = self.trunk(frames)
        else:                                                         # computed again in backward, as layers.Chunked does
            x = torch.cat([checkpoint(self.trunk, part, use_reentrant=False) for part in frames.split(self.chunk)])
        x = x.reshape(len(audio), -1, x.shape[1]).transpose(0, 1)                    # (T, N, D)
        _, (h, _) = self.lstm(x)
        states = h[-1:] if self.top else h
        return self.fusion(torch.cat([states.transpose(0, 1).flatten(1), self.audio(audio)], 1))


class AudioNet(nn.Module):
    """`models.EmoNet` with audio alone; x is (N, D)."""

    def __init__(self, config: dict, audio_features: int) -> None:
        super().__init__()
        c, last = config, config["audio_layers"][-1]
        self.audio = dense_stack((audio_features, *c["audio_layers"]), c["dropout"], open_end=False)
        self.fusion = dense_stack((last, *c["fusion_layers"], 7), c["dropout"], open_end=not c["relu_on_logits"])
        if c["audio_shortcut"]:
            self.shortcut = nn.Linear(audio_features, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.fusion(self.audio(x))
        return logits + self.shortcut(x) if hasattr(self, "shortcut") else logits


def dense_stack(sizes: tuple[int, ...], dropout: float, open_end: bool) -> nn.Sequential:
    """Linear, ReLU, Dropout for each pair of neighbouring sizes; open_end: the last Linear stands alone."""
    stack = nn.Sequential()
    for k in range(1, len(sizes)):
        stack.add_module(f"dense{k}", nn.Linear(sizes[k - 1], sizes[k]))
        if not (open_end and k == len(sizes) - 1):
            stack.add_module(f"relu{k}", nn.ReLU(inplace=True))
            stack.add_module(f"dropout{k}", nn.Dropout(dropout))
    return stack


# ---- weights and gradients by the package's names ----

def theirs(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """A parameter or buffer of the package under PyTorch's name(s) and in its layout; nothing for what PyTorch lacks."""
    path, dot, kind = name.removeprefix("trunk.layer.").rpartition(".")
    lstm, cells, layer = path.rpartition("cells.")
    if cells:
        if kind == "b":                                               # PyTorch adds two biases up
            return {f"{lstm}bias_ih_l{layer}": array, f"{lstm}bias_hh_l{layer}": np.zeros_like(array)}
        return {f"{lstm}weight_{kind[2:]}_l{layer}": array.T}
    if kind in ("counter", "scale", "shift"):
        return {}
    if kind == "W":
        return {f"{path}{dot}weight": array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T}
    return {f"{path}{dot}{dict(gamma='weight', beta='bias', b='bias').get(kind, kind)}": array}


def load(net: nn.Module, state: dict[str, np.ndarray], device: str = "cpu") -> nn.Module:
    """Copy a `state_dict()` of the package into the same network here, filters channels last in memory.

    Every parameter must be met. Returns the network, on `device`: "cpu" or "cuda".
    """
    arrays = {k: torch.from_numpy(np.array(v)) for name, a in state.items() for k, v in theirs(name, a).items()}
    result = net.load_state_dict(arrays, strict=False)
    missing = [k for k in result.missing_keys if not k.endswith("num_batches_tracked") and k not in ("mean", "std")]
    assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
    return net.to(device, memory_format=torch.channels_last)


def gradients(net: nn.Module, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients of all parameters by the package's names, which are those of `state`, and in its layout."""
    parameters, found = dict(net.named_parameters()), {}
    for name, array in state.items():
        p = parameters.get(next(iter(theirs(name, array)), ""))
        if p is not None:
            g = p.grad.permute(2, 3, 1, 0) if p.ndim == 4 else p.grad.T if p.ndim == 2 else p.grad
            found[name] = to_numpy(g)
    return found


# ---- inputs ----

def images(x: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) to (N, C, H, W); as it lies, that is channels last in memory."""
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def normalize(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Bytes (N, 3, H, W) as numbers near 0; mean and std are (3, 1, 1), of values between 0 and 1."""
    return (x.float() / 255 - mean) / std


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """A float32 copy of any tensor."""
    return np.array(x.detach().float().cpu().numpy())


# ---- steps ----

def as_run(net: nn.Module, variant: str, inputs: Sequence[torch.Tensor] = ()) -> Callable[..., torch.Tensor]:
    """What runs in place of net.

    "eager": net, as one writes it. "jit": traced with `inputs`, frozen, batch norm folded into the filters; for
    evaluation. "compile": torch.compile; anything else is a mode of it, such as "reduce-overhead" (CUDA graphs).
    """
    if variant == "eager":
        return net
    if variant == "jit":
        with torch.no_grad():
            return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, tuple(inputs))))
    return torch.compile(net, mode=None if variant == "compile" else variant, dynamic=False)


def forward_backward(run: Callable, inputs: Sequence[torch.Tensor], labels: torch.Tensor,
                     weights: torch.Tensor | None = None, half: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, mean cross-entropy), its gradients added up. half: products and convolutions in bfloat16, by autocast."""
    with torch.autocast(labels.device.type, dtype=torch.bfloat16, enabled=half):
        logits = run(*inputs)
    loss = F.cross_entropy(logits.float(), labels, weights)
    loss.backward()
    return logits.detach(), loss.detach()


def training_step(run: Callable, optimizer: torch.optim.Optimizer, inputs: Sequence[torch.Tensor], labels: torch.Tensor,
                  weights: torch.Tensor | None = None, clip_norm: float | None = None,
                  half: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """`forward_backward` and one step of the optimizer, gradients clipped to clip_norm."""
    optimizer.zero_grad()
    found = forward_backward(run, inputs, labels, weights, half)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()
    return found


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def wait(x: torch.Tensor) -> None:
    """Until the GPU that x is on has done all that it was told."""
    if x.is_cuda:
        torch.cuda.synchronize()


# ---- contestants: (step, answer) as peers.Contestant has them ----

def forward(net: nn.Module, inputs: Sequence[torch.Tensor], variant: str = "eager",
            half: bool = False) -> tuple[Callable, Callable]:
    """A forward pass without gradients, in the mode that net is in. half: weights and inputs in bfloat16."""
    if half:
        net, inputs = net.bfloat16(), [x.bfloat16() for x in inputs]
    run = as_run(net, variant, inputs)

    def step() -> torch.Tensor:
        with torch.no_grad():
            logits = run(*inputs)
        wait(logits)
        return logits
    return step, lambda: {"logits": to_numpy(step())}


def training(net: nn.Module, state: dict[str, np.ndarray], inputs: Sequence[torch.Tensor], labels: torch.Tensor,
             optimizer: torch.optim.Optimizer, variant: str = "eager", half: bool = False) -> tuple[Callable, Callable]:
    """`training_step` on one batch; the answer has the gradients by the names of `state`."""
    run = as_run(net, variant)

    def step() -> None:
        logits, _ = training_step(run, optimizer, inputs, labels, half=half)
        wait(logits)

    def answer() -> dict:
        optimizer.zero_grad()
        logits, _ = forward_backward(run, inputs, labels, half=half)
        return {"logits": to_numpy(logits), "gradients": gradients(net, state)}
    return step, answer


def sequence(lstm: nn.LSTM, state: dict[str, np.ndarray], x: torch.Tensor, dy: torch.Tensor, variant: str = "eager",
             half: bool = False) -> tuple[Callable, Callable]:
    """Forward and backward of an LSTM, dy the gradient of its output, to all parameters and to x (T, N, D).

    half: weights, input and states in bfloat16.
    """
    if half:
        lstm, x, dy = lstm.bfloat16(), x.bfloat16(), dy.bfloat16()
    x.requires_grad_()
    lstm.flatten_parameters()
    run = as_run(lstm, variant)

    def step() -> torch.Tensor:
        lstm.zero_grad()
        x.grad = None
        y, _ = run(x)
        y.backward(dy)
        wait(y)
        return y

    def answer() -> dict:
        return {"y": to_numpy(step()), "gradients": gradients(lstm, state) | {"x": to_numpy(x.grad)}}
    return step, answer
