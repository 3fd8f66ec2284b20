"""examples/why_it_did_not_converge.py: its steps, and the whole program in a tiny size, stopped and continued."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch.data import synthetic
from emonet_scratch.data.batches import Split
from emonet_scratch.data.prepare import Dataset
from emonet_scratch.models import EmoNetConfig

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "examples" / "why_it_did_not_converge.py"


@pytest.fixture
def why(monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    import why_it_did_not_converge
    return why_it_did_not_converge


def test_a_walk_changes_each_field_that_differs_once(why):
    """But for what the small size fixes, the two ends are the presets; fields are not listed by hand."""
    paper, default = why.ends({})
    for a, b in ((paper, default), (default, paper)):
        (_, start), *steps = why.walk(a, b)
        assert start == a and steps[-1][1] == b
        for before, (field, config) in zip([a, *(c for _, c in steps)], steps, strict=False):
            differ = [f.name for f in dataclasses.fields(a) if getattr(before, f.name) != getattr(config, f.name)]
            assert differ == [field]
    differ = {f.name for f in dataclasses.fields(paper)
              if getattr(EmoNetConfig.preset("paper"), f.name) != getattr(EmoNetConfig.preset("default"), f.name)}
    assert {field for field, _ in why.walk(paper, default)[1:]} == differ - why.SIZE.keys()
    assert [(c.optimizer, c.lr) for c in (paper.replace(**change) for change in why.PAPERS_OWN)] == \
        [(o, lr) for o in ("sgd", "adam") for lr in (1e-8, 1e-7, 1e-6)]


def test_a_training_that_breaks_down_is_a_row_and_no_end(why, tmp_path):
    paper, default = why.ends({"epochs": 1, "frame_size": 8, "lstm_size": 4})
    rng, labels = np.random.default_rng(0), np.arange(14) % 7
    split = Split([str(k) for k in labels], labels, [rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8) for _ in labels],
                  rng.standard_normal((14, 9)), [str(k) for k in range(14)])
    data = Dataset({"train": split, "val": split}, tuple("abcdefghi"), [])
    rows = why.Rows(tmp_path / "rows.jsonl", "data")
    rows.add(default, 0, why.train(default.replace(lr=1e30, clip_norm=None), data, 0, {}))
    assert "not finite" in rows.known[rows.key(default, 0)]["error"]
    rows.add(default, 1, {"train_loss": [2.0, 1.5], "val_loss": [2.0, 1.0], "val_accuracy": [0.2, 0.5]})
    rows = why.Rows(tmp_path / "rows.jsonl", "data")
    assert rows.key(default, 0) in rows.known and rows.key(paper, 0) not in rows.known
    assert why.Rows(tmp_path / "rows.jsonl", "other data").of(default, [1]) == []
    assert why.summary(rows.of(default, [0, 1])) == {"seeds": 1, "train_loss": 1.5, "val_loss": 1.0, "val_accuracy": 0.5,
                                                   "each": [0.5]}
    walks = {why.OWN: [("", paper)], "from paper to default": why.walk(paper, default),
             "from default to paper": [("", default)]}
    text = why.report(tmp_path, "title", walks, rows, [0, 1], 1 / 7, 0.2)
    assert "1.500 | 1.000 | 0.500" in text and "rows lack a seed" in text
    assert "chance 0.143, of the majority class 0.200" in text


def test_the_whole_program_in_a_tiny_size(tmp_path):
    """The paper's runs stay where they are; the ends of both walks agree; a finished row is not run again."""
    synthetic.write(tmp_path / "data", (2, 1, 1), seed=0)
    command = [sys.executable, "-W", "ignore", str(PROGRAM), "--data", "data", "--frames", "4", "--out", "out", "--trunk",
               "--set", "epochs=2", "--set", "frame_size=8", "--set", "lstm_size=4"]
    env = os.environ | {"EMONET_THREADS": "1"}

    def run():
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run()
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) == first.count("validation accuracy ") and not \
        [row for row in rows if "error" in row]
    with open(tmp_path / "out" / "walk.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    forth, back = ([r for r in table if r["walk"] == f"from {a} to {b}"]
                   for a, b in (("paper", "default"), ("default", "paper")))
    assert [r["field"] for r in table if "20" in r["walk"]] == ["", "trunk", "trunk_lr"]
    assert [r["field"] for r in forth] == [r["field"] for r in back] and len(forth) > 15
    for end, other in ((forth[0], back[-1]), (back[0], forth[-1])):
        assert end["val_loss"] == other["val_loss"]
    for row in rows[:6]:
        assert row["val_loss"][1] == pytest.approx(row["val_loss"][0], rel=1e-3)
    assert (tmp_path / "out" / "walk.png").read_bytes().startswith(b"\x89PNG")

    lines = (tmp_path / "out" / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "rows.jsonl").write_text("".join(lines[:-1]))         # as if stopped before the last
    second = run()
    assert second.count("seed 0, ") == 1
    note, _, *others = second.splitlines()                                    # the data set; the one run; tables
    assert [note, *others] == [line for line in first.splitlines() if not line.startswith("seed 0, ")]
    assert (tmp_path / "out" / "rows.jsonl").read_text() == "".join(lines)
