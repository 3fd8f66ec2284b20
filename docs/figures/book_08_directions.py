"""Draw clips held out among their discriminants: python docs/figures/book_08_directions.py -> docs/images/

The picture is book_08_directions.png.
"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch import LDA
from emonet_scratch.data.sound import compact
from emonet_scratch.data.synthetic import CLASSES, VOICES, Person, draw_voice
from emonet_scratch.training.report import INK, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
COLOURS = ("#D55E00", "#009E73", "#7B3FA0", "#E69F00", "#7F7F7F", "#0072B2", "#CC79A7")
MARKS = "osD^vPX"
CLIPS = 12                                                      # of a class, to fit as to look at
SPREAD = 0.6 * np.array((3.0, 1.2, 2.5, 3.5, 0.9, 0.35, 0.3, 0.5))           # of the cues around those of a class


def voices(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """74 features each of a second of speech, by strangers: X (7 CLIPS, 74), labels.

    Of the 75 the last is left out: it is 1 less the other shares of the rhythm, which no LDA without shrinkage stands.
    """
    rows, labels = [], []
    for label in CLASSES:
        for i in range(CLIPS):
            rng = np.random.default_rng([seed, i, len(labels)])
            cues = np.array(VOICES[label]) + SPREAD * rng.standard_normal(len(SPREAD))
            rows.append(compact.features(draw_voice(cues, Person.draw(rng), 16000, rng)))
            labels.append(label)
    return np.array(rows)[:, :-1], np.array(labels)


def figure(figure_class: Any) -> Any:
    """Both LDAs see the same 84 clips; drawn are 84 others, in units of the width that the LDA expects."""
    (X, y), (X_new, y_new) = voices(0), voices(1)
    mean, std = X.mean(axis=0), X.std(axis=0)
    X, X_new = ((A - mean) / np.where(std > 0, std, 1) for A in (X, X_new))
    canvas = figure_class(figsize=(10, 4.8), layout="constrained")
    for axes, shrinkage in zip(canvas.subplots(1, 2), (None, 0.3), strict=True):
        lda = LDA(shrinkage=shrinkage).fit(X, y)
        Z = lda.transform(X_new)
        for label, colour, mark in zip(CLASSES, COLOURS, MARKS, strict=True):
            own = y_new == label
            axes.scatter(Z[own, 0], Z[own, 1], s=24, color=colour, marker=mark, linewidths=0, label=label, alpha=.85)
            centre = lda.transform(X[y == label]).mean(axis=0)
            axes.scatter(*centre[:2], s=110, color=colour, marker=mark, edgecolors=INK, linewidths=1.2, zorder=3)
        name = "no shrinkage" if shrinkage is None else f"shrinkage {shrinkage}"
        right = f"{lda.score(X, y):.2f} of fitted clips right, {lda.score(X_new, y_new):.2f} of these"
        label_axes(axes, f"{name}: {right}",
                   "first discriminant (deviations within a class)", "second discriminant (deviations)")
        axes.set_aspect("equal", adjustable="datalim")
    handles, labels = axes.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_08_directions.png", figure)


if __name__ == "__main__":
    main()
