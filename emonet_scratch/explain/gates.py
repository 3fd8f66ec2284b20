"""What an LSTM does while it reads a clip: its gates and its cell, step by step."""

from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module, device_of, to_device
from ..layers import LSTM


class Gates(NamedTuple):
    """Each (layers, T, H): input gate i, forget gate f and output gate o in 0..1, and the cell c."""

    i: np.ndarray
    f: np.ndarray
    o: np.ndarray
    c: np.ndarray


def gates_of(lstm: LSTM, x: Array) -> Gates:
    """Of one clip x (T, D), from states of zeros; the equations are those of `layers.lstm.gates`."""
    rows: list[list[tuple[Array, ...]]] = []
    x = to_device(x, device_of(lstm.parameters()[0].value))
    for cell in lstm.cells:
        h = c = array_module(x).zeros((1, lstm.H), x.dtype)
        steps, states = [], []
        for step in x:
            (h, c), (_, _, (_, i, f, _, o, _)) = cell.forward(step[None], h, c)
            steps.append((i[0], f[0], o[0], c[0]))
            states.append(h[0])
        x = array_module(x).stack(states)
        rows.append(steps)
    return Gates(*(np.array([[to_device(step[k], "cpu") for step in steps] for steps in rows]) for k in range(4)))


def gates_figure(figure_class: type, gates: Gates, fps: float = 25.0) -> Any:
    """Rows: i, f, o, tanh c; columns: layers; units sorted by when their cell changes most, time from left to right."""
    layers, T, _H = gates.c.shape
    drawn = figure_class(figsize=(3.2 * layers + 1, 8))
    axes = drawn.subplots(4, layers, squeeze=False, sharex=True, sharey=True, gridspec_kw={
        "left": 0.07, "right": 0.91, "top": 0.96, "bottom": 0.06, "wspace": 0.06, "hspace": 0.08})
    for layer in range(layers):
        order = np.argsort(np.abs(np.diff(gates.c[layer], axis=0, prepend=0)).argmax(axis=0), kind="stable")
        shown = (*zip("ifo", gates[:3], strict=True), ("tanh c", np.tanh(gates.c)))
        for row, (name, values) in enumerate(shown):
            low, high, colours = (-1, 1, "RdBu_r") if row == 3 else (0, 1, "viridis")
            image = axes[row, layer].imshow(values[layer].T[order], aspect="auto", vmin=low, vmax=high, cmap=colours,
                                            extent=(0, T / fps, values.shape[2], 0), interpolation="nearest")
            axes[row, layer].set_ylabel(f"{name}, units" if layer == 0 else "")
            if layer == layers - 1:
                place = axes[row, layer].get_position()
                drawn.colorbar(image, cax=drawn.add_axes((0.925, place.y0, 0.012, place.height)))
        axes[0, layer].set_title(f"layer {layer + 1}")
        axes[3, layer].set_xlabel("seconds")
    return drawn
