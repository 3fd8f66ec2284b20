"""The rectifier."""

from __future__ import annotations

from ..backend import Array, array_module
from .base import Layer


class ReLU(Layer):
    """y = max(x, 0), elementwise; x of any shape.

    Backward: dx = dy where x > 0, else 0 (the subgradient at the kink x = 0 is taken as 0).
    """

    def __repr__(self) -> str:
        return "ReLU()"

    def forward(self, x: Array) -> tuple[Array, Array]:
        y = array_module(x).maximum(x, 0)
        return y, y

    def backward(self, dy: Array, cache: Array) -> Array:
        y = cache
        return dy * (y > 0)
