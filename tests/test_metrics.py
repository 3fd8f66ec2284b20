"""Metrics against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.metrics import confusion_matrix as peer_confusion
from sklearn.metrics import f1_score

from emonet_scratch.training.metrics import chance_and_majority, confusion_matrix, macro_f1, wilson_interval
from tests.strategies import seeds


@given(st.integers(1, 40), seeds)
def test_agreement_with_scikit_learn(N, seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 7, N), rng.integers(0, 7, N)
    counts = confusion_matrix(labels, predicted, 7)
    assert np.array_equal(counts, peer_confusion(labels, predicted, labels=range(7)))
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predicted, average="macro"))


@given(st.integers(1, 60), st.integers(1, 9), seeds)
def test_chance_and_majority_are_what_knowing_nothing_reaches(N, K, seed):
    """Majority: scikit-learn's most frequent class. Chance: the mean over all guesses among the classes that are there."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(20)[rng.integers(0, K, N)]                       # classes by any numbers, some of them absent
    chance, majority = chance_and_majority(labels)
    peer = DummyClassifier(strategy="most_frequent").fit(labels[:, None], labels)
    assert majority == peer.score(labels[:, None], labels)
    assert chance == pytest.approx(np.mean([np.mean(labels == guess) for guess in set(labels)]))
    assert 0 < chance <= majority <= 1 or chance == pytest.approx(majority)
    counts = np.unique(labels, return_counts=True)[1]
    assert (chance == pytest.approx(majority)) == (counts.min() == counts.max())
    assert chance_and_majority(rng.permutation(labels) + 100) == (chance, majority)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_solves_its_equation(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    p = correct / total
    assert 0 <= low <= p <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:                                                     # |p - b| = z sqrt(b (1 - b) / n)
            assert abs(p - bound) == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / total), abs=1e-9)


def test_bad_counts_are_refused():
    for bad in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="wilson_interval wants"):
            wilson_interval(*bad)
    with pytest.raises(ValueError, match="at least one label"):
        chance_and_majority(np.array([], int))
