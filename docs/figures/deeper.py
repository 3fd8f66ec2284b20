"""Draw what depth does with and without shortcuts: python docs/figures/deeper.py -> docs/images/deeper.png

Left and middle: the trainings of `benchmarks/deeper.py`, which take hours without a GPU and end in deeper.csv beside this
file.
Right: norms of the gradient along untrained networks, which this script computes.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.classics.plain import plain
from emonet_scratch.layers import ResidualBlock
from emonet_scratch.losses import softmax_cross_entropy
from emonet_scratch.models import ResNet
from emonet_scratch.training.report import BLUE, GREEN, VERMILION, label_axes, save_figure

FIGURES = Path(__file__).parent
STYLES = {"ResNet-20": (GREEN, "-"), "plain-20": (GREEN, ":"), "ResNet-20, 3 x the epochs": (GREEN, "--"),
          "ResNet-56": (BLUE, "-"), "plain-56": (BLUE, ":"), "ResNet-110": (VERMILION, "-"), "plain-110": (VERMILION, ":")}


def gradient_norms(net: ResNet, size: int, images: int) -> list[float]:
    """|dL/dx| at the input x of each residual block, the first one first, relative to that at the end of the last block."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((images, size, size, 3)).astype(np.float32)
    parts = [child for _, layer in net.features.children()
             for child in ([block for _, block in layer.children()] if list(layer.children()) else [layer])]
    caches = []
    for layer in parts:
        x, cache = layer.forward(x)
        caches.append(cache)
    pooled, pool = net.pool.forward(x)
    logits, dense = net.dense.forward(pooled)
    _, dlogits = softmax_cross_entropy(logits, rng.integers(0, 10, images))
    dy, norms = net.pool.backward(net.dense.backward(dlogits, dense), pool), []
    last = float(np.linalg.norm(dy))
    for layer, cache in zip(reversed(parts), reversed(caches), strict=True):
        if not isinstance(layer, ResidualBlock):
            break
        dy = layer.backward(dy, cache)
        norms.append(float(np.linalg.norm(dy)) / last)
    return norms[::-1]


def figure(figure_class: Any, rows: list[dict[str, str]], flows: dict[str, list[float]]) -> Any:
    canvas = figure_class(figsize=(12, 4), layout="constrained")
    left, middle, right = canvas.subplots(1, 3)
    for axes, split, key, title in ((left, "train", "loss", "loss of training images, as they are shown"),
                                    (middle, "test", "accuracy", "test accuracy")):
        for name in dict.fromkeys(row["network"] for row in rows):
            own = [row for row in rows if row["network"] == name and row["split"] == split]
            colour, line = STYLES[name]
            axes.plot([int(row["epoch"]) for row in own], [float(row[key]) for row in own], line, color=colour, label=name)
        label_axes(axes, title, "epoch", "nats" if split == "train" else "share right")
    left.legend(fontsize=8, frameon=False)
    for name, norms in flows.items():
        right.semilogy(np.arange(len(norms)) / len(norms), norms, STYLES[name][1], color=STYLES[name][0], label=name)
    label_axes(right, "gradient before training", "depth of a block, 0 the first, 1 the last", "norm, relative to the end")
    right.legend(fontsize=8, frameon=False)
    return canvas


def main(images: Path = FIGURES.parent / "images", depths: tuple[int, ...] = (20, 56, 110), size: int = 32,
         batch: int = 32) -> None:
    with open(FIGURES / "deeper.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    flows = {}
    for depth in depths:
        for name, change in ((f"ResNet-{depth}", lambda net: net), (f"plain-{depth}", plain)):
            flows[name] = gradient_norms(change(ResNet(depth, rng=np.random.default_rng(0))), size, batch)
            print(name, " ".join(f"{norm:.2g}" for norm in flows[name][::max(1, len(flows[name]) // 6)]))
    save_figure(images / "deeper.png", figure, rows, flows)


if __name__ == "__main__":
    main()
