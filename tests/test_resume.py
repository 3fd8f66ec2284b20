"""A training that is stopped at any moment goes on to the same bytes, or says why it cannot."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch import files
from emonet_scratch.training import CheckpointError, Trainer, write_checkpoint
from emonet_scratch.training import trainer as trainer_module
from emonet_scratch.training.projection import AudioProjection
from tests.tiny import TINY, make, rows, split, states


class Died(BaseException):
    """Stands for the end of the process at one moment."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_death_at_any_write_and_resume_ends_with_the_same_bytes(tmp_path, monkeypatch, uninterrupted, moment):
    """The process ends just before or just after the k-th rename, for every k; no file is cleaned up behind it."""
    replace = os.replace
    for k in range(100):
        folder, calls = tmp_path / str(k), iter(range(k + 1))

        def dying(source, target, calls=calls, k=k):
            call = next(calls)
            if call < k or moment == "after":
                replace(source, target)
            if call == k:
                raise Died
        monkeypatch.setattr(files.os, "replace", dying)
        try:
            make(folder, seed=3, save_every=2).fit()
        except Died:
            monkeypatch.setattr(files.os, "replace", replace)
            make(folder, seed=3, save_every=2).fit(resume=True)
            assert states(folder) == states(uninterrupted), f"death at write {k}"
            assert timeless(folder) == timeless(uninterrupted)
        else:
            break
    assert k > 8


def test_twenty_kills_change_nothing():
    """Real processes, killed at random moments: tests/kill.py, which also does more of them, and other commands."""
    done = subprocess.run([sys.executable, "-m", "tests.kill", "--count", "20"], cwd=Path(__file__).parents[1], text=True,
                          capture_output=True)
    assert done.returncode == 0 and "train: 20 kills in" in done.stdout, done.stdout + done.stderr


def test_log_lines_after_the_last_step_of_an_epoch_are_those_of_a_whole_run(tmp_path, monkeypatch, uninterrupted):
    """Killed between that step's checkpoint and the epoch's end: no step is left that could set the rate."""
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Trainer, "evaluate", lambda self, split: 1 / 0)
        make(tmp_path, seed=3, save_every=1).fit()
    make(tmp_path, seed=3, save_every=1).fit(resume=True)
    assert timeless(tmp_path) == timeless(uninterrupted)
    assert len({row["lr"] for row in rows(tmp_path)}) == 3


def timeless(folder):
    """The rows of metrics.jsonl but for seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(folder)]


def test_rows_of_an_epoch_that_is_done_again_are_cut(tmp_path):
    make(tmp_path, seed=3).fit()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "split": "train"}\n')
    make(tmp_path, seed=3).fit(resume=True)
    assert len(rows(tmp_path)) == 6


@pytest.mark.parametrize("harm", [lambda text: text[:text.index("\n") + 1], lambda text: "x" + text,
                                  lambda text: text.rstrip("\n")[:-9], lambda text: ""])
def test_metrics_that_are_gone_are_missed(tmp_path, harm):
    make(tmp_path, TINY.replace(epochs=2)).fit()
    file = tmp_path / "metrics.jsonl"
    file.write_text(harm(file.read_text()))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl' does not hold the lines of the 2 epochs"):
        make(tmp_path, TINY.replace(epochs=2)).fit(resume=True)


def test_metrics_reach_the_disk_before_the_checkpoint_that_counts_them(tmp_path, monkeypatch):
    synced, fsync, saved = [], os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))

    def saving(path, groups, meta):
        saved.append(meta["progress"]["epoch"])
        if saved[-1]:
            assert len(rows(tmp_path)) == 2 * saved[-1] and (tmp_path / "metrics.jsonl").stat().st_ino in synced
        write_checkpoint(path, groups, meta)
    monkeypatch.setattr(trainer_module, "write_checkpoint", saving)
    make(tmp_path, TINY.replace(epochs=2)).fit()
    assert set(saved) == {0, 1, 2}


def test_seconds_of_an_epoch_include_those_before_an_interruption(tmp_path, monkeypatch):
    clock = [0.0]

    def stop(self, batch, step=Trainer.step):
        clock[0] += 10
        if clock[0] == 40:
            raise Died
        return step(self, batch)
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(Died):
        make(tmp_path, TINY.replace(epochs=1), save_every=1).fit()
    clock[0] = 1000
    make(tmp_path, TINY.replace(epochs=1), save_every=1).fit(resume=True)
    assert rows(tmp_path)[0]["seconds"] == 50                                 # 5 batches: 3 before, 2 after


def change_labels(train):
    train.labels = np.roll(train.labels, 1)


def change_audio(train):
    train.audio[0, 0] += 1e-9


def change_frames(train):
    train.keys = None
    train.frames[3][0, 0, 0, 0] ^= 1


@pytest.mark.parametrize("change, message", [
    (lambda train: train.ids.__setitem__(0, "x"), "the train split has other names"),
    (change_labels, "the train split has other labels"), (change_audio, "the train split has other audio vectors"),
    (lambda train: train.keys.__setitem__(0, "x"), "the train split has other clips"),
    (change_frames, "the train split has other clips")])
def test_other_data_are_refused_on_resume(tmp_path, change, message):
    make(tmp_path, TINY.replace(epochs=1)).fit()
    train = split(0, 21)
    projection = AudioProjection().fit(train.audio, train.labels)
    change(train)
    trainer = Trainer(TINY.replace(epochs=1), train, split(1), tmp_path, projection=projection)
    with pytest.raises(CheckpointError, match=f"was trained on other data: {message}: restore the data") as error:
        trainer.fit(resume=True)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="the train split has 28 clips, had 21"):
        make(tmp_path, TINY.replace(epochs=1), n=28).fit(resume=True)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    trainer = make(tmp_path, save_every=1)
    calls, fsync = iter(range(100)), os.fsync

    def full(handle):
        if next(calls) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.safetensors"):
        trainer.fit()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors"]
    make(tmp_path, save_every=1).fit(resume=True)
    make(tmp_path / "whole").fit()
    assert states(tmp_path) == states(tmp_path / "whole")
