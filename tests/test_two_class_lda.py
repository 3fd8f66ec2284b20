"""LDA of two classes at a time, against its definition and against LDA of all classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from emonet_scratch import LDA
from emonet_scratch.classics.two_class_lda import EveryPair, OneAgainstRest
from tests.strategies import seeds, values


def heaps(C, D, seed, n=12):
    """(X, y): C classes of unequal size with a common covariance."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(C), [n + 3 * k for k in range(C)])
    return rng.standard_normal((len(y), D)) @ rng.standard_normal((D, D)) + 2 * rng.standard_normal((C, D))[y], y


@given(st.integers(2, 5), st.integers(2, 6), seeds)
def test_each_direction_is_that_of_its_definition(C, D, seed):
    """w_k = S_W,k^-1 (m_k - m_rest), with the scatter within "k" and "the rest"."""
    X, y = heaps(C, D, seed)
    model = OneAgainstRest(shrinkage=0).fit(X, y)
    for k in range(C):
        one, rest = X[y == k], X[y != k]
        S = sum((part - part.mean(axis=0)).T @ (part - part.mean(axis=0)) for part in (one, rest)) / len(X)
        w = np.linalg.solve(S, one.mean(axis=0) - rest.mean(axis=0))
        ours = model.scalings_[:, k]
        assert np.isclose(abs(w @ ours) / np.linalg.norm(w) / np.linalg.norm(ours), 1, atol=1e-7) and w @ ours > 0


@given(st.integers(2, 5), st.integers(0, 3), seeds)
def test_unshrunk_they_span_the_subspace_of_all_classes(C, more, seed):
    X, y = heaps(C, C + more, seed)
    directions = OneAgainstRest(shrinkage=0).fit(X, y).scalings_
    assert np.linalg.matrix_rank(directions / np.linalg.norm(directions, axis=0), tol=1e-6) == C - 1
    ours = np.linalg.svd(directions, full_matrices=False)[0][:, :C - 1]
    assert subspace_angles(ours, LDA(shrinkage=None).fit(X, y).scalings_).max() < 1e-5


def test_a_shrunk_one_need_not_span_it():
    """Where a property could not fail, it would say nothing."""
    X, y = heaps(3, 6, 0)
    directions = OneAgainstRest(shrinkage=0.5).fit(X, y).scalings_
    ours = np.linalg.svd(directions, full_matrices=False)[0][:, :2]
    assert subspace_angles(ours, LDA(shrinkage=None).fit(X, y).scalings_).max() > 0.01


@given(st.integers(1, 5), seeds)
def test_of_two_classes_all_rules_agree(D, seed):
    X, y = heaps(2, D, seed)
    one, pair, whole = OneAgainstRest(shrinkage=0).fit(X, y), EveryPair(None).fit(X, y), LDA(shrinkage=None).fit(X, y)
    assert np.array_equal(pair.predict(X), whole.predict(X))
    assert np.allclose(one.decision(X)[:, 0], -one.decision(X)[:, 1])
    p = whole.predict_log_proba(X)
    assert np.allclose(one.decision(X)[:, 1], p[:, 1] - p[:, 0], rtol=1e-6, atol=1e-6)


def test_they_classify_with_more_features_than_clips():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.standard_normal((90, 200)) + 3 * rng.standard_normal((3, 200))[y] * (np.arange(200) < 20)
    for model in (OneAgainstRest(), EveryPair()):
        assert (model.fit(X[:60], y[:60]).predict(X[60:]) == y[60:]).mean() > 0.9
    names = np.array(["b", "a", "c"])[y]
    assert set(EveryPair().fit(X, names).predict(X[:5])) <= {"a", "b", "c"} and len(EveryPair().fit(X, y).pairs_) == 3


@pytest.mark.parametrize("counts", [(1, 1, 10), (1, 2, 10), (2, 2, 10)])
def test_classes_of_one_and_two_clips_lose_nothing(counts):
    rng, y = np.random.default_rng(0), np.repeat([0, 1, 2], counts)
    X = rng.standard_normal((len(y), 50)) + 4 * rng.standard_normal((3, 50))[y]
    for model in (OneAgainstRest(), EveryPair()):
        assert (model.fit(X, y).predict(X) == y).mean() > 0.8
    silent = np.where((y == 2)[:, None], X, 0)                                # two classes without any sound
    assert len(EveryPair().fit(silent, y).predict(X)) == len(y)


def test_errors():
    with pytest.raises(ValueError, match="singular"):
        OneAgainstRest(shrinkage=0).fit(values(0, 4, 9), np.array([0, 0, 1, 1]))
    for model in (OneAgainstRest(), EveryPair()):
        with pytest.raises(ValueError, match="2 classes"):
            model.fit(values(0, 4, 2), np.zeros(4))
