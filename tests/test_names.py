"""File names are text of strangers: none of them breaks a line, loses a row or ends a command, on any stream."""

import csv
import io
import json
import os
import shutil
import sys

import pytest

from emonet_scratch.cli import main
from tests.tiny import QUICK, build

#: As Python has them: a picture, a byte that is no UTF-8, an escape that would turn a terminal red, a line break.
NAMES = ["Zoë\U0001f600.avi", "caf\udce9.avi", "\x1b[31mred.avi", "two\nlines.avi"]
ENCODINGS = ["ascii:strict", "ascii:surrogateescape", "latin-1:strict", "utf-8:strict"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = build(tmp_path_factory.mktemp("data"))
    for name in NAMES:
        (root / "Train_AFEW" / "Angry" / name).write_bytes(b"RIFFxxxx")
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "--data", str(data), "--runs", str(runs), "--out", str(runs / "one"), "--modalities", "video",
                 *QUICK]) == 0
    return runs / "one"


@pytest.fixture
def streams(monkeypatch):
    """Of a function that takes an encoding: stdout and stderr from then on, which keep bytes."""
    def use(encoding):
        found = []
        for name in ("stdout", "stderr"):
            found.append(io.BytesIO())
            code, errors = encoding.split(":")
            monkeypatch.setattr(sys, name, io.TextIOWrapper(found[-1], code, errors, write_through=True))
        return found
    return use


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", ["", "--csv", "--json"])
def test_predict_loses_no_row(trained, data, tmp_path, monkeypatch, streams, encoding, form):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        shutil.copy(next((data / "Val_AFEW").rglob("*.avi")), name)
    out, err = streams(encoding)
    assert main(["predict", "--checkpoint", str(trained), *[form] * bool(form), *NAMES]) == 0
    code = encoding.split(":")[0]
    text = out.getvalue().decode(code, "surrogateescape")
    if form == "--json":
        assert [row["clip"] for row in json.loads(text)] == NAMES
    elif form:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len(rows) == 5 and {len(row) for row in rows} == {9}
        names = ["Zo\\xeb\\U0001f600.avi", *NAMES[1:]] if code == "ascii" else NAMES
        names = ["Zoë\\U0001f600.avi", "caf\xe9.avi", *NAMES[2:]] if code == "latin-1" else names   # the same byte
        assert [row[0] for row in rows[1:]] == names
    else:
        assert len(text.splitlines()) == 4 and "\x1b" not in text and "'two\\nlines.avi': " in text
    assert b"\x1b" not in err.getvalue() and len(err.getvalue().splitlines()) == 1       # the device


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_damaged_clip_of_any_name_is_left_out_with_one_line(data, tmp_path, streams, encoding):
    out, err = streams(encoding)
    assert main(["train", "--data", str(data), "--runs", str(tmp_path), "--out", str(tmp_path / "caf\udce9\x1b"),
                 "--modalities", "audio", "--preset", "small", "--epochs", "1"]) == 0
    lines = out.getvalue().splitlines()
    assert sum(line.startswith(b"left out: ") for line in lines) == 4 and b"\x1b" not in out.getvalue() + err.getvalue()
    assert (tmp_path / "caf\udce9\x1b" / "results.json").exists()


def test_rows_are_printed_when_they_are_there(trained, data, monkeypatch, streams):
    """Ctrl-C keeps what was computed, and JSON that was begun is ended."""
    from emonet_scratch.data.prepare import Reader
    clips, read = sorted(map(str, (data / "Val_AFEW").rglob("*.avi")))[:3], Reader.__call__

    def interrupted(self, clip):
        if str(clip.path) == clips[2]:
            raise KeyboardInterrupt
        return read(self, clip)
    monkeypatch.setattr(Reader, "__call__", interrupted)
    for form, count in (("--json", None), ("--csv", 3)):
        out, _ = streams("utf-8:strict")
        assert main(["predict", "--checkpoint", str(trained), form, *clips]) == 130
        if count:
            assert len(out.getvalue().splitlines()) == count
        else:
            assert [row["clip"] for row in json.loads(out.getvalue())] == clips[:2]


def test_no_rows_are_a_list_of_none(trained, tmp_path, streams):
    out, err = streams("utf-8:strict")
    assert main(["predict", "--checkpoint", str(trained), "--json", str(tmp_path / "none.avi")]) == 1
    assert json.loads(out.getvalue()) == [] and b"none.avi': " in err.getvalue()


def test_a_message_stays_on_its_line(capsys, tmp_path):
    name = os.path.join(tmp_path, "a\n\x1b[2J\udce9.csv")
    assert main(["features", "no\x1b.wav", "--out", name]) == 1
    assert main(["doctor", name]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all("\x1b" not in line for line in lines) and sum(line.startswith("emonet: error: ") for line in lines) == 2


def test_a_terminal_gets_no_escape_sequence_from_a_table(trained, data, tmp_path, monkeypatch, streams):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((data / "Val_AFEW").rglob("*.avi")), NAMES[2])
    out, _ = streams("utf-8:strict")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["predict", "--checkpoint", str(trained), "--csv", NAMES[2]]) == 0
    assert b"\x1b" not in out.getvalue() and b"\\x1b[31mred.avi" in out.getvalue()
