"""What the kernels take: one table for both devices. To everything else a kernel says no, and the definition runs.

Each rule looks at a layer (its kind, sizes, parts and arrays, which may have been replaced since they were made) or at the
inputs of a call, and at nothing else: no rule depends on values but those of lengths and labels, which index memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend, dispatch
from ..layers import (
    LSTM,
    BatchNorm,
    Conv2d,
    Dropout,
    LSTMCell,
    Normalize,
    PadShortcut,
    ReLU,
    ResidualBlock,
    Sequential,
)
from ..optim import SGD, Adam, Optimizer

MOST_ELEMENTS = 1 << 31         # of an array that is indexed by 32-bit integers
MOST_CHANNELS = 1024            # of a batch norm
MOST_BLOCKS = 64                # residual blocks that are evaluated as one


@dataclass(frozen=True)
class Device:
    """The arrays that the kernels of a device read and write, and the channels that they are written for.

    holds(a): is a an array of this device. in_place(a): can a kernel read and write it where it lies, without gaps.
    images(C), channels(C): can a convolution read so many channels of an image, of a layer within.
    """

    name: str
    holds: Callable[[Any], bool]
    in_place: Callable[[Any], bool]
    images: Callable[[int], bool]
    channels: Callable[[int], bool]

    def ready(self, *arrays: Any, dtype: Any = np.float32) -> bool:
        """Whether all arrays are of this type on this device."""
        return all(self.holds(a) and a.dtype == dtype for a in arrays)

    def whole(self, shape: tuple[int, ...], *arrays: Any, dtype: Any = np.float32) -> bool:
        """Whether a kernel can read and write all these arrays, of this shape, where they lie."""
        return self.ready(*arrays, dtype=dtype) and all(a.shape == shape and self.in_place(a) for a in arrays)

    def gradient(self, layer: Any, dy: Any, shape: tuple[int, ...]) -> Any:
        """dy as kernels read it: they would read past the end of a smaller array. ValueError for another shape."""
        if dy.shape != shape:
            raise ValueError(f"{layer!r} got dy of shape {dy.shape}, expected {shape}: that of y")
        return backend.array_module(dy).ascontiguousarray(dy, np.float32)

    def kernel(self, name: str, run: Callable[..., Any], backward: Callable[..., Any] | None = None) -> None:
        """Register run, and backward of a layer, as this device's kernel of `name`, which takes what the table says."""
        rule, fits = TABLE[name]
        dispatch.register(self.name, name, dispatch.Kernel(
            lambda *args, **kwargs: rule(self, *args, **kwargs), run, backward,
            lambda layer: fits is None or fits(self, layer)))


def _wide(C: int) -> bool:
    return C % 16 == 0 and 0 < C <= 128                                       # whole tiles of the matrix units


CPU = Device("cpu", lambda a: isinstance(a, np.ndarray), lambda a: a.flags.carray, lambda C: True, lambda C: True)
CUDA = Device("cuda", lambda a: isinstance(a, backend.import_cupy().ndarray), lambda a: a.flags.c_contiguous,
              lambda C: C == 3 or _wide(C), _wide)


# ---- layers ----

def conv3x3(device: Device, conv: Any, C: int, F: int, strides: tuple[int, ...] = (1, 2)) -> bool:
    """3x3, C to F channels, padding 1, no bias, its own arrays."""
    return (isinstance(conv, Conv2d) and (conv.K, conv.padding, conv.C, conv.F) == (3, 1, C, F) and conv.b is None
            and conv.stride in strides and device.images(C) and device.channels(F)
            and device.whole((3, 3, C, F), conv.W.value, conv.W.grad))


def norm(device: Device, bn: Any, C: int) -> bool:
    """A batch norm of C channels, its own arrays."""
    return type(bn) is BatchNorm and bn.C == C <= MOST_CHANNELS and device.channels(C) and device.whole(
        (C,), bn.gamma.value, bn.gamma.grad, bn.beta.value, bn.beta.grad, bn.running_mean, bn.running_var)


def residual_block(device: Device, block: ResidualBlock) -> bool:
    """Two convolutions, both norms alike, a shortcut without parameters."""
    C, F, s, parts, cut = block.C, block.F, block.stride, dict(block.body.children()), block.shortcut
    padded = isinstance(cut, PadShortcut) and (cut.C, cut.F, cut.stride, cut.before) == (C, F, s, (F - C) // 2)
    identity = type(cut) is Sequential and not any(cut.children()) and (C, s) == (F, 1)
    if list(parts) != ["conv1", "bn1", "relu", "conv2", "bn2"] or not (padded or identity):
        return False
    conv1, bn1, relu, conv2, bn2 = parts.values()
    return (type(relu) is ReLU and type(block.relu) is ReLU and device.channels(C) and s in (1, 2)
            and conv3x3(device, conv1, C, F, (s,)) and conv3x3(device, conv2, F, F, (1,))
            and norm(device, bn1, F) and norm(device, bn2, F)
            and (bn1.training, bn1.eps, bn1.momentum) == (bn2.training, bn2.eps, bn2.momentum))


def stem(device: Device, row: Sequential) -> bool:
    """A row that begins with a convolution, its batch norm and a ReLU; whatever follows runs by itself."""
    layers = [layer for _, layer in row.children()]
    return ([type(layer) for layer in layers[:3]] == [Conv2d, BatchNorm, ReLU]
            and conv3x3(device, layers[0], layers[0].C, layers[0].F) and norm(device, layers[1], layers[0].F))


def trunk(device: Device, layers: Sequence[Any], C: int) -> list[ResidualBlock] | None:
    """All residual blocks of these layers and rows, in evaluation, the first for C channels, each for as many as come.

    None where there is something else, or anything that trains.
    """
    blocks: list[ResidualBlock] = []
    for layer in layers:
        if type(layer) is Sequential:
            inner = trunk(device, [child for _, child in layer.children()], C)
        elif type(layer) is ResidualBlock and layer.C == C and not layer.body.bn1.training and residual_block(device, layer):
            inner = [layer]
        else:
            inner = None
        if inner is None:
            return None
        blocks += inner
        C = blocks[-1].F if blocks else C
    return blocks if len(blocks) < MOST_BLOCKS else None


def lstm(device: Device, layer: LSTM) -> bool:
    """Whether all cells are as they were built."""
    H, inputs = layer.H, layer.D
    for cell in layer.cells:
        if type(cell) is not LSTMCell or (cell.D, cell.H) != (inputs, H):
            return False
        shapes = [(cell.W_ih, (inputs, 4 * H)), (cell.W_hh, (H, 4 * H)), (cell.b, (4 * H,))]
        if not all(device.whole(shape, p.value, p.grad) for p, shape in shapes):
            return False
        inputs = H
    return type(layer) is LSTM and len(layer.cells) > 0


# ---- calls ----

def images(device: Device, x: Any, C: int) -> bool:
    """x (N, H, W, C), not empty."""
    return device.ready(x) and x.ndim == 4 and x.shape[3] == C and 0 < x.size < MOST_ELEMENTS


def sequences(device: Device, layer: LSTM, x: Any, lengths: Any = None, initial: Any = None) -> bool:
    """x (T, N, D), lengths (N,) integers of which one is positive, states of the right shapes."""
    if not (device.ready(x, *(() if initial is None else initial)) and x.ndim == 3 and 0 < x.size < MOST_ELEMENTS
            and x.shape[2] == layer.D and lstm(device, layer)):
        return False
    T, N, _ = x.shape
    if initial is not None and [state.shape for state in initial] != [(len(layer.cells), N, layer.H)] * 2:
        return False
    if lengths is None:
        return True
    if not isinstance(lengths, (np.ndarray, list)) or np.shape(lengths) != (N,):
        return False
    return np.asarray(lengths).dtype.kind in "iu" and min(lengths) >= 0 and 1 <= max(lengths) <= T


def pixels(device: Device, layer: Normalize, x: Any) -> bool:
    """x (..., C) bytes, C at most 16."""
    return (device.whole((len(layer.scale),), layer.scale, layer.shift) and device.ready(x, dtype=np.uint8) and x.ndim > 0
            and x.shape[-1] == len(layer.scale) <= 16 and x.size > 0)


def dropout(device: Device, layer: Dropout, x: Any) -> bool:
    """In training, at a rate above 0."""
    return (layer.training and layer.rate > 0 and device.ready(x) and device.ready(layer.counter, dtype=np.uint64)
            and x.size > 0)


def entropy(device: Device, logits: Any, labels: Any, label_smoothing: float = 0.0, class_weights: Any = None) -> bool:
    """logits (N, K), labels (N,) or (N, K) on the host, weights (K,) or None; `targets_of` checks the labels."""
    weights = () if class_weights is None else (class_weights,)
    return (device.ready(logits, *weights) and logits.ndim == 2 and 0 < logits.size < MOST_ELEMENTS
            and all(w.shape == logits.shape[1:] for w in weights) and isinstance(labels, np.ndarray))


def columns(device: Device, *columns: Sequence[Any]) -> bool:
    """Arrays that kernels change in place, each its own; those in the same place of all columns have one size."""
    arrays = [a for column in columns for a in column]
    return (len({id(a) for a in arrays}) == len(arrays) > 0 and device.ready(*arrays)
            and all(device.in_place(a) for a in arrays)
            and all(a.size == row[0].size for row in zip(*columns, strict=True) for a in row))


def gradients(device: Device, params: Any, limit: float | None = None) -> bool:
    """A list of parameters (an iterator could be read only once) whose gradients are float32."""
    return (limit is None or limit > 0) and isinstance(params, (list, tuple)) and columns(device, [p.grad for p in params])


def values(device: Device, params: Any) -> bool:
    """A list of parameters whose values are float32."""
    return isinstance(params, (list, tuple)) and columns(device, [p.value for p in params])


def optimizer(device: Device, o: Optimizer) -> bool:
    """SGD or Adam, with values, gradients and slots that are changed in place."""
    return type(o) in (SGD, Adam) and columns(device, [p.value for p in o.params], [p.grad for p in o.params],
                                              *o.slots.values())


Rule = Callable[..., bool]

#: For each definition with a kernel: what a call must be, and what its layer must be, for forward and again for backward.
TABLE: dict[str, tuple[Rule, Rule | None]] = {
    "Conv2d": (lambda d, layer, x: conv3x3(d, layer, layer.C, layer.F) and images(d, x, layer.C),
               lambda d, layer: conv3x3(d, layer, layer.C, layer.F)),
    "ResidualBlock": (lambda d, block, x: residual_block(d, block) and images(d, x, block.C), residual_block),
    "Sequential": (lambda d, row, x: stem(d, row) and images(d, x, next(row.children())[1].C), stem),
    "LSTM": (sequences, lstm),
    "Normalize": (pixels, None),
    "Dropout": (dropout, None),
    "softmax_cross_entropy": (entropy, None),
    "Optimizer.step": (optimizer, None),
    "clip_gradient_norm": (gradients, None),
    "all_finite": (values, None),
}
