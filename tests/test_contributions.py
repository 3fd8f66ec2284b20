"""Shapley values of face and voice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.explain.contributions import log_odds, shapley
from tests.strategies import seeds


@given(seeds, st.integers(2, 9))
def test_they_add_up_and_treat_both_alike(seed, C):
    both, face, voice, nothing = np.random.default_rng(seed).dirichlet(np.ones(C), 4)
    shares, swapped = shapley(both, face, voice, nothing), shapley(both, voice, face, nothing)
    assert np.allclose(shares.face + shares.voice, log_odds(both) - log_odds(nothing))
    assert np.array_equal(shares.face, swapped.voice) and np.array_equal(shares.voice, swapped.face)


@given(seeds)
def test_what_changes_nothing_has_nothing(seed):
    known, nothing = np.random.default_rng(seed).dirichlet(np.ones(7), 2)
    shares = shapley(known, known, nothing, nothing)                          # the voice is masked
    assert not shares.voice.any() and np.allclose(shares.face, log_odds(known) - log_odds(nothing))
    assert np.isfinite(shapley(np.eye(7)[0], np.eye(7)[1], np.eye(7)[0], np.eye(7)[2]).face).all()
