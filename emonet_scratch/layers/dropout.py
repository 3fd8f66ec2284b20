"""Dropout."""

import numpy as np

from ..backend import Array, device_of, generator, to_device
from ..dispatch import definition
from .base import Layer


@definition
class Dropout(Layer):
    """Inverted dropout (Srivastava et al. 2014): y = x * m / (1 - rate), m = 0 with probability `rate`, else
    1.

    x of any shape; dx = dy * m / (1 - rate). In evaluation mode, or with rate 0, the identity.

    The k-th call draws its mask by Philox4x64-10 (Salmon et al. 2011) with the key (seed, k): m_i = [u_i >=
    rate], u_i the i-th float32 in [0, 1) from that generator. Number i depends on key and i alone, so any
    thread of a GPU can draw it, and CPU and GPU drop the same units. The state is the key of the next call;
    it is saved with the model.
    """

    buffers = ("counter",)

    def __init__(self, rate: float, seed: int | None = None) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout(rate) must be in [0, 1), got {rate}")
        self.rate = rate
        seed = int(generator().integers(2**63)) if seed is None else seed
        self.counter = np.array([seed, 0], np.uint64)                         # key of the next mask

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"

    def forward(self, x: Array) -> tuple[Array, Array | None]:
        if not self.training or self.rate == 0:
            return x, None
        rng = np.random.Generator(np.random.Philox(key=to_device(self.counter, "cpu")))
        draw = rng.random(x.shape, np.float32)
        self.counter[1] += np.uint64(1)            # NumPy 1 would make a float of a plain 1
        mask = to_device((draw >= self.rate).astype(x.dtype) * (1 / (1 - self.rate)), device_of(x))
        return x * mask, mask

    def backward(self, dy: Array, cache: Array | None) -> Array:
        return dy if cache is None else dy * cache
