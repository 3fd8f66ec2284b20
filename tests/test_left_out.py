"""A clip that cannot be read is named and counted: the rule of skip and stop."""

import threading

import pytest

from emonet_scratch.data.left_out import attempt, attempt_all, usable
from emonet_scratch.errors import DataError


def read(clip, factor=1):
    if clip < 0:
        raise DataError(f"{clip} cannot be read")
    return factor * clip


def test_an_error_is_handed_over_and_others_are_raised():
    assert attempt(read, 3, 2) == 6
    assert isinstance(attempt(read, -1), DataError)
    with pytest.raises(TypeError):
        attempt(read, "a")


def test_skip_names_each_and_stop_raises_the_first():
    results, lines = [(clip, attempt(read, clip)) for clip in (1, -2, 3, -4)], []
    assert list(usable(results, "skip", lines.append)) == [(1, 1), (3, 3)]
    assert lines == ["left out: -2 cannot be read", "left out: -4 cannot be read"]
    found = usable(results, "stop", lines.append)
    assert next(found) == (1, 1)
    with pytest.raises(DataError, match=r"^-2 cannot be read \(--on-error skip leaves such clips out\)$"):
        next(found)


def test_many_at_once_in_their_order(monkeypatch):
    found = list(attempt_all(read, (1, -2, 3), 2))
    assert found[::2] == [1, 3] and isinstance(found[1], DataError)

    def refused(thread):
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(OSError, match="can't start new thread"):
        list(attempt_all(read, (1, 2), 2))
