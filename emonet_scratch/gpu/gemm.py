"""Launch code of kernels/cuda/gemm.cu: x W + b without cuBLAS, which cannot be captured into a CUDA graph.

Only what runs inside `own_products()` uses it: for everything else CuPy's matrix product, that is cuBLAS, is faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dispatch
from ..backend import Array, array_module
from ..layers import Dense
from .launch import blocks, module, ready

ROWS, COLUMNS, STEP, THREADS = 32, 64, 32, 128      # as in gemm.cu
ENOUGH_BLOCKS = 264             # two for each processor of an H100
LEAST_SHARE = 4 * STEP          # of the sum, for a block

VARIANTS: dict[str, list[dict[str, Any]]] = {"gemm": [{"PRECISION": p} for p in range(len(dispatch.PRECISIONS))]}

_own = False


@contextlib.contextmanager
def own_products() -> Iterator[None]:
    """Inside, `affine` and Dense in float32 are kernels of gemm.cu."""
    global _own
    before, _own = _own, True
    try:
        yield
    finally:
        _own = before


def affine(x: Array, W: Array, b: Array) -> Array:
    """x W + b: x (M, K), W (K, N), b (N,) float32 on a GPU -> (M, N), contiguous."""
    xp = array_module(x)
    if not _own:
        return xp.ascontiguousarray(x @ W + b)
    (M, K), N, x = x.shape, W.shape[1], xp.ascontiguousarray(x)
    tiles = blocks(N, COLUMNS) * blocks(M, ROWS)
    shares = min(max(1, ENOUGH_BLOCKS // tiles), blocks(K, LEAST_SHARE))
    share = blocks(blocks(K, shares), STEP) * STEP
    shares = blocks(K, share)
    y = xp.empty((M, N), np.float32)
    parts = y if shares == 1 else xp.empty((shares, M, N), np.float32)
    compiled = module("gemm", PRECISION=dispatch.PRECISIONS.index(dispatch.precision))
    compiled.kernel("emonet_gemm")((blocks(N, COLUMNS), blocks(M, ROWS), shares), (THREADS,),
                                   (*map(np.int32, (M, N, K, share)), x, W, b, np.int32(shares == 1), parts))
    if shares > 1:
        compiled.kernel("emonet_gemm_sum")((blocks(M * N, THREADS),), (THREADS,),
                                           (np.int64(M * N), np.int32(N), np.int32(shares), parts, b, y))
    return y


class _Dense:
    """Inside `own_products()` only."""

    @staticmethod
    def forward(layer: Dense, x: Any) -> Any:
        W, b = layer.W.value, layer.b.value
        if not (_own and ready(x, W, b) and x.ndim >= 2 and x.size and x.shape[-1] == layer.D and b.shape == (layer.M,)
                and W.shape == (layer.D, layer.M) and W.flags.c_contiguous and b.flags.c_contiguous):
            return NotImplemented
        return affine(x.reshape(-1, layer.D), W, b).reshape(*x.shape[:-1], layer.M), x

    @staticmethod
    def backward(layer: Dense, dy: Any, cache: Any) -> Array:
        return Dense.backward.__wrapped__(layer, dy, cache)


dispatch.register("Dense", _Dense, "cuda")
