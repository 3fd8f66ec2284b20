"""Batch normalisation."""

from typing import Any

import numpy as np

from ..backend import Array, array_module
from .base import Layer, Parameter, check_last_axis


class BatchNorm(Layer):
    """Normalise each channel over all other axes, then scale and shift (Ioffe & Szegedy 2015, algorithm 1).

        x_hat = (x - mean) / sqrt(var + eps)        y = gamma * x_hat + beta

    Shapes: x (..., C), y the same; gamma, beta, running_mean, running_var (C,). M values a channel.

    Training: mean and the biased variance (divided by M) of the batch; the running statistics move by
    `momentum`, the share of the new value, towards mean and the unbiased variance (divided by M - 1). A
    single value has no variance: y = beta, dx = 0, and the running variance moves towards 0. No values, no
    statistics: the running ones stay.
    Evaluation: the running statistics, constants of the input.

    Backward, training: y depends on x also through mean and var. With dx_hat = dy * gamma (ibid., section 3)

        dx = (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)) / sqrt(var + eps)

    the two means being over the M values: the parts of dx_hat along 1 and along x_hat, which no x can change,
    are gone. Backward, evaluation: dx = dx_hat / sqrt(var + eps). In both: dgamma = sum dy * x_hat, dbeta =
    sum dy.
    """

    buffers = ("running_mean", "running_var")
    shown = ("C",)

    def __init__(self, C: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        self.C = C
        self.momentum, self.eps = momentum, eps
        self.gamma = Parameter(np.ones(C, np.float32))
        self.beta = Parameter(np.zeros(C, np.float32))
        self.running_mean = np.zeros(C, np.float32)
        self.running_var = np.ones(C, np.float32)

    def forward(self, x: Array) -> tuple[Array, Any]:
        xp = array_module(x=x, gamma=self.gamma.value)
        check_last_axis(self, x, self.C)
        M = x.size // self.C if self.training else 0                          # 0: constants normalise
        if M:
            mean = _sum(x) / M
            var = _sum((x - mean) ** 2) / M
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var * (M / max(1, M - 1)) - self.running_var)
        else:
            mean, var = self.running_mean, self.running_var
        inv_std = 1 / xp.sqrt(var + self.eps)                                 # (C,)
        x_hat = (x - mean) * inv_std
        return self.gamma.value * x_hat + self.beta.value, (x_hat, inv_std, M)

    def backward(self, dy: Array, cache: Any) -> Array:
        x_hat, inv_std, M = cache
        dbeta = _sum(dy)
        dgamma = _sum(dy * x_hat)
        self.beta.grad += dbeta
        self.gamma.grad += dgamma
        if M:
            dy = dy - dbeta / M - x_hat * (dgamma / M)
        return dy * (self.gamma.value * inv_std)


def _sum(a: Array) -> Array:
    """Over all axes but the channels, (C,): over images and rows, then over what is left, the columns.

    The gradients of a channel nearly cancel, so that rounding shows. In one go, M terms are added one after
    the other and up to M eps of their size is lost; in two, N H + W terms are on the way of each: of 4 images
    of 256 x 256 pixels, 1e-4 of the sum of sizes instead of 2e-2.
    """
    columns = a.sum(axis=tuple(range(a.ndim - 2))) if a.ndim > 2 else a
    return columns.reshape(-1, a.shape[-1]).sum(axis=0)
