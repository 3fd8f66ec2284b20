"""How good a network for faces is on FER2013's test split, by class and kind of label, and what it costs when the picture is
worse: turned, dark, blurred, smaller, with mouth or eyes covered.

    python benchmarks/faces.py WEIGHTS --data fer2013.csv --picture docs/images/faces.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from emonet_scratch.data.fer2013 import read_fer2013
from emonet_scratch.data.vary import bilinear
from emonet_scratch.emotions import CLASSES
from emonet_scratch.layers import Normalize
from emonet_scratch.layers.input import IMAGENET_MEAN, IMAGENET_STD
from emonet_scratch.models import ResNet
from emonet_scratch.training.images import ten_views
from emonet_scratch.training.metrics import confusion_matrix, wilson_interval
from emonet_scratch.training.report import BLUE, label_axes, save_figure

Change = Callable[[np.ndarray, float], np.ndarray]


def turned(images: np.ndarray, degrees: float) -> np.ndarray:
    """About the centre."""
    H, W = images.shape[1:3]
    y, x = (axis - (n - 1) / 2 for axis, n in zip(np.mgrid[:H, :W].astype(np.float32), (H, W), strict=True))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    at = cos * x + sin * y + (W - 1) / 2, cos * y - sin * x + (H - 1) / 2
    return np.stack([bilinear(image, *at) for image in images]).round().astype(np.uint8)


def darkened(images: np.ndarray, factor: float) -> np.ndarray:
    """As if with so much less light, with the noise of a sensor."""
    noise = np.random.default_rng(0).normal(0, 2, (*images.shape[:3], 1))
    return np.clip(images / factor + noise, 0, 255).astype(np.uint8)


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """By a Gaussian of so many pixels."""
    return gaussian_filter(images, (0, sigma, sigma, 0)) if sigma else images


def smaller(images: np.ndarray, size: float) -> np.ndarray:
    """Down to size x size pixels and back."""
    def there_and_back(image: np.ndarray) -> np.ndarray:
        small = Image.fromarray(image).resize((int(size), int(size)), Image.Resampling.BOX)
        return np.array(small.resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    return np.stack([there_and_back(image) for image in images])


def covered(top: int, bottom: int) -> Change:
    """Rows of pixels, in grey, from the given share of their width on."""
    def cover(images: np.ndarray, share: float) -> np.ndarray:
        images, half = images.copy(), round(share * images.shape[2] / 2)
        middle = images.shape[2] // 2
        images[:, top:bottom, middle - half:middle + half] = 128
        return images
    return cover


CHANGES: dict[str, tuple[Change, tuple[float, ...]]] = {
    "turned, degrees": (turned, (-45, -30, -20, -10, 0, 10, 20, 30, 45)),
    "darker by a factor": (darkened, (1, 2, 4, 8, 16)),
    "blurred, sigma in pixels": (blurred, (0, 0.5, 1, 1.5, 2, 3)),
    "size of the face, pixels": (smaller, (8, 12, 16, 24, 32, 48)),
    "mouth covered, share of the width": (covered(32, 46), (0, 0.25, 0.5, 0.75, 1)),
    "eyes covered, share of the width": (covered(12, 24), (0, 0.25, 0.5, 0.75, 1))}


def said(net: ResNet, images: np.ndarray) -> np.ndarray:
    """(N,) classes."""
    normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
    parts = [net.forward(normalize.forward(images[k:k + 512])[0])[0] for k in range(0, len(images), 512)]
    return np.concatenate(parts).argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    net, faces = ResNet.from_torch(options.weights).eval(), read_fer2013(options.data, "test")
    images, labels, votes = faces.majority()
    unique = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
    own, answer = said(net, faces.images), said(net, images)
    logits = sum(net.forward(Normalize(IMAGENET_MEAN, IMAGENET_STD).forward(view)[0])[0] for view in ten_views(images))
    low, high = wilson_interval(int((answer == labels).sum()), len(labels))
    parameters = sum(p.value.size for p in net.parameters())
    print(f"{parameters:,} parameters\n\n| | faces | accuracy |\n| --- | --- | --- |\n"
          f"| most votes of FER+ | {len(labels):,} | {(answer == labels).mean():.4f} ({low:.3f} to {high:.3f}) |\n"
          f"| of ten views | {len(labels):,} | {(logits.argmax(axis=1) == labels).mean():.4f} |\n"
          f"| of these, where no other has as many | {unique.sum():,} | {(answer == labels)[unique].mean():.4f} |\n"
          f"| labels of FER2013 itself | {len(own):,} | {(own == faces.labels).mean():.4f} |\n")
    counts = confusion_matrix(labels, answer, len(CLASSES))
    print("| true, by votes | faces | right | " + " | ".join(CLASSES) + " |\n| --- " + "| --- " * (len(CLASSES) + 2) + "|")
    for name, row, k in zip(CLASSES, counts, range(len(CLASSES)), strict=True):
        print(f"| {name} | {row.sum()} | {row[k] / row.sum():.3f} | " + " | ".join(map(str, row)) + " |")
    curves = {}
    for name, (change, values) in CHANGES.items():
        curves[name] = values, [float((said(net, change(images, value)) == labels).mean()) for value in values]
        print(f"\n{name}: " + ", ".join(f"{value:g} {accuracy:.3f}" for value, accuracy in zip(*curves[name], strict=True)))
    if options.picture:
        save_figure(options.picture, figure, curves)


def figure(figure_class: type, curves: dict[str, tuple[tuple[float, ...], list[float]]]) -> object:
    """Accuracy against each change."""
    drawn = figure_class(figsize=(11, 6), layout="constrained")
    for axes, (name, (values, accuracy)) in zip(drawn.subplots(2, 3).ravel(), curves.items(), strict=True):
        axes.plot(values, accuracy, marker="o", color=BLUE)
        axes.set_ylim(0, 1)
        label_axes(axes, "", name, "accuracy")
    return drawn


if __name__ == "__main__":
    main()
