"""The basic residual block."""

from typing import Any

import numpy as np

from ..backend import Array, array_module
from ..dispatch import definition
from .activation import ReLU
from .base import Layer
from .batch_norm import BatchNorm
from .conv2d import Conv2d
from .sequential import Sequential


class PadShortcut(Layer):
    """Parameter-free shortcut (He et al. 2016, section 4.2, option A): subsample, then pad channels with
    zeros.

        y[n, i, j, before + c] = x[n, s i, s j, c], 0 in the other channels; before = (F - C) // 2

    Shapes: x (N, H, W, C), y (N, ceil(H / s), ceil(W / s), F). Backward is the adjoint: dy is read where x
    was written to, and the skipped pixels get 0.
    """

    shown = ("C", "F", "stride")

    def __init__(self, C: int, F: int, stride: int) -> None:
        if F < C:
            raise ValueError(f"PadShortcut cannot take {C} channels to fewer ({F}): use 'projection'")
        self.C, self.F = C, F
        self.stride = stride
        self.before = (F - C) // 2                                            # channels of zeros

    def forward(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        view = x[:, ::self.stride, ::self.stride]
        y = array_module(x).zeros((*view.shape[:3], self.F), x.dtype)
        y[..., self.before:self.before + self.C] = view
        return y, x.shape

    def backward(self, dy: Array, cache: tuple[int, ...]) -> Array:
        dx = array_module(dy).zeros(cache, dy.dtype)
        dx[:, ::self.stride, ::self.stride] = dy[..., self.before:self.before + self.C]
        return dx


@definition
class ResidualBlock(Layer):
    """y = ReLU(f(x) + shortcut(x)), f = BN(conv(ReLU(BN(conv(x))))) with 3x3 filters (He et al. 2016, figure
    2).

    Shapes: x (N, H, W, C), y (N, ceil(H / s), ceil(W / s), F); the first convolution has the stride s.
    shortcut: the identity where shapes agree; else "pad" (option A, no parameters) or "projection" (option B,
    a 1x1 convolution with batch normalisation).

    Backward: the gradient of a sum goes to both terms unchanged, so dx = f.backward(d) + shortcut.backward(d)
    with d = dy behind the last ReLU.
    """

    shown = ("C", "F", "stride")

    def __init__(self, C: int, F: int, stride: int = 1, shortcut: str = "pad",
                 rng: np.random.Generator | None = None) -> None:
        if shortcut not in ("pad", "projection"):
            raise ValueError(f"shortcut must be 'pad' or 'projection', got {shortcut!r}")
        self.C, self.F = C, F
        self.stride = stride
        self.body = Sequential(conv1=Conv2d(C, F, 3, stride, padding=1, rng=rng), bn1=BatchNorm(F),
                               relu=ReLU(), conv2=Conv2d(F, F, 3, padding=1, rng=rng), bn2=BatchNorm(F))
        if stride == 1 and C == F:
            self.shortcut: Layer = Sequential()                               # the identity
        elif shortcut == "pad":
            self.shortcut = PadShortcut(C, F, stride)
        else:
            self.shortcut = Sequential(conv=Conv2d(C, F, 1, stride, rng=rng), bn=BatchNorm(F))
        self.relu = ReLU()

    def forward(self, x: Array) -> tuple[Array, Any]:
        f, cache_f = self.body.forward(x)
        s, cache_s = self.shortcut.forward(x)
        f += s                                                                # bn2's output is in no cache
        y, cache_y = self.relu.forward(f)
        return y, (cache_f, cache_s, cache_y)

    def backward(self, dy: Array, cache: Any) -> Array:
        cache_f, cache_s, cache_y = cache
        d = self.relu.backward(dy, cache_y)
        return self.body.backward(d, cache_f) + self.shortcut.backward(d, cache_s)
