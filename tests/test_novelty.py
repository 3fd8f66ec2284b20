"""Novelty: strangers in known rooms stay below 1 nineteen times in twenty, other rooms do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.extract import vector_of
from emonet_scratch.training.novelty import LEVEL, Familiar, directions, distance
from tests.strategies import seeds


def people(rng, groups, clips, D=120, room=None, spread=3.0):
    """Clips in a 10-dimensional world with some noise; `room` adds a fixed direction that this world does not have."""
    world = np.random.default_rng(0).standard_normal((10, D))
    who = np.repeat(np.arange(groups), clips)
    Z = (rng.standard_normal((groups, 10))[who] + rng.standard_normal((len(who), 10))) @ world / spread
    Z += 0.5 * rng.standard_normal(Z.shape)
    return (Z if room is None else Z + room), who


@given(st.integers(2, 60), st.integers(2, 40), seeds)
def test_directions_are_orthonormal_and_those_of_the_largest_variance(N, D, seed):
    Z = np.random.default_rng(seed).standard_normal((N, D)) * np.linspace(1, 3, D)
    B = directions(Z)
    r = min(64, N // 2, D // 2)
    assert B.shape == (r, D) and np.allclose(B @ B.T, np.eye(r), atol=1e-9)
    values = np.linalg.svd(Z, compute_uv=False)
    assert np.isclose((distance(Z, B) ** 2).sum(), (values[r:] ** 2).sum(), rtol=1e-6)


def test_strangers_are_flagged_one_time_in_twenty_and_another_room_nearly_always():
    rng = np.random.default_rng(1)
    Z, who = people(rng, 20, 12)
    familiar = Familiar.fit(Z, np.zeros(len(Z), int), who)
    same, _ = people(rng, 60, 12)
    room = np.random.default_rng(5).standard_normal(Z.shape[1])
    other, _ = people(rng, 60, 12, room=room)
    flagged, foreign = (float((familiar.novelty(x) > 1).mean()) for x in (same, other))
    assert 0.02 < flagged < 2 * (1 - LEVEL) and foreign > 5 * flagged and foreign > 0.9


def test_what_was_fitted_itself_would_be_too_near():
    """Why the threshold is of people left out: with as many directions as here, training clips lie nearer to their span."""
    rng = np.random.default_rng(2)
    Z, who = people(rng, 12, 10, D=200)
    familiar = Familiar.fit(Z, np.zeros(len(Z), int), who)
    assert (familiar.novelty(Z) > 1).mean() < 0.5 * (1 - LEVEL)


def test_one_group_has_nobody_to_leave_out():
    Z = np.random.default_rng(0).standard_normal((10, 6))
    assert Familiar.fit(Z, np.zeros(10, int), np.zeros(10, int)).novelty(Z) == pytest.approx(np.zeros(10), abs=1e6)


def test_another_corpus_is_flagged_several_times_as_often_as_a_stranger_in_a_known_room(real_data):
    """Eight actors of RAVDESS are known; two others, and EmoDB, are not."""
    def vectors(folder, count):
        files = sorted(path for path in (real_data / folder).iterdir() if path.suffix == ".flac")
        return np.array([vector_of(path) for path in files[::max(1, len(files) // count)]])
    known = [vectors(f"ravdess/Actor_{actor:02}", 20) for actor in range(1, 11)]
    train, people = np.concatenate(known[:8]), np.repeat(np.arange(8), [len(x) for x in known[:8]])
    mean, spread = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-9)

    def standard(X):
        return np.clip((X - mean) / spread, -6, 6)
    familiar = Familiar.fit(standard(train), np.zeros(len(train), int), people)
    strangers = (familiar.novelty(standard(np.concatenate(known[8:]))) > 1).mean()
    others = (familiar.novelty(standard(vectors("emodb", 40))) > 1).mean()
    assert others > 0.5 and others > 3 * strangers
