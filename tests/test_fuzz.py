"""The fuzzer: what it counts as a bad end, that its limits hold, and 2,000 cases of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no limits of processes on this system")
ROOT = Path(__file__).parents[1]


def _says(text, code=1):
    def work():
        print(text)
        return code
    return work


def _fails():
    raise RecursionError("too deep")


def _opens():
    kept = []
    while True:
        kept.append(open(os.devnull, "rb"))


@pytest.mark.parametrize(("work", "end"), [
    (_says("", 0), ""), (_says("emonet: error: 'x': no such file"), ""), (_says("problems found: 3"), ""),
    (_fails, "traceback: RecursionError: too deep"), (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal SIGSEGV"),
    (lambda: time.sleep(60), "no end within 0.5 seconds"), (lambda: np.zeros(2**28).sum(), "more memory than the limit"),
    (lambda: _says("emonet: error: MemoryError")(), "more memory than the limit"), (_opens, "more files than the limit"),
    (_says("emonet: error: \x1b[2J"), "what a terminal obeys"), (_says("x.py:3: UserWarning: odd", 0), "a warning"),
    (_says("no", 1), "exit code 1 without a reason"), (_says("", 70), "exit code 70")])
def test_a_bad_end_is_seen(tmp_path, work, end):
    from tests.fuzz.child import outcome
    (tmp_path / "case").mkdir()
    found = outcome(work, tmp_path / "case", seconds=0.5 if "0.5" in end else 30)
    assert any(found.startswith(one) for one in end.split("|")) if end else found == ""


def test_a_large_file_may_take_longer(tmp_path):
    from tests.fuzz.child import BYTES_A_SECOND, SECONDS, seconds_for
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    assert seconds_for(tmp_path) < SECONDS + 0.1
    with open(tmp_path / "a.avi", "wb") as file:
        file.truncate(3 * BYTES_A_SECOND)
    assert SECONDS + 3 <= seconds_for(tmp_path) < SECONDS + 3.1


def test_2000_cases_end_well(tmp_path):
    """Each with an answer or one line, within 1 GB, 10 seconds and 64 files; on two cores at once."""
    halves = [subprocess.Popen([sys.executable, "-m", "tests.fuzz", "--count", "1000", "--seed", str(k), "--keep",
                                str(tmp_path / str(k))], cwd=ROOT, text=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for k in (0, 1)]
    for half in halves:
        said, _ = half.communicate()
        assert half.returncode == 0, said[-4000:]
        assert "1000 cases" in said
