"""The affine map."""

import numpy as np

from ..backend import Array, array_module, generator
from .base import Layer, Parameter, check_last_axis


class Dense(Layer):
    """Affine map of the last axis: y = x @ W + b.

    Shapes: x (..., D), W (D, M), b (M,), y (..., M). W is drawn from N(0, 2/D) (He et al. 2015, eq. 10), b is
    0.

    Backward, with x and dy flattened to (N, D) and (N, M): y_nm = sum_d x_nd W_dm + b_m gives

        dx_nd = sum_m dy_nm W_dm        dx = dy @ W.T
        dW_dm = sum_n x_nd dy_nm        dW = x.T @ dy
        db_m  = sum_n dy_nm             db = dy.sum(axis=0)
    """

    shown = ("D", "M")

    def __init__(self, D: int, M: int, rng: np.random.Generator | None = None) -> None:
        if min(D, M) < 1:
            raise ValueError(f"Dense wants D and M >= 1, got {D}, {M}")
        rng = rng or generator()
        self.D, self.M = D, M
        self.W = Parameter((rng.standard_normal((D, M)) * (2 / D) ** 0.5).astype(np.float32))
        self.b = Parameter(np.zeros(M, np.float32))

    def forward(self, x: Array) -> tuple[Array, Array]:
        array_module(x=x, W=self.W.value)
        check_last_axis(self, x, self.D)
        return x @ self.W.value + self.b.value, x

    def backward(self, dy: Array, cache: Array) -> Array:
        x = cache
        flat = dy.reshape(-1, self.M)
        self.W.grad += x.reshape(-1, self.D).T @ flat
        self.b.grad += flat.sum(axis=0)
        return dy @ self.W.value.T

    def flops(self, y: Array) -> int:
        return 2 * int(y.size) * self.D
