"""Draw how four optimizers move on two losses: python docs/figures/book_03_paths.py -> docs/images/book_03_paths.png"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch import optim
from emonet_scratch.layers import Parameter
from emonet_scratch.training.report import BLUE, GREEN, INK, MUTED, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
RULES: dict[str, tuple[str, Callable[[list[Any]], optim.Optimizer]]] = {
    "SGD, lr 0.02": (INK, lambda p: optim.SGD(p, 0.02)),
    "momentum 0.9, lr 0.01": (VERMILION, lambda p: optim.SGD(p, 0.01, momentum=0.9)),
    "Nesterov 0.9, lr 0.01": (GREEN, lambda p: optim.SGD(p, 0.01, momentum=0.9, nesterov=True)),
    "Adam, lr 0.1": (BLUE, lambda p: optim.Adam(p, 0.1))}


def bowl(u: Any, w: Any) -> tuple[Any, Any]:
    return (u**2 + 50 * w**2) / 2, (u, 50 * w)


def valley(u: Any, w: Any) -> tuple[Any, Any]:
    bend = w - u**2
    return (1 - u) ** 2 + 10 * bend**2, (-2 * (1 - u) - 40 * u * bend, 20 * bend)


def descend(make: Callable[[list[Any]], optim.Optimizer], loss: Callable[..., Any],
            start: tuple[float, float], steps: int) -> np.ndarray:
    """All values on the way, (steps + 1, 2)."""
    p = Parameter(np.array(start))
    optimizer, path = make([p]), [p.value.copy()]
    for _ in range(steps):
        p.grad[...] = loss(*p.value)[1]
        optimizer.step()
        path.append(p.value.copy())
    return np.array(path)


def figure(figure_class: Any) -> Any:
    """Above the paths of 100 steps over contours of the loss, below the loss by step."""
    canvas = figure_class(figsize=(10, 7.6), layout="constrained")
    axes = canvas.subplots(2, 2, height_ratios=(1.25, 1))
    for k, (loss, title, start, least, u, w) in enumerate((
            (bowl, "bowl: (u^2 + 50 w^2) / 2", (-2.0, 0.6), (0, 0), (-2.2, 0.9), (-0.62, 0.68)),
            (valley, "valley: (1 - u)^2 + 10 (w - u^2)^2", (-1.2, 1.5), (1, 1), (-1.55, 1.6), (-0.6, 2.2)))):
        above, below = axes[:, k]
        grid = np.meshgrid(np.linspace(*u, 300), np.linspace(*w, 300))
        above.contour(*grid, loss(*grid)[0], levels=np.logspace(-2, 2, 13), colors=MUTED, linewidths=0.5, alpha=0.6)
        for name, (colour, make) in RULES.items():
            path = descend(make, loss, start, 100)
            above.plot(*path.T, ".-", color=colour, linewidth=1.1, markersize=3, label=name)
            below.semilogy([loss(*x)[0] for x in path], color=colour, linewidth=1.2, label=name)
        above.plot(*start, "o", color=INK, markersize=7, markerfacecolor="white", zorder=4)
        above.plot(*least, "*", color=INK, markersize=11, zorder=4)
        above.set_xlim(*u)
        above.set_ylim(*w)
        label_axes(above, f"{title}; circle: start, star: least", "u (no unit)", "w (no unit)")
        above.grid(False)
        label_axes(below, "the loss on the way", "step", "loss (no unit)")
        below.set_ylim(1e-6, 30)
    axes[0, 0].legend(fontsize=8, loc="upper right", framealpha=0.9)
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_03_paths.png", figure)


if __name__ == "__main__":
    main()
