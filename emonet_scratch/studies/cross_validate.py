"""What a training is worth on people that it has not seen: folds of whole groups, each tested once by the others."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.afew import SPLITS
from ..data.batches import Split, merged
from ..data.folds import a_fifth, groups_of, stratified_folds
from ..data.prepare import Dataset
from ..data.sources import shortened
from ..errors import DataError
from ..files import Lock, parse_json, read_whole, say, write_csv, write_whole
from ..shards import ALONE, Alone
from ..training.calibration import calibration
from ..training.fingerprint import fingerprint
from ..training.inference import load_model, score
from ..training.metrics import DRAWS, bootstrap_interval
from ..training.report import confusion_figure, reliability_figure, save_figure
from ..training.run import dataset, on_device, projection_of, train_network
from ..training.settings import Settings


def cross_validate(settings: Settings, folder: Path, folds: int | None = 5, log: Callable[[str], None] = say,
                   ranks: Alone = ALONE) -> str:
    """Train and test the networks of `settings` on every fold, in `folder`; write and return the table.

    folds: how many, of whole groups; None: one for each group. A fold is tested by networks that are trained on the others
    but for a fifth of their groups: these choose the epoch and the temperature. Every process that is given the same folder
    takes folds that nobody is at; a fold that is done is not done again. `ranks` are such processes, each of which trains
    alone; they read the clips together, and all of them return the table when the last fold is done.
    In `folder`: fold-*.json (what is said of each clip), crossvalidation.json, .csv, .txt and .png.
    """
    settings = on_device(settings, log)
    told = settings.as_json() | {"folds": folds, "device": settings.device.partition(":")[0]}
    _agree(folder / "settings.json", told)                                    # before hours of decoding
    data, split = everything(settings, log, ranks)
    groups = groups_of(split)
    fold = groups if folds is None else stratified_folds(split.labels, folds, settings.seed, groups)
    _check(split, groups, fold, folds)
    folder.mkdir(parents=True, exist_ok=True)
    told |= {"clips": split.ids, "content": fingerprint(split, split, ("audio",) * (split.audio is not None)),
             "groups": split.groups, "classes": split.classes, "keys": split.keys}
    lock = Lock(folder / "settings.lock")
    lock.acquire(wait=True)
    try:
        _agree(folder / "settings.json", told)
        write_whole(folder / "settings.json", json.dumps(told, indent=1).encode())
    finally:
        lock.path.unlink(missing_ok=True)
        lock.release()
    numbers = np.unique(fold)
    own = [numbers[i] for i in ranks.owned(len(numbers))]
    for wait, k in itertools.product((False, True), numbers):
        file = folder / f"fold-{k:03}.json"
        lock = Lock(file.with_suffix(".lock"))
        if file.exists() or not lock.acquire(wait):
            continue
        try:
            if not file.exists() and (lock.held or k in own):                 # where nothing can be locked, each its own
                log(f"fold {k + 1} of {len(numbers)}: {(fold == k).sum()} clips of {_names(split, fold == k)}")
                found = _fold(settings, data, split, groups, fold == k, folder / f"fold-{k:03}", log)
                write_whole(file, json.dumps(found).encode())
        finally:
            lock.path.unlink(missing_ok=True)
            lock.release()
    ranks.wait()
    return ranks.told(report(folder, settings.modalities) if ranks.rank == 0 else "")


def everything(settings: Settings, log: Callable[[str], None] = say, ranks: Alone = ALONE) -> tuple[Dataset, Split]:
    """The data set that the settings name, and all of its clips that have a label, in one split, by name."""
    whole = replace(settings, allow_shared_groups=True).collection()          # folds keep groups whole in any case
    for line in whole.notes:
        log(line)
    data = dataset(settings, tuple(name for name in SPLITS if whole.split(name)), log, whole, ranks)
    split = merged(data.splits)
    return data, split.take([i for i in np.argsort(split.ids) if split.labels[i] >= 0])


def _check(split: Split, groups: np.ndarray, fold: np.ndarray, folds: int | None) -> None:
    """DataError where folds of these groups (N,) leave nobody to train on or to choose by."""
    number, every = len(np.unique(groups)), np.ones(len(split), bool)
    if number < max(3, folds or 3):
        raise DataError(f"cross-validation wants at least {max(3, folds or 3)} groups, got {number} "
                        f"({_names(split, every)}): name speakers or films (a column group, or --name)"
                        + (", or ask for fewer --folds" if (folds or 0) > 3 else ""))
    if folds is None and not any(split.groups):
        raise DataError("leave one group out: no group is named (a column group, or --name), and a network for every clip "
                        "is no answer: use --folds")
    if any(len(np.unique(groups[fold != k])) < 2 for k in np.unique(fold)):
        raise DataError(f"{folds} folds of {number} groups leave one group alone to train on and to choose by: use "
                        f"--leave-one-group-out, or more --folds")


def _names(split: Split, which: np.ndarray) -> str:
    return shortened(sorted({split.groups[i] for i in np.flatnonzero(which)} - {""})) or "unnamed groups"


def _agree(file: Path, told: dict[str, Any]) -> None:
    """DataError where the folds that are there are made by something else."""
    if not file.exists():
        return
    before, now = parse_json(read_whole(file, 2**26)), json.loads(json.dumps(told))
    if isinstance(before, dict) and isinstance(before.get("config"), dict):
        before["config"] = {"shards": 1} | before["config"]                   # of before there were any
    if changed := next((key for key in now if not isinstance(before, dict) or before.get(key) != now[key]), None):
        raise DataError(f"{str(file)!r} is of a cross-validation with other {changed}: give the same settings to go on, or "
                        f"another --out")


def _fold(settings: Settings, data: Dataset, split: Split, groups: np.ndarray, out: np.ndarray, folder: Path,
          log: Callable[[str], None]) -> dict[str, Any]:
    """What networks that have seen no clip of the groups in `out` (N,) say of these."""
    inner = np.flatnonzero(~out)
    val = a_fifth(split.labels[inner], settings.seed, groups[inner])
    train, val, test = (split.take(index) for index in (inner[~val], inner[val], np.flatnonzero(out)))
    part = replace(data, splits={"train": train, "val": val})
    projection = projection_of(settings.config, train, settings.seed, log)
    probabilities = {}
    for name in settings.modalities:
        train_network(settings, part, name, folder / name, projection, True, lambda line: None)
        model = load_model(folder / name, settings.device)
        probabilities[name] = model.probabilities(test, settings.device)[1].tolist()
    return {"ids": test.ids, "labels": test.labels.tolist(), "groups": test.groups, "corpora": test.corpora,
            "classes": list(split.classes), "group": groups[out].tolist(), "probabilities": probabilities}


def pooled(folds: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The figures of one network over the clips of all folds, each of which was tested once."""
    labels, group = (np.array([value for fold in folds for value in fold[key]]) for key in ("labels", "group"))
    probabilities = np.array([row for fold in folds for row in fold["probabilities"][name]])
    right = probabilities.argmax(axis=1) == labels
    called, corpora = (np.array([text for fold in folds for text in fold[key]]) for key in ("groups", "corpora"))
    named = {g: " + ".join(sorted({*called[group == g]} - {""})) or f"group {g}" for g in np.unique(group)}
    groups = _by([named[g] for g in group], right)
    return score(labels, probabilities) | {
        "interval": bootstrap_interval(right, group),
        "calibration": calibration(probabilities, labels), "temperature": None, "classes": folds[0]["classes"],
        "folds": [float((np.array(f["probabilities"][name]).argmax(1) == f["labels"]).mean()) for f in folds],
        "group": groups, "corpus": _by(corpora, right), "unnamed": int((called == "").sum()),
        "worst": min(groups, key=lambda g: groups[g][1])}


def _by(keys: Sequence[str], right: np.ndarray) -> dict[str, tuple[int, float]]:
    """{key: (clips that have it, share of these that are right)}; keys and right: (N,)."""
    keys = np.array(keys)
    return {str(key): (int((keys == key).sum()), float(right[keys == key].mean())) for key in np.unique(keys)}


def report(folder: Path, modalities: tuple[str, ...]) -> str:
    """Write and return the table of the folds in `folder`; crossvalidation.json has all of it."""
    folds = [parse_json(read_whole(path, 2**28)) for path in sorted(folder.glob("fold-*.json"))]
    results = {name: pooled(folds, name) for name in modalities}
    text = "\n".join([*_rows(results), *_notes(results, len(folds))])
    write_csv(folder / "crossvalidation.csv", [["network", "by", "name", "clips", "accuracy"], *(
        [name, kind, *row] for name, r in results.items() for kind in ("group", "corpus")
        for row in ([key, n, accuracy] for key, (n, accuracy) in r[kind].items()))])
    save_figure(folder / "confusion.png", confusion_figure, results)
    save_figure(folder / "reliability.png", reliability_figure, results)
    write_whole(folder / "crossvalidation.txt", f"{text}\n".encode())
    write_whole(folder / "crossvalidation.json", json.dumps(results, indent=1).encode())
    return text


def _rows(results: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table, one for each network."""
    rows = [["", "accuracy", "95 % interval", "macro F1", "recall", "error of p", "worst group", "folds"]]
    for name, r in results.items():
        low, high = r["interval"]
        worst = f"{r['worst']} {r['group'][r['worst']][1]:.3f}" if r["unnamed"] < r["clips"] else "not known"
        rows.append([name, f"{r['accuracy']:.3f}", f"{low:.3f} - {high:.3f}", f"{r['macro_f1']:.3f}", f"{r['recall']:.3f}",
                     f"{r['calibration']['ece']:.3f}", worst, " ".join(f"{a:.2f}" for a in r["folds"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _notes(results: dict[str, dict[str, Any]], folds: int) -> list[str]:
    """What the table has to beat, how it was made, and accuracy by corpus where there are several."""
    some = next(iter(results.values()))
    lines = [f"to beat: chance {some['chance']:.3f}, majority class {some['majority']:.3f}", "",
             f"{some['clips']} clips of {len(some['group'])} groups, each tested once, in {folds} folds, by networks",
             "that have seen none of its group; epoch and temperature are chosen on a fifth of the other groups.",
             f"Intervals: {DRAWS} bootstraps over groups."]
    if some["unnamed"]:
        lines.append(f"Of {some['unnamed']} clips no group is named: each counts as one, and who is in several is on both "
                     f"sides.")
    if len(some["corpus"]) > 1:
        lines += [f"{name}, accuracy by corpus: " + ", ".join(f"{corpus} {a:.3f}" for corpus, (_, a) in r["corpus"].items())
                  for name, r in results.items()]
    return lines
