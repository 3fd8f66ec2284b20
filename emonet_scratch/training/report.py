"""A run for people: a table and two pictures. And what all pictures of the package share: colours, axes, baselines."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import write_whole

INK, MUTED = "#222222", "#767676"
# Of Okabe and Ito (2008, Color Universal Design), made to be told apart with every kind of colour blindness.
VERMILION, BLUE, GREEN = "#d55e00", "#0072b2", "#009e73"
COLOURS = {"audio": VERMILION, "video": BLUE, "fused": GREEN, "resnet": BLUE}


def table(results: dict[str, dict[str, Any]]) -> str:
    """One row for each modality, and what accuracy has to beat on these clips, in plain text."""
    lines = [f"{'':9}{'accuracy':>9}{'95 % interval':>16}{'macro F1':>10}{'loss':>8}{'parameters':>12}{'seconds':>9}"]
    for name, r in results.items():
        interval = f"{r['interval'][0]:.3f} - {r['interval'][1]:.3f}"
        lines.append(f"{name:9}{r['accuracy']:9.3f}{interval:>16}{r['macro_f1']:10.3f}{r['loss']:8.3f}"
                     f"{r['parameters']:12,}{r['seconds']:9.1f}")
    lines += [f"{'chance':9}{r['chance']:9.3f}", f"{'majority':9}{r['majority']:9.3f}"]     # the same in every row
    return "\n".join([*lines, *(f"warning: {line}" for line in r["warnings"])])


def save_pictures(folder: Path, results: dict[str, dict[str, Any]], metrics: dict[str, list[dict[str, Any]]]) -> None:
    """Draw confusion.png, reliability.png and curves.png."""
    some = next(iter(results.values()))                                       # chance and majority are those of the split
    save_figure(folder / "confusion.png", confusion_figure, results)
    save_figure(folder / "reliability.png", reliability_figure, results)
    save_figure(folder / "curves.png", curves_figure, metrics, some["chance"], some["majority"])


def save_figure(path: Path, draw: Callable[..., Any], *what: Any) -> None:
    """Draw `draw(Figure, *what)` into a PNG file, without a display."""
    write_whole(path, drawn(draw, *what))


def drawn(draw: Callable[..., Any], *what: Any) -> bytes:
    """The same as the bytes of a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = draw(Figure, *what)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    return content.getvalue()


def label_axes(axes: Any, title: str, x: str, y: str = "") -> None:
    """Title, names of both axes with their units, a faint grid, and no frame above and to the right."""
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_baselines(line: Callable[..., Any], chance: float, majority: float) -> None:
    """Grey lines at the accuracies of chance and the majority class, one where they are equal, with labels for a legend.

    line: axhline or axvline of the axes.
    """
    if math.isclose(chance, majority):
        line(chance, color=MUTED, linestyle=":", label=f"chance and majority class, {chance:.3f}")
    else:
        line(chance, color=MUTED, linestyle=":", label=f"chance, {chance:.3f}")
        line(majority, color=MUTED, linestyle="-.", label=f"majority class, {majority:.3f}")


def confusion_figure(figure_class: Any, results: dict[str, dict[str, Any]]) -> Any:
    """A confusion matrix for each modality: rows are true classes, columns predictions, counts in the cells."""
    classes = next(iter(results.values()))["classes"]
    side = max(4.2, 0.45 * len(classes))                                      # inches
    figure = figure_class(figsize=(side * len(results) + 1.2, side + 0.8), layout="compressed")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for k, (axes, (name, r)) in enumerate(zip(panels, results.items(), strict=True)):
        counts = r["confusion"]
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    axes.text(j, i, count, ha="center", va="center", fontsize=9,
                              color="white" if shares[i][j] > 0.5 else INK)
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=9, parse_math=False)
        axes.set_yticks(range(len(classes)), classes if k == 0 else [""] * len(classes), fontsize=9, parse_math=False)
        axes.set_title(f"{name}: accuracy {r['accuracy']:.3f}, {r['clips']} clips", fontsize=10, color=INK)
        axes.set_xlabel("predicted class", color=MUTED)
    panels[0].set_ylabel("true class", color=MUTED)
    figure.colorbar(picture, ax=panels, shrink=0.8).set_label("share of the clips of the true class", color=MUTED)
    figure.suptitle(f"confusions, in clips; accuracy of chance {r['chance']:.3f}, of the majority class {r['majority']:.3f}",
                    fontsize=11, color=INK)
    return figure


def reliability_figure(figure_class: Any, results: dict[str, dict[str, Any]]) -> Any:
    """Accuracy over confidence for each modality, by bins: a dot's area is the share of clips, on the line p is right."""
    figure = figure_class(figsize=(4.2 * len(results), 4.4), layout="constrained")
    for axes, (name, r) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        clips, confidence, accuracy = zip(*(row for row in r["calibration"]["bins"] if row[0]), strict=True)
        axes.plot((0, 1), (0, 1), color=MUTED, linestyle=":")
        axes.scatter(confidence, accuracy, [600 * n / sum(clips) for n in clips], color=BLUE, alpha=0.7, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        fitted = f"\nT {r['temperature']:.2f}, fitted on these clips" if r["temperature"] else ""
        label_axes(axes, f"{name}: error {r['calibration']['ece']:.3f}, Brier {r['calibration']['brier']:.3f}{fitted}",
                   "confidence (largest probability)", "accuracy")
    return figure


def curves_figure(figure_class: Any, metrics: dict[str, list[dict[str, Any]]], chance: float, majority: float) -> Any:
    """Loss and accuracy over epochs: dashed on the training split (with dropout and jitter), solid on the other.

    chance, majority: accuracies on the other split. Guessing costs ln(1 / chance) nats.
    """
    figure = figure_class(figsize=(10, 4.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for axes, key in ((loss, "loss"), (accuracy, "accuracy")):
        for name, rows in metrics.items():
            for split in dict.fromkeys(row["split"] for row in rows):
                chosen = [row for row in rows if row["split"] == split]
                look = {"linestyle": "--", "linewidth": 1, "alpha": 0.8} if split == "train" else {"linewidth": 1.8}
                axes.plot([row["epoch"] for row in chosen], [row[key] for row in chosen], color=COLOURS[name],
                          marker="." if len(chosen) == 1 else None, label=f"{name}, {split}", **look)
    guessing = -math.log(chance)
    loss.axhline(guessing, color=MUTED, linestyle=":", label=f"chance, ln {1 / chance:.0f} = {guessing:.3f}")
    draw_baselines(accuracy.axhline, chance, majority)
    label_axes(loss, "loss over training", "epoch", "cross-entropy (nats)")
    label_axes(accuracy, "accuracy over training", "epoch", "accuracy")
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 1.02)
    marks = {label: mark for axes in (loss, accuracy) for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure
