"""Launch code of kernels/cuda/{conv,conv_grad,norm}.cu: convolutions, residual blocks, trunks; float32 arrays on a GPU only.

The pieces and their order are those of kernels/cpu/block.h and infer.h: of a block's arrays only z1, z2, y and one gradient
reach memory. Nothing here waits for the GPU. Launches: a block forward 6, backward 10; a trunk in evaluation one a
convolution and one for all filters.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import dispatch
from ..backend import Array, array_module
from ..layers import BatchNorm, Conv2d, PadShortcut, ReLU, ResidualBlock, Sequential
from .launch import blocks, gradient, module, ready

# As in common.cuh, conv.cu and norm.cu.
PLAIN, NORM_RELU, NORM_GRAD, NORM_GRAD_RELU = range(4)
STORE, STORE_MOMENTS, BIAS_RELU, RESIDUAL_RELU, MASK, ADD_MASKED = range(6)
AS_THEY_ARE, TURNED, BY_PARITY = range(3)

THREADS, TILE_WIDTH = 128, 16
MOST_CHANNELS = 128
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


def _defines(C: int, F: int, stride: int, up: int, precision: int, few: bool) -> dict[str, int]:
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
    """Where the packed filters of one convolution are among the words of `room`, and its shift behind a folded norm."""

    room: Array
    at: int
    shift_at: int


def _convolve(s: Shape, precision: int, source: Source, filters: Filters, sink: Sink) -> Array | None:
    """One launch of conv.cu; the parts of what its sink gathers."""
    tall, wide = (s.H, s.W) if s.up else (s.OH, s.OW)
    d = _defines(s.C, s.F, s.stride, s.up, precision, False)
    if s.N * blocks(tall, 8) * blocks(wide, TILE_WIDTH) * (s.F // d["NB"]) < ENOUGH_BLOCKS:
        d = _defines(s.C, s.F, s.stride, s.up, precision, True)
    grid = min(MOST_BLOCKS, s.N * blocks(tall, d["TH"]) * blocks(wide, TILE_WIDTH))
    rows = {STORE_MOMENTS: 3, MASK: 2}.get(sink.kind)
    out, a = sink.out, source.a
    parts = array_module(a).empty((grid, rows, s.F), np.float32) if rows else None

    def given(x: Array | None) -> Array:                                      # a kernel wants an array for every pointer
        return a if x is None else x
    module("conv", **d).kernel("emonet_conv")(
        (grid, s.F // d["NB"]), (THREADS,),
        (*_ints(s.N, s.H, s.W, s.OH, s.OW, source.kind), a, given(source.y), given(source.z), given(source.constants),
         filters.room, np.int64(filters.at), np.int64(filters.shift_at), np.int32(sink.kind), out, given(sink.first),
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
        words = blocks(9 * rows_of, 32) * 32 * blocks(columns, 8) * (4 if precision == 2 else 8)
        places.append((at, at + words))
        eps = int(np.float32(0 if bn is None else bn.eps).view(np.uint32))
        rows.append((*(a.data.ptr for a in arrays), *[0] * (5 - len(arrays)), at, at + words, conv.C, conv.F, how, eps))
        at += words + (0 if bn is None else blocks(conv.F, 4) * 4)
    xp, kept = array_module(wanted[0][0].W.value), _tables.setdefault(owner, {})
    key, rows = (precision, *(how for _, _, how in wanted)), tuple(rows)
    if kept.get(key, (None,))[0] != rows:
        kept[key] = rows, xp.asarray(np.array(rows, np.uint64))
    room = xp.empty(at, np.uint32)
    _norm_kernel("emonet_pack", (16, len(rows)), kept[key][1], np.int32(precision), room)
    return [Filters(room, *place) for place in places]


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


# ---- what fits ----

def _sound(shape: tuple[int, ...], *arrays: Any) -> bool:
    return ready(*arrays) and all(a.shape == shape and a.flags.c_contiguous for a in arrays)


def _wide(C: int) -> bool:
    return C % 16 == 0 and 0 < C <= MOST_CHANNELS


def _conv_fits(conv: Any, C: int, F: int) -> bool:
    """3x3, C to F channels, padding 1, stride 1 or 2, no bias, its own arrays."""
    return (isinstance(conv, Conv2d) and (conv.K, conv.padding, conv.C, conv.F) == (3, 1, C, F) and conv.b is None
            and conv.stride in (1, 2) and (C == 3 or _wide(C)) and _wide(F)
            and _sound((3, 3, C, F), conv.W.value, conv.W.grad) and dispatch.precision in dispatch.PRECISIONS)


def _norm_fits(bn: Any, C: int) -> bool:
    return type(bn) is BatchNorm and bn.C == C and _sound(
        (C,), bn.gamma.value, bn.gamma.grad, bn.beta.value, bn.beta.grad, bn.running_mean, bn.running_var)


def _still(fits: bool, layer: Any) -> None:
    """Backward's check: what forward accepted may have been replaced since."""
    if not fits:
        raise ValueError(f"parameters of {layer!r} were replaced after its forward by arrays that the kernels cannot use")


def _images(x: Any, C: int) -> bool:
    return ready(x) and x.ndim == 4 and x.shape[3] == C and 0 < x.size < C << 31


def _aligned(x: Array) -> Array:
    """x without gaps, where the kernels can read four numbers at once."""
    x = array_module(x).ascontiguousarray(x)
    return x if x.data.ptr % 16 == 0 else x.copy()


def _gradient(layer: Any, dy: Array, shape: tuple[int, ...]) -> Array:
    return _aligned(gradient(layer, dy, shape))


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


def _room(x: Array, s: Shape) -> Array:
    return array_module(x).empty((s.N, s.OH, s.OW, s.F), np.float32)


# ---- the twins ----

class _Conv2d:
    """3x3, padding 1, stride 1 or 2, no bias."""

    @staticmethod
    def forward(layer: Conv2d, x: Any) -> Any:
        if not (_conv_fits(layer, layer.C, layer.F) and _images(x, layer.C)):
            return NotImplemented
        x, p, s = _aligned(x), _precision(), _forward_shape(layer, x.shape)
        y, (filters,) = _room(x, s), _pack(layer, p, (layer, None, AS_THEY_ARE))
        _convolve(s, p, Source(PLAIN, x), filters, Sink(STORE, y))
        return y, (x, p)

    @staticmethod
    def backward(layer: Conv2d, dy: Any, cache: Any) -> Array:
        x, p = cache
        _still(_conv_fits(layer, layer.C, layer.F), layer)
        s = _forward_shape(layer, x.shape)
        dz = Source(PLAIN, _gradient(layer, dy, (s.N, s.OH, s.OW, s.F)))
        _filter_gradient(s, p, Source(PLAIN, x), dz, layer.W.grad)
        return _input_gradient(layer, layer, x, s, p, dz)


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
    z = _room(source.a, s)
    parts = _convolve(s, p, source, filters, Sink(STORE_MOMENTS if bn.training else STORE, z))
    return z, _norm_forward(bn, parts)


class _ResidualBlock:
    """Both convolutions, their batch norms, both ReLUs and the shortcut."""

    @staticmethod
    def fits(layer: ResidualBlock) -> bool:
        """Whether it is what the kernels compute: both norms alike, a shortcut without parameters."""
        parts, C, F, cut = dict(layer.body.children()), layer.C, layer.F, layer.shortcut
        padded = (isinstance(cut, PadShortcut) and (cut.C, cut.F, cut.stride) == (C, F, layer.stride)
                  and cut.before == (F - C) // 2)
        identity = type(cut) is Sequential and not any(cut.children()) and (C, layer.stride) == (F, 1)
        if (list(parts) != ["conv1", "bn1", "relu", "conv2", "bn2"] or type(parts["relu"]) is not ReLU
                or type(layer.relu) is not ReLU or not (padded or identity) or not _wide(C)):
            return False
        conv1, bn1, _, conv2, bn2 = parts.values()
        return (_conv_fits(conv1, C, F) and conv1.stride == layer.stride and _conv_fits(conv2, F, F) and conv2.stride == 1
                and _norm_fits(bn1, F) and _norm_fits(bn2, F) and bn1.training == bn2.training)

    @staticmethod
    def forward(layer: ResidualBlock, x: Any) -> Any:
        if not (_images(x, layer.C) and _ResidualBlock.fits(layer)):
            return NotImplemented
        x, p, b, F = _aligned(x), _precision(), layer.body, layer.F
        first, second = _pack(layer, p, (b.conv1, None, AS_THEY_ARE), (b.conv2, None, AS_THEY_ARE))
        z1, c1 = _conv_norm(b.conv1, b.bn1, p, Source(PLAIN, x), first)
        z2, c2 = _conv_norm(b.conv2, b.bn2, p, Source(NORM_RELU, z1, constants=c1), second)
        y = _finish(z2, c2, x, Cut(*x.shape[1:], (F - layer.C) // 2, layer.stride))
        return y, (x, y, z1, c1, z2, c2, b.bn1.training, p)

    @staticmethod
    def backward(layer: ResidualBlock, dy: Any, cache: Any) -> Array:
        x, y, z1, c1, z2, c2, training, p = cache
        _still(_ResidualBlock.fits(layer), layer)
        b, xp, dy = layer.body, array_module(x), _gradient(layer, dy, y.shape)
        first, second = _pack(layer, p, (b.conv1, None, _how(b.conv1)), (b.conv2, None, TURNED))
        pixels, d1, dx = y.size // layer.F, xp.empty(y.shape, np.float32), xp.empty(x.shape, np.float32)
        s1, s2 = _forward_shape(b.conv1, x.shape), _forward_shape(b.conv2, y.shape)
        g2 = _norm_backward(b.bn2, training, pixels, _reduce(dy, y, z2, c2), c2)
        dz2 = Source(NORM_GRAD_RELU, dy, y, z2, g2)
        parts = _convolve(_backward_shape(s2), p, dz2, second, Sink(MASK, d1, z1, constants=c1))
        _filter_gradient(s2, p, Source(NORM_RELU, z1, constants=c1), dz2, b.conv2.W.grad)
        dz1 = Source(NORM_GRAD, d1, z=z1, constants=_norm_backward(b.bn1, training, pixels, parts, c1))
        cut = Cut(*y.shape[1:], (layer.F - layer.C) // 2, layer.stride)
        _convolve(_backward_shape(s1), p, dz1, first, Sink(ADD_MASKED, dx, dy, y, cut=cut))
        _filter_gradient(s1, p, Source(PLAIN, x), dz1, b.conv1.W.grad)
        return dx


class _Sequential:
    """A row of layers that starts with Conv2d, BatchNorm, ReLU: those three as one.

    In evaluation, where nothing but residual blocks follows, the whole row with batch norm folded into the filters. That
    keeps no caches; a backward, which hardly ever comes then, runs the layers once more, with the parameters that it finds.
    """

    @staticmethod
    def fits(layers: list) -> bool:
        """Whether the row starts with what the kernels compute."""
        if [type(child) for child in layers[:3]] != [Conv2d, BatchNorm, ReLU]:
            return False
        return _conv_fits(layers[0], layers[0].C, layers[0].F) and _norm_fits(layers[1], layers[0].F)

    @staticmethod
    def forward(layer: Sequential, x: Any) -> Any:
        layers = [child for _, child in layer.children()]
        if not (_Sequential.fits(layers) and _images(x, layers[0].C)):
            return NotImplemented
        conv, bn, x, p = layers[0], layers[1], _aligned(x), _precision()
        blocks = None if bn.training else _blocks_in_evaluation(layers[3:], conv.F)
        if blocks is None:
            return _Sequential._keep(layer, layers, x, p)
        return _trunk(layer, conv, bn, blocks, x, p), (x, p, None)

    @staticmethod
    def _keep(layer: Sequential, layers: list, x: Array, p: int) -> Any:
        conv, bn, _relu, *rest = layers
        z, constants = _conv_norm(conv, bn, p, Source(PLAIN, x), _pack(layer, p, (conv, None, AS_THEY_ARE))[0])
        y = _finish(z, constants)
        out, caches = Sequential(*rest).forward(y)
        return out, (x, p, (y, z, constants, bn.training, caches))

    @staticmethod
    def _again(layer: Sequential, layers: list, x: Array, p: int) -> Any:
        """The caches of a forward in evaluation, whatever the mode is now."""
        modes = [(part, part.training) for _, part in layer.walk()]
        layer.eval()
        kept = _Sequential._keep(layer, layers, x, p)[1][2]
        for part, mode in modes:
            part.training = mode
        return kept

    @staticmethod
    def backward(layer: Sequential, dy: Any, cache: Any) -> Array:
        layers = [child for _, child in layer.children()]
        x, p, kept = cache
        _still(_Sequential.fits(layers), layer)
        y, z, constants, training, caches = kept or _Sequential._again(layer, layers, x, p)
        conv, bn, _relu, *rest = layers
        dy, s = _gradient(layer, Sequential(*rest).backward(dy, caches), y.shape), _forward_shape(conv, x.shape)
        g = _norm_backward(bn, training, y.size // conv.F, _reduce(dy, y, z, constants), constants)
        dz = Source(NORM_GRAD_RELU, dy, y, z, g)
        _filter_gradient(s, p, Source(PLAIN, x), dz, conv.W.grad)
        return _input_gradient(layer, conv, x, s, p, dz)


def _blocks_in_evaluation(layers: list, C: int) -> list[ResidualBlock] | None:
    """All residual blocks of these layers and rows, the first for C channels; None where there is something else."""
    found = []
    for layer in layers:
        inner = [layer]
        if type(layer) is Sequential:
            inner = _blocks_in_evaluation([child for _, child in layer.children()], C)
        elif type(layer) is not ResidualBlock or layer.C != C or not _ResidualBlock.fits(layer) or layer.body.bn1.training:
            return None
        if inner is None:
            return None
        found += inner
        C = found[-1].F if found else C
    return found


def _trunk(owner: Any, conv: Conv2d, bn: BatchNorm, row: list[ResidualBlock], x: Array, p: int) -> Array:
    """The stem and all blocks with folded filters: a launch for the filters, then one a convolution."""
    def parts() -> Iterator[tuple[Conv2d, BatchNorm, int]]:
        yield conv, bn, AS_THEY_ARE
        for block in row:
            yield block.body.conv1, block.body.bn1, AS_THEY_ARE
            yield block.body.conv2, block.body.bn2, AS_THEY_ARE

    def run(conv: Conv2d, x: Array, filters: Filters, kind: int, *rest: Any) -> Array:
        s = _forward_shape(conv, x.shape)
        out = _room(x, s)
        _convolve(s, p, Source(PLAIN, x), filters, Sink(kind, out, *rest))
        return out
    first, *others = _pack(owner, p, *parts())
    y = run(conv, x, first, BIAS_RELU)
    for block, one, two in zip(row, others[::2], others[1::2], strict=True):
        cut = Cut(*y.shape[1:], (block.F - block.C) // 2, block.stride)
        y = run(block.body.conv2, run(block.body.conv1, y, one, BIAS_RELU), two, RESIDUAL_RELU, y, None, None, cut)
    return y


def _variants() -> Iterator[tuple[str, dict[str, int]]]:
    """Of what a ResNet of width 16 asks for: all shapes in TF32, every piece of code in the other precisions."""
    yield "norm", {}
    for precision, shapes in enumerate(("a c f", "a b c d e f", "a c f")):
        known = {"a": (3, 16, 1), "b": (16, 16, 1), "c": (16, 32, 2), "d": (32, 32, 1), "e": (32, 64, 2), "f": (64, 64, 1)}
        for C, F, stride in map(known.get, shapes.split()):
            yield "conv_grad", {"C": C, "F": F, "STRIDE": stride, "PRECISION": precision}
            yield "conv", _defines(C, F, stride, 0, precision, False)
            if C != F:
                yield "conv", _defines(F, C, 1, stride - 1, precision, False)
            elif precision == 1:
                yield "conv", _defines(C, F, stride, 0, precision, True)


VARIANTS: dict[str, list[dict[str, Any]]] = {}
for _name, _set in _variants():
    VARIANTS.setdefault(_name, []).append(_set)

for _kernel in (_Conv2d, _ResidualBlock, _Sequential):
    dispatch.register(_kernel.__name__[1:], _kernel, "cuda")
