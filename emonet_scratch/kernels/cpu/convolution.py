"""Launch code of kernels/cpu/{conv,block,infer}.h: convolutions, residual blocks, stems and trunks."""

import ctypes
from typing import Any

import numpy as np

from ... import dispatch
from ...layers import BatchNorm, Conv2d, ResidualBlock, Sequential
from ..composed import Row
from ..takes import CPU
from . import library
from .memory import empty


def register() -> None:
    """As kernels of the CPU."""
    CPU.kernel("Conv2d", conv2d, conv2d_backward)
    CPU.kernel("ResidualBlock", residual_block, residual_block_backward)
    Row(CPU, stem, stem_backward, trunk).register()


def _output_shape(conv: Conv2d, x: np.ndarray) -> tuple[int, int, int, int]:
    """Of a convolution with padding 1: (N, OH, OW, F)"""
    N, H, W, _ = x.shape
    return N, (H - 1) // conv.stride + 1, (W - 1) // conv.stride + 1, conv.F


def _empty_dx(conv: Conv2d, x: np.ndarray) -> np.ndarray | None:
    """Memory for dx; for None the kernels compute none."""
    return empty(*x.shape) if conv.input_gradient else None


def conv2d(conv: Conv2d, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """3x3, padding 1, stride 1 or 2: (y, cache)."""
    x, y = np.ascontiguousarray(x), empty(*_output_shape(conv, x))
    library.current().of_products(conv.C, conv.F).conv3x3(
        *x.shape, conv.F, conv.stride, int(dispatch.exact), x, conv.W.value, y)
    return y, x


def conv2d_backward(conv: Conv2d, dy: Any, x: np.ndarray) -> np.ndarray | None:
    """dx"""
    dx, dy = _empty_dx(conv, x), CPU.gradient(conv, dy, _output_shape(conv, x))
    library.current().of_products(conv.C, conv.F).conv3x3_backward(
        *x.shape, conv.F, conv.stride, int(dispatch.exact), x, conv.W.value, dy, dx, conv.W.grad)
    return dx


# ---- a convolution and the batch norm behind it ----

class _Sizes(ctypes.Structure):
    """struct block of kernels/cpu/block.h"""

    _fields_ = [(name, ctypes.c_int) for name in "N H W C F stride exact training".split()]
    _fields_ += [("eps", ctypes.c_float), ("momentum", ctypes.c_float)]


def _sizes(x: np.ndarray, conv: Conv2d, bn: BatchNorm, training: bool) -> _Sizes:
    return _Sizes(*x.shape, conv.F, conv.stride, int(dispatch.exact), int(training), bn.eps, bn.momentum)


def _conv_norm(conv: Conv2d, bn: BatchNorm, constants: np.ndarray, z: np.ndarray) -> Any:
    """struct conv_norm of kernels/cpu/block.h"""
    arrays = (conv.W.value, bn.gamma.value, bn.beta.value, bn.running_mean, bn.running_var, constants, z,
              conv.W.grad, bn.gamma.grad, bn.beta.grad)
    return (ctypes.c_void_p * 10)(*map(library.address, arrays))


def _empty_constants(conv: Conv2d) -> np.ndarray:
    """Memory for what the kernels keep of the batch norm behind conv: four numbers a channel, of whole vectors."""
    return np.empty((4, -(-conv.F // 16) * 16), np.float32)


def residual_block(block: ResidualBlock, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Both convolutions, their batch norms, both ReLUs and the shortcut: (y, cache)."""
    body, x = block.body, np.ascontiguousarray(x)
    shape = _output_shape(body.conv1, x)
    z1, z2, y = empty(*shape), empty(*shape), empty(*shape)
    constants1, constants2 = _empty_constants(body.conv1), _empty_constants(body.conv2)
    kernels = library.current().of_products(block.C, block.F)
    kernels.block(
        _sizes(x, body.conv1, body.bn1, body.bn1.training), _conv_norm(body.conv1, body.bn1, constants1, z1),
        _conv_norm(body.conv2, body.bn2, constants2, z2), x, y)
    return y, (x, y, z1, constants1, z2, constants2, body.bn1.training, kernels)


def residual_block_backward(block: ResidualBlock, dy: Any, cache: Any) -> np.ndarray:
    """dx"""
    x, y, z1, constants1, z2, constants2, training, kernels = cache           # constants lie as these kernels want them
    body, dx, d1 = block.body, empty(*x.shape), empty(*y.shape)
    kernels.block_backward(
        _sizes(x, body.conv1, body.bn1, training), _conv_norm(body.conv1, body.bn1, constants1, z1),
        _conv_norm(body.conv2, body.bn2, constants2, z2), x, y, CPU.gradient(block, dy, y.shape), d1, dx)
    return dx


def stem(_row: Sequential, conv: Conv2d, bn: BatchNorm, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Convolution, batch norm, ReLU: (y, cache)."""
    x, shape, constants = np.ascontiguousarray(x), _output_shape(conv, x), _empty_constants(conv)
    z, y, kernels = empty(*shape), empty(*shape), library.current().of_products(conv.F)
    kernels.stem(
        _sizes(x, conv, bn, bn.training), _conv_norm(conv, bn, constants, z), x, y)
    return y, (y, z, constants, bn.training, kernels)


def stem_backward(row: Sequential, conv: Conv2d, bn: BatchNorm, x: np.ndarray, cache: Any, dy: Any) -> np.ndarray | None:
    """dx"""
    y, z, constants, training, kernels = cache
    x, dx = np.ascontiguousarray(x), _empty_dx(conv, x)
    kernels.stem_backward(
        _sizes(x, conv, bn, training), _conv_norm(conv, bn, constants, z), x, y, CPU.gradient(row, dy, y.shape), dx)
    return dx


# ---- evaluation ----

class _Folded(ctypes.Structure):
    """struct folded of kernels/cpu/infer.h"""

    _fields_ = [(name, ctypes.c_int) for name in "C F stride".split()]
    _fields_ += [("eps", ctypes.c_float)]
    _fields_ += [(name, ctypes.c_void_p) for name in "W gamma beta running_mean running_var".split()]


def _folded(conv: Conv2d, bn: BatchNorm) -> _Folded:
    return library.struct(_Folded, C=conv.C, F=conv.F, stride=conv.stride, eps=bn.eps, W=conv.W.value, gamma=bn.gamma.value,
                          beta=bn.beta.value, running_mean=bn.running_mean, running_var=bn.running_var)


def trunk(_row: Sequential, conv: Conv2d, bn: BatchNorm, blocks: list[ResidualBlock], x: np.ndarray) -> np.ndarray:
    """The stem and all blocks with batch norm folded into the filters: y."""
    pairs = [(conv, bn)]
    for block in blocks:
        pairs += [(block.body.conv1, block.body.bn1), (block.body.conv2, block.body.bn2)]
    x, (N, H, W, _) = np.ascontiguousarray(x), x.shape
    height, width = H, W
    for one, _ in pairs:
        height, width = (height - 1) // one.stride + 1, (width - 1) // one.stride + 1
    y = empty(N, height, width, pairs[-1][0].F)
    library.current().of_products(*(one.F for one, _ in pairs)).trunk(
        len(pairs), (_Folded * len(pairs))(*(_folded(*pair) for pair in pairs)), N, H, W, int(dispatch.exact), x, y)
    return y
