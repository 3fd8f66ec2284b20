"""Draw the loss around the paper's start and around a better one.

python docs/figures/book_10_landscape.py -> docs/images/book_10_landscape.png
"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.losses import softmax_cross_entropy
from emonet_scratch.training.report import BLUE, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
N, D, H, K = 210, 12, 32, 7
STEPS, BATCH_GRADIENT = 980, 10.0       # of a training of 20 epochs; longest gradient that the chapter's training meets


def clips() -> tuple[np.ndarray, np.ndarray]:
    """Drawn features (N, D) of seven classes, as in chapter 10."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % K
    return rng.standard_normal((K, D))[labels] + rng.standard_normal((N, D)), labels


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((D, H)) * (2 / D) ** 0.5, rng.standard_normal((H, K)) * (2 / H) ** 0.5]


def direction(weights: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Random, every column as long as that of the weights (Li et al. 2018, section 4)."""
    drawn = [rng.standard_normal(W.shape) for W in weights]
    return [d * np.linalg.norm(W, axis=0) / np.linalg.norm(d, axis=0) for d, W in zip(drawn, weights, strict=True)]


def loss(weights: list[np.ndarray], rate: float, cut: bool) -> float:
    """Of all clips, with the same masks every time; cut: ReLU and dropout on the logits."""
    x, labels = clips()
    rng = np.random.default_rng(2)
    masks = [(rng.random((N, n)) >= rate) / (1 - rate) for n in (H, K)]
    z = np.maximum(x @ weights[0], 0) * masks[0] @ weights[1]
    return softmax_cross_entropy(np.maximum(z, 0) * masks[1] if cut else z, labels)[0]


def surface(weights: list[np.ndarray], rate: float, cut: bool, reach: np.ndarray) -> np.ndarray:
    """(len(reach), len(reach)), rows along the second direction."""
    rng = np.random.default_rng(3)
    A, B = direction(weights, rng), direction(weights, rng)
    return np.array([[loss([W + a * u + b * v for W, u, v in zip(weights, A, B, strict=True)], rate, cut)
                      for a in reach] for b in reach])


def figure(figure_class: Any) -> Any:
    canvas = figure_class(figsize=(12, 4), layout="constrained")
    left, middle, right = canvas.subplots(1, 3)
    weights, reach = start(), np.linspace(-1, 1, 41)
    better = [weights[0], weights[1] * 0.5**0.5]
    far = STEPS * 1e-6 * BATCH_GRADIENT / np.sqrt(sum((W**2).sum() for W in weights))
    levels = np.arange(2, 9.1, 0.5)
    for axes, name, values, colour in ((left, "the paper's start", surface(weights, 0.5, True, reach), VERMILION),
                                       (middle, "a better start: plain logits", surface(better, 0.3, False, reach), BLUE)):
        painted = axes.contourf(reach, reach, values, levels=levels, cmap="viridis", extend="max")
        axes.plot(0, 0, "o", color=colour, markersize=7, markeredgecolor="white")
        label_axes(axes, name, "a, in lengths of the weights", "b, in lengths of the weights")
        axes.set_aspect("equal")
        right.plot(reach, values[len(reach) // 2], color=colour, label=name)
    canvas.colorbar(painted, ax=[left, middle], label="loss, nats", shrink=0.8)
    right.axhline(np.log(K), color="0.5", linestyle=":", label="ln 7")
    right.axvspan(-far, far, color="0.6", label=f"980 steps at 1e-6: {far:.4f}")
    label_axes(right, "along b = 0", "a, in lengths of the weights", "loss, nats")
    right.set_box_aspect(1)
    right.legend(fontsize=8, framealpha=1, edgecolor="white")
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_10_landscape.png", figure)


if __name__ == "__main__":
    main()
