"""Launch code of kernels/cpu/pointwise.h: pixels, the loss, optimizers."""

import ctypes
import math
from typing import Any

import numpy as np

from ...layers import Normalize
from ...losses import targets_of
from ..composed import Steps, Tables
from ..takes import CPU
from . import library
from .memory import empty


def register() -> None:
    """As kernels of the CPU."""
    CPU.kernel("Normalize", normalize, normalize_backward)
    CPU.kernel("softmax_cross_entropy", softmax_cross_entropy)
    CPU.kernel("Optimizer.step", Steps(_tables, _sgd, _adam).run)
    CPU.kernel("clip_gradient_norm", clip_gradient_norm)


def normalize(layer: Normalize, x: np.ndarray) -> tuple[np.ndarray, None]:
    """Bytes to float32."""
    y = empty(*x.shape)
    library.current().normalize(ctypes.c_int64(x.size), x.shape[-1], np.ascontiguousarray(x), layer.scale, layer.shift, y)
    return y, None


def normalize_backward(_layer: Normalize, _dy: Any, _cache: None) -> None:
    """Bytes have no gradient."""


class _Entropy(ctypes.Structure):
    """struct entropy of kernels/cpu/pointwise.h"""

    _fields_ = [("N", ctypes.c_int), ("K", ctypes.c_int), ("total", ctypes.c_double), ("loss", ctypes.c_double)]
    _fields_ += [(name, ctypes.c_void_p) for name in "logits targets weights dlogits".split()]


def softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray, label_smoothing: float = 0.0,
                          class_weights: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """(loss, dlogits)"""
    N, K = logits.shape
    dlogits, logits = empty(N, K), np.ascontiguousarray(logits)
    targets, total = targets_of(labels, N, K, label_smoothing, class_weights)
    targets, weights = targets.astype(np.float32), 0 if class_weights is None else np.ascontiguousarray(class_weights)
    s = library.struct(_Entropy, N=N, K=K, total=total, logits=logits, targets=targets, weights=weights, dlogits=dlogits)
    library.current().softmax_cross_entropy(s)
    return s.loss, dlogits


class _Update(ctypes.Structure):
    """struct update of kernels/cpu/pointwise.h"""

    _fields_ = [("table", ctypes.c_void_p), ("count", ctypes.c_int)]
    _fields_ += [(name, ctypes.c_float) for name in "lr decay shrink beta1 rest1 beta2 rest2 unbias2 eps".split()]
    _fields_ += [("nesterov", ctypes.c_int)]


def _table(rows: list[list[Any]]) -> np.ndarray:
    """(P, 5) addresses of value, grad, m, v, 0 for what there is not, and the size."""
    return np.array([[0 if a is None else library.address(a) for a in row]
                     + [next(a.size for a in row if a is not None)] for row in rows], np.int64)


_tables = Tables(_table)


def _sgd(table: np.ndarray, lr: float, decay: float, momentum: float, nesterov: bool) -> None:
    library.current().sgd(library.struct(_Update, table=table, count=len(table), lr=lr, decay=decay, beta1=momentum,
                                         nesterov=nesterov))


def _adam(table: np.ndarray, lr: float, decay: float, shrink: float, beta1: float, beta2: float, unbias2: float,
          eps: float) -> None:
    library.current().adam(library.struct(_Update, table=table, count=len(table), lr=lr, decay=decay, shrink=shrink,
                                          beta1=beta1, rest1=1 - beta1, beta2=beta2, rest2=1 - beta2, unbias2=unbias2,
                                          eps=eps))


def clip_gradient_norm(params: list[Any], limit: float | None) -> float:
    """The norm before."""
    table = _tables.of(params[0], "gradients", grad=[p.grad for p in params])
    squares = ctypes.c_double()
    library.current().gradient_norm_squared(table, len(table), ctypes.byref(squares))
    norm = math.sqrt(squares.value)
    if limit is not None and math.isfinite(norm) and norm > limit:
        library.current().scale_gradients(table, len(table), limit / norm)
    return norm
