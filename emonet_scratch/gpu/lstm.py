"""Launch code of kernels/cuda/lstm.cu: all layers of an LSTM, two matrix products and one launch each way a layer."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import backend, dispatch
from ..backend import Array, array_module, device_of, to_device
from ..layers import LSTM, LSTMCell
from .gemm import affine
from .launch import blocks, gradient, module, ready

UNITS = 8                   # of the hidden state, that a block computes
ROWS, THREADS = 16, 256

VARIANTS: dict[str, list[dict[str, Any]]] = {"lstm": [{"UNITS": UNITS}]}


@functools.cache
def _room(device: str) -> tuple[int, int]:
    """(multiprocessors, bytes of shared memory that a block may have) of a GPU."""
    attributes = backend.import_cupy().cuda.Device(int(device.split(":")[1])).attributes
    return attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]


def _shared(H: int) -> tuple[int, int]:
    """Bytes of dynamic shared memory, forward and backward."""
    return 4 * (H * (4 * UNITS + 4) + ROWS * (H + 2)), 4 * 4 * H * UNITS


class _LSTM:
    """All layers over all steps. The recurrence is float32 whatever `dispatch.precision` says."""

    @staticmethod
    def fits(layer: LSTM) -> bool:
        """Whether all cells are as they were built, and all blocks of a launch can run at once."""
        H, cells = layer.H, layer.cells
        if type(layer) is not LSTM or not cells or any(type(cell) is not LSTMCell for cell in cells):
            return False
        for l, cell in enumerate(cells):
            expected = [(cell.W_ih, (H if l else layer.D, 4 * H)), (cell.W_hh, (H, 4 * H)), (cell.b, (4 * H,))]
            if not all(ready(a) and a.shape == shape and a.flags.c_contiguous
                       for p, shape in expected for a in (p.value, p.grad)):
                return False
        multiprocessors, shared = _room(device_of(cells[0].b.value))
        return blocks(H, UNITS) <= multiprocessors and max(_shared(H)) + 4 * ROWS * 4 * UNITS <= shared

    @staticmethod
    def forward(layer: LSTM, x: Any, lengths: Any = None, initial: Any = None) -> Any:
        if not (ready(x, *(() if initial is None else initial)) and x.ndim == 3 and x.size and x.shape[2] == layer.D
                and _LSTM.fits(layer)):
            return NotImplemented
        (T, N, _), H, L, xp = x.shape, layer.H, len(layer.cells), array_module(x)
        if initial is not None and [state.shape for state in initial] != [(L, N, H)] * 2:
            return NotImplemented
        valid = layer._valid(lengths, T, N, x)                                # refuses wrong lengths
        ends = xp.full(N, T, np.int32) if valid is None else xp.asarray(
            np.asarray(to_device(lengths, "cpu")).astype(np.int32))
        if valid is not None:
            x = xp.where(valid, x, np.float32(0))                             # padding may hold anything, even NaN
        h, c, caches = xp.zeros((L, N, H), np.float32), xp.zeros((L, N, H), np.float32), []
        for l, cell in enumerate(layer.cells):
            states, cells = xp.zeros((2, N, H), np.float32), xp.zeros((N, H), np.float32)
            if initial is not None:
                states[0], cells[...] = initial[0][l], initial[1][l]
            gates = affine(x.reshape(T * N, cell.D), cell.W_ih.value, cell.b.value)
            y, h_prev, c_prev, tanh_c = (xp.empty((T, N, H), np.float32) for _ in range(4))
            module("lstm", cooperative=True, UNITS=UNITS).kernel("emonet_lstm_forward")(
                (blocks(H, UNITS),), (THREADS,),
                (np.int32(T), np.int32(N), np.int32(H), gates, cell.W_hh.value, ends, states, cells, y, h_prev, c_prev,
                 tanh_c, xp.zeros(1, np.uint32)), shared_mem=_shared(H)[0])
            h[l], c[l] = states[T % 2], cells
            caches.append((x, gates, h_prev, c_prev, tanh_c))
            x = y
        return (x, (h, c)), (caches, ends)

    @staticmethod
    def backward(layer: LSTM, dy: Any, dfinal: Any, cache: Any) -> tuple[Array, tuple[Array, Array]]:
        caches, ends = cache
        (T, N, _), H, L, xp = caches[0][0].shape, layer.H, len(caches), array_module(ends)
        if not _LSTM.fits(layer):
            raise ValueError(f"parameters of {layer!r} were replaced after its forward; the kernels cannot use the new ones")
        dx = xp.zeros((T, N, H), np.float32) if dy is None else gradient(layer, dy, (T, N, H))
        dh, dc = (xp.zeros((L, N, H), np.float32) if dfinal is None else gradient(layer, d, (L, N, H)).copy()
                  for d in ((None, None) if dfinal is None else dfinal))
        for l in reversed(range(L)):
            cell, (x, gates, h_prev, c_prev, tanh_c) = layer.cells[l], caches[l]
            da = xp.empty((T * N, 4 * H), np.float32)
            dh_l, dc_l = dh[l].copy(), dc[l].copy()
            module("lstm", cooperative=True, UNITS=UNITS).kernel("emonet_lstm_backward")(
                (blocks(H, UNITS),), (THREADS,),
                (np.int32(T), np.int32(N), np.int32(H), np.int32(layer.truncate or 0), gates, cell.W_hh.value, ends, c_prev,
                 tanh_c, dx, dh_l, dc_l, da, xp.zeros(1, np.uint32)), shared_mem=_shared(H)[1])
            dh[l], dc[l] = dh_l, dc_l
            cell.W_ih.grad += x.reshape(T * N, cell.D).T @ da
            cell.W_hh.grad += h_prev.reshape(T * N, H).T @ da
            cell.b.grad += da.sum(axis=0)
            dx = xp.ascontiguousarray((da @ cell.W_ih.value.T).reshape(T, N, cell.D))
        return dx, (dh, dc)


dispatch.register("LSTM", _LSTM, "cuda")
