"""Batch normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import Array, array_module
from .base import Layer, Parameter, check_last_axis


class BatchNorm(Layer):
    """Normalise each channel over all other axes, then scale and shift (Ioffe & Szegedy 2015, algorithm 1).

        x_hat = (x - mean) / sqrt(var + eps)        y = gamma * x_hat + beta

    Shapes: x (..., C), y the same; gamma, beta, running_mean, running_var (C,). M is the number of values a channel.

    Training: mean and the biased variance (divided by M) of the batch; the running statistics move by `momentum`
    towards mean and the unbiased variance (divided by M - 1), as in other libraries. A single value has no variance:
    y = beta, dx = 0.
    Evaluation: the running statistics, constants of the input.

    Backward, training: y depends on x also through mean and var. With dx_hat = dy * gamma (ibid., section 3)

        dx = (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)) / sqrt(var + eps)

    the two means being over the M values: the parts of dx_hat along 1 and along x_hat, which no x can change, are gone.
    Backward, evaluation: dx = dx_hat / sqrt(var + eps). In both: dgamma = sum dy * x_hat, dbeta = sum dy.
    """

    buffers = ("running_mean", "running_var")

    def __init__(self, C: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        self.C, self.momentum, self.eps = C, momentum, eps
        self.gamma = Parameter(np.ones(C, np.float32))
        self.beta = Parameter(np.zeros(C, np.float32))
        self.running_mean = np.zeros(C, np.float32)
        self.running_var = np.ones(C, np.float32)

    def __repr__(self) -> str:
        return f"BatchNorm(C={self.C})"

    def forward(self, x: Array) -> tuple[Array, Any]:
        xp = array_module(x=x, gamma=self.gamma.value)
        check_last_axis(self, x, self.C)
        rows, M = _rows(x), x.size // self.C
        x_hat = xp.empty(x.shape, xp.result_type(x, self.gamma.value))
        centred = _rows(x_hat)                                                # the same memory
        if self.training:
            mean = self._sum(rows) / M
            xp.subtract(rows, self._row(mean, rows), out=centred)
            var = self._sum(centred, centred) / M
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var * (M / max(1, M - 1)) - self.running_var)
        else:
            xp.subtract(rows, self._row(self.running_mean, rows), out=centred)
            var = self.running_var
        inv_std = 1 / xp.sqrt(var + self.eps)                                 # (C,)
        centred *= self._row(inv_std, rows)
        y = centred * self._row(self.gamma.value, rows)
        y += self._row(self.beta.value, rows)
        return y.reshape(x.shape), (x_hat, inv_std, self.training)

    def backward(self, dy: Array, cache: Any) -> Array:
        x_hat, inv_std, training = cache
        rows, M = _rows(dy), dy.size // self.C
        dbeta, dgamma = self._sum(rows), self._sum(rows, _rows(x_hat))
        self.beta.grad += dbeta
        self.gamma.grad += dgamma
        if training:
            dx = _rows(x_hat) * self._row(-dgamma / M, rows)                  # one new array, the rest in place
            dx += rows
            dx -= self._row(dbeta / M, rows)
        else:
            dx = rows.copy()
        dx *= self._row(self.gamma.value * inv_std, rows)
        return dx.reshape(dy.shape)

    def _sum(self, a: Array, b: Array | None = None) -> Array:
        """Of a, or of a * b, over all axes but the channels: (C,)"""
        if b is None:
            sums = a.sum(axis=tuple(range(a.ndim - 1)))
        else:
            a, b = (rows.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for rows in (a, b))
            sums = array_module(a).einsum("nc,nc->c", a, b)                   # without an array of products
        return sums.reshape(-1, self.C).sum(axis=0)

    def _row(self, v: Array, rows: Array) -> Array:
        """v (C,) for every pixel of a row"""
        return array_module(v).tile(v, rows.shape[-1] // self.C)


def _rows(x: Array) -> Array:
    """(..., W, C) as (..., W C): NumPy runs through long rows several times faster than through many of C numbers."""
    return x.reshape(*x.shape[:-2], math.prod(x.shape[-2:]))
