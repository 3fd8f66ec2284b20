"""What stands between the layers and the compiled kernels: checks, memory and arguments of every twin.

Each twin accepts float32 arrays on the CPU and answers NotImplemented to everything else; an array that is not
contiguous is copied. Importing this module registers the twins; without it, and without kernels, the definitions run.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from . import kernels
from .layers import BatchNorm, Conv2d, ReLU, ResidualBlock, Sequential


def _ready(*arrays: Any) -> bool:
    """Whether all arrays are float32 on the CPU."""
    return all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in arrays)


def _owned(layer: Any) -> bool:
    """Whether all parameters and buffers of the tree are float32, on the CPU and contiguous, as the kernels address them."""
    arrays = [a for p in layer.parameters() for a in (p.value, p.grad)]
    arrays += [getattr(part, name) for _, part in layer.walk() for name in part.buffers]
    return _ready(*arrays) and all(a.flags.c_contiguous for a in arrays)


class _Conv2d:
    """3x3, padding 1, stride 1 or 2, no bias; see kernels/cpu/conv.h."""

    @staticmethod
    def accepts(layer: Conv2d, x: Any) -> bool:
        return (layer.K == 3 and layer.padding == 1 and layer.stride in (1, 2) and layer.b is None
                and _ready(x) and x.ndim == 4 and x.shape[3] == layer.C and 0 < x.size < 1 << 31 and _owned(layer))

    @staticmethod
    def forward(layer: Conv2d, x: Any) -> Any:
        if not _Conv2d.accepts(layer, x):
            return NotImplemented
        (N, H, W, C), s, x = x.shape, layer.stride, np.ascontiguousarray(x)
        y = kernels.empty(N, (H - 1) // s + 1, (W - 1) // s + 1, layer.F)
        kernels.library().conv3x3(N, H, W, C, layer.F, s, int(kernels.exact), x, layer.W.value, y)
        return y, x

    @staticmethod
    def backward(layer: Conv2d, dy: Any, x: Any) -> Any:
        dx = kernels.empty(*x.shape)
        kernels.library().conv3x3_backward(*x.shape, layer.F, layer.stride, int(kernels.exact), x, layer.W.value,
                                           np.ascontiguousarray(dy, np.float32), dx, layer.W.grad)
        return dx


class _Sizes(ctypes.Structure):
    """struct block of kernels/cpu/block.h"""

    _fields_ = [(name, ctypes.c_int) for name in "N H W C F stride exact training".split()]
    _fields_ += [("eps", ctypes.c_float), ("momentum", ctypes.c_float)]


def _sizes(x: np.ndarray, conv: Conv2d, bn: BatchNorm) -> Any:
    return ctypes.byref(_Sizes(*x.shape, conv.F, conv.stride, int(kernels.exact), int(bn.training), bn.eps, bn.momentum))


def _conv_norm(conv: Conv2d, bn: BatchNorm, constants: np.ndarray, z: np.ndarray) -> Any:
    """struct conv_norm of kernels/cpu/block.h"""
    arrays = (conv.W.value, bn.gamma.value, bn.beta.value, bn.running_mean, bn.running_var, constants, z,
              conv.W.grad, bn.gamma.grad, bn.beta.grad)
    return (ctypes.c_void_p * 10)(*[a.__array_interface__["data"][0] for a in arrays])


def _fusable(conv: Conv2d, bn: BatchNorm, x: Any) -> bool:
    return _Conv2d.accepts(conv, x) and conv.F <= 1024 and bn.C == conv.F and _owned(bn)


def _room(x: np.ndarray, conv: Conv2d, count: int) -> list[np.ndarray]:
    """`count` arrays of the shape of conv's output, and the constants of a batch norm behind it."""
    N, H, W, _ = x.shape
    arrays = [kernels.empty(N, (H - 1) // conv.stride + 1, (W - 1) // conv.stride + 1, conv.F) for _ in range(count)]
    return [*arrays, np.empty((4, -(-conv.F // 16) * 16), np.float32)]


class _ResidualBlock:
    """Both convolutions, their batch norms, both ReLUs and the shortcut; see kernels/cpu/block.h."""

    @staticmethod
    def fits(layer: ResidualBlock) -> bool:
        """Whether its arrays are as the kernels want them, both norms alike, and the shortcut without parameters."""
        bn1, bn2 = layer.body.bn1, layer.body.bn2
        return (layer.F <= 1024 and _owned(layer) and not layer.shortcut.parameters()
                and (bn1.training, bn1.eps, bn1.momentum) == (bn2.training, bn2.eps, bn2.momentum))

    @staticmethod
    def accepts(layer: ResidualBlock, x: Any) -> bool:
        return _ResidualBlock.fits(layer) and _fusable(layer.body.conv1, layer.body.bn1, x)

    @staticmethod
    def forward(layer: ResidualBlock, x: Any) -> Any:
        if not _ResidualBlock.accepts(layer, x):
            return NotImplemented
        body, x = layer.body, np.ascontiguousarray(x)
        z1, z2, y, constants1 = _room(x, body.conv1, 3)
        constants2 = np.empty_like(constants1)
        kernels.library().block(_sizes(x, body.conv1, body.bn1), _conv_norm(body.conv1, body.bn1, constants1, z1),
                                _conv_norm(body.conv2, body.bn2, constants2, z2), x, y)
        return y, (x, y, z1, constants1, z2, constants2, body.bn1.training)

    @staticmethod
    def backward(layer: ResidualBlock, dy: Any, cache: Any) -> Any:
        x, y, z1, constants1, z2, constants2, training = cache
        body, dx, d1 = layer.body, kernels.empty(*x.shape), kernels.empty(*y.shape)
        sizes = _Sizes(*x.shape, layer.F, layer.stride, int(kernels.exact), int(training), body.bn1.eps, body.bn1.momentum)
        kernels.library().block_backward(
            ctypes.byref(sizes), _conv_norm(body.conv1, body.bn1, constants1, z1),
            _conv_norm(body.conv2, body.bn2, constants2, z2), x, y, np.ascontiguousarray(dy, np.float32), d1, dx)
        return dx


class _Folded(ctypes.Structure):
    """struct folded of kernels/cpu/infer.h"""

    _fields_ = [(name, ctypes.c_int) for name in "C F stride".split()]
    _fields_ += [("eps", ctypes.c_float)]
    _fields_ += [(name, ctypes.c_void_p) for name in "W gamma beta running_mean running_var".split()]

    @classmethod
    def of(cls, conv: Conv2d, bn: BatchNorm) -> _Folded:
        arrays = (conv.W.value, bn.gamma.value, bn.beta.value, bn.running_mean, bn.running_var)
        return cls(conv.C, conv.F, conv.stride, bn.eps, *[a.__array_interface__["data"][0] for a in arrays])


class _Sequential:
    """A row of layers that starts with Conv2d, BatchNorm, ReLU: those three as one (`stem` in kernels/cpu/block.h).

    In evaluation, where nothing but residual blocks follows, the whole row as one (kernels/cpu/infer.h). That keeps no
    caches; a backward, which hardly ever comes then, runs the layers once more.
    """

    @staticmethod
    def forward(layer: Sequential, x: Any) -> Any:
        layers = [child for _, child in layer.children()]
        if [type(child) for child in layers[:3]] != [Conv2d, BatchNorm, ReLU] or not _fusable(layers[0], layers[1], x):
            return NotImplemented
        conv, bn, x = layers[0], layers[1], np.ascontiguousarray(x)
        blocks = _blocks_in_evaluation(layers[3:], x) if not bn.training else None
        if blocks is None:
            return _Sequential._keep(layers, x)
        table = [_Folded.of(conv, bn)]
        table += [_Folded.of(*pair) for b in blocks
                  for pair in ((b.body.conv1, b.body.bn1), (b.body.conv2, b.body.bn2))]
        N, H, W, _ = x.shape
        for entry in table:
            H, W = (H - 1) // entry.stride + 1, (W - 1) // entry.stride + 1
        y = kernels.empty(N, H, W, table[-1].F)
        kernels.library().trunk(len(table), (_Folded * len(table))(*table), *x.shape[:3], int(kernels.exact), x, y)
        return y, (x, None)

    @staticmethod
    def _keep(layers: list, x: np.ndarray) -> Any:
        conv, bn, _relu, *rest = layers
        z, y, constants = _room(x, conv, 2)
        kernels.library().stem(_sizes(x, conv, bn), _conv_norm(conv, bn, constants, z), x, y)
        out, caches = Sequential(*rest).forward(y)
        return out, (x, (y, z, constants, bn.training, caches))

    @staticmethod
    def backward(layer: Sequential, dy: Any, cache: Any) -> Any:
        layers = [child for _, child in layer.children()]
        x, kept = cache
        y, z, constants, training, caches = kept or _Sequential._keep(layers, x)[1][1]
        conv, bn, _relu, *rest = layers
        dy, dx = np.ascontiguousarray(Sequential(*rest).backward(dy, caches), np.float32), kernels.empty(*x.shape)
        sizes = _Sizes(*x.shape, conv.F, conv.stride, int(kernels.exact), int(training), bn.eps, bn.momentum)
        kernels.library().stem_backward(ctypes.byref(sizes), _conv_norm(conv, bn, constants, z), x, y, dy, dx)
        return dx


def _blocks_in_evaluation(layers: list, x: np.ndarray) -> list[ResidualBlock] | None:
    """All residual blocks of these layers and rows, or None where there is something else, or anything that trains."""
    blocks = []
    for layer in layers:
        if type(layer) is Sequential:
            inner = _blocks_in_evaluation([child for _, child in layer.children()], x)
            if inner is None:
                return None
            blocks += inner
        elif type(layer) is ResidualBlock and _ResidualBlock.fits(layer) and not layer.body.bn1.training:
            blocks.append(layer)
        else:
            return None
    return blocks if len(blocks) < 64 else None


for _kernel in (_Conv2d, _ResidualBlock, _Sequential):
    kernels.register(_kernel.__name__[1:], _kernel)
