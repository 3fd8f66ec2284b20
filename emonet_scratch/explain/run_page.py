"""The page of a run: how it went, how good it is, for whom, and the clips that it was most wrong about."""

import csv
import io
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..files import parse_json, read_whole, write_whole
from ..training.settings import Settings
from .page import media, page, picture, smaller, table, wide
from .tell import playable

WRONG = 6                               # clips to play
PICTURES = (("curves.png", "Curves", "Loss and accuracy over epochs; the numbers are in metrics.jsonl of each network"),
            ("confusion.png", "Confusions", "Confusion matrices; the numbers are in results.json"),
            ("reliability.png", "Reliability", "Accuracy over confidence; the numbers are in results.json"))


def write_run_page(folder: Path, settings: Settings) -> Path:
    """Write page.html from what a finished run has left in `folder`; the file.

    DataError: results.json or a validation.csv is not there, or is none.
    """
    results = _results(folder)
    answers = {name: _answers(folder / name / "validation.csv") for name in results}
    shown = [picture(title, f"{title} of {', '.join(results)}. {alt}.", smaller(read_whole(folder / name)))
             for name, title, alt in PICTURES if (folder / name).exists()]
    rows = [[name, f"{r['accuracy']:.3f}", "{:.3f} to {:.3f}".format(*r["interval"]),
             *(f"{x:.3f}" for x in (r["recall"], r["macro_f1"], r["loss"], r["calibration"]["ece"])), str(r["best_epoch"])]
            for name, r in results.items()]
    some = next(iter(results.values()))
    heads = ["network", "accuracy", "95 % interval", "mean recall", "macro F1", "loss, nats", "calibration", "best epoch"]
    beat = f"to beat: chance {some['chance']:.3f}, majority class {some['majority']:.3f}"
    body = [f"<p>{some['clips']} validation clips; {beat}.</p>",
            wide(table(heads, rows), "Networks"), *(f"<p>Warning: {escape(line)}</p>" for line in some["warnings"]), *shown,
            *_by_group(answers), *_most_wrong(answers, settings)]
    write_whole(folder / "page.html", page(f"Run {folder.absolute().name}", "\n".join(body)))
    return folder / "page.html"


def _results(folder: Path) -> dict[str, dict[str, Any]]:
    """results.json; DataError: it is none."""
    try:
        return parse_json(read_whole(folder / "results.json"))
    except ValueError as error:
        raise DataError(f"{str(folder / 'results.json')!r}: expected the results of a run: {error}") from None


def _answers(path: Path) -> list[dict[str, str]]:
    """Rows of a validation.csv."""
    return list(csv.DictReader(io.StringIO(read_whole(path, 2**26).decode("utf-8", "replace"))))


def _by_group(answers: dict[str, list[dict[str, str]]]) -> list[str]:
    """Accuracy by who or what is in the clips, worst first; nothing where that is not known."""
    some = next(iter(answers.values()))
    groups = {row["group"] for row in some} - {""}
    if not groups:
        return []

    def of(name: str, group: str) -> float:
        return float(np.mean([row["class"] == row["label"] for row in answers[name] if row["group"] == group]))
    last = list(answers)[-1]
    rows = [[group, str(sum(row["group"] == group for row in some)), *(f"{of(name, group):.3f}" for name in answers)]
            for group in sorted(groups, key=lambda group: (of(last, group), group))]
    return ["<h2>Accuracy by group</h2>", wide(table(["group", "clips", *answers], rows), "Accuracy by group")]


def _most_wrong(answers: dict[str, list[dict[str, str]]], settings: Settings) -> list[str]:
    """The clips whose own class the last network, the fused one if there is one, holds for least likely, to be played."""
    name = list(answers)[-1]
    wrong = sorted((row for row in answers[name] if row["class"] != row["label"] and row["label"]),
                   key=lambda row: float(row[row["label"]]))[:WRONG]
    if not wrong:
        return []
    paths = {}
    with suppress(DataError):                                                 # moved since; the numbers are here
        paths = {clip.id: clip.path for clip in settings.collection().split("val")}
    parts = [f'<h2>What {escape(name)} was most wrong about</h2><div class="clips">']
    for row in wrong:
        try:
            content = playable(paths[row["id"]], 180)
        except (DataError, KeyError, OSError):
            content = ""
        says = f"{row['id']}: {row['label']}, taken for {row['class']} with {float(row[row['class']]):.2f}"
        player = media(content, row["id"]) or "(it cannot be played any more)"
        parts.append(f"<figure>{player}<figcaption>{escape(says)}</figcaption></figure>")
    return [*parts, "</div>"]
