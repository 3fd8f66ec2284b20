"""What is restored from a run folder, a study or a journal may be damaged in any place: an answer, or one line."""

import copy
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emonet_scratch import files
from emonet_scratch.cli import main
from emonet_scratch.errors import DataError, EmonetError
from emonet_scratch.files import owned, parse_json, remove_leftovers, say, write_whole
from emonet_scratch.training import Trainer, load_model
from emonet_scratch.training.settings import Settings, read_settings
from tests.test_cli import fails
from tests.tiny import QUICK, TINY, build, make

ROOT = Path(__file__).parents[1]
DEEP = "[" * 900 + "]" * 900
BAD = [None, -1, 1e999, 10**30, "x", [], {}, True, "DEEP", "\ud800", "\0"]


def places(value, path=()):
    """Every place in a JSON value; of a list, the first two."""
    yield path
    if isinstance(value, dict | list):
        for key in list(value)[:99] if isinstance(value, dict) else range(len(value))[:2]:
            yield from places(value[key], (*path, key))


def damaged(value):
    """(place, JSON text) with each bad value in each place."""
    for path in places(value):
        for bad in BAD:
            whole = {"": copy.deepcopy(value)}
            part = whole
            for key in ("", *path)[:-1]:
                part = part[key]
            part[("", *path)[-1]] = bad
            yield path, bad, json.dumps(whole[""]).replace('"DEEP"', DEEP)


def put_meta(path, original, text):
    size, = struct.unpack("<Q", original[:8])
    head = json.loads(original[8:8 + size])
    head["__metadata__"]["emonet"] = text
    head = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + original[8 + size:])


def meta_of(original):
    return json.loads(json.loads(original[8:8 + struct.unpack("<Q", original[:8])[0]])["__metadata__"]["emonet"])


def answers(work):
    """Whether `work` comes to an end, or to an error that a user can act on."""
    try:
        work()
    except EmonetError as error:
        assert len(str(error)) < 20_000


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training of two epochs, stopped in the second, in memory: its folder and a trainer that resumes."""
    folder, config = tmp_path_factory.mktemp("stopped"), TINY.replace(epochs=2)
    trainer = make(folder, config, save_every=2, facts={"classes": [], "feature_names": [], "extractor": "", "trunk": {}})
    step, steps = Trainer.step, iter(range(8))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(Trainer, "step", lambda self, batch: (next(steps), step(self, batch))[1])
        trainer.fit()
    return trainer


def test_damaged_metadata_of_a_checkpoint(stopped):
    path = stopped.folder / "last.safetensors"
    original = path.read_bytes()
    for _, _, text in damaged(meta_of(original)):
        put_meta(path, original, text)
        answers(stopped._load)
    for place, bad, text in damaged(meta_of(original)):
        if (place[:1] == ("config",) and bad in (10**30, "DEEP")) or place[:1] == ("facts",):
            put_meta(path, original, text)
            answers(lambda: load_model(path))
    path.write_bytes(original)
    stopped._load()


@pytest.mark.parametrize("field, value", [("epoch", 0), ("epoch", 2), ("batch", 10**18), ("batch", 1), ("seconds", []),
                                          ("sums", [0.0, 0, 0, 0.0]), ("best_epoch", 2), ("best_loss", None)])
def test_a_progress_that_this_training_cannot_have_is_refused(stopped, field, value):
    path = stopped.folder / "last.safetensors"
    original = path.read_bytes()
    meta = meta_of(original)
    assert meta["progress"]["epoch"] == 1 and meta["progress"]["batch"] > 0
    meta["progress"][field] = value
    put_meta(path, original, json.dumps(meta))
    with pytest.raises(EmonetError, match=r"last\.safetensors"):
        stopped._load()
    path.write_bytes(original)


def test_damaged_metrics(stopped):
    path = stopped.folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    for k, line in enumerate(lines):
        for _, _, text in damaged(json.loads(line)):
            path.write_text("\n".join([*lines[:k], text, *lines[k + 1:]]))
            answers(stopped._load)
    path.write_text("\n".join(reversed(lines)))
    with pytest.raises(EmonetError, match="does not hold the lines"):
        stopped._load()
    path.write_text("\n".join(lines) + "\n")


def test_damaged_settings(tmp_path):
    Settings(("data",), TINY, cache="x").write(tmp_path, {})
    content = json.loads((tmp_path / "config.json").read_text())
    assert read_settings(tmp_path).config == TINY
    for _, _, text in damaged(content):
        (tmp_path / "config.json").write_text(text)
        answers(lambda: read_settings(tmp_path))
    for field, value in (("lstm_layers", 10**9), ("epochs", 10**30), ("lr", 10**400), ("audio_layers", [5] * 99)):
        text = json.dumps(content | {"config": content["config"] | {field: value}})
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DataError, match=f"{field} must be"):
            read_settings(tmp_path)
    os.remove(tmp_path / "config.json")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(DataError, match="expected a regular file"):
        read_settings(tmp_path)


def test_json_has_a_depth():
    assert parse_json("[" * 50 + "]" * 50)
    for depth in (51, 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json("[" * depth + "]" * depth)


# ---- what is not ours ----

@pytest.mark.parametrize("content", [b"my own notes, without an end", b"a\nb\n", b"{}\n"])
def test_a_study_journal_that_is_none_is_left_alone(tmp_path, content):
    search = pytest.importorskip("emonet_scratch.studies.search")
    path = tmp_path / "study.journal"
    path.write_bytes(content)
    with pytest.raises(DataError, match="no journal of a study: move it"):
        search._repair(path)
    assert path.read_bytes() == content


def test_half_a_line_of_a_study_journal_is_cut(tmp_path):
    search = pytest.importorskip("emonet_scratch.studies.search")
    path = tmp_path / "study.journal"
    for content, kept in ((b'{"op_code":0}\n{"op', b'{"op_code":0}\n'), (b"\0\0", b""), (b'{"op_', b""), (b"", b"")):
        path.write_bytes(content)
        search._repair(path)
        assert path.read_bytes() == kept


def test_damaged_study(tmp_path):
    optuna = pytest.importorskip("optuna")
    search = pytest.importorskip("emonet_scratch.studies.search")
    study = search._open_study(optuna, tmp_path, {"seed": 0})
    trial = study.ask({"lr": optuna.distributions.FloatDistribution(1e-5, 0.1, log=True)})
    trial.report(1.5, 1)
    trial.set_user_attr("accuracy", 0.5)
    study.tell(trial, 1.5)
    path = tmp_path / "study.journal"
    lines = path.read_text().splitlines()
    for k, line in enumerate(lines):
        for _, _, text in damaged(json.loads(line)):
            path.write_text("\n".join([*lines[:k], text, *lines[k + 1:]]) + "\n")
            answers(lambda: search._open_study(optuna, tmp_path, {"seed": 0}))


def test_a_lock_that_is_somebodys_file_is_left_alone(tmp_path):
    kept, lock = tmp_path / "kept", tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    kept.write_text("precious")
    lock.symlink_to(kept)
    for _ in range(2):
        with pytest.raises((OSError, DataError)), owned(lock.parent):
            pass
        lock.unlink()
        lock.write_text("precious")
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(OSError), owned(lock.parent):
        pass
    assert kept.read_text() == "precious"


def test_only_parts_of_ours_are_removed_and_no_pipe_is_waited_for(tmp_path):
    (tmp_path / ".part-of-my-novel").write_text("x")
    os.mkfifo(tmp_path / (".part-" + "0" * 16))
    (tmp_path / (".part-" + "1" * 16)).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".part-" + "0" * 16, ".part-of-my-novel"]
    with pytest.raises(OSError, match="expected a regular file"):
        write_whole(tmp_path / (".part-" + "0" * 16), b"x")


def test_a_journal_of_features_that_is_none_is_not_removed(tmp_path, capsys):
    for name in ("x.csv", "a.wav"):
        (tmp_path / name).touch()
    (tmp_path / "x.csv.partial").write_text("my own")
    assert "exists already" in fails(capsys, "features", tmp_path / "a.wav", "--out", tmp_path / "x.csv")
    assert (tmp_path / "x.csv.partial").read_text() == "my own"


# ---- what is printed ----

def test_no_escape_reaches_the_terminal(tmp_path, capsys):
    say("a\x1b[31m\x07\tb\r\n\x9b")
    assert capsys.readouterr().out == "a\\x1b[31m\\x07\tb\\r\n\\x9b\n"
    (tmp_path / "config.json").touch()
    (tmp_path / "results.json").touch()
    (tmp_path / "results.txt").write_bytes(b"\x1b]0;title\x07\xff")
    assert main(["train", "--resume", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\\x1b]0;title" in out


def test_a_warning_is_one_line(capsys):
    files.warn(UserWarning("two\nlines \x1b[0m"))
    assert capsys.readouterr().err == "emonet: warning: two lines \\x1b[0m\n"


# ---- signals ----

def _as_from_a_terminal():
    """In a child: signals as a shell leaves them to what runs in front; behind a `&` or nohup some are ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_with_one_line(tmp_path, number):
    data = build(tmp_path / "data")
    run = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-m", "emonet_scratch", "train", "--data", data, "--out", run, "--runs", tmp_path,
                           *QUICK, "--epochs", "5000", "--modalities", "audio"], cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, preexec_fn=_as_from_a_terminal) as child:
        until = time.monotonic() + 60
        while not (run / "audio" / "metrics.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.05)
        child.send_signal(number)
        child.send_signal(number) if number != signal.SIGINT else None        # as `timeout` does
        try:
            _, err = child.communicate(timeout=60)
        finally:
            child.kill()
    how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert child.returncode == 128 + number and err == f"emonet: {how}; continue with --resume {run}\n"
    assert not list(run.rglob(".*"))


def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "emonet_scratch", "doctor", "--system"], cwd=ROOT, stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("emonet: error:")
