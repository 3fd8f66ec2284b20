"""One 3x3 convolution, from the definition to the fused kernel: what each step gains, and what it costs in accuracy.

    python benchmarks/layers_cpu.py [--threads 1 2]

shifted products    the definition: nine products of a shifted view of the image with one filter tap each, added up
im2col + GEMM       the nine views side by side in one matrix, then one product
direct              the C kernel that sums the same products in registers (EMONET_EXACT=1)
Winograd            the C kernel F(4x4, 3x3): a quarter of the multiplications, in transformed space
bf16                the same two, direct, with factors rounded to bfloat16, where the processor has tiles for that (AMX)
not fused           half a residual block: a convolution by Winograd, then batch norm, ReLU and half a shortcut in NumPy
fused               the same half as one C kernel, which does them while it loads and stores

The error is |y - y64| / |y64| in the Euclidean norm, y64 the definition in float64. GFLOP/s counts the multiplications and
additions of the definition, whatever is really done, so Winograd may pass the machine's peak.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import machine, peak
from peers import TUNED_MALLOC, Contestant, Measured, arguments, difference, measure
from report import NAME_AND_TIME, Peak, Work, markdown, rates, ratio

OFF, EXACT, BF16 = {"EMONET_KERNELS": "off"}, {"EMONET_EXACT": "1"}, {"EMONET_PRECISION": "bf16"}
EPS = float(np.finfo(np.float32).eps)


def conv(case: dict) -> tuple[Callable, Callable]:
    """The package's convolution; the environment says with which kernels."""
    return _ours("conv", case)


def block(case: dict) -> tuple[Callable, Callable]:
    """The package's residual block in training; the environment says with which kernels."""
    return _ours("block", case)


def _ours(kind: str, case: dict) -> tuple[Callable, Callable]:
    import our_nets

    layer = _layer(kind, case["C"])
    layer.load_state_dict(case[kind])
    step, answer = our_nets.forward(layer, [case["x"]])
    return step, lambda: {kind: answer()["logits"]}


def _layer(kind: str, C: int) -> Any:
    from emonet_scratch.layers import Conv2d, ResidualBlock

    return Conv2d(C, C, 3, padding=1) if kind == "conv" else ResidualBlock(C, C)


def unfused(case: dict) -> tuple[Callable, Callable]:
    """The residual block with the C kernel of its convolutions, everything else in NumPy."""
    from emonet_scratch import dispatch

    if dispatch.loaded("cpu"):
        for name in dispatch.registered("cpu").keys() - {"Conv2d"}:
            del dispatch.registered("cpu")[name]
    return block(case)


def im2col(case: dict) -> tuple[Callable, Callable]:
    """One matrix (N H W, 9 C) and one product, in buffers that are kept."""
    x, C = case["x"], case["C"]
    N, H, W, _ = x.shape
    padded, columns = np.zeros((N, H + 2, W + 2, C), np.float32), np.empty((N, H, W, 9, C), np.float32)
    filters, y = case["conv"]["W"].reshape(9 * C, C), np.empty((N * H * W, C), np.float32)

    def step() -> np.ndarray:
        padded[:, 1:-1, 1:-1] = x
        for k in range(9):
            columns[..., k, :] = padded[:, k // 3:k // 3 + H, k % 3:k % 3 + W]
        return np.matmul(columns.reshape(-1, 9 * C), filters, out=y)
    return step, lambda: {"conv": step().reshape(x.shape).copy()}


def torch_conv(case: dict) -> tuple[Callable, Callable]:
    """nn.Conv2d"""
    import torch

    return _theirs(torch.nn.Conv2d(case["C"], case["C"], 3, padding=1, bias=False), "conv", case)


def torch_block(case: dict) -> tuple[Callable, Callable]:
    """A residual block in training."""
    import torch_nets

    return _theirs(torch_nets.ResidualBlock(case["C"], case["C"], 1), "block", case)


def _theirs(net: Any, kind: str, case: dict) -> tuple[Callable, Callable]:
    import torch_nets

    step, answer = torch_nets.forward(torch_nets.load(net, case[kind]), [torch_nets.images(case["x"])])
    return step, lambda: {kind: answer()["logits"].transpose(0, 2, 3, 1)}


STEPS = 6                           # the first so many are the ladder; the others are there to compare with
LADDER = [Contestant("NumPy, shifted products (the definition)", conv, "definitions", OFF),
          Contestant("NumPy, im2col + GEMM", im2col, "other"),
          Contestant("C, direct", conv, "exact", EXACT),
          Contestant("C, Winograd F(4x4, 3x3)", conv, "ours"),
          Contestant("C, Winograd, not fused: half a residual block", unfused, "other"),
          Contestant("C, Winograd, fused: half a residual block", block, "ours"),
          Contestant("C, direct, fused: half a residual block", block, "exact", EXACT),
          Contestant("C, direct, bf16", conv, "ours bf16", BF16),
          Contestant("C, direct, bf16, fused: half a residual block", block, "ours bf16", BF16),
          Contestant("NumPy definitions, half a residual block", block, "definitions", OFF),
          Contestant("PyTorch conv2d", torch_conv, "eager"),
          Contestant("PyTorch conv2d, tuned malloc", torch_conv, "float32", TUNED_MALLOC),
          Contestant("PyTorch, half a residual block", torch_block, "eager"),
          Contestant("PyTorch, half a residual block, tuned malloc", torch_block, "float32", TUNED_MALLOC)]


def filters(N: int, size: int, C: int) -> dict:
    """A case: images, the weights of one convolution and of one residual block, and what both give in float64."""
    rng = np.random.default_rng(0)
    case: dict[str, Any] = {"C": C, "x": rng.standard_normal((N, size, size, C), np.float32), "exact": {}}
    for kind in ("conv", "block"):
        layer = _layer(kind, C)
        for p in layer.parameters():
            if p.value.ndim == 4:
                p.value[...] = rng.standard_normal(p.value.shape) * (2 / (9 * C))**0.5
        case[kind] = layer.state_dict()
        case["exact"][kind] = layer.astype(np.float64).forward(case["x"].astype(np.float64))[0]
    return case


def error(m: Measured, exact: dict[str, np.ndarray]) -> float:
    """Distance from float64. SystemExit where it is more than rounding."""
    (kind, y), = m.answer.items()
    off = difference(y, exact[kind])
    if off > (2e-2 if m.contestant.kind == "ours bf16" else 1e-4):
        raise SystemExit(f"{m.contestant.name} is off by {off:.1e}: not the same work")
    return off


def show(title: str, found: list[Measured], exact: dict[str, np.ndarray], work: Work, top: Peak) -> None:
    """The table; `found` in seconds a convolution."""
    by_name = {m.contestant.name: m for m in found}
    line_before = {after.name: by_name.get(before.name) for before, after in itertools.pairwise(LADDER[:STEPS])}

    def gain(m: Measured) -> str:
        last = line_before.get(m.contestant.name)
        return ratio(last, m) if last else "-"

    def off(m: Measured) -> str:
        return f"{error(m, exact):.1e} = {error(m, exact) / EPS:.1f} eps"

    columns = NAME_AND_TIME | rates(work, top) | {
        "gain over the line before": gain,
        "over the first": lambda m: "1" if m is found[0] else ratio(found[0], m),
        "error": off}
    markdown(title, columns, ([cell(m) for cell in columns.values()] for m in found))


def main() -> None:
    options = arguments(__doc__)
    machine()
    for threads in options.threads:
        top = peak(options, threads)
        for N, size, C in [(1, 16, 16)] if options.quick else [(16, 64, 16), (128, 8, 64)]:
            case = filters(N, size, C)
            exact, images = case.pop("exact"), N * size * size * C
            work = Work(2 * 9 * images * C, 4 * (2 * images + 9 * C * C))
            found = [m._replace(seconds=m.seconds / (2 if "block" in m.answer else 1))
                     for m in measure(LADDER, case, options, threads)]
            show(f"3x3, {C} to {C} channels, {N} images of {size} x {size}, {threads} thread(s), "
                 f"{work.flops / 1e6:.0f} MFLOP, {work.bytes / 1e6:.1f} MB", found, exact, work, top)


if __name__ == "__main__":
    main()
