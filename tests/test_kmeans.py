"""k-means, whitening and the machines behind them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.classics.kmeans import Whitening, distances, even_contrast, kmeans, plus_plus
from emonet_scratch.classics.machines import KernelSVM, ProbableSVM, SoftmaxRegression, chi_square, rbf
from emonet_scratch.studies.svm import LinearSVM
from tests.strategies import seeds, values


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 6), seeds)
def test_no_step_raises_the_cost(N, D, K, seed):
    x = values(seed, N, D)
    centroids, costs = kmeans(x, min(K, N), np.random.default_rng(seed))
    assert all(later <= earlier * (1 + 1e-9) + 1e-9 for earlier, later in pairwise(costs))
    assert np.allclose(distances(x, centroids), ((x[:, None] - centroids) ** 2).sum(axis=2), atol=1e-9)
    assert distances(x, centroids).min(axis=1).sum() <= costs[-1] * (1 + 1e-9) + 1e-9


def test_it_ends_where_that_of_scikit_learn_ends():
    sklearn = pytest.importorskip("sklearn.cluster", reason="scikit-learn is the oracle here, and not installed")
    x = np.concatenate([values(k, 40, 3) + 4 * values(k + 9, 3) for k in range(5)])
    start = x[::40] + 0.1
    ours, costs = kmeans(x, 5, np.random.default_rng(0), steps=100, start=start)
    theirs = sklearn.KMeans(5, init=start, n_init=1, algorithm="lloyd", tol=0).fit(x)
    assert np.allclose(ours, theirs.cluster_centers_) and np.isclose(costs[-1], theirs.inertia_)


def test_the_start_prefers_what_is_far_from_the_start():
    """Of two heaps a start in both is nearly certain, where drawing evenly would miss the small one."""
    x = np.concatenate([0.01 * values(0, 99, 2), 0.01 * values(1, 1, 2) + 100])
    starts = [plus_plus(x, 2, np.random.default_rng(seed)) for seed in range(50)]
    assert all((start.max(axis=1) > 50).any() for start in starts)
    assert len(np.unique(plus_plus(np.ones((5, 2)), 3, np.random.default_rng(0)), axis=0)) == 1    # fewer than K distinct
    with pytest.raises(ValueError, match="1 to 5"):
        plus_plus(np.ones((5, 2)), 6, np.random.default_rng(0))


@given(st.integers(1, 6), seeds)
def test_whitened_data_have_the_covariance_one(D, seed):
    x = values(seed, 50, D) @ values(seed + 1, D, D) + 3
    white = Whitening().fit(x, keep=1.0 - 1e-12)
    y = white.transform(x)
    kept = y.var(axis=0) > 0.5                                                # all but directions without variance
    assert np.allclose(y[:, kept].T @ y[:, kept] / len(y), np.eye(kept.sum()), atol=1e-6)
    some = Whitening().fit(x, keep=0.9)
    spread = np.linalg.eigvalsh(np.cov(x.T, bias=True).reshape(D, D))[::-1]
    R = some.map.shape[1]
    assert spread[:R].sum() >= 0.9 * spread.sum() - 1e-9 and spread[:R - 1].sum() < 0.9 * spread.sum() + 1e-9


def test_few_points_are_whitened_by_the_smaller_matrix():
    """With fewer points than dimensions: the same map as of the D x D matrix, up to signs."""
    x = values(0, 12, 30)
    ours = Whitening().fit(x, keep=0.9)
    spread, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    theirs = (vectors / np.sqrt(np.maximum(spread, 1e-8)))[:, ::-1][:, :ours.map.shape[1]]
    signs = np.sign((ours.map * theirs).sum(axis=0))
    assert np.allclose(ours.map, theirs * signs, atol=1e-8)
    assert np.isfinite(Whitening().fit(np.ones((3, 5))).transform(np.ones((2, 5)))).all()


def test_even_contrast():
    x = np.array([[1.0, 3, 5], [7, 7, 7], [10, 30, 50]])
    y = even_contrast(x, floor=0.0001)
    assert np.allclose(y[0], y[2], rtol=1e-3) and np.array_equal(y[1], np.zeros(3)) and np.allclose(y.mean(axis=1), 0)


@given(st.integers(2, 4), st.integers(1, 5), seeds)
def test_softmax_regression_ends_where_the_slope_is_zero(C, D, seed):
    X, y = np.array(values(seed, 30, D)) * 3 + 1, np.random.default_rng(seed).integers(0, C, 30)
    model = SoftmaxRegression(C, decay=0.05, steps=500).fit(X, y)
    Z, p = (X - X.mean(axis=0)) / X.std(axis=0), model.predict_proba(X)
    miss = p - np.eye(C)[y]
    assert np.allclose(p.sum(axis=1), 1)
    assert np.allclose(Z.T @ miss / 30 + 0.05 * model.W, 0, atol=1e-4) and np.allclose(miss.mean(axis=0), 0, atol=1e-4)


@given(st.integers(2, 4), seeds)
def test_a_linear_kernel_gives_the_linear_machine(K, seed):
    X, y = values(seed, 30, 4), np.arange(30) % K
    ours, linear = KernelSVM(K, lambda a, b: a @ b.T, 0.3).fit(X, y), LinearSVM(0.3).fit(X, y)
    scores = np.concatenate([X, np.ones((30, 1))], axis=1) @ linear.coef_
    assert np.allclose(ours.decision(X), scores, atol=1e-6) and np.array_equal(ours.predict(X), linear.predict(X))


def test_kernels_by_their_formulas_and_probabilities():
    A, B = np.abs(values(0, 5, 3)), np.abs(values(1, 4, 3))
    d = A[:, None] - B
    assert np.allclose(rbf(0.3)(A, B), np.exp(-0.3 * (d**2).sum(axis=2)))
    assert np.allclose(chi_square(2.0)(A, B), np.exp(-((d**2) / (A[:, None] + B)).sum(axis=2) / 2))
    assert np.array_equal(chi_square(2.0)(np.zeros((1, 3)), np.zeros((1, 3))), [[1.0]])
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.standard_normal((120, 2)) + 2.0 * np.array([[0, 0], [2, 0], [0, 2]])[y]
    svm = ProbableSVM(4, rbf(0.5)).fit(X[:90], y[:90])                        # a class that no clip is of
    p = svm.predict_proba(X[90:])
    assert np.allclose(p.sum(axis=1), 1) and (p[:, 3] < 0.05).all()
    assert (p.argmax(axis=1) == y[90:]).mean() > 0.85
    sure = p.max(axis=1) > 0.9
    assert sure.any() and (p.argmax(axis=1) == y[90:])[sure].mean() > 0.85
