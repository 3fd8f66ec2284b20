"""What stands between a batch of clips and the first trained layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import Array, array_module, device_of, to_device
from ..dispatch import definition
from .base import Layer, check_last_axis

#: Of the images of ImageNet, a channel, in units of full brightness: what pretrained trunks were trained
#: with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@definition
class Normalize(Layer):
    """Pixels 0..255 to about mean 0 and variance 1 a channel: y = (x / 255 - mean) / std.

    Shapes: x (..., C) of any dtype (frames are uint8), mean and std (C,) in units of full brightness, y (...,
    C). Backward: dx = dy / (255 std); None for x of integers, which have no gradient and would take four
    times the memory, and where the layer behind computes none.
    """

    buffers = ("scale", "shift")

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.scale = np.asarray([1 / (255 * s) for s in std], np.float32)
        self.shift = np.asarray([-m / s for m, s in zip(mean, std, strict=True)], np.float32)

    def __repr__(self) -> str:
        return f"Normalize(C={len(self.scale)})"

    def forward(self, x: Array) -> tuple[Array, bool]:
        array_module(x=x, scale=self.scale)
        check_last_axis(self, x, len(self.scale))
        return x.astype(self.scale.dtype) * self.scale + self.shift, x.dtype.kind == "f"

    def backward(self, dy: Array | None, cache: bool) -> Array | None:
        return dy * self.scale if cache and dy is not None else None


class PadSequences(Layer):
    """From packed rows to the padded batch that an LSTM reads.

    Shapes: x (B, D) holds the steps of sequence 0, then those of sequence 1, and so on; lengths (N,) host
    integers with sum B; y (T, N, D) with T = max(lengths), y[t, n] = step t of sequence n, 0 behind its end.
    Backward gathers: dx[row of (t, n)] = dy[t, n].
    """

    def forward(self, x: Array, lengths: Any) -> tuple[Array, Any]:
        lengths = np.asarray(lengths)
        if x.ndim != 2 or lengths.ndim != 1 or lengths.sum() != len(x):
            raise ValueError(f"{self!r} got x of shape {x.shape} and lengths {lengths}: "
                             f"expected (sum(lengths), D)")
        T = int(lengths.max(initial=0))
        n, t = (to_device(a, device_of(x)) for a in np.nonzero(np.arange(T) < lengths[:, None]))
        y = array_module(x).zeros((T, len(lengths), x.shape[1]), x.dtype)
        y[t, n] = x
        return y, (t, n)

    def backward(self, dy: Array, cache: Any) -> Array:
        return dy[cache]
