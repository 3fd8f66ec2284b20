"""Launch code of kernels/cuda/pointwise.cu: pixels, dropout, the loss, optimizers; float32 arrays on a GPU only."""

import math
from typing import Any

import numpy as np

from ...backend import Array, array_module, to_device
from ...layers import Dropout, Normalize
from ...losses import targets_of
from ..composed import Steps, Tables
from ..takes import CUDA
from .launch import blocks, module

THREADS = 256
WARPS = THREADS // 32
CHUNK = 4096                # numbers of a parameter that one block changes
LOSS_BLOCKS = 128


def register() -> None:
    """As kernels of GPUs."""
    CUDA.kernel("Normalize", normalize, normalize_backward)
    CUDA.kernel("Dropout", dropout, dropout_backward)
    CUDA.kernel("softmax_cross_entropy", softmax_cross_entropy)
    CUDA.kernel("Optimizer.step", Steps(_tables, _sgd, _adam).run)
    CUDA.kernel("clip_gradient_norm", clip_gradient_norm)
    CUDA.kernel("all_finite", all_finite)


def _launch(name: str, grid: int, *args: Any) -> None:
    module("pointwise").kernel(name)((grid,), (THREADS,), args)


def normalize(layer: Normalize, x: Array) -> tuple[Array, None]:
    """Bytes to float32."""
    xp = array_module(x)
    y, x = xp.empty(x.shape, np.float32), xp.ascontiguousarray(x)
    _launch("emonet_normalize", blocks(x.size, 4 * THREADS), np.int64(x.size), np.int32(x.shape[-1]), x, layer.scale,
            layer.shift, y)
    return y, None


def normalize_backward(_layer: Normalize, _dy: Any, _cache: None) -> None:
    """Bytes have no gradient."""


def dropout(layer: Dropout, x: Array) -> tuple[Array, Any]:
    """(y, cache): the cache is the key of the mask, which backward draws once more."""
    key, layer.counter = layer.counter, array_module(x).empty(2, np.uint64)
    return _drop(layer, x, key, layer.counter), (x.shape, key)


def dropout_backward(layer: Dropout, dy: Any, cache: Any) -> Array:
    """dx"""
    shape, key = cache
    return _drop(layer, CUDA.gradient(layer, dy, shape), key, None)


def _drop(layer: Dropout, x: Array, key: Array, following: Array | None) -> Array:
    xp, n, rate = array_module(x), x.size, layer.rate
    y, x = xp.empty(x.shape, np.float32), xp.ascontiguousarray(x)
    _launch("emonet_dropout", blocks(n, 8 * THREADS), np.int64(n), np.float32(rate), np.float32(1 / (1 - rate)),
            np.int32(following is not None), x, key, key if following is None else following, y)
    return y


def softmax_cross_entropy(logits: Array, labels: np.ndarray, label_smoothing: float = 0.0,
                          class_weights: Array | None = None) -> tuple[float, Array]:
    """(loss, dlogits)"""
    (N, K), xp, weighted = logits.shape, array_module(logits), class_weights is not None
    grid, (targets, total) = min(blocks(N, WARPS), LOSS_BLOCKS), targets_of(labels, N, K, label_smoothing, class_weights)
    dlogits, parts, logits = xp.empty((N, K), np.float32), xp.empty(grid, np.float64), xp.ascontiguousarray(logits)
    _launch("emonet_softmax_cross_entropy", grid, np.int32(N), np.int32(K), np.float64(total), np.int32(weighted), logits,
            xp.asarray(targets.astype(np.float32)), xp.ascontiguousarray(class_weights) if weighted else logits, dlogits,
            parts)
    return float(to_device(parts, "cpu").sum()), dlogits


def _table(rows: list[list[Any]]) -> Array:
    """(., 6) a row for every CHUNK numbers of a parameter: addresses of value, grad, m, v, 0 for what there is not; the
    first number, and how many."""
    table, xp = [], array_module(*(a for row in rows for a in row if a is not None))
    for row in rows:
        size, addresses = next(a.size for a in row if a is not None), [0 if a is None else a.data.ptr for a in row]
        table += [[*addresses, first, min(CHUNK, size - first)] for first in range(0, size, CHUNK)]
    return xp.asarray(np.array(table, np.uint64))


_tables = Tables(_table)


def _sgd(table: Array, lr: float, decay: float, momentum: float, nesterov: bool) -> None:
    _launch("emonet_sgd", len(table), table, *map(np.float32, (lr, decay, momentum)), np.int32(nesterov))


def _adam(table: Array, lr: float, decay: float, shrink: float, beta1: float, beta2: float, unbias2: float,
          eps: float) -> None:
    numbers = lr, decay, shrink, beta1, 1 - beta1, beta2, 1 - beta2, unbias2, eps
    _launch("emonet_adam", len(table), table, *map(np.float32, numbers))


def clip_gradient_norm(params: list[Any], limit: float | None) -> float:
    """The norm before."""
    table = _tables.of(params[0], "gradients", grad=[p.grad for p in params])
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


def all_finite(params: list[Any]) -> bool:
    """By the norm: in float64 the squares of float32 numbers cannot overflow. One wait instead of one a parameter."""
    return math.isfinite(_norm(_tables.of(params[0], "values", grad=[p.value for p in params]))[0])
