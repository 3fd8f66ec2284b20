"""Launch code of kernels/cuda/lstm.cu: all layers of an LSTM, two matrix products and one launch each way a layer."""

import functools
from typing import Any

import numpy as np

from ... import backend, dispatch
from ...backend import Array, array_module, device_of
from ...layers import LSTM
from ...layers.lstm import mask
from .. import takes
from ..takes import CUDA
from .launch import blocks, module

UNITS = 8                   # of the hidden state, that a block computes
ROWS, THREADS = 16, 256


def register() -> None:
    """As the kernel of GPUs, for states so small that all blocks of a launch can run at once."""
    dispatch.register("cuda", "LSTM", dispatch.Kernel(
        lambda layer, *args, **kwargs: takes.sequences(CUDA, layer, *args, **kwargs) and _runs_at_once(layer),
        forward, backward, lambda layer: takes.lstm(CUDA, layer) and _runs_at_once(layer)))


@functools.cache
def _limits(device: str) -> tuple[int, int]:
    """(multiprocessors, bytes of shared memory that a block may have) of a GPU."""
    attributes = backend.import_cupy().cuda.Device(int(device.split(":")[1])).attributes
    return attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"]


def _shared(H: int) -> tuple[int, int]:
    """Bytes of dynamic shared memory, forward and backward."""
    return 4 * (H * (4 * UNITS + 4) + ROWS * (H + 2)), 4 * 4 * H * UNITS


def _runs_at_once(layer: LSTM) -> bool:
    multiprocessors, shared = _limits(device_of(layer.cells[0].b.value))
    return blocks(layer.H, UNITS) <= multiprocessors and max(_shared(layer.H)) + 4 * ROWS * 4 * UNITS <= shared


def forward(layer: LSTM, x: Array, lengths: Any = None, initial: Any = None) -> tuple[Any, Any]:
    """((y, (h, c)), cache) as of LSTM.forward. The recurrence is float32 whatever `dispatch.precision` says."""
    (T, N, _), H, L, xp = x.shape, layer.H, len(layer.cells), array_module(x)
    ends = layer.ends(lengths, x)
    x = mask(x, ends)                                                         # padding may hold anything, even NaN
    ends = xp.full(N, T, np.int32) if ends is None else ends.astype(np.int32)
    h, c, caches = xp.zeros((L, N, H), np.float32), xp.zeros((L, N, H), np.float32), []
    for l, cell in enumerate(layer.cells):
        states, cells = xp.zeros((2, N, H), np.float32), xp.zeros((N, H), np.float32)
        if initial is not None:
            states[0], cells[...] = initial[0][l], initial[1][l]
        gates = xp.ascontiguousarray(x.reshape(T * N, cell.D) @ cell.W_ih.value + cell.b.value)
        y, h_prev, c_prev, tanh_c = (xp.empty((T, N, H), np.float32) for _ in range(4))
        module("lstm", cooperative=True, UNITS=UNITS).kernel("emonet_lstm_forward")(
            (blocks(H, UNITS),), (THREADS,),
            (np.int32(T), np.int32(N), np.int32(H), gates, cell.W_hh.value, ends, states, cells, y, h_prev, c_prev,
             tanh_c, xp.zeros(1, np.uint32)), shared_mem=_shared(H)[0])
        h[l], c[l] = states[T % 2], cells
        caches.append((x, gates, h_prev, c_prev, tanh_c))
        x = y
    return (x, (h, c)), (caches, ends)


def backward(layer: LSTM, dy: Any, dfinal: Any, cache: Any) -> tuple[Array, tuple[Array, Array]]:
    """(dx, (dh, dc)) as of LSTM.backward."""
    caches, ends = cache
    (T, N, _), H, L, xp = caches[0][0].shape, layer.H, len(caches), array_module(ends)
    dx = xp.zeros((T, N, H), np.float32) if dy is None else CUDA.gradient(layer, dy, (T, N, H))
    dh, dc = (xp.zeros((L, N, H), np.float32) if d is None else CUDA.gradient(layer, d, (L, N, H)).copy()
              for d in dfinal or (None, None))
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
