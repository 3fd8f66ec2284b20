"""A run for people: a table and two pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ..emotions import CLASSES
from ..files import write_whole

INK, MUTED, COLOURS = "#222222", "#888888", {"audio": "#c77700", "video": "#2a6fbb", "fused": "#2b8a3e", "resnet": "#2a6fbb"}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def table(results: dict[str, dict[str, Any]]) -> str:
    """One row for each modality, in plain text."""
    lines = [f"{'':6}{'accuracy':>9}{'95 % interval':>16}{'macro F1':>10}{'loss':>8}{'parameters':>12}{'seconds':>9}"]
    for name, r in results.items():
        interval = f"{r['interval'][0]:.3f} - {r['interval'][1]:.3f}"
        lines.append(f"{name:6}{r['accuracy']:9.3f}{interval:>16}{r['macro_f1']:10.3f}{r['loss']:8.3f}"
                     f"{r['parameters']:12,}{r['seconds']:9.1f}")
    return "\n".join(lines)


def save_pictures(folder: Path, results: dict[str, dict[str, Any]], metrics: dict[str, list[dict[str, Any]]]) -> None:
    """Draw confusion.png and curves.png."""
    save_figure(folder / "confusion.png", confusion_figure, results)
    save_curves(folder, metrics)


def save_curves(folder: Path, metrics: dict[str, list[dict[str, Any]]]) -> None:
    """Draw curves.png."""
    save_figure(folder / "curves.png", curves_figure, metrics)


def save_figure(path: Path, draw: Any, what: Any) -> None:
    """Draw `draw(Figure, what)` into a PNG file, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = draw(Figure, what)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    write_whole(path, content.getvalue())


def confusion_figure(figure_class: Any, results: dict[str, dict[str, Any]]) -> Any:
    """A confusion matrix for each modality: rows are true classes, columns predictions, counts in the cells."""
    figure = figure_class(figsize=(4.3 * len(results) + 0.6, 4.6), layout="constrained")
    for k, (name, r) in enumerate(results.items(), 1):
        axes, counts = figure.add_subplot(1, len(results), k), r["confusion"]
        shares = [[c / max(1, sum(row)) for c in row] for row in counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    axes.text(j, i, count, ha="center", va="center", fontsize=9,
                              color="white" if shares[i][j] > 0.55 else INK)
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(CLASSES)), CLASSES if k == 1 else [""] * len(CLASSES), fontsize=8)
        axes.set_title(f"{name}: {r['accuracy']:.1%} of {r['clips']} clips", fontsize=10, color=INK)
        axes.set_xlabel("predicted", fontsize=9, color=MUTED)
        if k == 1:
            axes.set_ylabel("true", fontsize=9, color=MUTED)
    return figure


def curves_figure(figure_class: Any, metrics: dict[str, list[dict[str, Any]]]) -> Any:
    """Loss and accuracy over epochs: dashed on the training split (with dropout and jitter), solid on the other."""
    figure = figure_class(figsize=(10, 3.8), layout="constrained")
    for k, (key, label) in enumerate([("loss", "cross-entropy (nats)"), ("accuracy", "accuracy")], 1):
        axes = figure.add_subplot(1, 2, k)
        for name, rows in metrics.items():
            for split in dict.fromkeys(row["split"] for row in rows):
                style = "--" if split == "train" else "-"
                chosen = [row for row in rows if row["split"] == split]
                axes.plot([row["epoch"] for row in chosen], [row[key] for row in chosen], style, color=COLOURS[name],
                          linewidth=1 if split == "train" else 1.8, alpha=0.6 if split == "train" else 1,
                          marker="." if len(chosen) == 1 else None, label=f"{name}, {split}")
        axes.set_xlabel("epoch", color=MUTED)
        axes.set_title(label, fontsize=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_ylim(bottom=0, top=1.02 if key == "accuracy" else None)
        if k == 1:
            axes.legend(fontsize=8, frameon=False)
    return figure
