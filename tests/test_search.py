"""The search: shared, resumed, pruned, refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from emonet_scratch import cli
from emonet_scratch.cli import main
from emonet_scratch.data import synthetic
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.studies import search as search_module
from tests.tiny import build

optuna = pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data"))


def command(data, out, trials=6, epochs=3, more=()):
    return ["search", "--data", str(data), "--runs", str(out.parent), "--out", str(out), "--preset", "small",
            "--device", "cpu", "--modalities", "audio", "--epochs", str(epochs), "--trials", str(trials), *more]


def start(*arguments):
    return subprocess.Popen([sys.executable, "-m", "emonet_scratch", *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def rows(out):
    """trials.csv without what a clock decides."""
    with open(out / "trials.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert main(command(data, out, 8)) == 0
    return out


def test_a_search_reports_its_best_and_leaves_no_networks(alone, data, capsys):
    table = rows(alone)
    complete = [row for row in table if row["state"] == "complete"]
    best = json.loads((alone / "best.json").read_text())
    assert len(table) == 8 and len(complete) >= 5
    assert best["loss"] == min(float(row["loss"]) for row in complete)
    assert (alone / "search.png").stat().st_size > 5000 and not list((alone / "trials").iterdir())
    again = EmoNetConfig.preset("small").replace(**best["fields"])                # what it recommends is a configuration
    assert again.lr == best["params"]["lr"] and again.dropout == best["params"]["dropout"]
    assert again.audio_layers == (round(32 * best["params"]["width"]),) * 3
    assert main(command(data, alone, 8)) == 0                                     # nothing is left to do
    assert rows(alone) == table and best["set"] in capsys.readouterr().out


def test_one_process_and_a_seed_make_the_same_table(alone, data, tmp_path):
    assert main(command(data, tmp_path / "again", 5)) == 0                        # in two goes, which changes nothing
    assert main(command(data, tmp_path / "again", 8)) == 0
    assert rows(tmp_path / "again") == rows(alone)


def test_two_processes_share_one_study(data, tmp_path):
    workers = [start(*command(data, tmp_path / "study", 9, 2)) for _ in range(2)]
    printed = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], printed
    table = rows(tmp_path / "study")
    assert [row["trial"] for row in table] == [str(k) for k in range(9)]
    assert {row["state"] for row in table} <= {"complete", "pruned"}
    assert len({row["lr"] for row in table}) == 9                                 # no draw is made twice
    done = [sum(line.startswith("trial") for line in out.splitlines()) for out, _ in printed]
    assert all(n > 0 for n in done)


def test_a_killed_trial_is_run_again(data, tmp_path):
    out = tmp_path / "study"
    worker = start(*command(data, out, 4, 2000))
    deadline = time.monotonic() + 60
    while not (out / "trials" / "0000" / "metrics.jsonl").exists():
        assert worker.poll() is None and time.monotonic() < deadline, worker.communicate()
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with pytest.MonkeyPatch.context() as patch:                                   # the other trials are quick ones
        patch.setattr(search_module, "Trainer", lambda config, *a, **k: trainer(config.replace(epochs=2), *a, **k))
        assert main(command(data, out, 4, 2000)) == 0
    table = rows(out)
    assert [row["state"] for row in table] == ["fail", *["complete"] * 4]
    assert next(row["lr"] for row in table if row["state"] == "complete") == table[0]["lr"] != table[2]["lr"]
    assert not list((out / "trials").iterdir())


trainer = search_module.Trainer


def test_ctrl_c_keeps_what_is_done(data, tmp_path, monkeypatch, capsys):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trainer(*arguments, **options)

    monkeypatch.setattr(search_module, "Trainer", interrupted)
    assert main(command(data, tmp_path / "study")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [row["state"] for row in rows(tmp_path / "study")] == ["complete", "complete", "running"]
    assert main(command(data, tmp_path / "study", 3)) == 0
    assert [row["state"] for row in rows(tmp_path / "study")] == ["complete", "complete", "fail", "complete"]


def test_bad_trials_are_stopped_early_and_good_ones_are_not(data, tmp_path, monkeypatch):
    monkeypatch.setitem(search_module.SPACES, "default", {"lr": ("choice", 1e-2, 1e-9)})
    assert main(command(data, tmp_path / "study", 20, 4)) == 0
    late = rows(tmp_path / "study")[10:]                                          # the first five are trained to the end
    assert any(row["state"] == "pruned" for row in rows(tmp_path / "study"))
    assert all(row["state"] == ("complete" if row["lr"] == "0.01" else "pruned") for row in late)
    assert all(int(row["epochs"]) == 2 for row in late if row["state"] == "pruned")


def test_a_trial_that_diverges_is_a_bad_one_and_no_error(data, tmp_path, monkeypatch):
    monkeypatch.setitem(search_module.SPACES, "default", {"lr": ("choice", 1e-2, 1e30)})
    assert main(command(data, tmp_path / "study", 6, 2)) == 0
    for row in rows(tmp_path / "study"):
        assert (row["state"] == "pruned" and "not finite" in row["reason"]) == (row["lr"] == "1e+30")
    assert json.loads((tmp_path / "study" / "best.json").read_text())["params"] == {"lr": 1e-2}


def test_the_papers_space(data, tmp_path):
    assert main(command(data, tmp_path / "study", 10, 1, ["--space", "paper"])) == 0
    table = rows(tmp_path / "study")
    assert all(1e-8 <= float(row["lr"]) <= 1e-6 and row["state"] == "complete" for row in table)
    assert {row["optimizer"] for row in table} == {"sgd", "adam"} and "dropout" not in table[0]


def test_another_search_in_the_same_folder_is_refused(alone, data, tmp_path, capsys):
    table = rows(alone)
    for more, said in ((["--space", "paper"], "space"), (["--set", "dropout=0.3"], "dropout 0.1, not 0.3"),
                       (["--seed", "1"], "seed 0, not 1")):
        assert main(command(data, alone, more=more)) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error and "another --out" in error
    assert main(command(build(tmp_path / "data", features=3), alone)) == 1
    assert "other data" in capsys.readouterr().err
    assert main(command(data, alone, 8)) == 0 and rows(alone) == table            # and nothing happened to it


@pytest.mark.parametrize("line", [b"{]\n", b'{"op_code": 99, "worker_id": "a"}\n', b"[]\n"])
def test_a_damaged_journal_is_one_line(alone, data, tmp_path, capsys, line):
    (tmp_path / "study").mkdir()
    lines = (alone / "study.journal").read_bytes().splitlines(keepends=True)
    (tmp_path / "study" / "study.journal").write_bytes(b"".join([*lines[:5], line, *lines[5:]]))
    assert main(command(data, tmp_path / "study")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "study.journal" in error and "damaged" in error


def test_half_a_line_of_a_writer_that_died_is_cut(alone, data, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.journal").write_bytes((alone / "study.journal").read_bytes() + b'{"op_code": 4, "wor')
    assert main(command(data, tmp_path / "study", 9)) == 0
    assert rows(tmp_path / "study")[:8] == rows(alone)


def test_without_optuna_it_says_what_to_install(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(command(data, tmp_path / "study")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "optuna" in error and "emonet_scratch[search]" in error
    assert not os.path.exists(tmp_path / "study")


def test_of_two_that_start_at_once_the_faster_writes_the_synthetic_data(tmp_path, monkeypatch):
    small = ["search", "--runs", str(tmp_path), "--clips-per-class", "2", "1", "1", "--modalities", "audio",
             "--device", "cpu", "--epochs", "1", "--trials", "1"]

    def slower(*arguments, **options):
        synthetic.write(*arguments)                                           # the other's, after we had looked
        synthetic.write(*arguments, **options)

    monkeypatch.setattr(cli, "write_synthetic", slower)
    assert main(small) == 0
    assert [row["state"] for row in rows(tmp_path / "search")] == ["complete"]
