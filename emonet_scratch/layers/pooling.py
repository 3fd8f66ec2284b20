"""From maps to vectors."""

import math

from ..backend import Array, array_module
from .base import Layer


class GlobalAveragePool(Layer):
    """The mean over height and width: x (N, H, W, C) -> y (N, C).

    Backward: every pixel has the weight 1 / (H W), so dx[n, i, j, c] = dy[n, c] / (H W).
    """

    def forward(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        if x.ndim != 4:
            raise ValueError(f"{self!r} got x of shape {x.shape}: expected (N, H, W, C)")
        return x.mean(axis=(1, 2)), x.shape

    def backward(self, dy: Array, cache: tuple[int, ...]) -> Array:
        _N, H, W, _C = cache
        xp = array_module(dy)
        return xp.ascontiguousarray(xp.broadcast_to(dy[:, None, None, :] / (H * W), cache))


class Flatten(Layer):
    """x (N, ...) -> y (N, product of the rest), in C order. Backward: dy in the shape of x."""

    def forward(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape             # -1 has no size where len is 0

    def backward(self, dy: Array, cache: tuple[int, ...]) -> Array:
        return dy.reshape(cache)
