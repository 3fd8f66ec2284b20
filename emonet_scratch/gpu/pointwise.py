"""Launch code of kernels/cuda/pointwise.cu: pixels, dropout, the loss, optimizers; float32 arrays on a GPU only."""

from __future__ import annotations

import math
import operator
import weakref
from typing import Any

import numpy as np

from .. import dispatch
from ..backend import Array, array_module, to_device
from ..layers import Dropout, Normalize
from ..optim import SGD, Adam, Optimizer
from .launch import blocks, gradient, module, ready

VARIANTS: dict[str, list[dict[str, Any]]] = {"pointwise": [{}]}

THREADS = 256
WARPS = THREADS // 32
CHUNK = 4096                # numbers of a parameter that one block changes
LOSS_BLOCKS = 128


def _launch(name: str, grid: int, *args: Any) -> None:
    module("pointwise").kernel(name)((grid,), (THREADS,), args)


class _Normalize:
    @staticmethod
    def forward(layer: Normalize, x: Any) -> Any:
        if not (ready(layer.scale, layer.shift) and ready(x, dtype=np.uint8) and x.ndim and x.shape[-1] == len(layer.scale)
                and x.size):
            return NotImplemented
        xp = array_module(x)
        y, x = xp.empty(x.shape, np.float32), xp.ascontiguousarray(x)
        _launch("emonet_normalize", blocks(x.size, 4 * THREADS), np.int64(x.size), np.int32(x.shape[-1]), x, layer.scale,
                layer.shift, y)
        return y, None

    @staticmethod
    def backward(layer: Normalize, dy: Any, cache: None) -> None:
        return None


class _Dropout:
    """The cache is the key of the mask, which backward draws once more."""

    @staticmethod
    def forward(layer: Dropout, x: Any) -> Any:
        if not (layer.training and layer.rate and ready(x) and ready(layer.counter, dtype=np.uint64) and x.size):
            return NotImplemented
        key, layer.counter = layer.counter, array_module(x).empty(2, np.uint64)
        return _Dropout.apply(layer, x, key, layer.counter), (x.shape, key)

    @staticmethod
    def backward(layer: Dropout, dy: Any, cache: Any) -> Array:
        shape, key = cache
        return _Dropout.apply(layer, gradient(layer, dy, shape), key, None)

    @staticmethod
    def apply(layer: Dropout, x: Any, key: Array, following: Array | None) -> Array:
        xp, n, rate = array_module(x), x.size, layer.rate
        y, x = xp.empty(x.shape, np.float32), xp.ascontiguousarray(x)
        _launch("emonet_dropout", blocks(n, 8 * THREADS), np.int64(n), np.float32(rate), np.float32(1 / (1 - rate)),
                np.int32(following is not None), x, key, key if following is None else following, y)
        return y


def _softmax_cross_entropy(logits: Any, labels: Any, label_smoothing: float = 0.0, class_weights: Any = None) -> Any:
    weighted = class_weights is not None
    if not (ready(logits, *((class_weights,) if weighted else ())) and logits.ndim == 2 and 0 < logits.shape[0] < 1 << 31
            and 0 < logits.shape[1] < 1 << 31 and 0 <= label_smoothing < 1
            and not (weighted and class_weights.shape != logits.shape[1:])):
        return NotImplemented
    (N, K), xp, labels = logits.shape, array_module(logits), np.asarray(to_device(labels, "cpu"))
    if labels.shape != (N,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= K:
        return NotImplemented
    grid, other = min(blocks(N, WARPS), LOSS_BLOCKS), label_smoothing / K
    dlogits, parts, logits = xp.empty((N, K), np.float32), xp.empty(grid, np.float64), xp.ascontiguousarray(logits)
    _launch("emonet_softmax_cross_entropy", grid, np.int32(N), np.int32(K), np.float32(other + (1 - label_smoothing)),
            np.float32(other), np.int32(weighted), logits, xp.asarray(labels.astype(np.int32)),
            xp.ascontiguousarray(class_weights) if weighted else logits, dlogits, parts)
    return float(to_device(parts, "cpu").sum()), dlogits


_tables: weakref.WeakKeyDictionary[Any, dict[str, tuple[list, Array]]] = weakref.WeakKeyDictionary()


def _table(owner: Any, use: str, columns: list[list[Any]]) -> Array | None:
    """The table that pointwise.cu reads, from columns (value, grad, m, v) of arrays or Nones.

    Kept on the device for this owner and use until one of the arrays is another object. None: something that the kernels
    cannot change in place.
    """
    arrays = [a for column in columns for a in column]
    known = _tables.setdefault(owner, {}).get(use)
    if known is not None and len(known[0]) == len(arrays) and all(map(operator.is_, known[0], arrays)):
        return known[1]
    there = [a for a in arrays if a is not None]
    rows = []
    if not (ready(*there) and all(a.flags.c_contiguous for a in there) and len({id(a) for a in there}) == len(there)):
        return None
    for parameter in zip(*columns, strict=True):
        sizes = {a.size for a in parameter if a is not None}
        if len(sizes) != 1:
            return None
        size, addresses = sizes.pop(), [0 if a is None else a.data.ptr for a in parameter]
        rows += [[*addresses, first, min(CHUNK, size - first)] for first in range(0, size, CHUNK)]
    table = array_module(*there).asarray(np.array(rows or np.empty((0, 6)), np.uint64))
    _tables[owner][use] = arrays, table
    return table


def _step(optimizer: Optimizer) -> Any:
    o, none = optimizer, [None] * len(optimizer.params)
    if type(o) not in (SGD, Adam) or not o.params:
        return NotImplemented
    table = _table(o, "step", [[p.value for p in o.params], [p.grad for p in o.params],
                       o.slots.get("m", none), o.slots.get("v", none)])
    if table is None or not len(table):
        return NotImplemented
    o.t += 1
    if type(o) is SGD:
        numbers = o.lr, o.weight_decay, o.momentum
        _launch("emonet_sgd", len(table), table, *map(np.float32, numbers), np.int32(o.nesterov))
    else:
        decay, shrink = (0, 1 - o.lr * o.weight_decay) if o.decoupled else (o.weight_decay, 1)
        numbers = (o.lr / (1 - o.beta1**o.t), decay, shrink, o.beta1, 1 - o.beta1, o.beta2, 1 - o.beta2,
                   1 / (1 - o.beta2**o.t), o.eps)
        _launch("emonet_adam", len(table), table, *map(np.float32, numbers))
    return None


def _clip_gradient_norm(params: Any, limit: float | None) -> Any:
    if not (isinstance(params, (list, tuple)) and params and (limit is None or limit > 0)):
        return NotImplemented                                                 # an iterator can be read only once
    none = [None] * len(params)
    table = _table(params[0], "gradients", [none, [p.grad for p in params], none, none])
    if table is None or not len(table):
        return NotImplemented
    norm = _norm(table)
    if limit is not None and math.isfinite(limit):
        _launch("emonet_clip", len(table), table, norm, np.float64(limit))
    return float(norm[0])


def _norm(table: Array) -> Array:
    """(1,) float64: the Euclidean norm of all arrays in the table's second column."""
    xp = array_module(table)
    sums, norm = xp.empty(len(table), np.float64), xp.empty(1, np.float64)
    _launch("emonet_squares", len(table), table, sums)
    _launch("emonet_norm", 1, np.int32(len(table)), sums, norm)
    return norm


def _all_finite(params: Any) -> Any:
    """By the norm: in float64 the squares of float32 numbers cannot overflow. One wait instead of one a parameter."""
    if not (isinstance(params, (list, tuple)) and params):
        return NotImplemented
    none = [None] * len(params)
    table = _table(params[0], "values", [none, [p.value for p in params], none, none])
    if table is None or not len(table):
        return NotImplemented
    return math.isfinite(_norm(table)[0])


for _kernel in (_Normalize, _Dropout, _softmax_cross_entropy, _clip_gradient_norm, _all_finite):
    dispatch.register(_kernel.__name__[1:], _kernel, "cuda")
dispatch.register("Optimizer.step", _step, "cuda")
