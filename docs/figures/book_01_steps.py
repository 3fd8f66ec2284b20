"""Draw how wrong a difference is, by its step: python docs/figures/book_01_steps.py -> docs/images/book_01_steps.png"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.training.report import BLUE, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"


def figure(figure_class: Any) -> Any:
    """Relative errors of one-sided and central differences of exp at 1, over 200 steps."""
    canvas = figure_class(figsize=(8, 4), layout="constrained")
    axes = canvas.add_subplot()
    for dtype, colour in ((np.float32, VERMILION), (np.float64, BLUE)):
        steps = np.logspace(-14 if dtype is np.float64 else -7, 0, 200).astype(dtype)
        x = dtype(1)
        for name, line, slope in (
                ("one-sided", ":", (np.exp(x + steps) - np.exp(x)) / ((x + steps) - x)),
                ("central", "-", (np.exp(x + steps) - np.exp(x - steps)) / ((x + steps) - (x - steps)))):
            with np.errstate(all="ignore"):
                error = np.abs(slope.astype(np.float64) / np.e - 1)
            axes.loglog(steps, np.where(error > 0, error, np.nan), line, color=colour, linewidth=1.2,
                        label=f"{name}, {np.dtype(dtype).name}")
    label_axes(axes, "a difference in place of a derivative: exp at 1", "step h", "relative error")
    axes.set_ylim(1e-13, 2)
    axes.legend(fontsize=9, frameon=False)
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_01_steps.png", figure)


if __name__ == "__main__":
    main()
