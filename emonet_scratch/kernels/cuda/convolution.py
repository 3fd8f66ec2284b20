"""Launch code of kernels/cuda/{conv,conv_grad,norm}.cu: convolutions, residual blocks, trunks; float32 arrays on a GPU only.

The pieces and their order are those of kernels/cpu/block.h and infer.h: of a block's arrays only z1, z2, y and one gradient
reach memory. Nothing here waits for the GPU. Launches: a block forward 6, backward 10; a trunk in evaluation one a
convolution and one for all filters.
"""

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ... import dispatch
from ...backend import Array, array_module
from ...layers import BatchNorm, Conv2d, ResidualBlock, Sequential
from ..composed import Row
from ..takes import CUDA
from .launch import blocks, module

# As in common.cuh, conv.cu and norm.cu.
PLAIN, NORM_RELU, NORM_GRAD, NORM_GRAD_RELU = range(4)
STORE, STORE_MOMENTS, BIAS_RELU, RESIDUAL_RELU, MASK, ADD_MASKED = range(6)
AS_THEY_ARE, TURNED, BY_PARITY = range(3)

THREADS, TILE_WIDTH = 128, 16
MOST_BLOCKS = 1024              # of conv.cu, of which each leaves a part of every sum
GRADIENT_BLOCKS = 512           # of conv_grad.cu, of which each leaves a whole gradient of its channels
ENOUGH_BLOCKS = 264             # two for each processor of an H100; fewer are cut smaller


class Source(NamedTuple):
    """What is read, and what is applied to it meanwhile: see common.cuh."""

    kind: int
    a: Array
    y: Array | None = None
    z: Array | None = None
    constants: Array | None = None


class Cut(NamedTuple):
    """Where a shortcut starts or ends: an array (N, H, W, C), from channel `before` on, every `stride`th pixel."""

    H: int
    W: int
    C: int
    before: int
    stride: int


NO_CUT = Cut(0, 0, 0, 0, 1)


class Sink(NamedTuple):
    """What is written, and what is applied to it before: see conv.cu."""

    kind: int
    out: Array
    first: Array | None = None
    second: Array | None = None
    constants: Array | None = None
    cut: Cut = NO_CUT


class Shape(NamedTuple):
    """A product of conv.cu: input (N, H, W, C), output (N, OH, OW, F); up: the gradient of a convolution of stride 2."""

    N: int
    H: int
    W: int
    OH: int
    OW: int
    C: int
    F: int
    stride: int = 1
    up: int = 0


def _largest(n: int, *sizes: int) -> int:
    """The largest of the sizes that divides n, else n."""
    return next((s for s in sizes if n % s == 0), n)


def defines(C: int, F: int, stride: int, up: int, precision: int, few: bool) -> dict[str, int]:
    """How conv.cu is compiled for these channels; few: more and smaller blocks, where the images alone make too few."""
    widest = (32, 16) if few else (64, 32, 16)
    return {"C": C, "F": F, "STRIDE": stride, "UP": up, "PRECISION": precision, "TH": 4 if few else 8,
            "NB": _largest(F, *widest), "KC": 16 if C == 3 else C if C == 64 and stride == 1 else _largest(C, 32, 16)}


def _shared(d: dict[str, int]) -> int:
    """Bytes of shared memory that conv.cu asks for, as its macros say."""
    step, halo = (1, 2) if d["UP"] else (d["STRIDE"], 3)
    pixels = (step * (d["TH"] - 1) + halo) * (step * (TILE_WIDTH - 1) + halo)
    words = 3 if d["C"] == 3 else d["KC"] // (2 if d["PRECISION"] == 2 else 1) + 4
    return 4 * (blocks(pixels * words, 4) * 4 + 64 * (8 * blocks(d["NB"], 8) + 8))


def _ints(*values: int) -> list[np.int32]:
    return [np.int32(v) for v in values]


class Filters(NamedTuple):
    """Where the packed filters of one convolution are among `words`, and its shift behind a folded norm."""

    words: Array
    at: int
    shift_at: int


def _convolve(s: Shape, precision: int, source: Source, filters: Filters, sink: Sink) -> Array | None:
    """One launch of conv.cu; the parts of what its sink gathers."""
    tall, wide = (s.H, s.W) if s.up else (s.OH, s.OW)
    d = defines(s.C, s.F, s.stride, s.up, precision, False)
    if s.N * blocks(tall, 8) * blocks(wide, TILE_WIDTH) * (s.F // d["NB"]) < ENOUGH_BLOCKS:
        d = defines(s.C, s.F, s.stride, s.up, precision, True)
    grid = min(MOST_BLOCKS, s.N * blocks(tall, d["TH"]) * blocks(wide, TILE_WIDTH))
    rows = {STORE_MOMENTS: 3, MASK: 2}.get(sink.kind)
    out, a = sink.out, source.a
    parts = array_module(a).empty((grid, rows, s.F), np.float32) if rows else None

    def given(x: Array | None) -> Array:                                      # a kernel wants an array for every pointer
        return a if x is None else x
    module("conv", **d).kernel("emonet_conv")(
        (grid, s.F // d["NB"]), (THREADS,),
        (*_ints(s.N, s.H, s.W, s.OH, s.OW, source.kind), a, given(source.y), given(source.z), given(source.constants),
         filters.words, np.int64(filters.at), np.int64(filters.shift_at), np.int32(sink.kind), out, given(sink.first),
         given(sink.second), given(sink.constants), *_ints(*sink.cut), out if parts is None else parts), _shared(d))
    return parts


def _filter_gradient(s: Shape, precision: int, source: Source, dz: Source, grad: Array) -> None:
    """grad (3, 3, C, F) += the gradient of the filters of a convolution of shape s."""
    CB, FB = 3 if s.C == 3 else _largest(s.C, 32, 16), _largest(s.F, 32, 16)
    TH = 8 if s.stride == 1 else 4
    across = (s.C // CB) * (s.F // FB)
    grid = min(max(1, GRADIENT_BLOCKS // across), s.N * blocks(s.OH, TH) * blocks(s.OW, TILE_WIDTH))
    patch = (s.stride * (TH - 1) + 3) * (s.stride * (TILE_WIDTH - 1) + 3) * (3 if s.C == 3 else CB + 8)
    shared = 4 * (blocks(patch, 4) * 4 + TH * TILE_WIDTH * (FB + 8))
    parts = array_module(grad).empty((grid, 9 * s.C * s.F), np.float32)
    x, d = source.a, dz.a
    module("conv_grad", C=s.C, F=s.F, STRIDE=s.stride, PRECISION=precision).kernel("emonet_conv_filters")(
        (grid, across), (THREADS,),
        (*_ints(s.N, s.H, s.W, s.OH, s.OW, source.kind), x, x if source.constants is None else source.constants,
         np.int32(dz.kind), d, d if dz.y is None else dz.y, d if dz.z is None else dz.z,
         d if dz.constants is None else dz.constants, parts), shared)
    _norm_kernel("emonet_add_parts", blocks(grad.size, 32), np.int32(grid), np.int32(grad.size), parts, grad)


def _norm_kernel(name: str, grid: Any, *args: Any, shared: int = 0) -> None:
    module("norm").kernel(name)(grid if isinstance(grid, tuple) else (grid,), (256,), args, shared)


# ---- filters ----

_tables: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _pack(owner: Any, precision: int, *wanted: tuple[Conv2d, BatchNorm | None, int]) -> list[Filters]:
    """The filters of all these convolutions as conv.cu reads them, in one launch, each with its norm folded in if given.

    The table of addresses stays on the device with `owner` as long as they are the same.
    """
    rows, places, at = [], [], 0
    for conv, bn, how in wanted:
        arrays = [conv.W.value] + ([] if bn is None else [bn.gamma.value, bn.beta.value, bn.running_mean, bn.running_var])
        rows_of, columns = (conv.C, conv.F) if how == AS_THEY_ARE else (conv.F, conv.C)
        size = blocks(9 * rows_of, 32) * 32 * blocks(columns, 8) * (4 if precision == 2 else 8)
        places.append((at, at + size))
        eps = int(np.float32(0 if bn is None else bn.eps).view(np.uint32))
        rows.append((*(a.data.ptr for a in arrays), *[0] * (5 - len(arrays)), at, at + size, conv.C, conv.F, how, eps))
        at += size + (0 if bn is None else blocks(conv.F, 4) * 4)
    xp, kept = array_module(wanted[0][0].W.value), _tables.setdefault(owner, {})
    key, rows = (precision, *(how for _, _, how in wanted)), tuple(rows)
    if kept.get(key, (None,))[0] != rows:
        kept[key] = rows, xp.asarray(np.array(rows, np.uint64))
    words = xp.empty(at, np.uint32)
    _norm_kernel("emonet_pack", (16, len(rows)), kept[key][1], np.int32(precision), words)
    return [Filters(words, *place) for place in places]


# ---- batch norm ----

def _norm_forward(bn: BatchNorm, parts: Array | None) -> Array:
    """The constants (4, F) of a norm, from the parts of its moments in training; the running statistics follow."""
    xp, gamma = array_module(bn.gamma.value), bn.gamma.value
    constants = xp.empty((4, bn.C), np.float32)
    _norm_kernel("emonet_norm_forward", blocks(bn.C, 4), *_ints(0 if parts is None else len(parts), bn.C, parts is not None),
                 np.float32(bn.eps), np.float32(bn.momentum), constants if parts is None else parts, gamma, bn.beta.value,
                 bn.running_mean, bn.running_var, constants)
    return constants


def _norm_backward(bn: BatchNorm, training: bool, pixels: int, parts: Array, forward: Array) -> Array:
    """The constants (4, F) of the source NORM_GRAD; dgamma and dbeta are added to."""
    constants = array_module(parts).empty((4, bn.C), np.float32)
    _norm_kernel("emonet_norm_backward", blocks(bn.C, 4), *_ints(len(parts), bn.C, training), np.float64(pixels), parts,
                 bn.gamma.value, forward, bn.gamma.grad, bn.beta.grad, constants)
    return constants


def _reduce(dy: Array, y: Array, z: Array, constants: Array) -> Array:
    """Parts (blocks, 2, F) of the sums over pixels of dy (y > 0) and of that times z - mean."""
    F, pixels = y.shape[3], y.size // y.shape[3]
    parts = array_module(y).empty((min(MOST_BLOCKS, blocks(pixels, 32 * 256 // F)), 2, F), np.float32)
    _norm_kernel("emonet_reduce", len(parts), np.int64(pixels), np.int32(F), dy, y, z, constants, parts, shared=8192)
    return parts


def _finish(z: Array, constants: Array, x: Array | None = None, cut: Cut = NO_CUT) -> Array:
    """max(norm(z) + shortcut(x), 0)"""
    y = array_module(z).empty(z.shape, np.float32)
    _norm_kernel("emonet_finish", blocks(z.size, 1024), np.int64(z.size), *_ints(*z.shape[1:]), z, constants,
                 z if x is None else x, *_ints(*cut), y)
    return y


# ---- shapes ----

def _aligned(x: Array) -> Array:
    """x without gaps, where the kernels can read four numbers at once."""
    x = array_module(x).ascontiguousarray(x)
    return x if x.data.ptr % 16 == 0 else x.copy()


def _gradient(layer: Any, dy: Array, shape: tuple[int, ...]) -> Array:
    return _aligned(CUDA.gradient(layer, dy, shape))


def _precision() -> int:
    return dispatch.PRECISIONS.index(dispatch.precision)


def _forward_shape(conv: Conv2d, x_shape: tuple[int, ...]) -> Shape:
    N, H, W, C = x_shape
    return Shape(N, H, W, (H - 1) // conv.stride + 1, (W - 1) // conv.stride + 1, C, conv.F, conv.stride)


def _backward_shape(s: Shape) -> Shape:
    """The product that gives the gradient of the input of a product of shape s."""
    return Shape(s.N, s.OH, s.OW, s.H, s.W, s.F, s.C, 1, s.stride - 1)


def _how(conv: Conv2d) -> int:
    return TURNED if conv.stride == 1 else BY_PARITY


def _empty_output(x: Array, s: Shape) -> Array:
    return array_module(x).empty((s.N, s.OH, s.OW, s.F), np.float32)


# ---- the kernels ----

def register() -> None:
    """As kernels of GPUs."""
    CUDA.kernel("Conv2d", conv2d, conv2d_backward)
    CUDA.kernel("ResidualBlock", residual_block, residual_block_backward)
    Row(CUDA, stem, stem_backward, trunk).register()


def conv2d(conv: Conv2d, x: Array) -> tuple[Array, Any]:
    """3x3, padding 1, stride 1 or 2: (y, cache)."""
    x, p, s = _aligned(x), _precision(), _forward_shape(conv, x.shape)
    y, (filters,) = _empty_output(x, s), _pack(conv, p, (conv, None, AS_THEY_ARE))
    _convolve(s, p, Source(PLAIN, x), filters, Sink(STORE, y))
    return y, (x, p)


def conv2d_backward(conv: Conv2d, dy: Any, cache: Any) -> Array | None:
    """dx"""
    x, p = cache
    s = _forward_shape(conv, x.shape)
    dz = Source(PLAIN, _gradient(conv, dy, (s.N, s.OH, s.OW, s.F)))
    _filter_gradient(s, p, Source(PLAIN, x), dz, conv.W.grad)
    return _input_gradient(conv, conv, x, s, p, dz)


def _input_gradient(owner: Any, conv: Conv2d, x: Array, s: Shape, p: int, dz: Source) -> Array | None:
    """dx from the gradient of conv's output, where it is wanted."""
    if not conv.input_gradient:
        return None
    dx, (filters,) = array_module(x).empty(x.shape, np.float32), _pack(owner, p, (conv, None, _how(conv)))
    _convolve(_backward_shape(s), p, dz, filters, Sink(STORE, dx))
    return dx


def _conv_norm(conv: Conv2d, bn: BatchNorm, p: int, source: Source, filters: Filters) -> tuple[Array, Array]:
    """z = conv(source) and the constants of the norm behind it."""
    s = _forward_shape(conv, source.a.shape)
    z = _empty_output(source.a, s)
    parts = _convolve(s, p, source, filters, Sink(STORE_MOMENTS if bn.training else STORE, z))
    return z, _norm_forward(bn, parts)


def residual_block(block: ResidualBlock, x: Array) -> tuple[Array, Any]:
    """Both convolutions, their batch norms, both ReLUs and the shortcut: (y, cache)."""
    x, p, b = _aligned(x), _precision(), block.body
    first, second = _pack(block, p, (b.conv1, None, AS_THEY_ARE), (b.conv2, None, AS_THEY_ARE))
    z1, c1 = _conv_norm(b.conv1, b.bn1, p, Source(PLAIN, x), first)
    z2, c2 = _conv_norm(b.conv2, b.bn2, p, Source(NORM_RELU, z1, constants=c1), second)
    y = _finish(z2, c2, x, Cut(*x.shape[1:], (block.F - block.C) // 2, block.stride))
    return y, (x, y, z1, c1, z2, c2, b.bn1.training, p)


def residual_block_backward(block: ResidualBlock, dy: Any, cache: Any) -> Array:
    """dx"""
    x, y, z1, c1, z2, c2, training, p = cache
    b, xp, dy = block.body, array_module(x), _gradient(block, dy, y.shape)
    first, second = _pack(block, p, (b.conv1, None, _how(b.conv1)), (b.conv2, None, TURNED))
    pixels, d1, dx = y.size // block.F, xp.empty(y.shape, np.float32), xp.empty(x.shape, np.float32)
    s1, s2 = _forward_shape(b.conv1, x.shape), _forward_shape(b.conv2, y.shape)
    g2 = _norm_backward(b.bn2, training, pixels, _reduce(dy, y, z2, c2), c2)
    dz2 = Source(NORM_GRAD_RELU, dy, y, z2, g2)
    parts = _convolve(_backward_shape(s2), p, dz2, second, Sink(MASK, d1, z1, constants=c1))
    _filter_gradient(s2, p, Source(NORM_RELU, z1, constants=c1), dz2, b.conv2.W.grad)
    dz1 = Source(NORM_GRAD, d1, z=z1, constants=_norm_backward(b.bn1, training, pixels, parts, c1))
    cut = Cut(*y.shape[1:], (block.F - block.C) // 2, block.stride)
    _convolve(_backward_shape(s1), p, dz1, first, Sink(ADD_MASKED, dx, dy, y, cut=cut))
    _filter_gradient(s1, p, Source(PLAIN, x), dz1, b.conv1.W.grad)
    return dx


def stem(row: Sequential, conv: Conv2d, bn: BatchNorm, x: Array) -> tuple[Array, Any]:
    """Convolution, batch norm, ReLU: (y, cache)."""
    x, p = _aligned(x), _precision()
    z, constants = _conv_norm(conv, bn, p, Source(PLAIN, x), _pack(row, p, (conv, None, AS_THEY_ARE))[0])
    y = _finish(z, constants)
    return y, (y, z, constants, bn.training, p)


def stem_backward(row: Sequential, conv: Conv2d, bn: BatchNorm, x: Array, cache: Any, dy: Any) -> Array | None:
    """dx"""
    y, z, constants, training, p = cache
    x, dy, s = _aligned(x), _gradient(row, dy, y.shape), _forward_shape(conv, x.shape)
    g = _norm_backward(bn, training, y.size // conv.F, _reduce(dy, y, z, constants), constants)
    dz = Source(NORM_GRAD_RELU, dy, y, z, g)
    _filter_gradient(s, p, Source(PLAIN, x), dz, conv.W.grad)
    return _input_gradient(row, conv, x, s, p, dz)


def trunk(row: Sequential, conv: Conv2d, bn: BatchNorm, residual_blocks: list[ResidualBlock], x: Array) -> Array:
    """The stem and all blocks with folded filters: a launch for the filters, then one a convolution."""
    x, p = _aligned(x), _precision()

    def parts() -> Iterator[tuple[Conv2d, BatchNorm, int]]:
        yield conv, bn, AS_THEY_ARE
        for block in residual_blocks:
            yield block.body.conv1, block.body.bn1, AS_THEY_ARE
            yield block.body.conv2, block.body.bn2, AS_THEY_ARE

    def run(conv: Conv2d, x: Array, filters: Filters, kind: int, *rest: Any) -> Array:
        s = _forward_shape(conv, x.shape)
        out = _empty_output(x, s)
        _convolve(s, p, Source(PLAIN, x), filters, Sink(kind, out, *rest))
        return out
    first, *others = _pack(row, p, *parts())
    y = run(conv, x, first, BIAS_RELU)
    for block, one, two in zip(residual_blocks, others[::2], others[1::2], strict=True):
        cut = Cut(*y.shape[1:], (block.F - block.C) // 2, block.stride)
        y = run(block.body.conv2, run(block.body.conv1, y, one, BIAS_RELU), two, RESIDUAL_RELU, y, None, None, cut)
    return y
