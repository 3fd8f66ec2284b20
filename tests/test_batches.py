"""Which clips and frames a batch holds, as a function of seed, epoch and position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.batches import Split, batches
from tests.strategies import seeds


def make(lengths, size=6):
    """Clip i holds frames whose pixels are all 10 i + t."""
    frames = [np.broadcast_to((10 * i + np.arange(T))[:, None, None, None], (T, size, size, 3)).astype(np.uint8)
              for i, T in enumerate(lengths)]
    n = len(lengths)
    return Split([str(i) for i in range(n)], np.arange(n), frames, np.arange(2 * n).reshape(n, 2).astype(float))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 4) | st.none(),
       st.booleans(), seeds)
def test_an_epoch_holds_every_clip_once_with_its_own_frames(lengths, size, frames, training, seed):
    split, seen = make(lengths), []
    for batch in batches(split, size, frames, seed=seed, training=training):
        assert batch.lengths.sum() == len(batch.frames) and len(batch) <= size
        ends = np.cumsum(batch.lengths)
        for label, part, audio in zip(batch.labels, np.split(batch.frames, ends[:-1]), batch.audio, strict=True):
            values = part[:, 0, 0, 0].astype(int)
            assert len(part) == min(lengths[label], frames or 99) and list(values) == sorted(set(values))
            assert set(values // 10) == {label} and values.max() % 10 < lengths[label]
            assert audio.tolist() == [2 * label, 2 * label + 1]
            seen.append(int(label))
    assert sorted(seen) == list(range(len(lengths)))
    assert training or seen == sorted(seen)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 3), st.booleans(), seeds)
def test_an_epoch_entered_in_the_middle_goes_on_as_before(n, size, start, jitter, seed):
    split = make([7] * n)
    options = dict(seed=seed, epoch=3, training=True, jitter=jitter)
    whole, rest = list(batches(split, size, 3, **options)), list(batches(split, size, 3, start=start, **options))
    assert len(rest) == max(0, len(whole) - start)
    for a, b in zip(whole[start:], rest, strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.labels, b.labels)


def test_epochs_and_seeds_differ_and_evaluation_does_not():
    split = make([9] * 12)

    def order(**options):
        return [b.labels.tolist() + b.frames[:, 0, 0, 0].tolist() for b in batches(split, 4, 3, **options)]
    assert order(training=True) == order(training=True)
    assert order(training=True) != order(training=True, epoch=1) != order(training=True, seed=1)
    assert order() == order(epoch=1, seed=1, jitter=True)


def test_features_of_a_frozen_trunk_pass_through():
    split = Split(["a", "b"], np.array([0, 1]), [np.ones((3, 5), np.float32), np.zeros((2, 5), np.float32)])
    batch, = batches(split, 4, None, training=True, jitter=True)
    assert batch.frames.shape == (5, 5) and sorted(batch.lengths) == [2, 3] and batch.audio is None


def test_audio_alone_needs_no_frames():
    split = Split(["a"], np.array([0]), None, np.ones((1, 2)))
    batch, = batches(split, 4, 8)
    assert batch.frames is None and batch.lengths is None and batch.audio.shape == (1, 2)


def test_jitter_changes_pixels_in_training_only():
    rng = np.random.default_rng(0)
    split = Split(["a"], np.array([0]), [rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)])
    plain, = batches(split, 1, None, training=True)
    jittered, = batches(split, 1, None, training=True, jitter=True)
    assert plain.frames.shape == jittered.frames.shape and not np.array_equal(plain.frames, jittered.frames)
    assert np.array_equal(plain.frames, split.frames[0])


def test_split_knows_its_length():
    assert len(make([1, 2, 3])) == 3
    with pytest.raises(StopIteration):
        next(batches(make([1]), 1, None, start=1))
