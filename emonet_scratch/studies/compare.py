"""One table of what competes with the paper's fusion, on the same clips: networks, late fusion, a linear SVM, LDA."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import choose_device
from ..data.batches import Split
from ..data.folds import groups_of
from ..data.prepare import Dataset
from ..errors import DataError
from ..files import owned, say, write_csv, write_whole
from ..training.checkpoint import read_checkpoint
from ..training.fingerprint import check_data, fingerprint
from ..training.inference import Model, load_model
from ..training.metrics import bootstrap_interval, chance_and_majority, confusion_matrix, macro_f1, mcnemar, wilson_interval
from ..training.projection import AudioProjection
from ..training.report import COLOURS, INK, draw_baselines, label_axes, save_figure
from ..training.run import dataset
from ..training.settings import MODALITIES, Settings, read_settings
from .late_fusion import find_weights, fuse, fuse_across_folds
from .svm import LinearSVM, choose_C

REFERENCE = "early fusion"


#: More rows: (settings, data, split, projection, log) -> ({name: classes (N,)}, notes).
More = Callable[[Settings, Dataset, str, AudioProjection, Callable[[str], None]], tuple[dict[str, np.ndarray], list[str]]]


def compare(run: Path, folder: Path, split: str = "val", device: str = "auto", log: Callable[[str], None] = say,
            more: More | None = None) -> str:
    """Measure the three networks of the finished `run` and what needs no training by us; write and return the table.

    split "val": late fusion's weights for a clip are found on the other folds of the validation split. split "test", if
    all its clips have labels: they are found on the whole validation split. The SVM and LDA see the training split only.
    more: what gives other rows. In `folder`: compare.csv, compare.json, compare.txt, compare.png.
    """
    with owned(folder):
        return _compare(run, folder, split, device, log, more)


def _compare(run: Path, folder: Path, split: str, device: str, log: Callable[[str], None], more: More | None) -> str:
    settings = read_settings(run)
    if missing := sorted(MODALITIES.keys() - set(settings.modalities)):
        raise DataError(f"{str(run)!r} has no network for {', '.join(missing)}: compare wants a run with --modalities all")
    device, line = choose_device(device)
    log(line)
    data = dataset(settings, tuple(dict.fromkeys(("train", "val", split))), log=log)
    shown = data.splits[split]
    if (shown.labels < 0).any():
        raise DataError(f"{np.count_nonzero(shown.labels < 0)} of {len(shown)} clips of the {split} split have no label: "
                        f"use --split val")
    models = _networks(run, data, device)
    predicted, C = _predictions(models, data.splits, split, settings.seed, device)
    others, others_notes = more(settings, data, split, models["audio"].projection, log) if more else ({}, [])
    predicted |= others
    groups = groups_of(shown) if any(shown.groups or ()) else None
    rows = measure(predicted, shown.labels, len(shown.classes), groups)
    chance, majority = chance_and_majority(shown.labels)
    by = "Wilson" if groups is None else f"bootstraps over {len(np.unique(groups))} groups"
    weights_from = "the other four fifths of these clips" if split == "val" else "the validation split"
    notes = [f"{split} split, {len(shown)} clips; 95 % intervals ({by}); p of McNemar's exact test against {REFERENCE},",
             f"each test by itself; lost: clips that only {REFERENCE} has right, won: those that only the row has right",
             "networks: at the epoch of least validation loss, which flatters them on the validation split",
             f"late fusion: the weights for a clip come from {weights_from}",
             f"linear SVM: C = {C:g}, by five folds of the training split", *others_notes,
             *(f"warning: {line}" for line in data.warnings)]
    text = "\n".join([table(rows, chance, majority), "", *notes])
    write_csv(folder / "compare.csv", _columns(rows, chance, majority))
    write_whole(folder / "compare.txt", f"{text}\n".encode())
    content = {"run": str(run), "split": split, "clips": len(shown), "C": C, "chance": chance, "majority": majority,
               "rows": rows, "ids": shown.ids, "labels": shown.labels.tolist(),
               "predicted": {name: p.tolist() for name, p in predicted.items()}}
    write_whole(folder / "compare.json", json.dumps(content, indent=1).encode())
    save_figure(folder / "compare.png", _figure, rows, chance, majority)
    return text


def _networks(run: Path, data: Dataset, device: str) -> dict[str, Model]:
    """Those of the run by name. CheckpointError for one that was trained on other data."""
    models = {name: load_model(run / name, device) for name in MODALITIES}
    for name, model in models.items():
        model.check_features(data.feature_names, data.extractor)
        check_data(model.path, read_checkpoint(model.path)[1]["data"],
                   fingerprint(data.splits["train"], data.splits["val"], MODALITIES[name]))
    return models


def _predictions(models: dict[str, Model], splits: dict[str, Split], split: str, seed: int,
                 device: str) -> tuple[dict[str, np.ndarray], float]:
    """What each method says of the clips of a split, classes (N,); and the C of the SVM."""
    train, val, shown = splits["train"], splits["val"], splits[split]
    own = {name: model.probabilities(shown, device)[1] for name, model in models.items()}
    both = np.stack([own["audio"], own["video"]])
    if split == "val":
        late = fuse_across_folds(both, shown.labels, seed, groups_of(shown))
    else:
        known = np.stack([models[name].probabilities(val, device)[1] for name in ("audio", "video")])
        late = fuse(both, find_weights(known, val.labels, seed))
    projection = models["audio"].projection
    X, Z = projection.standardise(train.audio), projection.standardise(shown.audio)
    C = choose_C(X, train.labels, seed=seed, groups=groups_of(train))
    return {REFERENCE: own["fused"].argmax(1), "late fusion": late.argmax(1), "audio network": own["audio"].argmax(1),
            "video network": own["video"].argmax(1), "audio, linear SVM": LinearSVM(C).fit(X, train.labels).predict(Z),
            "audio, LDA": projection.lda.predict(Z)}, C


def measure(predicted: dict[str, np.ndarray], labels: np.ndarray, C: int = 7,
            groups: np.ndarray | None = None) -> list[dict[str, Any]]:
    """A row for each method: accuracy, interval, macro F1, and McNemar's test against REFERENCE. Arrays (N,), C classes.

    groups (N,): who is in the clips; with them, intervals are by bootstraps over groups.
    """
    rows, reference = [], predicted[REFERENCE] == labels
    for name, classes in predicted.items():
        right = classes == labels
        interval = wilson_interval(int(right.sum()), len(labels)) if groups is None else bootstrap_interval(right, groups)
        row = {"method": name, "accuracy": float(right.mean()), "interval": interval,
               "macro_f1": macro_f1(confusion_matrix(labels, classes, C))}
        if name != REFERENCE:
            row |= {"lost": int((reference & ~right).sum()), "won": int((right & ~reference).sum())}
            row["p"] = mcnemar(row["lost"], row["won"])
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], chance: float, majority: float) -> str:
    lines = [f"{'':20}{'accuracy':>9}{'95 % interval':>16}{'macro F1':>10}{'lost':>6}{'won':>6}{'p':>9}"]
    for r in rows:
        interval = f"{r['interval'][0]:.3f} - {r['interval'][1]:.3f}"
        test = f"{r['lost']:6}{r['won']:6}{r['p']:9.2g}" if "p" in r else ""
        lines.append(f"{r['method']:20}{r['accuracy']:9.3f}{interval:>16}{r['macro_f1']:10.3f}{test}")
    return "\n".join([*lines, f"{'chance':20}{chance:9.3f}", f"{'majority class':20}{majority:9.3f}"])


def _columns(rows: list[dict[str, Any]], chance: float, majority: float) -> list[list[Any]]:
    """The same for compare.csv."""
    cells = [[r["method"], r["accuracy"], *r["interval"], r["macro_f1"], *map(r.get, ("lost", "won", "p"))] for r in rows]
    return [["method", "accuracy", "low", "high", "macro_f1", "lost", "won", "p"], *cells,
            ["chance", chance, *[None] * 6], ["majority class", majority, *[None] * 6]]


def _figure(figure_class: Any, rows: list[dict[str, Any]], chance: float, majority: float) -> Any:
    """Accuracies with their intervals, one method a line; p of McNemar's test at the right."""
    figure = figure_class(figsize=(8.4, 1.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    reads = ["fused" if "fusion" in r["method"] else r["method"][:5] for r in rows]
    words = {"fused": "reads voice and face", "audio": "reads the voice", "video": "reads the face"}
    for k, (r, modality) in enumerate(zip(rows, reads, strict=True)):
        axes.plot(r["interval"], (k, k), color=COLOURS[modality], linewidth=2, alpha=0.6)
        axes.plot(r["accuracy"], k, "o", color=COLOURS[modality], label=words.pop(modality, None))
        axes.text(1.02, k, f"p = {r['p']:.2g}" if "p" in r else "", va="center", fontsize=9, color=INK,
                  transform=axes.get_yaxis_transform())
    draw_baselines(axes.axvline, chance, majority)
    axes.set_yticks(range(len(rows)), [r["method"] for r in rows])
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    label_axes(axes, f"classifiers on the same clips; p of McNemar's test against {REFERENCE}",
               "accuracy, the bar is its 95 % interval")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure
