"""What stands between the layers and the compiled kernels: checks, memory and arguments of every twin.

Each twin accepts float32 arrays on the CPU and answers NotImplemented to everything else; an array that is not
contiguous is copied. Importing this module registers the twins; without it, and without kernels, the definitions run.
"""

from __future__ import annotations

import ctypes
import math
import operator
import weakref
from typing import Any

import numpy as np

from . import dispatch
from .layers import LSTM, BatchNorm, Conv2d, LSTMCell, Normalize, PadShortcut, ReLU, ResidualBlock, Sequential
from .optim import SGD, Adam, Optimizer


def _ready(*arrays: Any) -> bool:
    """Whether all arrays are float32 on the CPU."""
    return all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in arrays)


def _sound(shape: tuple[int, ...], *arrays: Any) -> bool:
    """Whether the kernels can read and write all these arrays as float32 of this shape without gaps."""
    return _ready(*arrays) and all(a.shape == shape and a.flags.carray for a in arrays)


def _conv_fits(conv: Any, C: int, F: int, strides: tuple[int, ...] = (1, 2)) -> bool:
    """3x3, C to F channels, padding 1, no bias, its own arrays."""
    return (isinstance(conv, Conv2d) and (conv.K, conv.padding, conv.C, conv.F) == (3, 1, C, F) and conv.b is None
            and conv.stride in strides and _sound((3, 3, C, F), conv.W.value, conv.W.grad))


def _norm_fits(bn: Any, C: int) -> bool:
    return type(bn) is BatchNorm and bn.C == C <= 1024 and _sound(
        (C,), bn.gamma.value, bn.gamma.grad, bn.beta.value, bn.beta.grad, bn.running_mean, bn.running_var)


def _still(fits: bool, layer: Any) -> None:
    """Backward's check: what forward accepted may have been replaced since."""
    if not fits:
        raise ValueError(f"parameters of {layer!r} were replaced after its forward by arrays that the kernels cannot use")


def _gradient(layer: Any, dy: Any, shape: tuple[int, ...]) -> np.ndarray:
    """dy as the kernels read it; they would read past the end of a smaller array."""
    if dy.shape != shape:
        raise ValueError(f"{layer!r} got dy of shape {dy.shape}, expected {shape}: that of y")
    return np.ascontiguousarray(dy, np.float32)


def _images(x: Any, C: int) -> bool:
    return _ready(x) and x.ndim == 4 and x.shape[3] == C and 0 < x.size < 1 << 31


def _room_for_dx(conv: Conv2d, x: np.ndarray) -> np.ndarray | None:
    """None: the kernels compute no dx."""
    return dispatch.empty(*x.shape) if conv.input_gradient else None


class _Conv2d:
    """3x3, padding 1, stride 1 or 2, no bias; see kernels/cpu/conv.h."""

    @staticmethod
    def forward(layer: Conv2d, x: Any) -> Any:
        if not (_conv_fits(layer, layer.C, layer.F) and _images(x, layer.C)):
            return NotImplemented
        (N, H, W, C), s, x = x.shape, layer.stride, np.ascontiguousarray(x)
        y = dispatch.empty(N, (H - 1) // s + 1, (W - 1) // s + 1, layer.F)
        dispatch.library().of_width(C, layer.F).conv3x3(N, H, W, C, layer.F, s, int(dispatch.exact), x, layer.W.value, y)
        return y, x

    @staticmethod
    def backward(layer: Conv2d, dy: Any, x: Any) -> Any:
        _still(_conv_fits(layer, layer.C, layer.F), layer)
        (N, H, W, _), s, dx = x.shape, layer.stride, _room_for_dx(layer, x)
        dy = _gradient(layer, dy, (N, (H - 1) // s + 1, (W - 1) // s + 1, layer.F))
        dispatch.library().of_width(layer.C, layer.F).conv3x3_backward(
            *x.shape, layer.F, s, int(dispatch.exact), x, layer.W.value, dy, dx, layer.W.grad)
        return dx


class _Sizes(ctypes.Structure):
    """struct block of kernels/cpu/block.h"""

    _fields_ = [(name, ctypes.c_int) for name in "N H W C F stride exact training".split()]
    _fields_ += [("eps", ctypes.c_float), ("momentum", ctypes.c_float)]


def _sizes(x: np.ndarray, conv: Conv2d, bn: BatchNorm) -> Any:
    return ctypes.byref(_Sizes(*x.shape, conv.F, conv.stride, int(dispatch.exact), int(bn.training), bn.eps, bn.momentum))


def _conv_norm(conv: Conv2d, bn: BatchNorm, constants: np.ndarray, z: np.ndarray) -> Any:
    """struct conv_norm of kernels/cpu/block.h"""
    arrays = (conv.W.value, bn.gamma.value, bn.beta.value, bn.running_mean, bn.running_var, constants, z,
              conv.W.grad, bn.gamma.grad, bn.beta.grad)
    return (ctypes.c_void_p * 10)(*[a.__array_interface__["data"][0] for a in arrays])


def _room(x: np.ndarray, conv: Conv2d, count: int) -> list[np.ndarray]:
    """`count` arrays of the shape of conv's output, and the constants of a batch norm behind it."""
    N, H, W, _ = x.shape
    arrays = [dispatch.empty(N, (H - 1) // conv.stride + 1, (W - 1) // conv.stride + 1, conv.F) for _ in range(count)]
    return [*arrays, np.empty((4, -(-conv.F // 16) * 16), np.float32)]


class _ResidualBlock:
    """Both convolutions, their batch norms, both ReLUs and the shortcut; see kernels/cpu/block.h."""

    @staticmethod
    def fits(layer: ResidualBlock, C: int) -> bool:
        """Whether it is what the kernels compute, for C channels: both norms alike, a shortcut without parameters."""
        parts, F = dict(layer.body.children()), layer.F
        cut = layer.shortcut
        padded = (isinstance(cut, PadShortcut) and (cut.C, cut.F, cut.stride) == (C, F, layer.stride)
                  and cut.before == (F - C) // 2)
        identity = type(cut) is Sequential and not any(cut.children()) and (C, layer.stride) == (F, 1)
        if (list(parts) != ["conv1", "bn1", "relu", "conv2", "bn2"] or type(parts["relu"]) is not ReLU
                or type(layer.relu) is not ReLU or not (padded or identity)):
            return False
        bn1, bn2 = parts["bn1"], parts["bn2"]
        return (_conv_fits(parts["conv1"], C, F, (layer.stride,)) and _conv_fits(parts["conv2"], F, F, (1,))
                and layer.stride in (1, 2) and _norm_fits(bn1, F) and _norm_fits(bn2, F)
                and (bn1.training, bn1.eps, bn1.momentum) == (bn2.training, bn2.eps, bn2.momentum))

    @staticmethod
    def forward(layer: ResidualBlock, x: Any) -> Any:
        if not (_images(x, layer.C) and _ResidualBlock.fits(layer, layer.C)):
            return NotImplemented
        body, x = layer.body, np.ascontiguousarray(x)
        z1, z2, y, constants1 = _room(x, body.conv1, 3)
        constants2 = np.empty_like(constants1)
        dispatch.library().of_width(layer.C, layer.F).block(
            _sizes(x, body.conv1, body.bn1), _conv_norm(body.conv1, body.bn1, constants1, z1),
            _conv_norm(body.conv2, body.bn2, constants2, z2), x, y)
        return y, (x, y, z1, constants1, z2, constants2, body.bn1.training)

    @staticmethod
    def backward(layer: ResidualBlock, dy: Any, cache: Any) -> Any:
        x, y, z1, constants1, z2, constants2, training = cache
        _still(_ResidualBlock.fits(layer, x.shape[3]), layer)
        body, dx, d1 = layer.body, dispatch.empty(*x.shape), dispatch.empty(*y.shape)
        sizes = _Sizes(*x.shape, layer.F, layer.stride, int(dispatch.exact), int(training), body.bn1.eps, body.bn1.momentum)
        dispatch.library().of_width(layer.C, layer.F).block_backward(
            ctypes.byref(sizes), _conv_norm(body.conv1, body.bn1, constants1, z1),
            _conv_norm(body.conv2, body.bn2, constants2, z2), x, y, _gradient(layer, dy, y.shape), d1, dx)
        return dx


class _Folded(ctypes.Structure):
    """struct folded of kernels/cpu/infer.h"""

    _fields_ = [(name, ctypes.c_int) for name in "C F stride".split()]
    _fields_ += [("eps", ctypes.c_float)]
    _fields_ += [(name, ctypes.c_void_p) for name in "W gamma beta running_mean running_var".split()]

    @classmethod
    def of(cls, conv: Conv2d, bn: BatchNorm) -> _Folded:
        arrays = (conv.W.value, bn.gamma.value, bn.beta.value, bn.running_mean, bn.running_var)
        return cls(conv.C, conv.F, conv.stride, bn.eps, *[a.__array_interface__["data"][0] for a in arrays])


class _Sequential:
    """A row of layers that starts with Conv2d, BatchNorm, ReLU: those three as one (`stem` in kernels/cpu/block.h).

    In evaluation, where nothing but residual blocks follows, the whole row as one (kernels/cpu/infer.h). That keeps no
    caches; a backward, which hardly ever comes then, runs the layers once more, with the parameters that it finds.
    """

    @staticmethod
    def fits(layers: list) -> bool:
        """Whether the row starts with what `stem` computes."""
        if [type(child) for child in layers[:3]] != [Conv2d, BatchNorm, ReLU]:
            return False
        return _conv_fits(layers[0], layers[0].C, layers[0].F) and _norm_fits(layers[1], layers[0].F)

    @staticmethod
    def forward(layer: Sequential, x: Any) -> Any:
        layers = [child for _, child in layer.children()]
        if not (_Sequential.fits(layers) and _images(x, layers[0].C)):
            return NotImplemented
        conv, bn, x = layers[0], layers[1], np.ascontiguousarray(x)
        blocks = None if bn.training else _blocks_in_evaluation(layers[3:], conv.F)
        if blocks is None:
            return _Sequential._keep(layers, x)
        table = [_Folded.of(conv, bn)]
        table += [_Folded.of(*pair) for b in blocks
                  for pair in ((b.body.conv1, b.body.bn1), (b.body.conv2, b.body.bn2))]
        N, H, W, _ = x.shape
        for entry in table:
            H, W = (H - 1) // entry.stride + 1, (W - 1) // entry.stride + 1
        y = dispatch.empty(N, H, W, table[-1].F)
        dispatch.library().of_width(*(entry.F for entry in table)).trunk(
            len(table), (_Folded * len(table))(*table), *x.shape[:3], int(dispatch.exact), x, y)
        return y, (x, None)

    @staticmethod
    def _keep(layers: list, x: np.ndarray) -> Any:
        conv, bn, _relu, *rest = layers
        z, y, constants = _room(x, conv, 2)
        dispatch.library().of_width(conv.F).stem(_sizes(x, conv, bn), _conv_norm(conv, bn, constants, z), x, y)
        out, caches = Sequential(*rest).forward(y)
        return out, (x, (y, z, constants, bn.training, caches))

    @staticmethod
    def _again(layer: Sequential, layers: list, x: np.ndarray) -> Any:
        """The caches of a forward in evaluation, whatever the mode is now."""
        modes = [(part, part.training) for _, part in layer.walk()]
        layer.eval()
        kept = _Sequential._keep(layers, x)[1][1]
        for part, mode in modes:
            part.training = mode
        return kept

    @staticmethod
    def backward(layer: Sequential, dy: Any, cache: Any) -> Any:
        layers = [child for _, child in layer.children()]
        x, kept = cache
        _still(_Sequential.fits(layers), layer)
        y, z, constants, training, caches = kept or _Sequential._again(layer, layers, x)
        conv, bn, _relu, *rest = layers
        dy, dx = _gradient(layer, Sequential(*rest).backward(dy, caches), y.shape), _room_for_dx(conv, x)
        sizes = _Sizes(*x.shape, conv.F, conv.stride, int(dispatch.exact), int(training), bn.eps, bn.momentum)
        dispatch.library().of_width(conv.F).stem_backward(
            ctypes.byref(sizes), _conv_norm(conv, bn, constants, z), x, y, dy, dx)
        return dx


def _blocks_in_evaluation(layers: list, C: int) -> list[ResidualBlock] | None:
    """All residual blocks of these layers and rows, the first for C channels, each for as many as the one before gives.

    None where there is something else, or anything that trains.
    """
    blocks = []
    for layer in layers:
        inner = [layer]
        if type(layer) is Sequential:
            inner = _blocks_in_evaluation([child for _, child in layer.children()], C)
        elif (type(layer) is not ResidualBlock or layer.body.bn1.training or layer.C != C
              or not _ResidualBlock.fits(layer, C)):
            return None
        if inner is None:
            return None
        blocks += inner
        C = blocks[-1].F if blocks else C
    return blocks if len(blocks) < 64 else None


class _LayerOfLSTM(ctypes.Structure):
    """struct lstm of kernels/cpu/lstm.h"""

    _fields_ = [(name, ctypes.c_int) for name in "T N D H has_initial truncate".split()]
    _fields_ += [(name, ctypes.c_void_p) for name in "counts x W_ih W_hh b gates c_prev tanh_c h_prev y h c dy dh dc da dx "
                 "dW_ih dW_hh db".split()]


def _struct(kind: type[ctypes.Structure], **values: Any) -> Any:
    """A struct of numbers and of the addresses of arrays, as the kernels take it; what is not named is 0."""
    return kind(**{k: v.__array_interface__["data"][0] if isinstance(v, np.ndarray) else v for k, v in values.items()})


class _Packing:
    """Which steps (t, n) of a padded batch are inside their sequences, as rows without gaps (see kernels/cpu/lstm.h).

    Sequences are sorted by length, longest first; rows lie by t, then in that order. GATE_ROW and STATE_ROW are what the
    kernels' rows are longer than their contents.
    """

    GATE_ROW, STATE_ROW = 32, 16

    def __init__(self, lengths: np.ndarray | None, T: int, N: int) -> None:
        self.lengths, self.T, self.N, self.R = lengths, T, N, T * N
        self.counts, self.order, self.rows = np.full(T, N, np.int32), None, None
        if lengths is not None and (lengths != T).any():
            self.order = np.argsort(-lengths.astype(np.int64), kind="stable")
            self.counts = (np.arange(lengths.max())[:, None] < lengths).sum(axis=1, dtype=np.int32)
            self.rows = np.concatenate([t * N + self.order[:count] for t, count in enumerate(self.counts)])
            self.R = len(self.rows)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """(T, N, D) to (R, D)"""
        x = np.ascontiguousarray(x, np.float32).reshape(self.T * self.N, x.shape[2])
        return x if self.rows is None else np.take(x, self.rows, axis=0, out=dispatch.empty(self.R, x.shape[1]))

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """(R, D) to (T, N, D), zeros behind the ends"""
        if self.rows is None:
            return packed.reshape(self.T, self.N, packed.shape[1])
        x = dispatch.empty(self.T * self.N, packed.shape[1])
        x[...] = 0
        x[self.rows] = packed
        return x.reshape(self.T, self.N, packed.shape[1])

    def states(self, shape: tuple[int, int, int], pair: Any) -> np.ndarray:
        """A pair of states (L, N, H), or zeros for None, copied into rows of the kernels, sorted."""
        rooms = np.zeros((2, *shape[:2], shape[2] + self.STATE_ROW), np.float32)
        for room, state in zip(rooms, () if pair is None else pair, strict=False):
            room[..., :shape[2]] = state if self.order is None else state[:, self.order]
        return rooms

    def unsort(self, room: np.ndarray) -> np.ndarray:
        state = np.empty((*room.shape[:2], room.shape[2] - self.STATE_ROW), np.float32)
        state[:, slice(None) if self.order is None else self.order] = room[..., :-self.STATE_ROW]
        return state

    def forget(self, truncate: int | None, d: np.ndarray) -> None:
        """Zero the gradients of final states from which `truncate` cuts off their sequence's own last step."""
        if truncate and self.order is not None:
            d[:, :, (self.T - 1) // truncate * truncate >= np.maximum(self.lengths[self.order], 1)] = 0


class _LSTM:
    """All layers over all steps, one call a layer; see kernels/cpu/lstm.h."""

    @staticmethod
    def fits(layer: LSTM) -> bool:
        """Whether all cells are as they were built."""
        H = layer.H
        return (type(layer) is LSTM and len(layer.cells) > 0 and all(
            type(cell) is LSTMCell and (cell.D, cell.H) == (H if l else layer.D, H)
            and _sound((cell.D, 4 * H), cell.W_ih.value, cell.W_ih.grad)
            and _sound((H, 4 * H), cell.W_hh.value, cell.W_hh.grad)
            and _sound((4 * H,), cell.b.value, cell.b.grad) for l, cell in enumerate(layer.cells)))

    @staticmethod
    def accepts(layer: LSTM, x: Any, lengths: Any, initial: Any) -> bool:
        if not (_LSTM.fits(layer) and _ready(x, *(() if initial is None else initial)) and x.ndim == 3
                and 0 < x.size < 1 << 31 and x.shape[2] == layer.D):
            return False
        T, N, _ = x.shape
        if initial is not None and [state.shape for state in initial] != [(len(layer.cells), N, layer.H)] * 2:
            return False
        return lengths is None or (isinstance(lengths, (np.ndarray, list)) and np.shape(lengths) == (N,)
                                   and np.asarray(lengths).dtype.kind in "iu"
                                   and min(lengths) >= 0 and 1 <= max(lengths) <= T)

    @staticmethod
    def forward(layer: LSTM, x: Any, lengths: Any = None, initial: Any = None) -> Any:
        if not _LSTM.accepts(layer, x, lengths, initial):
            return NotImplemented
        (T, N, _), H = x.shape, layer.H
        packing = _Packing(None if lengths is None else np.asarray(lengths), T, N)
        h, c = packing.states((len(layer.cells), N, H), initial)
        R, y, caches = packing.R, packing.pack(x), []
        for l, cell in enumerate(layer.cells):
            x, y, gates = y, dispatch.empty(R, H), dispatch.empty(R, 4 * H + _Packing.GATE_ROW)
            c_prev, tanh_c, h_prev = (dispatch.empty(R, H + _Packing.STATE_ROW) for _ in range(3))
            dispatch.library().lstm_forward(ctypes.byref(_struct(
                _LayerOfLSTM, T=len(packing.counts), N=N, D=cell.D, H=H, has_initial=initial is not None,
                counts=packing.counts, x=x, W_ih=cell.W_ih.value, W_hh=cell.W_hh.value, b=cell.b.value, gates=gates,
                c_prev=c_prev, tanh_c=tanh_c, h_prev=h_prev, y=y, h=h[l], c=c[l])))
            caches.append((x, gates, c_prev, tanh_c, h_prev))
        return (packing.unpack(y), (packing.unsort(h), packing.unsort(c))), (caches, packing)

    @staticmethod
    def backward(layer: LSTM, dy: Any, dfinal: Any, cache: Any) -> Any:
        caches, packing = cache
        _still(_LSTM.fits(layer), layer)
        N, H, R, shape = packing.N, layer.H, packing.R, (packing.T, packing.N, layer.H)
        if dy is not None and dy.shape != shape:
            raise ValueError(f"{layer!r} got dy of shape {dy.shape}, expected {shape}: that of y")
        dstate, dx = packing.states((len(caches), N, H), dfinal), None if dy is None else packing.pack(dy)
        packing.forget(layer.truncate, dstate)
        dh, dc = dstate
        for l in reversed(range(len(caches))):
            cell, (x, gates, c_prev, tanh_c, h_prev) = layer.cells[l], caches[l]
            dy, dx, da = dx, dispatch.empty(R, cell.D), dispatch.empty(R, 4 * H + _Packing.GATE_ROW)
            dispatch.library().lstm_backward(ctypes.byref(_struct(
                _LayerOfLSTM, T=len(packing.counts), N=N, D=cell.D, H=H, truncate=layer.truncate or 0,
                counts=packing.counts, x=x, W_ih=cell.W_ih.value, W_hh=cell.W_hh.value, gates=gates, c_prev=c_prev,
                tanh_c=tanh_c, h_prev=h_prev, dy=dy, dh=dh[l], dc=dc[l], da=da, dx=dx, dW_ih=cell.W_ih.grad,
                dW_hh=cell.W_hh.grad, db=cell.b.grad)))
        return packing.unpack(dx), (packing.unsort(dh), packing.unsort(dc))


class _Normalize:
    """Bytes to float32; see kernels/cpu/pointwise.h."""

    @staticmethod
    def forward(layer: Normalize, x: Any) -> Any:
        C = len(layer.scale)
        if not (_sound((C,), layer.scale, layer.shift) and isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim
                and x.shape[-1] == C <= 16 and x.size):
            return NotImplemented
        y = dispatch.empty(*x.shape)
        dispatch.library().normalize(ctypes.c_int64(x.size), C, np.ascontiguousarray(x), layer.scale, layer.shift, y)
        return y, None

    @staticmethod
    def backward(layer: Normalize, dy: Any, cache: None) -> None:
        return None


class _Entropy(ctypes.Structure):
    """struct entropy of kernels/cpu/pointwise.h"""

    _fields_ = [("N", ctypes.c_int), ("K", ctypes.c_int), ("own", ctypes.c_float), ("other", ctypes.c_float),
                ("total", ctypes.c_double), ("loss", ctypes.c_double)]
    _fields_ += [(name, ctypes.c_void_p) for name in "logits weights labels dlogits".split()]


def _softmax_cross_entropy(logits: Any, labels: Any, label_smoothing: float = 0.0, class_weights: Any = None) -> Any:
    weights = () if class_weights is None else (class_weights,)
    if not (_ready(logits, *weights) and logits.ndim == 2 and 0 < logits.size < 1 << 31 and 0 <= label_smoothing < 1
            and isinstance(labels, np.ndarray) and labels.shape == logits.shape[:1] and labels.dtype.kind in "iu"
            and labels.min() >= 0 and labels.max() < logits.shape[1] and all(w.shape == logits.shape[1:] for w in weights)):
        return NotImplemented
    (N, K), dlogits = logits.shape, dispatch.empty(*logits.shape)
    total = float(class_weights[labels].sum()) if weights else float(N)
    if total == 0:
        return NotImplemented
    logits, labels, weights = np.ascontiguousarray(logits), np.ascontiguousarray(labels, np.int64), np.array(weights)
    s = _struct(_Entropy, N=N, K=K, own=label_smoothing / K + (1 - label_smoothing), other=label_smoothing / K, total=total,
                logits=logits, labels=labels, weights=weights if len(weights) else 0, dlogits=dlogits)
    dispatch.library().softmax_cross_entropy(ctypes.byref(s))
    return s.loss, dlogits


class _Update(ctypes.Structure):
    """struct update of kernels/cpu/pointwise.h"""

    _fields_ = [("table", ctypes.c_void_p), ("count", ctypes.c_int)]
    _fields_ += [(name, ctypes.c_float) for name in "lr decay shrink beta1 rest1 beta2 rest2 unbias2 eps".split()]
    _fields_ += [("nesterov", ctypes.c_int)]


_tables: weakref.WeakKeyDictionary[Any, tuple[list, np.ndarray]] = weakref.WeakKeyDictionary()


def _table(owner: Any, columns: list[list[Any]]) -> np.ndarray | None:
    """Where the arrays lie: a row (value, grad, m, v, size) a parameter, of four columns of arrays or Nones.

    Kept until one of the arrays is another object. None: something that the kernels cannot change in place.
    """
    arrays = [a for column in columns for a in column]
    known = _tables.get(owner)
    if known is not None and len(known[0]) == len(arrays) and all(map(operator.is_, known[0], arrays)):
        return known[1]
    there = [a for a in arrays if a is not None]
    sizes = [next(a.size for a in row if a is not None) for row in zip(*columns, strict=True)]
    if not (_ready(*there) and all(a.flags.c_contiguous and a.flags.writeable for a in there)
            and len({id(a) for a in there}) == len(there)
            and all(a is None or a.size == n for column in columns for a, n in zip(column, sizes, strict=True))):
        return None
    table = np.array([[0 if a is None else a.__array_interface__["data"][0] for a in column] for column in columns]
                     + [sizes], np.int64).T.copy()
    _tables[owner] = arrays, table
    return table


def _step(optimizer: Optimizer) -> Any:
    params, none = optimizer.params, [None] * len(optimizer.params)
    if type(optimizer) not in (SGD, Adam) or not params:
        return NotImplemented
    table = _table(optimizer, [[p.value for p in params], [p.grad for p in params],
                               optimizer.slots.get("m", none), optimizer.slots.get("v", none)])
    if table is None:
        return NotImplemented
    optimizer.t += 1
    o, t, lib = optimizer, optimizer.t, dispatch.library()
    if type(o) is SGD:
        lib.sgd(ctypes.byref(_struct(_Update, table=table, count=len(table), lr=o.lr, decay=o.weight_decay,
                                     beta1=o.momentum, nesterov=o.nesterov)))
        return None
    lib.adam(ctypes.byref(_struct(
        _Update, table=table, count=len(table), lr=o.lr / (1 - o.beta1**t), decay=0 if o.decoupled else o.weight_decay,
        shrink=1 - o.lr * o.weight_decay if o.decoupled else 1, beta1=o.beta1, rest1=1 - o.beta1, beta2=o.beta2,
        rest2=1 - o.beta2, unbias2=1 / (1 - o.beta2**t), eps=o.eps)))
    return None


def _clip_gradient_norm(params: Any, limit: float | None) -> Any:
    if not (isinstance(params, (list, tuple)) and params and (limit is None or limit > 0)):
        return NotImplemented                                                 # an iterator can be read only once
    none = [None] * len(params)
    table = _table(params[0], [none, [p.grad for p in params], none, none])
    if table is None:
        return NotImplemented
    squares = ctypes.c_double()
    dispatch.library().gradient_norm_squared(table, len(table), ctypes.byref(squares))
    norm = math.sqrt(squares.value)
    if limit is not None and math.isfinite(norm) and norm > limit:
        dispatch.library().scale_gradients(table, len(table), limit / norm)
    return norm


for _kernel in (_Conv2d, _ResidualBlock, _Sequential, _LSTM, _Normalize, _softmax_cross_entropy, _clip_gradient_norm):
    dispatch.register(_kernel.__name__[1:], _kernel)
dispatch.register("Optimizer.step", _step)
