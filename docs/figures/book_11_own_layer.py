"""Draw what two norms average over, and the gates of a GRU: python docs/figures/book_11_own_layer.py

-> docs/images/book_11_own_layer.png
"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.training.report import BLUE, GREEN, INK, MUTED, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
N, C, T = 5, 7, 40


def draw_norm(axes: Any, title: str, rows: slice, columns: slice, colour: str) -> None:
    """Cells of an array (N, C); those that one mean is of, in colour."""
    for n in range(N):
        for c in range(C):
            inside = n in range(N)[rows] and c in range(C)[columns]
            axes.add_patch(_rectangle((c, n), colour if inside else "#eeeeee"))
    label_axes(axes, title, "channel c", "row n")
    axes.grid(False)
    axes.set(xlim=(0, C), ylim=(N, 0), xticks=np.arange(C) + 0.5, yticks=np.arange(N) + 0.5, aspect="equal")
    axes.set_xticklabels(range(C))
    axes.set_yticklabels(range(N))
    axes.tick_params(length=0)


def _rectangle(corner: tuple[int, int], colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=2)


def latch() -> tuple[np.ndarray, ...]:
    """(value, mark, r, z, h), (T,) each, of a GRU of one unit that keeps the value that last came with a mark.

    a_r = a_z = 5 - 10 mark        n = tanh(2 value + r h)        h <- z h + (1 - z) n
    """
    rng = np.random.default_rng(5)
    value = 0.5 * np.sin(np.arange(T) / 2.5) + rng.normal(0, 0.12, T)
    mark = np.isin(np.arange(T), (4, 14, 24, 32)).astype(float)
    value[[4, 14, 24, 32]] = 0.8, -0.6, 0.3, -0.9
    r = z = 1 / (1 + np.exp(-(5 - 10 * mark)))
    h = np.zeros(T + 1)
    for t in range(T):
        n = np.tanh(2 * value[t] + r[t] * h[t])
        h[t + 1] = z[t] * h[t] + (1 - z[t]) * n
    return value, mark, r, z, h[1:]


def figure(figure_class: Any) -> Any:
    canvas = figure_class(figsize=(11, 5), layout="constrained")
    norms, gates = canvas.subfigures(1, 2, width_ratios=(2, 5))
    above, below = norms.subplots(2, 1)
    draw_norm(above, "LayerNorm: a mean of one row", slice(1, 2), slice(None), BLUE)
    draw_norm(below, "BatchNorm: a mean of one channel", slice(None), slice(2, 3), VERMILION)
    top, bottom = gates.subplots(2, 1, sharex=True)
    value, mark, r, z, h = latch()
    steps = np.arange(T)
    marked = mark > 0
    top.plot(steps, value, color=MUTED, linewidth=1, label="input value")
    top.plot(steps[marked], value[marked], "o", color=VERMILION, label="input value with a mark")
    top.step(steps, h, where="mid", color=BLUE, label="state h, after the step")
    label_axes(top, "a GRU of one unit that keeps the last marked value", "", "value")
    top.set_ylim(-1.2, 1.7)
    top.legend(fontsize=9, frameon=False, ncols=3, loc="upper right")
    bottom.step(steps, z, where="mid", color=GREEN, label="update gate z (1: keep)")
    bottom.step(steps, r, ":", where="mid", color=INK, label="reset gate r")
    label_axes(bottom, "", "step t", "gate, 0 to 1")
    bottom.set_ylim(-0.05, 1.4)
    bottom.legend(fontsize=9, frameon=False, ncols=2, loc="upper right")
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_11_own_layer.png", figure)


if __name__ == "__main__":
    main()
