"""Two-dimensional convolution, channels last, as a sum of shifted matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..backend import Array, array_module, generator
from ..kernels import twin
from .base import Layer, Parameter, check_last_axis


@twin
class Conv2d(Layer):
    """Cross-correlation of images with filters, as every deep-learning library calls convolution.

        y[n, i, j, f] = b[f] + sum over p, q, c of x[n, i s + p - P, j s + q - P, c] W[p, q, c, f]

    Shapes: x (N, H, W, C), filters W (K, K, C, F), b (F,) or none, y (N, OH, OW, F) with
    OH = (H + 2 P - K) // s + 1 for an odd kernel size K, stride s and P rows of zeros on every side.
    W is drawn from N(0, 2 / (K K C)) (He et al. 2015, eq. 10).

    For a fixed tap (p, q) the sum over c is a matrix product of a strided view of x with W[p, q], so the forward
    pass is K K products added up. Each tap of the backward pass is the adjoint of the same product:

        dW[p, q]       = view.T @ dy                     (C, F), summed over images and positions
        dview         += dy @ W[p, q].T                  the view of dx that the tap read
        db             = dy summed over images and positions
    """

    def __init__(self, C: int, F: int, kernel_size: int, stride: int = 1, padding: int = 0, bias: bool = False,
                 rng: np.random.Generator | None = None) -> None:
        if min(C, F, kernel_size, stride) < 1 or kernel_size % 2 != 1 or padding < 0:
            raise ValueError(f"Conv2d wants C, F, stride >= 1, an odd kernel_size and padding >= 0, "
                             f"got {C}, {F}, {stride}, {kernel_size}, {padding}")
        rng = rng or generator()
        self.C, self.F, self.K, self.stride, self.padding = C, F, kernel_size, stride, padding
        scale = (2 / (kernel_size**2 * C)) ** 0.5
        self.W = Parameter((rng.standard_normal((kernel_size, kernel_size, C, F)) * scale).astype(np.float32))
        self.b = Parameter(np.zeros(F, np.float32)) if bias else None

    def __repr__(self) -> str:
        return f"Conv2d(C={self.C}, F={self.F}, kernel_size={self.K}, stride={self.stride}, padding={self.padding})"

    def forward(self, x: Array) -> tuple[Array, Array]:
        xp = array_module(x=x, W=self.W.value)
        check_last_axis(self, x, self.C, ndim=4)
        N, H, W, _ = x.shape
        P, s = self.padding, self.stride
        if min(H, W) + 2 * P < self.K:
            raise ValueError(f"{self!r} got x of shape {x.shape}: the padded image is smaller than the kernel")
        if P:
            padded = xp.zeros((N, H + 2 * P, W + 2 * P, self.C), x.dtype)
            padded[:, P:P + H, P:P + W] = x
            x = padded
        OH, OW = (x.shape[1] - self.K) // s + 1, (x.shape[2] - self.K) // s + 1
        y = xp.zeros((N, OH, OW, self.F), x.dtype)
        if self.b is not None:
            y += self.b.value
        for (p, q), view in self._taps(x, OH, OW):
            y += view @ self.W.value[p, q]                                    # (N, OH, OW, C) @ (C, F)
        return y, x

    def backward(self, dy: Array, cache: Array) -> Array:
        x = cache                                                             # padded
        xp = array_module(dy=dy, x=x)
        _, OH, OW, F = dy.shape
        flat = dy.reshape(-1, F)
        dx = xp.zeros_like(x)
        for ((p, q), view), (_, dview) in zip(self._taps(x, OH, OW), self._taps(dx, OH, OW), strict=True):
            self.W.grad[p, q] += view.reshape(-1, self.C).T @ flat
            dview += dy @ self.W.value[p, q].T
        if self.b is not None:
            self.b.grad += flat.sum(axis=0)
        P = self.padding
        return dx[:, P:x.shape[1] - P, P:x.shape[2] - P]

    def _taps(self, x: Array, OH: int, OW: int) -> Iterator[tuple[tuple[int, int], Array]]:
        """((p, q), view (N, OH, OW, C)): the pixels of padded x that filter tap (p, q) meets."""
        s = self.stride
        for p in range(self.K):
            for q in range(self.K):
                yield (p, q), x[:, p:p + s * (OH - 1) + 1:s, q:q + s * (OW - 1) + 1:s]

    def flops(self, y: Array) -> int:
        return 2 * y.size * self.K**2 * self.C
