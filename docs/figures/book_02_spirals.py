"""Draw a little network on three spirals: python docs/figures/book_02_spirals.py -> docs/images/book_02_spirals.png"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch import layers, losses
from emonet_scratch.training.report import BLUE, GREEN, INK, MUTED, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
ARMS = (BLUE, VERMILION, GREEN)


def spirals(rng: np.random.Generator, n: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Points (3 n, 2) and the arm (3 n,) of each."""
    radius, arms = np.tile(np.linspace(0.1, 1, n), 3), np.repeat(np.arange(3), n)
    angle = 2 * np.pi * (0.75 * radius + arms / 3) + 0.15 * rng.standard_normal(3 * n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), arms


def train(points: np.ndarray, arms: np.ndarray, rng: np.random.Generator,
          steps: int) -> tuple[layers.Sequential, list[float]]:
    """The chapter's network of the package's layers, and its loss before every step at the rate 1."""
    hidden, out = layers.Dense(2, 32, rng), layers.Dense(32, 3)
    out.W.value[:] = 0
    network = layers.Sequential(hidden=hidden, relu=layers.ReLU(), out=out).astype(np.float64)
    history = []
    for _ in range(steps):
        logits, cache = network.forward(points)
        loss, dlogits = losses.softmax_cross_entropy(logits, arms)
        history.append(loss)
        network.zero_grad()
        network.backward(dlogits, cache)
        for p in network.parameters():
            p.value -= p.grad
    return network, history


def figure(figure_class: Any) -> Any:
    """Left the regions after 1000 steps and the lines of the hidden units, right the loss by step."""
    rng = np.random.default_rng(0)
    points, arms = spirals(rng)
    network, history = train(points, arms, rng, 1001)
    canvas = figure_class(figsize=(9, 4.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    x = np.linspace(-1.25, 1.25, 401)
    grid = np.stack(np.meshgrid(x, x), axis=-1)
    regions = network.forward(grid)[0].argmax(axis=-1)
    left.contourf(x, x, regions, levels=[-0.5, 0.5, 1.5, 2.5], colors=ARMS, alpha=0.22)
    hidden = network.hidden.forward(grid)[0]
    for unit in range(hidden.shape[-1]):
        left.contour(x, x, hidden[..., unit], levels=[0], colors=MUTED, linewidths=0.4)
    for arm, colour in enumerate(ARMS):
        left.plot(*points[arms == arm].T, ".", color=colour, markersize=5, label=f"class {arm}")
    label_axes(left, "regions, and the kink of each hidden unit (grey)", "input 0 (no unit)", "input 1 (no unit)")
    left.grid(False)
    left.set_aspect("equal")
    left.legend(fontsize=8, loc="upper right", framealpha=0.9)
    right.loglog(np.arange(len(history)) + 1, history, color=INK)
    right.axhline(np.log(3), color=MUTED, linestyle=":")
    right.annotate("ln 3: knows nothing", (1000, np.log(3)), (0, -5), textcoords="offset points", ha="right", va="top",
                   fontsize=9, color=MUTED)
    right.set_ylim(0.01, 1.6)
    label_axes(right, "the loss starts at ln 3", "steps taken + 1 (log)", "cross-entropy, nats (log)")
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_02_spirals.png", figure)


if __name__ == "__main__":
    main()
