"""A folder or file that several processes may write has one writer at a time, and what a killed one leaves is removed."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from emonet_scratch import cli, files
from emonet_scratch.cli import main
from emonet_scratch.data import synthetic
from emonet_scratch.data.video import FrameCache
from emonet_scratch.errors import DataError
from emonet_scratch.files import Lock, owned, owned_file, remove_leftovers, write_whole
from emonet_scratch.models import ResNet
from emonet_scratch.training import Trainer, write_checkpoint
from tests.test_cli import fails
from tests.tiny import QUICK, build

ROOT = Path(__file__).parents[1]


@contextmanager
def process(code, *arguments):
    """A Python process that runs `code` up to the line "ready"; it is killed at the end."""
    code = f"import sys\nfrom emonet_scratch import files\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()


OWNER = "hold = files.owned(sys.argv[1]); hold.__enter__(); file = files.owned_file(sys.argv[2]); file.__enter__()"


def tree(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# ---- the ground ----

def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path):
    with process(OWNER, tmp_path / "x", tmp_path / "y") as child:
        before = tree(tmp_path)
        for taken in (owned(tmp_path / "x"), owned_file(tmp_path / "y")):
            with pytest.raises(DataError, match=rf"/[xy]' is in use by process {child.pid} on .*: wait until"), taken:
                pass
        assert tree(tmp_path) == before
    with owned(tmp_path / "x"), owned_file(tmp_path / "y"):
        assert sorted(os.listdir(tmp_path)) == [".y.lock", "x"]
    assert os.listdir(tmp_path) == ["x"]                                       # it was there before


def test_a_thread_may_enter_again_and_another_may_not(tmp_path):
    refused = []

    def other():
        try:
            with owned(tmp_path):
                pass
        except DataError as error:
            refused.append(error)
    with owned(tmp_path), owned(f"{tmp_path}/."):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    other()
    assert len(refused) == 1 and os.listdir(tmp_path) == []


def test_a_new_folder_is_one_that_nobody_has(tmp_path):
    with owned(tmp_path / "a" / "x", new=True) as first, owned(tmp_path / "a" / "x", new=True) as second:
        (second / "kept").touch()
        with owned(tmp_path / "a" / "x", new=True) as third:
            assert [path.name for path in (first, second, third)] == ["x", "x-2", "x-3"]
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["a", "a/x-2", "a/x-2/kept"]
    with owned(tmp_path / "b" / "c" / "x", new=True):
        pass
    assert os.listdir(tmp_path) == ["a"]                                       # empty ones that were made go


def test_a_lock_that_its_holder_removes_does_not_count(tmp_path):
    """Who waited for a file that is removed meanwhile takes the one that is there now."""
    held, got = Lock(tmp_path / "x"), []
    held.acquire()
    thread = threading.Thread(target=lambda: got.append(Lock(tmp_path / "x").acquire() and (tmp_path / "x").exists()))
    thread.start()
    time.sleep(0.05)                                                          # so that it waits, most times
    held.path.unlink()
    held.release()
    thread.join(10)
    assert got == [True]


def test_what_a_killed_writer_leaves_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    code = "import os\nos.fsync = lambda handle: (print('ready', flush=True), sys.stdin.read())\n" \
           "files.write_whole(sys.argv[1], b'half')"
    with process(code, tmp_path / "x"):
        left, = os.listdir(tmp_path)
        assert left.startswith(".part-")
        remove_leftovers(tmp_path)
        with owned(tmp_path):
            write_whole(tmp_path / "y", b"")
            assert sorted(os.listdir(tmp_path)) == [".lock", left, "y"]
    assert sorted(os.listdir(tmp_path)) == [left, "y"]
    with owned(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".lock", "y"]


@pytest.mark.parametrize("system", ["no fcntl", "no locks"])
def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch, system):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")
    if system == "no fcntl":
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / ".part-1").touch()
    with owned(tmp_path), owned_file(tmp_path / "y") as alone:
        assert not alone
        write_whole(tmp_path / "x", b"x")
    assert sorted(os.listdir(tmp_path)) == [".part-1", "x"] and (tmp_path / "x").read_bytes() == b"x"


# ---- the commands ----

@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run that is not finished: it lacks its results."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "--data", str(data), "--runs", str(runs), "--out", str(runs / "one"), *QUICK]) == 0
    (runs / "one" / "results.json").unlink()
    write_checkpoint(runs / "resnet.safetensors", {"weights": ResNet(8, 10, 4).state_dict()}, {})
    return runs / "one"


@pytest.mark.parametrize("command", [
    ["train", "--data", "DATA", "--out", "RUN", *QUICK], ["train", "--resume", "RUN"], ["compare", "--run", "RUN"],
    ["compare", "--data", "DATA", "--out", "RUN", *QUICK], ["diagnose", "--data", "DATA", "--out", "RUN", *QUICK],
    ["evaluate", "RUN/audio", "--data", "DATA", "--out", "RUN"], ["features", "DATA", "--out", "FILE.csv"],
    ["synthesize", "FILE.csv"], ["import-weights", "RUN/../resnet.safetensors", "--out", "FILE.csv"]])
def test_a_command_leaves_what_another_process_has_alone(run, data, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    taken = run if "RUN" in command else tmp_path / "FILE.csv"
    with process(OWNER, run, tmp_path / "FILE.csv") as child:
        before = tree(run) | tree(tmp_path)
        line = fails(capsys, *(part.replace("RUN", str(run)).replace("DATA", str(data)) for part in command))
        assert f"{taken.name}' is in use by process {child.pid} on " in line
        assert tree(run) | tree(tmp_path) == before


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(data, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.time, "strftime", lambda form: "now")
    for k in range(3):
        assert main(["train", "--data", str(data), "--runs", str(tmp_path), "--modalities", "audio", *QUICK,
                     "--seed", str(k)]) == 0
    for k, name in enumerate(("now", "now-2", "now-3")):
        assert f'"seed": {k}' in (tmp_path / name / "config.json").read_text()
        assert (tmp_path / name / "audio" / "metrics.jsonl").read_text().count("\n") == 4


def test_a_run_has_no_second_process(data, tmp_path, capsys, monkeypatch):
    tried, evaluate = [], Trainer.evaluate

    def meanwhile(self, split):
        if not tried:
            tried.append(subprocess.run([sys.executable, "-m", "emonet_scratch", "train", "--resume", str(tmp_path / "run")],
                                        text=True, capture_output=True, cwd=ROOT))
        return evaluate(self, split)
    monkeypatch.setattr(Trainer, "evaluate", meanwhile)
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run"), "--runs", str(tmp_path),
                 "--modalities", "audio", *QUICK]) == 0
    other, = tried
    assert other.returncode == 1
    assert other.stderr.startswith(f"emonet: error: '{tmp_path}/run' is in use by process {os.getpid()} on")
    assert "majority" in capsys.readouterr().out and not list(tmp_path.rglob(".*"))


def test_a_synthetic_data_set_that_another_writes_is_waited_for(tmp_path):
    root = tmp_path / "synthetic"
    with owned_file(root):
        thread = threading.Thread(target=synthetic.write, args=(root, (1, 1, 1)), kwargs={"exist_ok": True})
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        root.mkdir()
        (root / "written").touch()
    thread.join(10)
    assert not thread.is_alive() and os.listdir(root) == ["written"] and os.listdir(tmp_path) == ["synthetic"]


def test_a_synthesis_removes_what_a_killed_one_left(tmp_path, monkeypatch):
    for name in (".set.part-abc", ".other.part-abc"):
        (tmp_path / name / "Train_AFEW").mkdir(parents=True)
    monkeypatch.setattr(synthetic, "encode", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic.write(tmp_path / "set", (1, 1, 1))
    assert os.listdir(tmp_path) == [".other.part-abc"]


def test_the_cache_removes_what_killed_writers_left(tmp_path):
    (tmp_path / f".part-{0:016}").touch()
    FrameCache(tmp_path)
    assert os.listdir(tmp_path) == []


def test_features_that_were_killed_when_all_was_done_leave_no_journal(tmp_path, capsys):
    for name in ("x.csv", "x.csv.partial"):
        (tmp_path / name).write_text("")
    (tmp_path / "a.wav").write_text("")
    assert "x.csv' exists already" in fails(capsys, "features", tmp_path / "a.wav", "--out", tmp_path / "x.csv")
    assert not (tmp_path / "x.csv.partial").exists() and (tmp_path / "x.csv").exists()


def test_a_lock_that_another_user_left_is_taken_over(tmp_path, monkeypatch):
    """It may be read and not written. Root may write everything, so open refuses here."""
    left, real = tmp_path / ".f.csv.lock", open
    left.write_text("process 1 on elsewhere")

    def refused(path, mode="r", *arguments, **options):
        if os.fspath(path) == str(left) and "a" in mode:
            raise PermissionError(13, "Permission denied", str(left))
        return real(path, mode, *arguments, **options)
    monkeypatch.setattr("builtins.open", refused)
    with files.owned_file(tmp_path / "f.csv") as held:
        assert held
    assert not left.exists()
