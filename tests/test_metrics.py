"""Metrics against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as peer_confusion
from sklearn.metrics import f1_score

from emonet_scratch.training.metrics import confusion_matrix, macro_f1, wilson_interval
from tests.strategies import seeds


@given(st.integers(1, 40), seeds)
def test_agreement_with_scikit_learn(N, seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 7, N), rng.integers(0, 7, N)
    counts = confusion_matrix(labels, predicted, 7)
    assert np.array_equal(counts, peer_confusion(labels, predicted, labels=range(7)))
    assert macro_f1(counts) == pytest.approx(f1_score(labels, predicted, average="macro"))


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
