"""Draw a cartoon face under four filters: python docs/figures/book_04_filters.py -> docs/images/book_04_filters.png"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.data.synthetic import draw_clip
from emonet_scratch.layers import Conv2d
from emonet_scratch.training.report import INK, MUTED, save_figure

IMAGES = Path(__file__).parents[1] / "images"
GREY = np.array([1, 1, 1]) / 3
REDDISH = np.array([1, -0.5, -0.5])
SLOPE = np.outer([1, 2, 1], [-1, 0, 1]) / 4
FILTERS = {"left to right": (SLOPE, GREY), "top to bottom": (SLOPE.T, GREY),
           "against its neighbours": (np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]) / 4, GREY),
           "reddish": (np.ones((3, 3)) / 9, REDDISH)}


def responses(frame: np.ndarray) -> np.ndarray:
    """(H, W, 4) of a frame (H, W, 3) of numbers from 0 to 1, whose border is not of interest."""
    conv = Conv2d(3, len(FILTERS), kernel_size=3).astype(np.float64)
    conv.W.value[:] = np.stack([place[:, :, None] * colour for place, colour in FILTERS.values()], axis=-1)
    return conv.forward(frame[None])[0][0]


def figure(figure_class: Any) -> Any:
    """Above the filters, summed over channels; below what they answer."""
    frame = draw_clip("Surprise", np.random.default_rng(3))[0][-1] / 255
    canvas = figure_class(figsize=(12, 4.7), layout="constrained")
    axes = canvas.subplots(2, 5, height_ratios=(1, 1.6))
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.35, "above: the filter W, 3 x 3\n(row p, column q)\n\nbelow: its response y",
                    ha="center", va="center", color=MUTED, fontsize=9)
    axes[1, 0].imshow(frame)
    axes[1, 0].set_title("a frame, 96 x 128 pixels", fontsize=10, color=INK)
    answers = responses(frame)
    for k, (name, (place, colour)) in enumerate(FILTERS.items()):
        top, below = axes[:, k + 1]
        size = abs(place).max()
        top.imshow(place, cmap="RdBu_r", vmin=-1.5 * size, vmax=1.5 * size)
        for p, q in np.ndindex(place.shape):
            top.text(q, p, f"{place[p, q]:.2g}", ha="center", va="center", fontsize=8, color=INK)
        channels = "mean of the channels" if colour is GREY else "red - green / 2 - blue / 2"
        top.set_title(f"{name}\n{channels}", fontsize=10, color=INK)
        top.set_xticks([])
        top.set_yticks([])
        limit = float(np.quantile(abs(answers[..., k]), 0.995))
        shown = below.imshow(answers[..., k], cmap="RdBu_r", vmin=-limit, vmax=limit)
        bar = canvas.colorbar(shown, ax=below, orientation="horizontal", pad=0.02, shrink=0.8)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("response y", color=MUTED, fontsize=9)
    for panel in axes[1]:
        panel.tick_params(labelsize=8)
        panel.set_xlabel("column j, pixels", color=MUTED, fontsize=9)
    axes[1, 0].set_ylabel("row i, pixels", color=MUTED, fontsize=9)
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_04_filters.png", figure)


if __name__ == "__main__":
    main()
