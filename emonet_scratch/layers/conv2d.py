"""Two-dimensional convolution, channels last: one product for each tap of the filter."""

from collections.abc import Iterator

import numpy as np

from ..backend import Array, array_module, generator
from ..dispatch import definition
from .base import Layer, Parameter, check_last_axis


@definition
class Conv2d(Layer):
    """Cross-correlation of images with filters, as every deep-learning library calls convolution.

        y[n, i, j, f] = b[f] + sum over p, q, c of x[n, i s + p - P, j s + q - P, c] W[p, q, c, f]

    Shapes: x (N, H, W, C), filters W (K, K, C, F), b (F,) or none, y (N, OH, OW, F) with
    OH = (H + 2 P - K) // s + 1 for an odd kernel size K, stride s and P rows of zeros on every side.
    W is drawn from N(0, 2 / (K K C)) (He et al. 2015, eq. 10).

    Written by taps, with x_pq the padded image from (p, q) on, every s-th pixel, (N, OH, OW, C):

        y = sum over p, q of x_pq @ W[p, q]

    Backward. y depends on W[p, q] and on x_pq by one product, and each gradient is the product's own:

        dW[p, q] = x_pq.T @ dy, over all pixels             (C, F)
        dx_pq   += dy @ W[p, q].T                           x_pq are pixels of x: what they get adds up
        db       = dy summed over images and positions

    A layer that sees the images themselves may do without dx, half of the backward: with `input_gradient =
    False` it returns None instead.
    """

    input_gradient = True

    def __init__(self, C: int, F: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 bias: bool = False, rng: np.random.Generator | None = None) -> None:
        if min(C, F, kernel_size, stride) < 1 or kernel_size % 2 != 1 or padding < 0:
            raise ValueError(f"Conv2d wants C, F, stride >= 1, an odd kernel_size and padding >= 0, "
                             f"got {C}, {F}, {stride}, {kernel_size}, {padding}")
        rng = rng or generator()
        self.C, self.F = C, F
        self.K = kernel_size
        self.stride, self.padding = stride, padding
        scale = (2 / (kernel_size**2 * C)) ** 0.5
        filters = rng.standard_normal((kernel_size, kernel_size, C, F)) * scale
        self.W = Parameter(filters.astype(np.float32))
        self.b = Parameter(np.zeros(F, np.float32)) if bias else None

    def __repr__(self) -> str:
        return (f"Conv2d(C={self.C}, F={self.F}, kernel_size={self.K}, stride={self.stride}, "
                f"padding={self.padding})")

    def forward(self, x: Array) -> tuple[Array, Array]:
        xp = array_module(x=x, W=self.W.value)
        check_last_axis(self, x, self.C, ndim=4)
        N, H, W, C = x.shape
        K, P = self.K, self.padding
        if min(H, W) + 2 * P < K:
            raise ValueError(f"{self!r} got x of shape {x.shape}: padded, it is smaller than the kernel")
        padded = xp.zeros((N, H + 2 * P, W + 2 * P, C), x.dtype)
        padded[:, P:P + H, P:P + W] = x
        OH, OW = ((size + 2 * P - K) // self.stride + 1 for size in (H, W))
        y = xp.zeros((N, OH, OW, self.F), x.dtype)
        for p, q, tap in self._taps(OH, OW):
            y += padded[tap] @ self.W.value[p, q]
        if self.b is not None:
            y += self.b.value
        return y, padded

    def backward(self, dy: Array, cache: Array) -> Array | None:
        padded = cache
        dpadded = array_module(dy=dy, x=padded).zeros_like(padded)
        for p, q, tap in self._taps(*dy.shape[1:3]):
            self.W.grad[p, q] += (padded[tap].swapaxes(2, 3) @ dy).sum(axis=(0, 1))
            if self.input_gradient:
                dpadded[tap] += dy @ self.W.value[p, q].T
        if self.b is not None:
            self.b.grad += dy.sum(axis=(0, 1, 2))
        if not self.input_gradient:
            return None
        _, rows, columns, _ = padded.shape
        P = self.padding
        return dpadded[:, P:rows - P, P:columns - P]

    def _taps(self, OH: int, OW: int) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        """(p, q, where x_pq is in the padded image) for every tap."""
        s = self.stride
        for p in range(self.K):
            for q in range(self.K):
                yield p, q, (slice(None), slice(p, p + s * OH, s), slice(q, q + s * OW, s))

    def flops(self, y: Array) -> int:
        return 2 * int(y.size) * self.K**2 * self.C
