"""Launch code of kernels/cuda/pointwise.cu: losses, optimizers, pixels, dropout, on float32 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..backend import array_module
from ..layers import Normalize
from .launch import blocks, module, ready

VARIANTS: dict[str, list[dict[str, Any]]] = {"pointwise": [{}]}

THREADS, EACH = 256, 4


class _Normalize:
    @staticmethod
    def forward(layer: Normalize, x: Any) -> Any:
        if not (ready(layer.scale, layer.shift) and ready(x, dtype=np.uint8) and x.ndim and x.shape[-1] == len(layer.scale)
                and x.size):
            return NotImplemented
        xp = array_module(x)
        y, x = xp.empty(x.shape, np.float32), xp.ascontiguousarray(x)
        module("pointwise").kernel("emonet_normalize")(
            (blocks(x.size, THREADS * EACH),), (THREADS,),
            (np.int64(x.size), np.int32(x.shape[-1]), x, layer.scale, layer.shift, y))
        return y, None

    @staticmethod
    def backward(layer: Normalize, dy: Any, cache: None) -> None:
        return None


kernels.register("Normalize", _Normalize, "cuda")
