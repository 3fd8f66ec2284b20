"""A file is written whole or not at all; a file of a stranger is one, or a line says what it is."""

import errno
import os
import subprocess
import sys

import pytest

from emonet_scratch import files
from emonet_scratch.errors import DataError


def test_write_and_overwrite(tmp_path):
    path = tmp_path / "a b\nc"
    for content in (b"", b"one", b"two" * 10**6):
        files.write_whole(path, content)
        assert path.read_bytes() == content and os.listdir(tmp_path) == [path.name]
    files.write_whole(path, b"head", memoryview(b"and"), b"tail")
    assert path.read_bytes() == b"headandtail"


def test_others_may_read_what_the_mask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failure_keeps_the_old_file_and_names_it(tmp_path, monkeypatch, function):
    path = tmp_path / "x"
    files.write_whole(path, b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match=r"No space left on device: .*x'"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_a_file_size_limit_of_the_system_keeps_the_old_file(tmp_path):
    """A real write that the system refuses, in a process of its own."""
    code = ("import resource, signal, sys; from emonet_scratch.files import write_whole\n"
            "write_whole(sys.argv[1], b'old')\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "write_whole(sys.argv[1], b'x' * 5000)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert (tmp_path / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="no/x"):
        files.write_whole(tmp_path / "no" / "x", b"")


def test_what_is_no_regular_file(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "full").write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    assert files.regular_file(tmp_path / "full") == str(tmp_path / "full")
    for name, reason in [("empty", "is empty"), ("fifo", "got a device or pipe"), (".", "got a directory"),
                         ("nothing", "no such file"), ("null\0byte", "cannot be opened")]:
        with pytest.raises(DataError, match=reason):
            files.regular_file(tmp_path / name)


@pytest.mark.parametrize("number", sorted(files.LACKS))
def test_what_the_machine_lacks_is_not_the_fault_of_the_data(tmp_path, monkeypatch, number):
    (tmp_path / "full").write_bytes(b"x")

    def refuse(*_arguments, **_named):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match="full") as caught:
        files.regular_file(tmp_path / "full")
    assert caught.value.errno == number and not isinstance(caught.value, DataError)


def test_a_file_is_read_up_to_a_size(tmp_path):
    (tmp_path / "four").write_bytes(b"1234")
    assert files.read_whole(tmp_path / "four", 4) == b"1234"
    with pytest.raises(DataError, match="expected at most 3 bytes, got 4"):
        files.read_whole(tmp_path / "four", 3)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match="device or pipe"):
        files.read_whole(tmp_path / "fifo")


def test_json_that_is_too_deep_is_an_error_of_values():
    assert files.parse_json(b'{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, '{"a":' * 100_000, "{"):
        with pytest.raises(ValueError):
            files.parse_json(text)
