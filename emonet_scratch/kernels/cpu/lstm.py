"""Launch code of kernels/cpu/lstm.h: all layers of an LSTM over all steps, one call a layer each way."""

import ctypes
from typing import Any

import numpy as np

from ...layers import LSTM
from ..takes import CPU
from . import library
from .memory import empty


def register() -> None:
    """As the kernel of the CPU."""
    CPU.kernel("LSTM", forward, backward)


class _LayerOfLSTM(ctypes.Structure):
    """struct lstm of kernels/cpu/lstm.h"""

    _fields_ = [(name, ctypes.c_int) for name in "T N D H has_initial truncate".split()]
    _fields_ += [(name, ctypes.c_void_p) for name in "counts x W_ih W_hh b gates c_prev tanh_c h_prev y h c dy dh dc da dx "
                 "dW_ih dW_hh db".split()]


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
        return x if self.rows is None else np.take(x, self.rows, axis=0, out=empty(self.R, x.shape[1]))

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """(R, D) to (T, N, D), zeros behind the ends"""
        if self.rows is None:
            return packed.reshape(self.T, self.N, packed.shape[1])
        x = empty(self.T * self.N, packed.shape[1])
        x[...] = 0
        x[self.rows] = packed
        return x.reshape(self.T, self.N, packed.shape[1])

    def states(self, shape: tuple[int, int, int], pair: Any) -> np.ndarray:
        """A pair of states (L, N, H), or zeros for None, copied into rows of the kernels, sorted."""
        rows = np.zeros((2, *shape[:2], shape[2] + self.STATE_ROW), np.float32)
        for target, state in zip(rows, () if pair is None else pair, strict=False):
            target[..., :shape[2]] = state if self.order is None else state[:, self.order]
        return rows

    def unsort(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the kernels to states (L, N, H), in the order of the batch."""
        state = np.empty((*rows.shape[:2], rows.shape[2] - self.STATE_ROW), np.float32)
        state[:, slice(None) if self.order is None else self.order] = rows[..., :-self.STATE_ROW]
        return state


def forward(layer: LSTM, x: Any, lengths: Any = None, initial: Any = None) -> tuple[Any, Any]:
    """((y, (h, c)), cache) as of LSTM.forward."""
    T, N, _ = x.shape
    H, packing = layer.H, _Packing(None if lengths is None else np.asarray(lengths), T, N)
    h, c = packing.states((len(layer.cells), N, H), initial)
    R, y, caches = packing.R, packing.pack(x), []
    for l, cell in enumerate(layer.cells):
        x, y, gates = y, empty(R, H), empty(R, 4 * H + _Packing.GATE_ROW)
        c_prev, tanh_c, h_prev = (empty(R, H + _Packing.STATE_ROW) for _ in range(3))
        library.current().of_products().lstm_forward(library.struct(
            _LayerOfLSTM, T=len(packing.counts), N=N, D=cell.D, H=H, has_initial=initial is not None,
            counts=packing.counts, x=x, W_ih=cell.W_ih.value, W_hh=cell.W_hh.value, b=cell.b.value, gates=gates,
            c_prev=c_prev, tanh_c=tanh_c, h_prev=h_prev, y=y, h=h[l], c=c[l]))
        caches.append((x, gates, c_prev, tanh_c, h_prev))
    return (packing.unpack(y), (packing.unsort(h), packing.unsort(c))), (caches, packing)


def backward(layer: LSTM, dy: Any, dfinal: Any, cache: Any) -> tuple[np.ndarray, Any]:
    """(dx, (dh, dc)) as of LSTM.backward."""
    caches, packing = cache
    N, H, R, shape = packing.N, layer.H, packing.R, (packing.T, packing.N, layer.H)
    dh, dc = packing.states((len(caches), N, H), dfinal)
    dx = None if dy is None else packing.pack(CPU.gradient(layer, dy, shape))
    for l in reversed(range(len(caches))):
        cell, (x, gates, c_prev, tanh_c, h_prev) = layer.cells[l], caches[l]
        dy, dx, da = dx, empty(R, cell.D), empty(R, 4 * H + _Packing.GATE_ROW)
        library.current().of_products().lstm_backward(library.struct(
            _LayerOfLSTM, T=len(packing.counts), N=N, D=cell.D, H=H, truncate=layer.truncate or 0,
            counts=packing.counts, x=x, W_ih=cell.W_ih.value, W_hh=cell.W_hh.value, gates=gates, c_prev=c_prev,
            tanh_c=tanh_c, h_prev=h_prev, dy=dy, dh=dh[l], dc=dc[l], da=da, dx=dx, dW_ih=cell.W_ih.grad,
            dW_hh=cell.W_hh.grad, db=cell.b.grad))
    return packing.unpack(dx), (packing.unsort(dh), packing.unsort(dc))
