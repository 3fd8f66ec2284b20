"""Draw what batch norm's regimes do to the same data: python docs/figures/book_05_regimes.py -> docs/images/ (same name)"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.layers import BatchNorm
from emonet_scratch.training.report import BLUE, GREEN, INK, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
MEAN, DEVIATION = 5, 2


def figure(figure_class: Any) -> Any:
    """Left: (x, y) of batches of four, in training and evaluation. Right: (mean, deviation) of batches of three sizes."""
    rng = np.random.default_rng(0)
    canvas = figure_class(figsize=(10, 4.2), layout="constrained")
    left, right = canvas.subplots(1, 2)

    norm = BatchNorm(1).astype(np.float64)
    for _ in range(200):
        norm.forward(MEAN + DEVIATION * rng.standard_normal((256, 1)))
    ends = np.array([[MEAN - 3.0 * DEVIATION], [MEAN + 3.0 * DEVIATION]])
    left.plot(ends, norm.eval().forward(ends)[0], color=INK, linewidth=2.5, label="evaluation: one line for all", zorder=3)
    norm.train()
    for k in range(12):
        x = np.sort(MEAN + DEVIATION * rng.standard_normal((4, 1)), axis=0)
        left.plot(x, norm.forward(x)[0], "o-", color=BLUE, linewidth=0.8, markersize=4, alpha=0.7,
                  label=None if k else "training: one line for each batch of 4")
    label_axes(left, f"the same data (mean {MEAN}, standard deviation {DEVIATION}) in two regimes", "x (units of the data)",
               "y = x_hat (standard deviations)")
    left.legend(fontsize=9, frameon=False, loc="upper left")
    left.set_ylim(-3.2, 3.8)

    for M, colour in ((2, VERMILION), (8, BLUE), (64, GREEN)):
        batches = MEAN + DEVIATION * rng.standard_normal((300, M))
        right.plot(batches.mean(axis=1), batches.std(axis=1), ".", color=colour, markersize=4, alpha=0.6,
                   label=f"batches of {M}")
    right.plot(MEAN, DEVIATION, "+", color=INK, markersize=16, markeredgewidth=2.5, label="all data")
    label_axes(right, "statistics of 300 batches (variance divided by M)", "mean of a batch (units of the data)",
               "standard deviation of a batch (same units)")
    right.legend(fontsize=9, frameon=False, loc="upper right", markerscale=1)
    right.set_ylim(0, 5.2)
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_05_regimes.png", figure)


if __name__ == "__main__":
    main()
