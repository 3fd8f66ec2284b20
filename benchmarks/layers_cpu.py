"""One 3x3 convolution, from the definition to the fused kernel: what each step gains, and what it costs in accuracy.

    python benchmarks/layers_cpu.py [--threads 1 2]

shifted products    the definition: nine products of a shifted view of the image with one filter tap each, added up
im2col + GEMM       the nine views side by side in one matrix, then one product
direct              the C kernel that sums the same products in registers (EMONET_EXACT=1)
Winograd            the C kernel F(4x4, 3x3): a quarter of the multiplications, in transformed space
not fused           half a residual block: a convolution by Winograd, then batch norm, ReLU and half a shortcut in NumPy
fused               the same half as one C kernel, which does them while it loads and stores

The error is |y - y64| / |y64| in the Euclidean norm, y64 the definition in float64. GFLOP/s counts the multiplications and
additions of the definition, whatever is really done, so Winograd may pass the machine's peak.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from peers import (
    TUNED_MALLOC,
    Contestant,
    Work,
    arguments,
    difference,
    machine,
    measure,
    peak,
    quartiles,
    ratio,
)

OFF, EXACT = {"EMONET_KERNELS": "off"}, {"EMONET_EXACT": "1"}


def _conv(case: dict) -> Any:
    from emonet_scratch.layers import Conv2d

    layer = Conv2d(case["C"], case["C"], 3, padding=1)
    layer.W.value[...] = case["W"][0]
    return layer


def _block(case: dict) -> Any:
    from emonet_scratch.layers import ResidualBlock

    layer = ResidualBlock(case["C"], case["C"])
    layer.body.conv1.W.value[...], layer.body.conv2.W.value[...] = case["W"]
    return layer


def conv(case: dict) -> tuple[Callable, Callable]:
    """The package's convolution; the environment says with which kernels."""
    layer = _conv(case)
    return lambda: layer.forward(case["x"]), lambda: {"conv": layer.forward(case["x"])[0]}


def block(case: dict) -> tuple[Callable, Callable]:
    """The package's residual block in training; the environment says with which kernels."""
    layer = _block(case)
    return lambda: layer.forward(case["x"]), lambda: {"block": layer.forward(case["x"])[0]}


def unfused(case: dict) -> tuple[Callable, Callable]:
    """The residual block with the C kernel of its convolutions, everything else in NumPy."""
    from emonet_scratch import dispatch

    if dispatch.library():
        for name in dispatch._twins.keys() - {"Conv2d"}:
            del dispatch._twins[name]
    return block(case)


def im2col(case: dict) -> tuple[Callable, Callable]:
    """One matrix (N H W, 9 C) and one product, in buffers that are kept."""
    x, C = case["x"], case["C"]
    N, H, W, _ = x.shape
    padded, columns = np.zeros((N, H + 2, W + 2, C), np.float32), np.empty((N, H, W, 9, C), np.float32)
    filters, y = case["W"][0].reshape(9 * C, C), np.empty((N * H * W, C), np.float32)

    def step() -> np.ndarray:
        padded[:, 1:-1, 1:-1] = x
        for k in range(9):
            columns[..., k, :] = padded[:, k // 3:k // 3 + H, k % 3:k % 3 + W]
        return np.matmul(columns.reshape(-1, 9 * C), filters, out=y)
    return step, lambda: {"conv": step().reshape(x.shape).copy()}


def _torch(case: dict) -> tuple[Any, list]:
    """(x, filters) with channels last in memory."""
    import torch

    torch.set_grad_enabled(False)
    filters = [torch.from_numpy(W.transpose(3, 2, 0, 1).copy()).to(memory_format=torch.channels_last) for W in case["W"]]
    return torch.from_numpy(case["x"]).permute(0, 3, 1, 2), filters


def torch_conv(case: dict) -> tuple[Callable, Callable]:
    """conv2d"""
    x, (W, _) = _torch(case)
    from torch.nn.functional import conv2d
    return lambda: conv2d(x, W, padding=1), lambda: {"conv": conv2d(x, W, padding=1).permute(0, 2, 3, 1).numpy()}


def torch_block(case: dict) -> tuple[Callable, Callable]:
    """A residual block in training."""
    x, filters = _torch(case)
    import torch
    from torch_nets import ResidualBlock

    net = ResidualBlock(case["C"], case["C"], 1).to(memory_format=torch.channels_last)
    for layer, W in zip((net.body.conv1, net.body.conv2), filters, strict=True):
        layer.weight.copy_(W)
    return lambda: net(x), lambda: {"block": net(x).permute(0, 2, 3, 1).numpy()}


STEPS = 6                           # the first so many are the ladder; the others are there to compare with
LADDER = [Contestant("NumPy, shifted products (the definition)", conv, "definitions", OFF),
          Contestant("NumPy, im2col + GEMM", im2col, "other"),
          Contestant("C, direct", conv, "exact", EXACT),
          Contestant("C, Winograd F(4x4, 3x3)", conv, "ours"),
          Contestant("C, Winograd, not fused: half a residual block", unfused, "other"),
          Contestant("C, Winograd, fused: half a residual block", block, "ours"),
          Contestant("C, direct, fused: half a residual block", block, "exact", EXACT),
          Contestant("NumPy definitions, half a residual block", block, "definitions", OFF),
          Contestant("PyTorch conv2d", torch_conv, "eager"),
          Contestant("PyTorch conv2d, tuned malloc", torch_conv, "float32", TUNED_MALLOC),
          Contestant("PyTorch, half a residual block", torch_block, "eager"),
          Contestant("PyTorch, half a residual block, tuned malloc", torch_block, "float32", TUNED_MALLOC)]


def main() -> None:
    options = arguments(__doc__)
    machine()
    rng = np.random.default_rng(0)
    for threads in options.threads:
        top = peak(options, threads)
        for N, size, C in [(1, 16, 16)] if options.quick else [(16, 64, 16), (128, 8, 64)]:
            x = rng.standard_normal((N, size, size, C)).astype(np.float32)
            W = [(rng.standard_normal((3, 3, C, C)) * (2 / (9 * C))**0.5).astype(np.float32) for _ in range(2)]
            work, case = Work(2 * 9 * x.size * C, 4 * (2 * x.size + W[0].size)), {"x": x, "W": W, "C": C}
            exact = {kind: build(case).astype(np.float64).forward(x.astype(np.float64))[0]
                     for kind, build in (("conv", _conv), ("block", _block))}
            found = [m._replace(seconds=m.seconds / (2 if "block" in m.answer else 1))
                     for m in measure(LADDER, case, options, threads)]
            print(f"\n### 3x3, {C} to {C} channels, {N} images of {size} x {size}, {threads} thread(s)\n\n"
                  f"{work.flops / 1e6:.0f} MFLOP, {work.bytes / 1e6:.1f} MB\n\n| | ms | GFLOP/s | of sgemm | GB/s | "
                  "of copy | gain over the line before | over the first | error |\n|" + " --- |" * 9)
            for k, m in enumerate(found):
                t, (kind, y) = float(np.median(m.seconds)), next(iter(m.answer.items()))
                error = difference(y, exact[kind])
                if error > 1e-4:
                    raise SystemExit(f"{m.contestant.name} is off by {error:.1e}: not the same work")
                step = 0 < k < STEPS and found[k - 1].contestant == LADDER[k - 1]
                cells = [m.contestant.name, quartiles(1e3 * m.seconds, ".3g"),
                         f"{work.flops / t / 1e9:.1f}", f"{work.flops / t / top.flops:.2f}",
                         f"{work.bytes / t / 1e9:.1f}", f"{work.bytes / t / top.bytes:.2f}",
                         ratio(found[k - 1], m) if step else "-", ratio(found[0], m) if k else "1",
                         f"{error:.1e} = {error / np.finfo(np.float32).eps:.1f} eps"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
