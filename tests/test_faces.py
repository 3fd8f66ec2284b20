"""The face of a clip: real clips, and findings that are planted."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.cli import main
from emonet_scratch.data import faces
from emonet_scratch.data.batches import Split
from emonet_scratch.data.prepare import prepare
from emonet_scratch.data.video import FrameCache, read_clip
from emonet_scratch.errors import DataError
from emonet_scratch.training.trainer import _seen
from tests.media import write_clip
from tests.strategies import seeds

pytest.importorskip("cv2", reason="the extra `faces` is not installed")


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 40), st.integers(12, 30), seeds)
def test_a_face_that_moves_is_followed(T, x, speed, side, seed):
    """In a straight line with some pixels of jitter: the box is near it in every frame and never jumps."""
    rng = np.random.default_rng(seed)
    frames = range(0, T, faces.STEP)
    at = {t: x + 0.01 * speed * t for t in range(T)}
    findings = [(t, [(at[t] + rng.uniform(-1, 1), 20.0, side, side)]) for t in frames]
    boxes = faces.track(findings, T)
    assert boxes.shape == (T, 3) and np.abs(np.diff(boxes, axis=0)).max(initial=0) < 1
    last = frames[-1]
    assert all(abs(boxes[t, 0] - (at[min(t, last)] + side / 2)) < 2 + 0.05 * speed for t in range(T))
    assert np.allclose(boxes[:, 2], faces.MARGIN * side) and np.allclose(boxes[:, 1], 20 + side / 2)


def test_findings_beside_the_face_are_dropped():
    """A mistake far away, larger, twice; and a second person for a moment."""
    findings = [(t, [(10.0, 10.0, 20.0, 20.0)]) for t in range(0, 50, 5)]
    findings[3] = (15, [(70.0, 70.0, 40.0, 40.0), (10.0, 10.0, 20.0, 20.0)])
    findings[6] = (30, [(60.0, 5.0, 40.0, 40.0)])
    assert np.allclose(faces.track(findings, 50), [20.0, 20.0, 20 * faces.MARGIN])


def test_a_finding_of_another_size_in_the_middle_is_a_mistake():
    """The cascade takes head and shoulders for a face now and then: by the median of its neighbours it is none."""
    findings = [(t, [(10.0, 10.0, 20.0, 20.0)]) for t in range(0, 50, 5)]
    findings[4] = (20, [(0.0, 0.0, 40.0, 40.0)])
    assert np.allclose(faces.track(findings, 50), [20.0, 20.0, 20 * faces.MARGIN])


def test_frames_far_from_the_first_and_the_last_finding_do_not_show_the_face():
    findings = [(t, [(10.0, 10.0, 20.0, 20.0)] if 15 <= t <= 30 else []) for t in range(0, 50, 5)]
    boxes = faces.track(findings, 50)
    assert np.flatnonzero(boxes[:, 2]).tolist() == list(range(15 - faces.STEP + 1, 30 + faces.STEP))
    assert faces.crop(np.ones((50, 40, 40, 3), np.uint8), boxes, 8).shape == (24, 8, 8, 3)


def test_between_whole_searches_only_what_is_near_is_searched():
    """A face that is there from frame 10 on: whole frames until it is found, and at every WHOLE-th search."""
    asked = []

    def search(frame, near=None):
        asked.append((int(frame[0, 0, 0]), near))
        return [(5.0, 5.0, 30.0, 30.0)] if frame[0, 0, 0] >= 10 else []
    frames = np.zeros((60, 50, 50, 3), np.uint8)
    frames[:] = np.arange(60, dtype=np.uint8)[:, None, None, None]
    found = faces.find(frames, search)
    assert [t for t, boxes in found if boxes] == list(range(10, 60, 5))
    whole = [t for t, near in asked if near is None]
    assert whole == [0, 5, 10, 25, 50] and all(near == (5.0, 5.0, 30.0, 30.0) for _, near in asked if near)


def test_the_order_in_which_boxes_are_found_does_not_matter():
    """OpenCV's threads come back in any order."""
    boxes = [(10.0, 10.0, 40.0, 40.0), (12.0, 8.0, 40.0, 40.0), (60.0, 60.0, 30.0, 30.0)]
    frames = np.zeros((60, 8, 8, 3), np.uint8)
    rng = np.random.default_rng(0)
    found = [faces.find(frames, lambda frame, near=None: [boxes[k] for k in rng.permutation(3)]) for _ in range(9)]
    assert all(other == found[0] for other in found) and found[0][0][1] == boxes


def test_what_is_lost_is_searched_everywhere():
    def search(frame, near=None):
        return [] if near else [(float(frame[0, 0, 0]), 5.0, 20.0, 20.0)]
    frames = np.zeros((12, 50, 50, 3), np.uint8)
    frames[:] = np.arange(12, dtype=np.uint8)[:, None, None, None]
    assert [boxes[0][0] for _, boxes in faces.find(frames, search)] == [0.0, 5.0, 10.0]


def test_the_larger_of_two_that_are_there_all_the_time():
    findings = [(t, [(0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 20.0, 20.0)]) for t in range(0, 20, 5)]
    assert np.allclose(faces.track(findings, 20), [60.0, 60.0, 20 * faces.MARGIN])


def test_no_face():
    assert faces.track([(0, []), (5, []), (10, [])], 12) is None
    assert faces.track([(0, []), (5, [(1.0, 1.0, 9.0, 9.0)]), (10, [])], 12) is None                # once of three times
    assert faces.track([(0, [(1.0, 1.0, 9.0, 9.0)])], 3) is not None                                # a clip of one search


@given(st.integers(1, 3), st.integers(4, 40), st.floats(-20, 60), st.floats(-20, 60), st.floats(1, 90), st.integers(1, 20))
def test_crops_stay_inside(T, H, x, y, side, size):
    frames = np.zeros((T, H, H, 3), np.uint8)
    frames[:] = np.arange(H, dtype=np.uint8)[:, None, None] + 1
    out = faces.crop(frames, np.tile([x, y, side], (T, 1)), size)
    assert out.shape == (T, size, size, 3) and out.min() >= 1 and out.max() <= H and (out == out[..., :1]).all()


def test_what_is_cut_out_is_what_is_in_the_box():
    frames = np.zeros((1, 40, 40, 3), np.uint8)
    frames[0, 10:20, 20:30] = 200
    assert (faces.crop(frames, np.array([[25.0, 15.0, 10.0]]), 5) == 200).all()


@pytest.mark.parametrize("emotion", ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"])
def test_real_faces(real_data, tmp_path, emotion):
    """An actress who looks into the camera: the face fills the crop, and the cascade finds it there again, in the middle."""
    path, = (real_data / "crema_d").glob(f"*{emotion}*.flv")
    cache = FrameCache(tmp_path)
    clip, found = faces.read_face(path, 96, max_frames=30, cache=cache)
    assert found and clip.shape == (30, 96, 96, 3) and np.asarray(clip).std() > 20
    inside = [max(boxes, key=lambda b: b[2]) for boxes in map(faces.detect, clip[::10]) if boxes]
    assert inside and all(30 < x + w / 2 < 66 and 30 < y + h / 2 < 66 and w > 48 for x, y, w, h in inside)

    def never(frame, near=None):
        raise AssertionError("searched again")
    again, found = faces.read_face(path, 96, max_frames=30, cache=cache, search=never)
    assert found and np.array_equal(again, clip)


@pytest.mark.parametrize("boxes", [np.full((30, 3), np.nan), np.full((30, 3), 1e300), np.full((3, 3), 0.5)],
                         ids=["nan", "huge", "few"])
def test_boxes_of_a_stranger_in_the_cache_are_searched_again(real_data, tmp_path, boxes):
    path, = (real_data / "crema_d").glob("*ANG*.flv")
    cache = FrameCache(tmp_path)
    first, _ = faces.read_face(path, 32, max_frames=30, cache=cache)
    first = np.asarray(first)
    for key in [file.stem for file in tmp_path.iterdir()]:
        if cache.load(key, (3,), np.float64, 0) is None:
            os.remove(tmp_path / f"{key}.npy")
        else:
            cache.store(key, boxes)
    again, found = faces.read_face(path, 32, max_frames=30, cache=cache)
    assert found and np.array_equal(again, first)


def test_where_the_face_is_does_not_depend_on_the_size_that_is_wanted(real_data, tmp_path):
    """The same boxes from 16 to 160, searched once; each size shows the same."""
    path, = (real_data / "crema_d").glob("*HAP*.flv")
    cache, searched, found, first = FrameCache(tmp_path), [], {}, None

    def search(frame, near=None):
        searched.append(frame.shape)
        return faces.detect(frame, near)
    for size in (16, 32, 64, 128, 160):
        clip, found[size] = faces.read_face(path, size, max_frames=20, cache=cache, search=search)
        assert clip.shape == (20, size, size, 3)
        small = faces.crop(np.asarray(clip), np.tile([size / 2, size / 2, size], (20, 1)), 16)
        first = small if first is None else first
        assert np.abs(small.astype(int) - first).mean() < 3
    assert all(found.values()) and searched == [(faces.SEARCH, faces.SEARCH, 3)] * 4
    alone, _ = faces.read_face(path, 32, max_frames=20)
    at_hand, _ = faces.read_face(path, 32, max_frames=20, frames=read_clip(path, faces.SEARCH, max_frames=20))
    cached, _ = faces.read_face(path, 32, max_frames=20, cache=cache)
    assert np.array_equal(alone, cached) and np.array_equal(at_hand, cached)


def test_clips_without_a_face_are_counted(tmp_path, monkeypatch, capsys):
    for split in ("Train_AFEW", "Val_AFEW"):
        (tmp_path / "d" / split / "Happy").mkdir(parents=True)
        for k in range(2):
            frames = np.random.default_rng(k).integers(0, 255, (8, 48, 48, 3), np.uint8)
            write_clip(tmp_path / "d" / split / "Happy" / f"00000000{k}.avi", frames, "mjpeg", None, "pcm")
    lines = []
    data = prepare(tmp_path / "d", sound=False, frame_size=16, crop="faces", log=lines.append)
    assert "faces: none found in 4 of 4 clips, which are without pictures to the networks" in lines
    assert data.splits["train"].frames[0].shape == (0, 16, 16, 3)


def test_a_network_that_looks_learns_from_clips_that_show_something():
    frames = [np.ones((T, 4, 4, 3), np.uint8) for T in (2, 0, 3)]
    split = Split(["a", "b", "c"], np.arange(3), frames, np.arange(3.0)[:, None])
    for modalities in (("video",), ("audio", "video")):
        seen, kept = _seen(split, modalities)
        assert seen.ids == ["a", "c"] and kept.tolist() == [0, 2] and seen.audio.tolist() == [[0], [2]]
    assert _seen(split, ("audio",))[0] is split
    blind = split.take([1, 1])
    assert _seen(blind, ("audio", "video"))[0] is blind                       # all of them: the sound is all there is
    with pytest.raises(DataError, match="shows a face"):
        _seen(blind, ("video",))


def test_without_opencv_there_is_one_line(tmp_path, monkeypatch, capsys):
    faces.import_cv2.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    try:
        with pytest.raises(DataError, match=r"emonet_scratch\[faces\]"):
            faces.import_cv2()
        (tmp_path / "Train_AFEW" / "Happy").mkdir(parents=True)
        (tmp_path / "Train_AFEW" / "Happy" / "1.avi").write_bytes(b"not to be read")
        call = ["train", "--data", str(tmp_path), "--crop", "faces", "--set", "trunk=random", "--device", "cpu"]
        assert main([*call, "--runs", str(tmp_path / "runs")]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "pip install 'emonet_scratch[faces]'" in error
    finally:
        faces.import_cv2.cache_clear()
