"""Which frames are drawn, and that one random change treats all of them alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.video import augment, sample_frames


@given(st.integers(0, 400), st.integers(1, 70), st.integers(0, 2**32))
def test_sample_frames(length, count, seed):
    for rng in (None, np.random.default_rng(seed)):
        index = sample_frames(length, count, rng)
        assert index.dtype == np.int64 and len(index) == min(length, count)
        assert (np.diff(index) > 0).all() and (index >= 0).all() and (index < length).all()
        if length > count and rng is None:
            assert np.abs(index + 0.5 - (np.arange(count) + 0.5) * length / count).max() <= 0.5
        elif length > count:
            segment = np.arange(count) * length // count, np.arange(1, count + 1) * length // count
            assert (index >= segment[0]).all() and (index < segment[1]).all()


def test_sample_frames_by_hand():
    assert sample_frames(9, 3).tolist() == [1, 4, 7]
    assert sample_frames(3, 5).tolist() == [0, 1, 2]
    draws = np.stack([sample_frames(9, 3, np.random.default_rng(seed)) for seed in range(100)])
    assert [set(column) for column in draws.T] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]
    with pytest.raises(ValueError, match="count"):
        sample_frames(3, 0)


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_augment_keeps_shape_and_input_and_treats_frames_alike(length, height, width, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), np.uint8)
    frames = np.repeat(picture, length, axis=0)
    frames.flags.writeable = False
    out = augment(frames, np.random.default_rng(seed))
    assert out.shape == frames.shape and out.dtype == np.uint8 and out.flags.writeable
    assert (out == out[:1]).all()
    np.testing.assert_array_equal(frames, np.repeat(picture, length, axis=0))
    np.testing.assert_array_equal(out, augment(frames, np.random.default_rng(seed)))
    plain = augment(frames, np.random.default_rng(seed), flip=False, crop=0, brightness=0)
    np.testing.assert_array_equal(plain, frames)
    assert not np.shares_memory(plain, frames)


def test_augment_one_change_at_a_time():
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), np.uint8)
    mirrored = 0
    for seed in range(200):
        out = augment(frames, np.random.default_rng(seed), crop=0, brightness=0)
        flipped = (out == frames[:, :, ::-1]).all()
        assert flipped or (out == frames).all()
        mirrored += flipped
    assert 70 < mirrored < 130
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    levels = [int(augment(grey, np.random.default_rng(seed))[0, 0, 0, 0]) for seed in range(200)]
    assert 80 <= min(levels) < 85 and 115 < max(levels) <= 120
    assert augment(grey + 150, np.random.default_rng(3), brightness=1).max() <= 255


def test_augment_crops_where_and_as_much_as_it_says():
    # a ramp: the value of a pixel tells where it came from
    ramp = np.broadcast_to(np.arange(0, 200, 2, dtype=np.uint8)[None, None, :, None], (1, 100, 100, 3))
    starts, slopes = [], []
    for seed in range(300):
        row = augment(ramp, np.random.default_rng(seed), flip=False, crop=0.2, brightness=0)[0, 50, :, 0].astype(float)
        slope = (row[89] - row[10]) / 79 / 2
        slopes.append(slope)
        starts.append(row[10] / 2 + 0.5 - 10.5 * slope)
        at = (np.arange(100) + 0.5) * slope + starts[-1] - 0.5
        np.testing.assert_allclose(row[10:90], 2 * at[10:90], atol=1.6)
    assert 0.795 < min(slopes) < 0.82 and 0.98 < max(slopes) <= 1.005
    assert -0.5 < min(starts) < 0.5 and 12 < max(starts) < 20.5


def test_augment_blends_exactly():
    """Against bilinear interpolation in float64 over the same window."""
    frames = np.random.default_rng(1).integers(0, 256, (1, 13, 17, 3), np.uint8)
    for seed in range(20):
        _, shrink, top, left, _ = np.random.default_rng(seed).random(5)
        out = augment(frames, np.random.default_rng(seed), flip=False, crop=0.3, brightness=0)[0]
        expected = frames[0].astype(float)
        for axis, place in ((0, top), (1, left)):
            length, cut = expected.shape[axis], 0.3 * shrink
            at = np.clip((np.arange(length) + 0.5) * (1 - cut) + place * cut * length - 0.5, 0, length - 1)
            expected = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis,
                                           expected)
        assert np.abs(out - expected).max() <= 2.1         # two roundings, two weights of 8 bits


@pytest.mark.parametrize(("frames", "options", "message"), [
    (np.zeros((4, 4, 3), np.uint8), {}, "frames must be"), (np.zeros((1, 4, 4, 3)), {}, "frames must be"),
    (np.zeros((1, 4, 4, 3), np.uint8), {"crop": 1}, "crop"),
    (np.zeros((1, 4, 4, 3), np.uint8), {"brightness": -1}, "brightness"),
])
def test_augment_arguments(frames, options, message):
    with pytest.raises(ValueError, match=message):
        augment(frames, np.random.default_rng(0), **options)
