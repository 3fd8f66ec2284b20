"""The CIFAR ResNet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..backend import device_of, to_device
from ..errors import WeightsError
from ..layers import BatchNorm, Conv2d, Dense, GlobalAveragePool, ReLU, ResidualBlock, Sequential
from ..watch import summary
from ..weights import read_resnet

#: Trunks that come with the package: of CIFAR-10, and of faces of 48 x 48 pixels.
TRUNKS = {"pretrained": Path(__file__).with_name("resnet20_cifar10.safetensors"),
          "faces": Path(__file__).with_name("faces.safetensors")}


class ResNet(Sequential):
    """ResNet of depth 6n + 2 for small images (He et al. 2016, section 4.2).

    A 3x3 convolution, three stages of n residual blocks with `width`, 2 `width` and 4 `width` channels, the
    second and third of which start with stride 2; then global average pooling and a dense layer.

    Shapes: x (N, H, W, 3), logits (N, num_classes); `features`, the trunk without pooling and classifier,
    gives (N, H/4, W/4, 4 width), H / 4 rounded up. With the defaults: 269,722 parameters.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, width: int = 16, shortcut: str = "pad",
                 rng: np.random.Generator | None = None) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"ResNet(depth) must be 6n + 2 with n >= 1 (8, 14, 20, ...), got {depth}")

        def stage(C: int, F: int, stride: int) -> Sequential:
            blocks = [ResidualBlock(C, F, stride, shortcut, rng)]
            blocks += [ResidualBlock(F, F, 1, shortcut, rng) for _ in range((depth - 2) // 6 - 1)]
            return Sequential(*blocks)

        self.features = Sequential(conv=Conv2d(3, width, 3, padding=1, rng=rng), bn=BatchNorm(width),
                                   relu=ReLU(), stage1=stage(width, width, 1),
                                   stage2=stage(width, 2 * width, 2), stage3=stage(2 * width, 4 * width, 2))
        self.pool = GlobalAveragePool()                               # layers of a row: attributes in order
        self.dense = Dense(4 * width, num_classes, rng)
        self.depth, self.num_features = depth, 4 * width

    @classmethod
    def from_torch(cls, path: str | os.PathLike[str]) -> ResNet:
        """The CIFAR ResNet whose weights a safetensors or PyTorch file holds, read without PyTorch (see
        weights.py).

        Files of `examples/train_cifar10.py` and of `emonet import-weights` are read, too. Its inputs must be
        normalised as they were when it was trained. WeightsError where it holds another network.
        """
        arguments, state = read_resnet(path)
        try:
            model = cls(**arguments)
            model.load_state_dict(state)
            return model
        except ValueError as error:
            raise WeightsError(f"{str(path)!r} fits no ResNet-{arguments['depth']}: {error}") from error

    @classmethod
    def pretrained(cls, trunk: str = "pretrained") -> ResNet:
        """ResNet-20 trained on CIFAR-10 by `examples/train_cifar10.py`, or, "faces", on FER2013 by
        `examples/train_faces.py`, in evaluation mode.

        Inputs: (pixels / 255 - mean) / std with the mean and std of `layers.Normalize` in EmoNet. The cards
        beside the weights, *.md, say how they were made and how good they are.
        """
        return cls.from_torch(TRUNKS[trunk]).eval()

    def __repr__(self) -> str:
        return f"ResNet(depth={self.depth}, num_classes={self.dense.M})"

    def summary(self, size: int = 32) -> None:
        """Print layers, shapes, parameters, bytes of activations and FLOPs for one image of size x size."""
        x = np.zeros((1, size, size, 3), np.float32)
        print(summary(self, to_device(x, device_of(self.dense.W.value))))
