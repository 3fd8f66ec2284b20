"""extract.py and `emonet features`: one file of vectors from many clips, whatever happens on the way."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch.cli import main
from emonet_scratch.data import extract as module
from emonet_scratch.data.extract import EXTRACTORS, extract, find, made_by, vector_of
from emonet_scratch.data.opensmile import read_arff, read_csv
from emonet_scratch.data.sound import is10
from emonet_scratch.data.video import read_sound
from emonet_scratch.errors import DataError
from tests.media import tone, write_clip

BEGUN = b'{"extractor": "%s"}' % made_by("is10-2").encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five clips, two of them in a folder named like a class, one without sound, and a text."""
    root = tmp_path_factory.mktemp("clips")
    (root / "Happy").mkdir()
    for i, name in enumerate(("a.avi", "b.avi", "Happy/c.avi", "Happy/d.avi")):
        write_clip(root / name, sound=tone(0.4, hz=150 + 40 * i))
    write_clip(root / "mute.avi")
    (root / "notes.txt").write_text("no clip")
    return root


def quiet(line):
    pass


@pytest.mark.parametrize("suffix", [".arff", ".csv", ".npz"])
def test_every_form_holds_the_same_vectors(folder, tmp_path, suffix):
    out = tmp_path / f"x{suffix}"
    assert extract([folder], out, workers=1) == (5, 0)
    clips = list(find([folder]))
    assert [c.name for c in clips] == ["c.avi", "d.avi", "a.avi", "b.avi", "mute.avi"]
    if suffix == ".npz":
        with np.load(out) as file:
            names, X, columns = file["names"].tolist(), file["features"], tuple(file["feature_names"])
            assert str(file["extractor"]) == made_by("is10-2")
    else:
        table = (read_arff if suffix == ".arff" else read_csv)(out)
        names, columns = [row.name for row in table.rows], table.names
        X = np.array([row.vector for row in table.rows])
        if suffix == ".arff":
            assert table.relation == made_by("is10-2")
            assert [row.label for row in table.rows] == ["Happy", "Happy", None, None, None]
    assert names == ["c", "d", "a", "b", "mute"] and columns == is10.FEATURE_NAMES
    np.testing.assert_array_equal(X, [vector_of(clip) for clip in clips])
    assert np.isnan(X[4]).all() and np.isfinite(X[:4]).all()
    np.testing.assert_array_equal(X[2], is10.features(read_sound(folder / "a.avi")))
    assert list(tmp_path.iterdir()) == [out]


def test_processes_change_nothing(folder, tmp_path):
    extract([folder], tmp_path / "one.arff", workers=1)
    extract([folder], tmp_path / "two.arff", workers=2)
    assert (tmp_path / "one.arff").read_bytes() == (tmp_path / "two.arff").read_bytes()


@pytest.mark.parametrize("extractor", list(EXTRACTORS))
def test_every_extractor_has_a_name_for_every_number(folder, extractor):
    vector = vector_of(folder / "a.avi", extractor)
    assert vector.shape == (len(EXTRACTORS[extractor][1]),) and np.isfinite(vector).all()


def test_a_run_that_is_killed_goes_on_where_it_was(folder, tmp_path):
    """SIGKILL when two clips are done; the second run does the rest and the file is as if nothing had happened."""
    whole, out = tmp_path / "whole.csv", tmp_path / "x.csv"
    extract([folder], whole, workers=1)
    script = ("import sys, time; from emonet_scratch.data import extract as m; v = m.vector_of\n"
              "def slow(clip, extractor):\n    time.sleep(.3); return v(clip, extractor)\n"
              "m.vector_of = slow; m.extract([sys.argv[1]], sys.argv[2], workers=1)")
    process = subprocess.Popen([sys.executable, "-c", script, str(folder), str(out)],
                               env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    partial = Path(f"{out}.partial")
    until = time.monotonic() + 60
    while not (partial.exists() and partial.read_bytes().count(b"\n") >= 3) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and partial.exists() and not out.exists()
    lines = []
    extract([folder], out, workers=1, log=lines.append)
    assert any("done already" in line for line in lines)
    assert out.read_bytes() == whole.read_bytes() and not partial.exists()


def test_workers_end_with_a_process_that_is_killed(folder, tmp_path):
    """They hold its stdout: a reader comes to the end when the last of them is gone."""
    process = subprocess.Popen([sys.executable, "-m", "emonet_scratch", "features", str(folder), "--workers", "2",
                                "--out", str(tmp_path / "x.csv")], cwd=Path(__file__).parents[1],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 60
    while not (tmp_path / "x.csv.partial").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)                                                           # workers are started one by one
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("cut", [1, 100, 20000])
def test_a_journal_that_was_cut_anywhere_is_no_harm(folder, tmp_path, monkeypatch, cut):
    out = tmp_path / "x.npz"
    calls, real = [], module.vector_of

    def stop_at_third(clip, extractor):
        calls.append(clip)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(clip, extractor)

    monkeypatch.setattr(module, "vector_of", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        extract([folder], out, workers=1)
    partial = Path(f"{out}.partial")
    partial.write_bytes(partial.read_bytes()[:-cut])
    assert extract([folder], out, workers=1, log=quiet) == (5, 0)
    with np.load(out) as file:
        np.testing.assert_array_equal(file["features"], [real(clip) for clip in find([folder])])


@pytest.fixture
def stopped(folder, tmp_path):
    """(a record of all five clips, as if the call had been stopped before the last step; the vectors)"""
    journal = module._Journal(tmp_path / "x.npz.partial", made_by("is10-2"), quiet)
    vectors = [np.full(1582, k, float) for k in range(5)]
    for clip, vector in zip(find([folder]), vectors, strict=True):
        journal.add(module._identity(clip), vector)
    journal.close()
    return journal.path, vectors


def finished(folder, path):
    """(first number of each vector, lines) of the call that goes on with the record; 9 where a clip is done again."""
    lines, out = [], path.with_suffix("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "vector_of", lambda clip, extractor: np.full(1582, 9.0))
        assert extract([folder], out, workers=1, log=lines.append) == (5, 0)
    with np.load(out) as file:
        return file["features"][:, 0].tolist(), lines


LINE = b"[0, 1]", b"7", b"{}", b'["x"]', b'["x", [1, 2]]', b"\xff\xfe", b"\0" * 99, b"[" * 9999, b'["x", %s]' % (
    b"[" + b"1," * 1581 + b"NaN]"), b'["x", [%s1e999]]' % (b"1," * 1581), b'["x", [%s"1"]]' % (b"1," * 1581), b"[[1], []]"


@pytest.mark.parametrize("damage", [*LINE, b"half", b"twice"])
@pytest.mark.parametrize("place", [1, 3, 5])
def test_damaged_lines_are_done_again_and_said(folder, stopped, damage, place):
    path, _ = stopped
    lines = path.read_bytes().split(b"\n")
    other = lines[place].replace(b"0.0]", b"8.0]").replace(b".0]]", b".5]]")
    lines[place:place + 1] = {b"half": [lines[place][:500]], b"twice": [lines[place], other]}.get(damage, [damage])
    path.write_bytes(b"\n".join(lines))
    numbers, said = finished(folder, path)
    assert numbers == [9 if k == place - 1 else k for k in range(5)]
    assert sum(repr(str(path)) in line and "damaged lines" in line for line in said) == 1 and not path.exists()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\0" * 500, b'{"extrac', BEGUN + b"\0" * 9])
def test_a_record_that_broke_off_in_its_first_line_is_begun_again(folder, tmp_path, content):
    path = tmp_path / "x.npz.partial"
    path.write_bytes(content)
    assert finished(folder, path)[0] == [9] * 5


@pytest.mark.parametrize("content", [b"my notes", b"my notes\nof today\n", b"\0\0\nnotes", b"PK\3\4" + b"\0" * 99, b"[1]\n",
                                     b"{}\n", b'{"extractor": "other"}\n', b"\n\nnotes"])
def test_a_file_that_is_no_record_stays_as_it_is(folder, tmp_path, content):
    path = tmp_path / "x.csv.partial"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.csv\.partial' is (no record|of another extractor).*move it") as caught:
        extract([folder], tmp_path / "x.csv", workers=1)
    assert path.read_bytes() == content and "\n" not in str(caught.value)


def test_a_full_disk_is_named_and_the_call_goes_on_later(folder, tmp_path):
    out, limits = tmp_path / "x.arff", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))            # writing fails in the second line or third
    try:
        with pytest.raises(DataError, match=r"x\.arff\.partial' cannot be written \(File too large\): make room"):
            extract([folder], out, workers=1, log=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = []
    assert extract([folder], out, workers=1, log=lines.append) == (5, 0)
    assert "damaged lines, 1 in all" in lines[0] and "of 5 clips are done already" in lines[1]
    extract([folder], tmp_path / "y.arff", workers=1)
    assert out.read_bytes() == (tmp_path / "y.arff").read_bytes()


def test_a_damaged_clip_is_named_and_counted(folder, tmp_path, capsys):
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"RIFF not a clip")
    assert main(["features", str(folder / "a.avi"), str(bad), "--out", str(tmp_path / "x.arff"), "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert "bad.avi" in said.err and "1 of 2 clips were left out" in said.err and "1 clips, 1582 features" in said.out
    assert [row.name for row in read_arff(tmp_path / "x.arff").rows] == ["a"]
    assert main(["features", str(bad), str(folder), "--out", str(tmp_path / "y.arff"), "--workers", "1", "--on-error",
                 "stop"]) == 1
    assert "bad.avi" in capsys.readouterr().err and not (tmp_path / "y.arff").exists()


def test_what_cannot_be_done_is_said_before_work(folder, tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    for paths, out, word in (([folder], "x.csv", "exists already"), ([folder], "x.txt", ".arff"),
                             ([tmp_path / "empty"], "y.csv", "got none")):
        with pytest.raises(DataError, match=word):
            extract(paths, tmp_path / out, workers=1)
    assert (tmp_path / "x.csv").read_text() == "mine"
    Path(tmp_path, "z.csv.partial").write_text('{"extractor": "other"}\n')
    with pytest.raises(DataError, match="another extractor"):
        extract([folder], tmp_path / "z.csv", workers=1)


def test_clips_of_one_name_are_named_by_their_path(folder, tmp_path):
    for side in "lr":
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.avi").write_bytes((folder / "a.avi").read_bytes())
    extract([tmp_path], tmp_path / "x.csv", workers=1)
    assert [row.name for row in read_csv(tmp_path / "x.csv").rows] == [(tmp_path / s / "a.avi").as_posix() for s in "lr"]
