"""What stands between the layers and the compiled kernels: checks, memory and arguments of every twin.

Each twin accepts float32 arrays on the CPU and answers NotImplemented to everything else; an array that is not
contiguous is copied. Importing this module registers the twins; without it, and without kernels, the definitions run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import kernels
from .layers import Conv2d


def _ready(*arrays: Any) -> bool:
    """Whether all arrays are float32 on the CPU."""
    return all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in arrays)


class _Conv2d:
    """3x3, padding 1, stride 1 or 2, no bias; see kernels/cpu/conv.h."""

    @staticmethod
    def accepts(layer: Conv2d, x: Any) -> bool:
        return (layer.K == 3 and layer.padding == 1 and layer.stride in (1, 2) and layer.b is None
                and _ready(x, layer.W.value) and x.ndim == 4 and x.size > 0 and x.shape[3] == layer.C)

    @staticmethod
    def forward(layer: Conv2d, x: Any) -> Any:
        if not _Conv2d.accepts(layer, x):
            return NotImplemented
        (N, H, W, C), s, x = x.shape, layer.stride, np.ascontiguousarray(x)
        y = kernels.empty(N, (H - 1) // s + 1, (W - 1) // s + 1, layer.F)
        kernels.library().conv3x3(N, H, W, C, layer.F, s, int(kernels.exact), x, layer.W.value, y)
        return y, x

    @staticmethod
    def backward(layer: Conv2d, dy: Any, x: Any) -> Any:
        dx = kernels.empty(*x.shape)
        kernels.library().conv3x3_backward(*x.shape, layer.F, layer.stride, int(kernels.exact), x, layer.W.value,
                                           np.ascontiguousarray(dy, np.float32), dx, layer.W.grad)
        return dx


kernels.register("Conv2d", _Conv2d)
