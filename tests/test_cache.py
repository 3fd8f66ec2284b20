"""The cache gives back what was decoded, without ffmpeg, and nothing else: not a changed clip, not a damaged file."""

import io
import multiprocessing
import os
import resource
import zlib

import numpy as np
import pytest

from emonet_scratch.data.video import FrameCache, content_key, ffmpeg, read_clip
from emonet_scratch.data.video.cache import Stored
from emonet_scratch.errors import DataError
from tests.media import counter, frame_numbers, one_line, tone, write_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """An AFEW-like clip: 24 numbered MPEG-2 frames with 1 s of MP3."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.avi", counter(24, 48, 64), sound=tone(0.96))
    return folder


def test_cache_reads_back_the_same_without_ffmpeg(clips, tmp_path, monkeypatch):
    cache = FrameCache(tmp_path / "cache")
    settings = [{"size": 32}, {"size": 16}, {"size": 32, "fps": 10}, {"size": 32, "max_frames": 3},
                {"size": 32, "fit": "crop"}]
    first = [np.array(read_clip(clips / "a.avi", cache=cache, **setting)) for setting in settings]
    plain = [read_clip(clips / "a.avi", **setting) for setting in settings]
    assert len(list((tmp_path / "cache").iterdir())) == len(settings)
    (tmp_path / "renamed.avi").write_bytes((clips / "a.avi").read_bytes())
    monkeypatch.setattr(ffmpeg.subprocess, "Popen", lambda *a, **k: pytest.fail("ffmpeg was started"))
    for path in (clips / "a.avi", tmp_path / "renamed.avi"):
        for setting, one, two in zip(settings, first, plain, strict=True):
            again = read_clip(path, cache=FrameCache(tmp_path / "cache"), **setting)
            np.testing.assert_array_equal(again, one)
            np.testing.assert_array_equal(again, two)


def test_cache_notices_a_changed_clip(clips, tmp_path):
    cache = FrameCache(tmp_path / "cache")
    path = write_clip(tmp_path / "a.avi", counter(5, 48, 64))
    assert len(read_clip(path, 16, cache=cache)) == 5
    path.write_bytes((clips / "a.avi").read_bytes())
    assert len(read_clip(path, 16, cache=cache)) == 24


@pytest.mark.parametrize("harm", [
    lambda data: data[:-1], lambda data: data[:len(data) // 2], lambda data: data[:20], lambda data: b"",
    lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], lambda data: b"\x80" + data[1:],
    lambda data: data + b"x"], ids=["end", "half", "header", "empty", "pixel", "magic", "longer"])
def test_cache_notices_damage_and_decodes_again(clips, tmp_path, harm):
    expected = np.array(read_clip(clips / "a.avi", 16, cache=FrameCache(tmp_path)))
    file, = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(harm(good))
    np.testing.assert_array_equal(read_clip(clips / "a.avi", 16, cache=FrameCache(tmp_path)), expected)
    assert file.read_bytes() == good


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    cache, rng = FrameCache(tmp_path), np.random.default_rng(0)
    for array in (rng.integers(0, 256, (9, 4, 4, 3), np.uint8), rng.random((0, 3)), rng.random(5)):
        stored = cache.keep("key", array)
        assert isinstance(stored, Stored) and (stored.shape, stored.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(stored, array)
        for index in ([], [4, 1, 2, 2], slice(1, 7, 2), np.arange(3), -1) if len(array) else ([],):
            assert stored[index].tobytes() == array[index].tobytes() and stored[index].shape == array[index].shape


def test_twenty_thousand_clips_of_the_cache_need_no_handle(tmp_path):
    cache = FrameCache(tmp_path)
    cache.store("key", np.ones((2, 4, 4, 3), np.uint8))
    before, limits = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 8, limits[1]))
    try:
        clips = [cache.load("key", (4, 4, 3)) for _ in range(20_000 if os.environ.get("CI") else 2000)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert all(clip is not None for clip in clips) and len(os.listdir("/proc/self/fd")) == before


def test_what_the_machine_lacks_is_no_damage(tmp_path):
    cache = FrameCache(tmp_path)
    stored, limits = cache.keep("key", np.ones((2, 4, 4, 3), np.uint8)), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        for call in (lambda: cache.load("key", (4, 4, 3)), lambda: stored[0], lambda: cache.store("two", np.ones(3)),
                     lambda: content_key(stored.file), lambda: read_clip(stored.file, 16)):
            with pytest.raises(OSError, match="Too many open files"):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert cache.writable


def test_an_entry_that_is_cut_or_gone_while_it_is_used_is_one_line(tmp_path):
    stored = FrameCache(tmp_path).keep("key", np.ones((20, 64, 64, 3), np.uint8))
    os.truncate(stored.file, 5000)
    with pytest.raises(DataError) as error:
        stored[[0, 19]]
    one_line(error, stored.file)
    os.remove(stored.file)
    with pytest.raises(DataError) as error:
        np.asarray(stored)
    one_line(error, stored.file)


def entry(array, head=None):
    """An entry of the cache as a stranger could write it: its checksum is right."""
    file = io.BytesIO()
    np.save(file, array)
    content = head + file.getvalue()[len(head):] if head else file.getvalue()
    return content + zlib.crc32(content).to_bytes(4, "little")


@pytest.mark.parametrize("other", [
    np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 16, 16), np.uint8), np.zeros((0, 16, 16, 3), np.uint8),
    np.zeros((30, 16, 16, 3), np.uint8), np.zeros((3, 16, 16, 3), np.int8), np.zeros((3, 16, 16, 3)), np.float64(1),
    np.zeros((3, 16, 16, 3), np.uint8, "F")], ids=str)
def test_an_entry_of_another_shape_or_type_is_made_again(clips, tmp_path, other):
    expected = read_clip(clips / "a.avi", 16, max_frames=20, cache=FrameCache(tmp_path))
    file, = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(entry(other))
    np.testing.assert_array_equal(read_clip(clips / "a.avi", 16, max_frames=20, cache=FrameCache(tmp_path)), expected)
    assert file.read_bytes() == good


@pytest.mark.parametrize("text", ["{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 16, 16, 3), }",
                                  "(" * 100, "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"])
def test_the_header_of_an_entry_is_not_believed(tmp_path, text):
    cache = FrameCache(tmp_path)
    (tmp_path / "key.npy").write_bytes(entry(np.zeros((3, 16, 16, 3), np.uint8),
                                             b"\x93NUMPY\x01\0v\0" + text.ljust(117).encode() + b"\n"))
    assert cache.load("key", (16, 16, 3)) is None
    with open(tmp_path / "key.npy", "wb") as file:
        file.truncate(2**42)                                                  # and of 4 TB no byte is read
    assert cache.load("key", (16, 16, 3)) is None


def test_a_pipe_in_the_cache_blocks_nobody(tmp_path):
    cache, clip = FrameCache(tmp_path), np.ones((2, 16, 16, 3), np.uint8)
    os.mkfifo(tmp_path / "key.npy")
    assert cache.load("key", (16, 16, 3)) is None
    with pytest.warns(UserWarning, match="expected a regular file"):
        assert cache.keep("key", clip) is clip


def test_full_disk_loses_nothing_and_leaves_nothing(clips, tmp_path, recwarn):
    cache = FrameCache(tmp_path / "cache")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))      # writing fails midway, as on a full disk
    try:
        clip = read_clip(clips / "a.avi", 32, cache=cache)
        read_clip(clips / "a.avi", 16, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    np.testing.assert_array_equal(frame_numbers(clip), np.arange(24))
    message, = [str(warning.message) for warning in recwarn]          # one, not one a clip
    assert repr(str(tmp_path / "cache")) in message and "\n" not in message
    assert "what is not in it yet stays in memory" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as error:
        FrameCache(tmp_path / "file")
    one_line(error, tmp_path / "file")
    with pytest.warns(UserWarning, match="cannot be written") as warned:
        cache = FrameCache(tmp_path / "file", optional=True)
        assert not cache.store("key", np.zeros(3)) and cache.load("key", ()) is None
    assert len(warned) == 1


def read_often(path, folder, queue):
    cache = FrameCache(folder)
    queue.put([int(np.asarray(read_clip(path, size, cache=cache)).sum()) for size in (8, 16, 24)])


def test_cache_shared_by_processes(clips, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=read_often, args=(clips / "a.avi", tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(10)
    assert sums == [[int(read_clip(clips / "a.avi", size).sum()) for size in (8, 16, 24)]] * 3
    assert len(list(tmp_path.iterdir())) == 3


def test_content_key(clips, tmp_path):
    (tmp_path / "three").write_bytes(b"abc")          # FIPS 180-2, appendix B.1
    assert content_key(tmp_path / "three") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(DataError, match="no such file"):
        content_key(tmp_path / "missing")
