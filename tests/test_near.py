"""Near-duplicates: the same recording in another form is found, another take of the same sentence is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emonet_scratch.data.doctor import examine
from emonet_scratch.data.near import CHUNK, LAG, OVERLAP, picture_print, similarities, sound_print
from tests import near
from tests.media import ffmpeg, write_wav
from tests.strategies import seeds


def naive(a, b):
    """The correlation of two prints at their best offset, over what is there of both, one offset after the other."""
    best = -1.0
    there = [np.abs(p).sum(axis=1) > 0 for p in (a, b)]
    length = max(t.sum() for t in there)
    energies = []
    for offset in range(-len(a) + 1, len(b)):
        i = np.arange(len(a))
        i = i[(i + offset >= 0) & (i + offset < len(b))]
        both = i[there[0][i] & there[1][i + offset]]
        x, y = a[both].astype(float), b[both + offset].astype(float)
        energies.append((len(both), (x**2).sum(), (y**2).sum(), (x * y).sum()))
    most = [max(e[k] for e in energies) for k in (1, 2)]
    for n, left, right, product in energies:
        if n > OVERLAP * length - 0.5 and left > OVERLAP / 2 * most[0] and right > OVERLAP / 2 * most[1]:
            best = max(best, product / np.sqrt(max(left * right, 1e-6)))
    return best


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.lists(st.integers(1, 12), min_size=1, max_size=4), seeds)
def test_all_offsets_at_once_are_all_offsets_one_after_the_other(lengths, others, seed):
    rng = np.random.default_rng(seed)
    ours, theirs = ([rng.integers(-1, 2, (n, 8)).astype(np.int8) for n in ns] for ns in (lengths, others))
    found = {(i, j): score for i, j, score in similarities(ours, theirs)}
    for i, a in enumerate(ours):
        for j, b in enumerate(theirs):
            expected = naive(a, b)
            if expected > 1e-3:
                assert found[i, j] == pytest.approx(expected, abs=1e-3)
            else:
                assert found.get((i, j), 0) < 2e-3


def test_more_prints_than_a_chunk_are_all_compared():
    rng = np.random.default_rng(0)
    prints = [rng.choice([-1, 1], (20, 32)).astype(np.int8) for _ in range(CHUNK + 3)]
    same = {i: j for i, j, score in similarities(prints, prints[::-1]) if score > 0.99}
    assert same == {i: len(prints) - 1 - i for i in range(len(prints))}


def test_nothing_to_compare_is_nothing():
    empty = [np.zeros((0, 32), np.int8)]
    assert list(similarities([], [])) == [] and list(similarities(empty, empty)) == []


@pytest.mark.parametrize("sound", [None, np.zeros(0), np.zeros(50_000, np.float32), np.ones(100, np.float32)])
def test_silence_has_no_print(sound):
    assert sound_print(sound).shape == (0, 32)


def test_pictures_that_stand_still_or_are_few_have_no_print():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 255, (1, 16, 16, 3), dtype=np.uint8), 50, axis=0)
    assert len(picture_print(still)) == len(picture_print(None)) == len(picture_print(still[:LAG])) == 0
    noisy = still + rng.integers(0, 2, still.shape, dtype=np.uint8)           # a codec's noise is no movement
    assert len(picture_print(noisy)) == 0
    assert len(picture_print(rng.integers(0, 255, (50, 16, 16, 3), dtype=np.uint8))) == 50 - LAG


@given(st.floats(0.01, 4), seeds)
@settings(max_examples=10)
def test_volume_is_not_heard(volume, seed):
    sound = np.random.default_rng(seed).standard_normal(20_000).astype(np.float32)
    assert (sound_print(sound) == sound_print(np.float32(volume) * sound)).mean() > 0.999


def test_doctor_names_what_is_on_both_sides_and_not_twice_in_one(tmp_path):
    """A sound that is encoded again for the validation split; one for the same split says nothing about scores."""
    rng = np.random.default_rng(0)
    for label in ("Angry", "Sad"):
        for split in ("Train", "Val"):
            (tmp_path / split / label).mkdir(parents=True)
            sound = np.cumsum(rng.standard_normal(60_000)) * np.sin(np.arange(60_000) / 3000)
            write_wav(tmp_path / split / label / f"{split}{label}.wav", sound / np.abs(sound).max() * 0.5, 16000)
    own = tmp_path / "Train" / "Sad" / "TrainSad.wav"
    ffmpeg("-i", own, "-af", "volume=3dB", tmp_path / "Val" / "Sad" / "again.mp3")
    ffmpeg("-i", own, tmp_path / "Train" / "Sad" / "again.mp3")
    findings = dict(examine(tmp_path).findings)
    lines = findings["the same recording in several splits, not byte for byte"]
    assert len(lines) == 2 and all("Val/Sad/again.mp3" in line and "sound" in line for line in lines)


def test_reencodings_of_real_clips_are_found(real_data, tmp_path):
    """A fifth of what `python -m tests.near` does, whose figures are in docs/results.md."""
    readings = near.read_all(near.clips_of(real_data, 12), "train")
    share, wrong, lost = near.found(readings, tmp_path)
    assert share >= 0.95 and not wrong, lost


def test_other_takes_of_one_sentence_by_one_actor_are_not(real_data):
    takes = [path for actor in ("Actor_01", "Actor_02") for path in sorted((real_data / "ravdess" / actor).glob("*.flac"))]
    pairs, flagged = near.taken(near.read_all(takes, "train"))
    assert pairs == 120 * 119 // 2 and len(flagged) < 0.001 * pairs
