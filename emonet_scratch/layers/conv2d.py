"""Two-dimensional convolution, channels last, as matrix products of shifted memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend import Array, array_module, device_of, generator
from ..dispatch import twin
from .base import Layer, Parameter, check_last_axis


@twin
class Conv2d(Layer):
    """Cross-correlation of images with filters, as every deep-learning library calls convolution.

        y[n, i, j, f] = b[f] + sum over p, q, c of x[n, i s + p - P, j s + q - P, c] W[p, q, c, f]

    Shapes: x (N, H, W, C), filters W (K, K, C, F), b (F,) or none, y (N, OH, OW, F) with
    OH = (H + 2 P - K) // s + 1 for an odd kernel size K, stride s and P rows of zeros on every side.
    W is drawn from N(0, 2 / (K K C)) (He et al. 2015, eq. 10).

    Forward. Let m number the pixels of all padded images in a row, `cols` to a line. For stride 1 the sum is

        y[m] = sum over p, q of x[m + p cols + q] @ W[p, q]

    for every m, and those m whose filter would cross an edge are cropped. The K pixels m + p cols, ..., m + p cols + K - 1
    lie side by side, so memory itself, from any pixel on, is a matrix of K C columns, the windows of every K-th m: K x K
    matrix products with (K C, F), in which nothing has been copied. A stride s is stride 1 on an image whose s x s squares
    are folded into channels, (N, H / s, W / s, s s C), with filters of ceil(K / s) x ceil(K / s) folded in the same way; the
    taps that this adds are 0, so they change nothing but that an inf or NaN under them makes y NaN.

    Backward. The adjoints of that sum, where dy is zero at the m that were cropped, and of the folding:

        dW[p, q] = sum over m of x[m + p cols + q].T @ dy[m]              (C, F)
        dx[m]    = sum over p, q of dy[m - p cols - q] @ W[p, q].T        the same sum with filters turned around
        db       = dy summed over images and positions

    A layer that sees the images themselves may do without dx, half of the backward: with `input_gradient = False` it
    returns None instead.
    """

    input_gradient = True

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

    def forward(self, x: Array) -> tuple[Array, Any]:
        xp = array_module(x=x, W=self.W.value)
        check_last_axis(self, x, self.C, ndim=4)
        (N, H, W, C), P, s = x.shape, self.padding, self.stride
        if min(H, W) + 2 * P < self.K:
            raise ValueError(f"{self!r} got x of shape {x.shape}: the padded image is smaller than the kernel")
        padded = xp.zeros((N, -(-(H + 2 * P) // s) * s, -(-(W + 2 * P) // s) * s, C), x.dtype)
        padded[:, P:P + H, P:P + W] = x
        pixels = _fold(padded, s)                                             # (N, rows, cols, s s C)
        y = xp.empty((*pixels.shape[:3], self.F), x.dtype)
        _correlate(_flat(pixels), self._filters(), pixels.shape[2], _flat(y))
        y = y[:, :(H + 2 * P - self.K) // s + 1, :(W + 2 * P - self.K) // s + 1]
        if self.b is not None:
            y += self.b.value
        return y, (padded, H, W)

    def backward(self, dy: Array, cache: Any) -> Array | None:
        padded, H, W = cache
        xp, P, s = array_module(dy=dy, x=padded), self.padding, self.stride
        pixels, filters, (_, OH, OW, F) = _fold(padded, s), self._filters(), dy.shape
        (N, rows, cols, _), k = pixels.shape, len(filters)
        before = (k - 1) * (cols + 1)                                         # as far as dx[0] looks back
        wide = xp.zeros((before + N * rows * cols, F), dy.dtype)
        wide[before:].reshape(N, rows, cols, F)[:, :OH, :OW] = dy
        dW = _correlate_filters(_flat(pixels), wide[before:], cols, k).reshape(1, k, k, -1)
        self.W.grad += _unfold(dW, s)[0, :self.K, :self.K].reshape(self.W.grad.shape)
        if self.b is not None:
            self.b.grad += dy.sum(axis=(0, 1, 2))
        if not self.input_gradient:
            return None
        dx = xp.empty(pixels.shape, dy.dtype)
        _correlate(wide, filters[::-1, ::-1].swapaxes(2, 3), cols, _flat(dx))
        return _unfold(dx, s)[:, P:P + H, P:P + W]

    def _filters(self) -> Array:
        """W folded as the image is: (k, k, s s C, F), k = ceil(K / s)."""
        K, s = self.K, self.stride
        k = -(-K // s)
        padded = array_module(self.W.value).zeros((1, k * s, k * s, self.C * self.F), self.W.value.dtype)
        padded[:, :K, :K] = self.W.value.reshape(1, K, K, -1)
        return _fold(padded, s).reshape(k, k, -1, self.F)

    def flops(self, y: Array) -> int:
        return 2 * y.size * self.K**2 * self.C


def _fold(x: Array, s: int) -> Array:
    """(N, s h, s w, C) to (N, h, w, s s C): each square of s x s pixels becomes one pixel."""
    N, H, W, C = x.shape
    return x.reshape(N, H // s, s, W // s, s, C).swapaxes(2, 3).reshape(N, H // s, W // s, s * s * C)


def _unfold(x: Array, s: int) -> Array:
    """The inverse of `_fold`."""
    N, h, w, C = x.shape
    return x.reshape(N, h, w, s, s, C // s**2).swapaxes(2, 3).reshape(N, h * s, w * s, C // s**2)


def _flat(x: Array) -> Array:
    """(N, rows, cols, C) to (m, C)"""
    return x.reshape(x.shape[0] * x.shape[1] * x.shape[2], x.shape[3])


def _windows(x: Array, m: int, count: int, k: int) -> Iterator[Array]:
    """For q < k: the windows x[i], ..., x[i + k - 1] of i = m + q, m + q + k, ... below m + count, as rows; x (., C)."""
    for q in range(k):
        n = (count - q + k - 1) // k
        yield x[m + q:m + q + n * k].reshape(n, k * x.shape[1])


def _blocks(x: Array, W: Array, cols: int) -> Iterator[slice]:
    """The m of which x holds all windows, in blocks; W (k, k C, F).

    On a CPU a product of a million multiply-adds stays in the second-level cache, and OpenBLAS computes it on one core and
    without packing. Its threads gain little here, and wait for each other at every product where anything else runs.
    A GPU is given all at once.
    """
    k, D, F = W.shape
    count = len(x) - (k - 1) * (cols + 1)
    size = k * max(64, 10**6 // (D * F)) if device_of(x) == "cpu" else max(1, count)
    return (slice(m, min(count, m + size)) for m in range(0, count, size))


def _correlate(x: Array, W: Array, cols: int, y: Array) -> None:
    """y[m] = sum over p, q of x[m + p cols + q] @ W[p, q] for every m of which x holds all terms; W (k, k, C, F)."""
    xp, k = array_module(x), len(W)
    W = W.reshape(k, -1, W.shape[3])
    for block in _blocks(x, W, cols):
        total = y[block]
        product = xp.empty_like(total)
        for p in range(k):
            for q, windows in enumerate(_windows(x, block.start + p * cols, len(total), k)):
                xp.matmul(windows, W[p], out=(product if p else total)[q::k])
            if p:
                total += product


def _correlate_filters(x: Array, dy: Array, cols: int, k: int) -> Array:
    """dW[p, q] = sum over m of x[m + p cols + q].T @ dy[m]: (k, k C, F)"""
    dW = array_module(x).zeros((k, k * x.shape[1], dy.shape[1]), x.dtype)
    for block in _blocks(x, dW, cols):
        part = dy[block]
        for p in range(k):
            for q, windows in enumerate(_windows(x, block.start + p * cols, len(part), k)):
                dW[p] += windows.T @ part[q::k]
    return dW
