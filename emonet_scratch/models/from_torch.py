"""Files of CIFAR ResNets: those that `examples/train_cifar10.py` wrote, and PyTorch's names and layouts to ours."""

from __future__ import annotations

import os
import re

import numpy as np

from ..errors import WeightsError
from ..weights import read_weights

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
BLOCK = r"layer([123])\.(\d+)\."
NAMES = [(r"conv1\.weight", "features.conv.W"), (r"bn1\.(\w+)", "features.bn.{}"),
         (BLOCK + r"(conv[12])\.weight", "features.stage{}.{}.body.{}.W"),
         (BLOCK + r"(bn[12])\.(\w+)", "features.stage{}.{}.body.{}.{}"),
         (BLOCK + r"(?:downsample|shortcut)\.0\.weight", "features.stage{}.{}.shortcut.conv.W"),
         (BLOCK + r"(?:downsample|shortcut)\.1\.(\w+)", "features.stage{}.{}.shortcut.bn.{}"),
         (r"(?:linear|fc)\.weight", "dense.W"), (r"(?:linear|fc)\.bias", "dense.b")]


def _translate(name: str) -> str:
    for pattern, ours in NAMES:
        if match := re.fullmatch(pattern, name):
            return ours.format(*(NORM.get(group, group) for group in match.groups()))
    raise ValueError(f"{name} is no part of a CIFAR ResNet")


def _to_ours(name: str, array: np.ndarray) -> np.ndarray:
    """(F, C, K, K) to (K, K, C, F), and (M, D) to (D, M); float32."""
    axes = (2, 3, 1, 0) if array.ndim == 4 else (1, 0) if name == "dense.W" else range(array.ndim)
    return np.ascontiguousarray(array.transpose(*axes), np.float32)


def read_resnet(path: str | os.PathLike) -> tuple[dict[str, int | str], dict[str, np.ndarray]]:
    """(arguments for ResNet, its state_dict) from a file of a CIFAR ResNet's weights, whatever its names are wrapped in.

    Known are the names of torchvision and of the usual CIFAR implementations: conv1, bn1, layer1.0.conv1, ..., linear or
    fc, downsample or shortcut; and our own. WeightsError where it is another network.
    """
    found = {name: a for name, a in read_weights(path).items() if not name.endswith("num_batches_tracked")}
    try:
        own = {name.removeprefix("weights/"): a for name, a in found.items()}
        if "features.conv.W" in own:
            return _arguments(own), own
        first = min((name for name in found if re.fullmatch(r"(.*\.)?conv1\.weight", name)), key=len, default=None)
        if first is None:
            raise ValueError("it has no conv1.weight")
        prefix = first.removesuffix("conv1.weight")
        ours = {_translate(name.removeprefix(prefix)): a for name, a in found.items() if name.startswith(prefix)}
        state = {name: _to_ours(name, a) for name, a in ours.items()}
        return _arguments(state), state
    except (ValueError, IndexError) as error:
        raise WeightsError(f"{str(path)!r} holds {len(found)} tensors, but no CIFAR ResNet: {error}") from error


def _arguments(state: dict[str, np.ndarray]) -> dict[str, int | str]:
    """What ResNet has to be called with for such a state."""
    blocks = {name.split(".")[2] for name in state if name.startswith("features.stage1.")}
    if "dense.W" not in state or not blocks:
        raise ValueError("it has no classifier" if blocks else "it has no layer1")
    return {"depth": 6 * len(blocks) + 2, "num_classes": state["dense.W"].shape[1],
            "width": state["features.conv.W"].shape[3],
            "shortcut": "projection" if any(".shortcut." in name for name in state) else "pad"}
