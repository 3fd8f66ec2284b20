"""LDA against its equations, against scipy.linalg.eigh, against scikit-learn, and against planted bugs."""

import os
import re
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from emonet_scratch import lda as module
from emonet_scratch.lda import LDA, SingularScatterError, ledoit_wolf

SHRINKAGES = ["auto", 0.1, 0.9]
seeds = st.integers(0, 2**32 - 1)


def clips(seed, N, D, C, offset=0.0):
    """N clips of C classes, imbalanced (the first holds about half), correlated features of mixed units."""
    rng = np.random.default_rng(seed)
    first = (np.arange(N - C) < 3) | (rng.random(N - C) < 0.5)             # Ledoit-Wolf needs more than two clips
    y = np.concatenate([np.arange(C), np.where(first, 0, rng.integers(0, C, N - C))])
    rng.shuffle(y)
    X = rng.standard_normal((N, D)) @ (np.eye(D) + 0.3 * rng.standard_normal((D, D)) / np.sqrt(D))
    return (X + rng.standard_normal((C, D))[y]) * np.exp(rng.uniform(-3, 3, D)) + offset, y


@st.composite
def problems(draw, wide=None):
    """(X, y); wide: more features than clips (True), enough clips for S_W of full rank (False), either (None)."""
    C = draw(st.integers(2, 5))
    D = draw(st.integers(1, 24))
    N = draw(st.integers(C + 4, C + 40))
    if wide is True:
        D += N
    if wide is False:
        N += D + C
    return clips(draw(seeds), N, D, C)


def matrices(X, y, shrinkage, priors=None):
    """S_W and S_B as the equations say, clip by clip; the shrinkage of a class from scikit-learn."""
    from sklearn.covariance import ledoit_wolf as peer
    labels, D = np.unique(y), X.shape[1]
    priors = [np.mean(y == k) for k in labels] if priors is None else priors
    means = [np.mean(X[y == k], axis=0) for k in labels]
    m = sum(p * mean for p, mean in zip(priors, means, strict=True))
    S_W, S_B = np.zeros((D, D)), np.zeros((D, D))
    for k, p, mean in zip(labels, priors, means, strict=True):
        S = sum(np.outer(x - mean, x - mean) for x in X[y == k]) / np.sum(y == k)
        if shrinkage == "auto" and np.sum(y == k) > 1:
            std = np.sqrt(np.diag(S))
            S = np.outer(std, std) * peer((X[y == k] - mean) / std)[0]
        elif isinstance(shrinkage, float):
            S = (1 - shrinkage) * S + shrinkage * np.trace(S) / D * np.eye(D)
        S_W += p * S
        S_B += p * np.outer(mean - m, mean - m)
    return S_W, S_B


def assert_solves(lda, X, y, priors=None):
    """The eigenproblem in matrices that the module had no part in."""
    S_W, S_B = matrices(X, y, lda.shrinkage, priors)
    W, eigenvalues, C = lda.scalings_, lda.eigenvalues_, len(lda.classes_)
    top = max(eigenvalues[0], 1)
    np.testing.assert_allclose(W.T @ S_W @ W, np.eye(W.shape[1]), atol=1e-9)
    np.testing.assert_allclose(W.T @ S_B @ W, np.diag(eigenvalues), atol=1e-9 * top)
    unit = np.sqrt(np.diag(S_W))[:, None]
    np.testing.assert_allclose(S_B @ W / unit, S_W @ W * eigenvalues / unit, atol=1e-8 * top)
    assert (np.diff(eigenvalues) <= 0).all() and (eigenvalues[C - 1:] == 0).all()
    oracle = linalg.eigh(S_B, S_W, eigvals_only=True)[::-1]
    np.testing.assert_allclose(eigenvalues, np.maximum(oracle, 0)[: len(eigenvalues)], atol=1e-8 * top)


def assert_same(a, b, X, tolerance=1e-8):
    """Two fitted LDA: eigenvalues, subspace, transform (columns whose eigenvalue stands apart), probabilities."""
    top, r = max(b.eigenvalues_[0], 1e-30), min(len(b.classes_) - 1, len(b.mean_))
    np.testing.assert_allclose(a.eigenvalues_, b.eigenvalues_, atol=tolerance * top)
    Ta, Tb = a.transform(X)[:, :r], b.transform(X)[:, :r]
    size = np.abs(Tb).max()
    np.testing.assert_allclose(Ta @ Ta.T, Tb @ Tb.T, atol=tolerance * size**2)
    gaps = np.diff(b.eigenvalues_[:r], append=-np.inf)
    apart = (gaps < -1e-3 * top) & (np.diff(b.eigenvalues_[:r], prepend=np.inf) < -1e-3 * top)
    np.testing.assert_allclose(Ta[:, apart], Tb[:, apart], atol=tolerance * size)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=tolerance)


# ---- the definition, and both routes to it ----------------------------------------------------------------------

@given(problems(), st.sampled_from(SHRINKAGES), st.sampled_from(["eigh", "woodbury", "auto"]))
def test_solves_the_generalized_eigenproblem(problem, shrinkage, solver):
    X, y = problem
    if X.shape[1] == 1 and solver == "woodbury" and shrinkage == "auto":
        shrinkage = 0.1                                  # one feature: Ledoit-Wolf shrinks by 0, see below
    assert_solves(LDA(shrinkage=shrinkage, solver=solver).fit(X, y), X, y)


@given(problems(wide=False))
def test_solves_it_without_shrinkage(problem):
    X, y = problem
    for shrinkage in (None, 0, 0.0):
        lda = LDA(shrinkage=shrinkage).fit(X, y)
        assert lda.solver_ == "eigh" and not lda.shrinkage_.any()
        lda.shrinkage = None
        assert_solves(lda, X, y)


@given(problems(), st.sampled_from(SHRINKAGES))
def test_routes_agree(problem, shrinkage):
    X, y = problem
    shrinkage = 0.1 if X.shape[1] == 1 else shrinkage
    fast, slow = (LDA(shrinkage=shrinkage, solver=solver).fit(X, y) for solver in ("woodbury", "eigh"))
    assert (fast.solver_, slow.solver_) == ("woodbury", "eigh")
    assert_same(fast, slow, X)


@pytest.mark.parametrize("shrinkage", [1e-2, 1e-4, 1e-6, 1e-9, 1e-11])
def test_little_shrinkage_keeps_eight_digits(shrinkage):
    """Little shrinkage leaves S_W nearly singular: woodbury hands over to the definition in time."""
    X, y = clips(3, 40, 90, 4)
    fast, slow = (LDA(shrinkage=shrinkage, solver=solver).fit(X / X.std(0), y) for solver in ("woodbury", "eigh"))
    assert fast.solver_ == ("woodbury" if shrinkage > 1e-7 else "eigh")
    assert_same(fast, slow, X / X.std(0))
    for solver in ("woodbury", "eigh"):
        with pytest.raises(SingularScatterError, match=r"S_W has rank 36 < 90 features.*larger shrinkage"):
            LDA(shrinkage=1e-16 * shrinkage, solver=solver).fit(X, y)


def test_routes_agree_at_the_size_of_the_paper():
    X, y = clips(0, 773, 1582, 7)
    fast, slow = LDA().fit(X, y), LDA(solver="eigh").fit(X, y)
    assert fast.solver_ == "woodbury" and fast.transform(X).shape == (773, 6)
    assert_same(fast, slow, X)


def test_nothing_of_features_times_features_is_held():
    """With more features than clips: 20 x 3000 numbers are 0.5 MB, 3000 x 3000 would be 72."""
    X, y = np.random.default_rng(0).standard_normal((20, 3000)), np.repeat([0, 1], 10)
    def peak(function):
        tracemalloc.start()
        function()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most
    lda = LDA()
    assert peak(lambda: lda.fit(X, y).predict(X)) < 10 * X.nbytes and lda.solver_ == "woodbury"
    assert peak(lambda: ledoit_wolf(X.T.copy())) < 10 * X.nbytes              # nor of clips times clips with many clips


def test_auto_takes_the_definition_where_clips_outnumber_features():
    assert LDA().fit(*clips(0, 40, 40, 3)).solver_ == "eigh"
    assert LDA().fit(*clips(0, 40, 41, 3)).solver_ == "woodbury"


@pytest.mark.parametrize("solver", ["eigh", "woodbury"])
@given(problem=problems(), seed=seeds)
def test_more_components_than_classes(solver, problem, seed):
    X, y = problem
    D, C = X.shape[1], len(np.unique(y))
    K = min(D, C + int(np.random.default_rng(seed).integers(0, D)))
    few = LDA(shrinkage=0.2, solver=solver).fit(X, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        many = LDA(n_components=K, shrinkage=0.2, solver=solver).fit(X, y)
    said = [str(w.message) for w in caught]
    assert all(w.filename == __file__ for w in caught)                        # the line that asked for so many
    assert len(said) == (K > C - 1) and all(f"only {C - 1} non-zero eigenvalues" in line for line in said)
    assert many.transform(X).shape == (len(X), K) and np.count_nonzero(many.eigenvalues_) <= C - 1
    assert_solves(many, X, y)
    r = min(C - 1, D)
    tiny = 1e-9 * np.abs(few.scalings_).max()
    np.testing.assert_allclose(many.scalings_[:, :r], few.scalings_, rtol=1e-7, atol=tiny)
    np.testing.assert_allclose(many.predict_proba(X), few.predict_proba(X), atol=1e-9)


def test_fewer_components_leave_bayes_rule_whole():
    X, y = clips(5, 60, 10, 5)
    one, all_ = LDA(n_components=1).fit(X, y), LDA().fit(X, y)
    np.testing.assert_array_equal(one.transform(X)[:, 0], (X - one.mean_) @ all_.scalings_[:, 0])
    np.testing.assert_array_equal(one.predict_proba(X), all_.predict_proba(X))


@given(problems(wide=False), seeds)
def test_affine_maps_change_nothing_without_shrinkage(problem, seed):
    X, y = problem
    D, rng = X.shape[1], np.random.default_rng(seed)
    X = X / X.std(axis=0)
    U, _, V = np.linalg.svd(rng.standard_normal((D, D)))
    moved = X @ (U * rng.uniform(0.5, 2, D)) @ V + rng.standard_normal(D)
    a, b = LDA(shrinkage=None).fit(X, y), LDA(shrinkage=None).fit(moved, y)
    top = b.eigenvalues_[0]
    np.testing.assert_allclose(a.eigenvalues_, b.eigenvalues_, atol=1e-8 * top)
    Ta, Tb = a.transform(X), b.transform(moved)
    np.testing.assert_allclose(Ta @ Ta.T, Tb @ Tb.T, atol=1e-7 * np.abs(Tb).max() ** 2)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(moved), atol=1e-8)


@given(problems(), seeds)
def test_auto_shrinkage_does_not_see_units(problem, seed):
    X, y = problem
    D, rng = X.shape[1], np.random.default_rng(seed)
    moved = X * np.exp(rng.uniform(-9, 9, D)) + rng.standard_normal(D)
    a, b = LDA().fit(X, y), LDA().fit(moved, y)
    np.testing.assert_allclose(a.shrinkage_, b.shrinkage_, rtol=1e-7)
    np.testing.assert_allclose(a.eigenvalues_, b.eigenvalues_, rtol=1e-6, atol=1e-8 * b.eigenvalues_[0])


def test_the_sign_convention_holds_through_ties():
    X, y = clips(1, 30, 6, 3)
    X = np.hstack([X, -X])                               # every direction has pairs w_j, -w_j of equal magnitude
    for solver in ("eigh", "woodbury"):
        lda = LDA(shrinkage=0.1, solver=solver).fit(X, y)
        largest = np.abs(lda.scalings_[:6]).argmax(axis=0)
        assert (lda.scalings_[largest, range(2)] > 0).all()
    assert_same(LDA(shrinkage=0.1, solver="woodbury").fit(X, y), lda, X)


# ---- scikit-learn -----------------------------------------------------------------------------------------------

@given(st.integers(2, 40), st.integers(1, 60), seeds)
def test_ledoit_wolf_is_scikit_learns(n, D, seed):
    covariance = pytest.importorskip("sklearn.covariance")
    X = np.random.default_rng(seed).standard_normal((n, D)) ** 3
    s, (theirs, s_theirs) = ledoit_wolf(X - X.mean(axis=0)), covariance.ledoit_wolf(X)
    S = np.cov(X.T, bias=True).reshape(D, D)
    np.testing.assert_allclose((1 - s) * S + s * np.trace(S) / D * np.eye(D), theirs, rtol=1e-9, atol=1e-12)
    assert 0 <= s <= 1
    if D > 1:                                            # one feature is its own target: any s is right
        np.testing.assert_allclose(s, s_theirs, rtol=1e-9, atol=1e-12)


@given(st.integers(2, 40), st.integers(2, 60), seeds)
def test_ledoit_wolf_does_not_see_the_size_of_numbers(n, D, seed):
    """And learns nothing from one feature or from two clips: exactly nothing, though rounding would leave a trace."""
    Z = np.random.default_rng(seed).standard_normal((n, D)) ** 3
    Z -= Z.mean(axis=0)
    for size in (1e-30, 1e-12, 1e12, 1e30):
        assert ledoit_wolf(size * Z) == pytest.approx(ledoit_wolf(Z), rel=1e-9)
    one = np.random.default_rng(seed).standard_normal((n, 1))
    pair = np.vstack([Z[0], -Z[0]])
    assert ledoit_wolf(one - one.mean()) == ledoit_wolf(pair) == ledoit_wolf(3 * pair) == 0.0


def test_ledoit_wolf_of_a_covariance_that_is_its_own_target():
    assert ledoit_wolf(np.vstack([np.eye(3), -np.eye(3)])) == 0.0


@pytest.mark.parametrize("n", [3, 50, 4000])
@pytest.mark.parametrize("shrinkage", ["auto", 0.1])
def test_a_feature_is_constant_by_its_own_size(n, shrinkage):
    """What rounding leaves of a constant is nothing, however large it is; a billionth of a feature's size is something."""
    noise = np.random.default_rng(n).standard_normal(n)
    constants = np.array([0, 1e-12, 0.1, 1 / 3, -7, 1e9])
    vary = np.array([1e-12, 0.1, 1 / 3, -7, 1e9]) * (1 + 1e-9 * noise[:, None])
    X = np.column_stack([np.tile(constants, (n, 1)), vary, 1e-20 * noise])
    means, U, t, M, s = module.scatter(X, np.zeros(n, int), np.ones(1), shrinkage)
    assert not U[:, :6].any() and np.array_equal(means[0, :6], constants) and not M.any()
    assert U[:, 6:].any(axis=0).all() and 0 < s[0] <= 1
    var = X[:, 6:].var(axis=0)
    scaled = 6 / 12 * s[0] * np.concatenate([np.ones(6), var])                # half of the features vary
    np.testing.assert_allclose(t, scaled if shrinkage == "auto" else np.full(12, 0.1 * var.sum() / 12), rtol=1e-5)


@given(problems(wide=False))
def test_scikit_learn_agrees_exactly_without_shrinkage(problem):
    peer = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    X, y = problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # a class with one clip worries empirical_covariance
        theirs = peer(solver="eigen").fit(X, y)
    ours = LDA(shrinkage=None).fit(X, y)
    K, scale = len(ours.eigenvalues_), np.abs(ours.transform(X)).max()     # their transform does not subtract m
    T = theirs.transform(X) - ours.mean_ @ theirs.scalings_[:, :K]
    np.testing.assert_allclose(T @ T.T, ours.transform(X) @ ours.transform(X).T, atol=1e-7 * scale**2)
    p = theirs.predict_proba(X)
    np.testing.assert_allclose(ours.predict_proba(X), p, atol=1e-7)


@given(problems(), st.sampled_from([*SHRINKAGES, 1.0]), st.booleans(), st.sampled_from(["eigh", "auto"]))
def test_scikit_learn_agrees_on_s_w_and_bayes_rule(problem, shrinkage, given_priors, solver):
    """Their lsqr solver is Bayes' rule with the shrunk S_W; their eigen solver's S_W fed to eigh is our answer."""
    peer = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    X, y = problem
    C = len(np.unique(y))
    priors = np.arange(1, C + 1) / (C * (C + 1) / 2) if given_priors else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                  # a class with one clip worries ledoit_wolf
        lsqr = peer(solver="lsqr", shrinkage=shrinkage, priors=priors).fit(X, y)
    ours = LDA(shrinkage=shrinkage, priors=priors, solver=solver).fit(X, y)
    np.testing.assert_allclose(ours.means_, lsqr.means_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.priors_, lsqr.priors_, rtol=1e-12)
    p = np.atleast_2d(lsqr.predict_proba(X))
    np.testing.assert_allclose(ours.predict_proba(X), p, atol=1e-6)
    clear = np.sort(p, axis=1)[:, -1] > 0.5 + 1e-5
    np.testing.assert_array_equal(ours.predict(X)[clear], lsqr.predict(X)[clear])
    S_W, S_B = lsqr.covariance_, matrices(X, y, None, priors)[1]
    W = ours.scalings_
    np.testing.assert_allclose(W.T @ S_W @ W, np.eye(W.shape[1]), atol=1e-8)
    top = linalg.eigh(S_B, S_W, eigvals_only=True)[::-1][: W.shape[1]]
    np.testing.assert_allclose(ours.eigenvalues_, np.maximum(top, 0), atol=1e-8 * max(top[0], 1))


def test_scikit_learns_eigen_solver_has_another_s_b_with_shrinkage():
    """Documented in docs/lda.md: shrunk(S_T) - shrunk(S_W) has full rank, so their subspace is turned a little."""
    peer = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    X, y = clips(2, 120, 30, 4)
    angles = []
    for shrinkage in (None, 0.1, "auto"):
        W, V = LDA(shrinkage=shrinkage).fit(X, y).scalings_, peer("eigen", shrinkage=shrinkage).fit(X, y).scalings_
        angles.append(np.degrees(linalg.subspace_angles(W, V[:, :3]).max()))
    assert angles[0] < 1e-5 < 1e-3 < angles[1] and 1e-3 < angles[2] < 45


# ---- what a careless implementation gets wrong ------------------------------------------------------------------

def scaled_s_b(means, U, t, M, s):
    return means, U, t, M * np.sqrt(1.001), s


def unweighted_classes(means, U, t, M, s):
    return means, U, t, (means - means.mean(axis=0)) / np.sqrt(len(means)), s


def forgotten_complement(means, U, t, M, s):
    return means, U / np.sqrt(1 - s.max()), t, M, s      # S + s mu I in place of (1 - s) S + s mu I


def scalar_target(means, U, t, M, s):
    return means, U, np.full_like(t, t.mean()), M, s


def wrong_mean(means, U, t, M, s):
    return means + 0.01 * means.std(), U, t, M - M[0] * 1e-3, s


@pytest.mark.parametrize("solver", ["eigh", "woodbury"])
@pytest.mark.parametrize("bug", [scaled_s_b, unweighted_classes, forgotten_complement, scalar_target, wrong_mean])
def test_planted_bugs_in_the_matrices_are_caught(monkeypatch, bug, solver):
    X, y = clips(7, 50, 70, 4)
    honest = module.scatter
    assert_solves(LDA(solver=solver).fit(X, y), X, y)
    monkeypatch.setattr(module, "scatter", lambda *arguments: bug(*honest(*arguments)))
    with pytest.raises(AssertionError):
        assert_solves(LDA(solver=solver).fit(X, y), X, y)


@pytest.mark.parametrize("bug", [lambda e, W: (e * (1 + 1e-6), W), lambda e, W: (e, W * (1 + 1e-6)),
                                 lambda e, W: (e, W[:, ::-1]), lambda e, W: (e, W + 1e-6 * np.abs(W).max())])
def test_planted_bugs_in_a_route_are_caught(monkeypatch, bug):
    X, y = clips(7, 50, 70, 4)
    honest, slow = module.woodbury, LDA(solver="eigh").fit(X, y)
    monkeypatch.setattr(module, "woodbury", lambda *arguments: bug(*honest(*arguments)))
    with pytest.raises(AssertionError):
        assert_same(LDA().fit(X, y), slow, X)


# ---- awkward data -----------------------------------------------------------------------------------------------

def test_singular_s_w_names_rank_and_remedy():
    X, y = clips(0, 20, 40, 3)
    with pytest.raises(SingularScatterError, match=r"rank 17 < 40 features \(20 clips, 3 classes.*shrinkage"):
        LDA(shrinkage=None).fit(X, y)
    X, y = clips(0, 60, 6, 3)
    for column in (X[:, 1], np.full(60, 0.1), X[:, 2] - 3 * X[:, 4]):      # duplicate, constant, dependent
        with pytest.raises(SingularScatterError, match=r"rank 6 < 7 features.*drop constant and duplicate"):
            LDA(shrinkage=None).fit(np.column_stack([X, column]), y)
    with pytest.raises(SingularScatterError, match=r"rank 6 < 7.*1 features constant within every class"):
        LDA(shrinkage=None).fit(np.column_stack([X, 0.1 * y]), y)
    with pytest.raises(SingularScatterError, match="rank 0 < 2"):          # all clips of a class are one clip
        LDA(shrinkage=0.5).fit(np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1])


@pytest.mark.parametrize("seed, D", [(3, 8), (7, 8), (9, 5), (19, 5), (22, 8), (32, 3), (41, 3), (43, 5)])
def test_singular_s_w_is_found_where_rounding_hides_it(seed, D):
    """Two features that are sums of the others, of which Cholesky's factors notice nothing: only the condition tells."""
    X, y = clips(seed, 60, D, 3)
    X = np.column_stack([X, X @ np.random.default_rng(seed).standard_normal((D, 2))])
    with pytest.raises(SingularScatterError, match=f"rank {D} < {D + 2} features"):
        LDA(shrinkage=None).fit(X, y)


def test_s_w_of_full_rank_is_solved_though_its_condition_is_in_doubt():
    """Its least eigenvalue is 4 times what counts as 0, the estimate of its condition is below that."""
    D = 40
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
    U = np.sqrt(np.append(np.ones(D - 1), 5 * D * np.finfo(float).eps))[:, None] * Q.T
    eigenvalues, W = module.definition(U, np.zeros(D), Q[:2], 1)
    assert eigenvalues[0] > 0 and W.shape == (D, 1) and (W.T @ U.T @ U @ W)[0, 0] == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("solver", ["eigh", "auto"])
@pytest.mark.parametrize("shrinkage", ["auto", 0.1])
@pytest.mark.parametrize("D", [6, 80])
def test_constant_and_duplicate_features_with_shrinkage(solver, shrinkage, D):
    peer = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    X, y = clips(4, 50, D, 3)
    X = np.column_stack([np.full(50, 0.1), X, X[:, 0], np.full(50, 1e9), np.where(y == 0, 0.3, X[:, 1])])
    lda = LDA(shrinkage=shrinkage, solver=solver).fit(X, y)
    assert not lda.scalings_[0].any() and not lda.scalings_[-2].any()      # a constant: weight zero
    np.testing.assert_allclose(lda.scalings_[1], lda.scalings_[-3], rtol=1e-6)
    theirs = peer(solver="lsqr", shrinkage=shrinkage).fit(X - [*[0] * (D + 2), 1e9, 0], y)
    np.testing.assert_allclose(lda.predict_proba(X), theirs.predict_proba(X - [*[0] * (D + 2), 1e9, 0]), atol=1e-6)


def test_a_class_with_one_clip_and_classes_with_two():
    X, y = clips(0, 30, 50, 2)
    lda = LDA().fit(np.vstack([X, X[:1] + 5]), np.append(y, 9))
    assert lda.shrinkage_[2] == 0 and lda.predict(X[:1] + 5) == [9]
    pairs = np.repeat(np.arange(4), 2)                   # from two clips Ledoit-Wolf learns nothing: no shrinkage
    with pytest.raises(SingularScatterError, match=r"rank 4 < 20.*larger shrinkage, such as 0.1"):
        LDA().fit(X[:8, :20], pairs)
    assert LDA(shrinkage=0.1).fit(X[:8, :20], pairs).score(X[:8, :20], pairs) == 1


@pytest.mark.parametrize("solver", ["eigh", "woodbury"])
def test_equal_means_leave_nothing_but_priors(solver):
    Z = np.random.default_rng(0).standard_normal((6, 9))
    X, y = np.vstack([Z, -Z, 2 * Z, -2 * Z, Z, -Z]), np.repeat([0, 1, 2], [12, 12, 12])
    lda = LDA(shrinkage=0.1, solver=solver).fit(X, y)
    np.testing.assert_allclose(lda.eigenvalues_, 0, atol=1e-12)
    np.testing.assert_allclose(lda.predict_proba(X), 1 / 3, atol=1e-6)
    np.testing.assert_allclose(lda.scalings_.T @ matrices(X, y, 0.1)[0] @ lda.scalings_, np.eye(2), atol=1e-10)


def test_probabilities_far_out_stay_finite():
    X, y = clips(0, 40, 60, 5)
    lda = LDA().fit(X, y)
    p = lda.predict_proba(np.vstack([X, 1e9 * X, 1e100 * X]))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert np.isfinite(lda.predict_log_proba(1e9 * X)).all()
    assert lda.predict_proba(X[:0]).shape == (0, 5) and lda.predict(X[:0]).shape == (0,)


def test_a_large_offset_costs_only_its_own_digits():
    X, y = clips(0, 40, 60, 3)
    assert_same(LDA().fit(X + 1e5, y), LDA(solver="eigh").fit(X + 1e5, y), X + 1e5)
    np.testing.assert_allclose(LDA().fit(X + 1e5, y).eigenvalues_, LDA().fit(X, y).eigenvalues_, rtol=1e-6)


# ---- input and output -------------------------------------------------------------------------------------------

def test_kinds_of_input_and_labels():
    X, y = clips(0, 40, 60, 3)
    X = X.astype(np.float32)
    before, labels = X.copy(), np.array(["Angry", "Happy", "Sad"])
    X.flags.writeable = y.flags.writeable = False
    reference = LDA().fit(X.astype(np.float64), y)
    wide = np.zeros((80, 120), np.float32)
    wide[::2, ::2] = X
    for same in (X, wide[::2, ::2], np.asfortranarray(X), X.tolist()):
        np.testing.assert_array_equal(LDA().fit(same, y).scalings_, reference.scalings_)
        np.testing.assert_allclose(reference.transform(same), reference.transform(before), rtol=1e-12)
    np.testing.assert_array_equal(X, before)
    for names in (labels[y], list(labels[y]), labels[y].astype(object)):
        lda = LDA().fit(X, names)
        np.testing.assert_array_equal(lda.classes_, labels)
        np.testing.assert_array_equal(lda.predict(X), labels[reference.predict(X)])
        assert lda.score(X, names) == np.mean(reference.predict(X) == y) == reference.score(X, y)
    np.testing.assert_array_equal(LDA().fit(X, y * 5 - 7).classes_, [-7, -2, 3])


@pytest.mark.parametrize("labels", [np.array(["a", "é", "Überraschung"]), np.array([-3, 0, 2**40]),
                                    np.arange(3, dtype="i2")])
@pytest.mark.parametrize("options", [{}, {"shrinkage": None, "n_components": 1}, {"shrinkage": np.float32(0.25)},
                                     {"priors": [0.5, 0.3, 0.2], "solver": "woodbury"}])
def test_saved_and_loaded_bit_for_bit(tmp_path, labels, options):
    X, y = clips(0, 40, 20, 3)
    lda = LDA(**options).fit(X, labels[y])
    lda.save(tmp_path / "model.lda")
    assert os.listdir(tmp_path) == ["model.lda"]
    other = LDA(n_components=7, shrinkage=None)
    other.load_state_dict(lda.state_dict())
    for copy in (LDA.load(str(tmp_path / "model.lda")), other):
        assert copy.classes_.dtype == lda.classes_.dtype and copy.solver_ == lda.solver_
        np.testing.assert_array_equal(copy.classes_, lda.classes_)
        for name, array in lda.state_dict().items():
            assert copy.state_dict()[name].tobytes() == array.tobytes(), name
        np.testing.assert_array_equal(copy.transform(X), lda.transform(X))
        np.testing.assert_array_equal(copy.predict_proba(X), lda.predict_proba(X))
        np.testing.assert_array_equal(copy.fit(X, labels[y]).scalings_, lda.scalings_)
    assert all(array.dtype.kind in "fu" for array in lda.state_dict().values())    # what safetensors can hold


def test_a_file_that_is_none_names_itself(tmp_path):
    from safetensors.numpy import save_file
    path = tmp_path / "model.lda"
    lda = LDA().fit(*clips(0, 40, 20, 3))
    lda.save(path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.lda is no complete LDA file") as caught:
            LDA.load(path)
        assert "\n" not in str(caught.value)
    path.write_text("@relation openSMILE")
    with pytest.raises(ValueError, match="no complete LDA file"):
        LDA.load(path)
    save_file({"W": np.ones(3)}, path)
    with pytest.raises(ValueError, match="not the state of an LDA"):
        LDA.load(path)
    with pytest.raises(ValueError, match="absent': no such file"):
        LDA.load(tmp_path / "absent")


def test_a_state_of_another_shape_changes_nothing():
    lda = LDA().fit(*clips(0, 40, 20, 3))
    kept = lda.state_dict()
    for name, wrong in (("mean_", np.ones(3)), ("scalings_", np.ones(20)), ("config", np.zeros(4, np.uint8)),
                        ("intercept_", np.ones(4)), ("coef_", np.array(["x"]))):
        with pytest.raises(ValueError, match=r"state of (an )?LDA"):
            lda.load_state_dict({**kept, name: wrong})
    with pytest.raises(ValueError, match="KeyError: 'means_'"):
        lda.load_state_dict({name: array for name, array in kept.items() if name != "means_"})
    assert all((lda.state_dict()[name] == array).all() for name, array in kept.items())


@pytest.mark.parametrize("off", [-0.9e-6, 0, 0.9e-6])
def test_priors_are_float64_and_as_given(off):
    given_ = np.array([0.5, 0.3, 0.2 + off])
    assert np.array_equal(LDA(priors=given_).fit(*clips(0, 40, 20, 3)).priors_, given_)
    assert LDA(priors=np.array([0.5, 0.25, 0.25], np.float32)).fit(*clips(0, 40, 20, 3)).priors_.dtype == np.float64


def test_arrays_lie_in_order():
    """So that a file can hold them, whatever order a state comes in."""
    lda, other = LDA(n_components=2).fit(*clips(0, 40, 60, 5)), LDA()
    other.load_state_dict({name: np.asfortranarray(a) for name, a in lda.state_dict().items()})
    assert all(getattr(one, name).flags.c_contiguous for one in (lda, other) for name in LDA.ARRAYS)


def test_as_many_components_as_separate_something_are_no_reason_to_warn():
    X, y = clips(0, 40, 20, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LDA(n_components=3).fit(X, y)
    with pytest.warns(UserWarning, match="the other 1 directions separate nothing"):
        LDA(n_components=4).fit(X, y)


@pytest.mark.parametrize("solver", ["eigh", "woodbury"])
def test_a_constant_separates_nothing_but_is_a_direction(solver):
    """Its weight is 0 in what separates; what is left to ask for is orthonormal with it."""
    X, y = clips(4, 12, 14, 3)
    X = np.column_stack([X, np.full(12, 0.1)])
    with pytest.warns(UserWarning, match="separate nothing"):
        lda = LDA(n_components=15, shrinkage=0.1, solver=solver).fit(X, y)
    S_W, _ = matrices(X, y, 0.1)
    np.testing.assert_allclose(lda.scalings_.T @ S_W @ lda.scalings_, np.eye(15), atol=1e-9)
    assert not lda.scalings_[-1, :2].any() and lda.scalings_[-1, 2:].any()


def test_two_clips_are_enough_to_ask_and_too_few_to_answer():
    with pytest.raises(SingularScatterError, match="rank 0 < 3"):
        LDA().fit(np.eye(3)[:2], [0, 1])


def test_a_state_is_a_copy():
    lda = LDA(priors=np.array([0.5, 0.3, 0.2])).fit(*clips(0, 40, 20, 3))
    state = lda.state_dict()
    before = {name: a.copy() for name, a in state.items()}
    other = LDA()
    other.load_state_dict(state)
    for a in state.values():
        a[...] = 7
    for one in (lda, other):
        assert all(np.array_equal(a, before[name]) for name, a in one.state_dict().items())


def test_an_interrupted_save_leaves_the_previous_file(tmp_path, monkeypatch):
    path, X, y = tmp_path / "model.lda", *clips(0, 40, 20, 3)
    LDA().fit(X, y).save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        LDA(shrinkage=0.5).fit(X, y).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.lda"]


@pytest.mark.parametrize("error, options, change", [
    ("n_components=21 exceeds the 20 features", {"n_components": 21}, {}),
    (r"X\[3, 5\] is nan.*1 clips and 2 features", {}, {"X": (3, slice(5, 7), np.nan)}),
    (r"X\[0, 19\] is -inf", {}, {"X": (0, 19, -np.inf)}),
    (r"X\[1, 2\] is 1e\+200.*below 1e150", {}, {"X": (1, 2, 1e200)}),
    ("at least 2 classes, got only 3$", {}, {"y": np.full(40, 3)}),
    ("at least 2 classes, got only Sad$", {}, {"y": np.full(40, "Sad")}),
    (r"priors must be 3 positive numbers with sum 1, got \[0.5 0.5\]$", {"priors": list(np.array([0.5, 0.5]))}, {}),
    ("y must hold 40 integers or strings, one a clip, got shape \\(39,\\)", {}, {"y": np.zeros(39, int)}),
    ("got shape \\(40, 1\\)", {}, {"y": np.zeros((40, 1), int)}),
    (", float64", {}, {"y": np.arange(40.0)}),
    (", object", {}, {"y": np.array([None, *"a" * 39], dtype=object)}),
    ("X must be a 2-D array.*shape \\(20,\\)", {}, {"X": np.ones(20), "y": [0]}),
    ("shape \\(2, 3, 4\\)", {}, {"X": np.ones((2, 3, 4)), "y": [0, 1]}),
    ("dtype complex128", {}, {"X": np.ones((2, 3)) * 1j, "y": [0, 1]}),
    ("dtype <U1", {}, {"X": np.array([["a"], ["b"]]), "y": [0, 1]}),
    ("at least 2 clips and 1 feature, got X of shape \\(1, 3\\)", {}, {"X": np.ones((1, 3)), "y": [0]}),
    ("at least 2 clips and 1 feature, got X of shape \\(3, 0\\)", {}, {"X": np.ones((3, 0)), "y": [0, 1, 1]}),
    ("priors must be 3 positive numbers", {"priors": [0.5, 0.5]}, {}),
    ("priors must be 3 positive numbers", {"priors": [0.5, 0.5, 0.5]}, {}),
    ("priors must be 3 positive numbers", {"priors": [1.0, 0.5, -0.5]}, {}),
    ("priors must be 3 positive numbers with sum 1, got", {"priors": [0.2, 0.3, 0.4]}, {}),
    ("priors must be 3 positive numbers", {"priors": [0.5, 0.5, 0.0]}, {}),
    ("priors must be 3 positive numbers", {"priors": [0.5, 0.3, 0.2 - 1.1e-6]}, {}),
    ("priors must be 3 positive numbers", {"priors": [0.5, 0.3, 0.2 + 1.1e-6]}, {}),
    ("priors must be 3 positive numbers", {"priors": [[0.5, 0.3, 0.2]]}, {}),
    (r"X\[2, 3\] is -1\.1e\+150.*1 clips and 1 features", {}, {"X": (2, 3, -1.1e150)}),
    (r"X\[2, 3\] is 1\.1e\+150", {}, {"X": (2, 3, 1.1e150)}),
    (r"X\[2, 3\] is 1e\+150", {}, {"X": (2, 3, 1e150)}),
    (r"X\[2, 3\] is -1e\+150", {}, {"X": (2, 3, -1e150)}),
    ("solver='woodbury' needs a positive shrinkage", {"solver": "woodbury", "shrinkage": None}, {}),
    ("solver='woodbury' needs a positive shrinkage", {"solver": "woodbury"}, {"X": np.arange(40.0)[:, None]}),
])
def test_errors_of_fit(error, options, change):
    X, y = clips(0, 40, 20, 3)
    if isinstance(change.get("X"), tuple):
        *where, value = change["X"]
        X[tuple(where)] = value
    else:
        X = change.get("X", X)
    with pytest.raises(ValueError, match=error) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        LDA(**options).fit(X, change.get("y", y))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"shrinkage": -0.1}, {"shrinkage": 1.1}, {"shrinkage": "ledoit"},
                                     {"shrinkage": True}, {"shrinkage": np.nan}, {"n_components": 0},
                                     {"n_components": 1.5}, {"n_components": "6"}, {"solver": "svd"}])
def test_errors_of_options(options):
    (name, value), = options.items()
    with pytest.raises(ValueError, match=f"{name} must be .*{re.escape(repr(value))}"):
        LDA(**options)


def test_errors_after_fit():
    X, y = clips(0, 40, 20, 3)
    for use in (LDA().transform, LDA().predict, LDA().predict_proba, lambda X: LDA().score(X, y),
                lambda X: LDA().state_dict()):
        with pytest.raises(RuntimeError, match="not fitted: call fit"):
            use(X)
    lda = LDA().fit(X, y)
    with pytest.raises(ValueError, match=r"fitted on 20 features, got X of shape \(40, 19\)"):
        lda.transform(X[:, 1:])
    with pytest.raises(ValueError, match=r"X\[0, 0\] is nan"):
        lda.predict(X * np.nan)
    with pytest.raises(ValueError, match="y must hold 40"):
        lda.score(X, y[1:])

    class OnGPU:
        __cuda_array_interface__ = None

    with pytest.raises(ValueError, match="X is on a GPU"):
        lda.predict(OnGPU())


def test_a_second_fit_gives_the_same_bits_and_forgets_the_first():
    X, y = clips(0, 40, 60, 3)
    once, twice = LDA().fit(X, y), LDA().fit(*clips(1, 30, 20, 5)).fit(X, y)
    assert all(twice.state_dict()[name].tobytes() == a.tobytes() for name, a in once.state_dict().items())


def test_the_room_needs_numpy_and_scipy_only():
    code = ("import sys, emonet_scratch.lda; print(sorted({m.split('.')[0] for m in sys.modules}"
            " & {'sklearn', 'safetensors', 'cupy', 'torch'}))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@given(problems(), st.integers(0, 30), st.sampled_from(SHRINKAGES))
def test_nuisance_rows_are_added_to_the_scatter_within_classes(problem, M, shrinkage):
    """S_B w = lambda (S_W + E^T E) w, whatever route is taken."""
    X, y = problem
    E = np.random.default_rng(M).standard_normal((M, X.shape[1])) * X.std(axis=0)
    lda = LDA(shrinkage=shrinkage).fit(X, y, E)
    S_W, S_B = matrices(X, y, shrinkage)
    S = S_W + E.T @ E
    W, values = lda.scalings_, lda.eigenvalues_
    scale = np.sqrt(np.diag(S))
    assert np.allclose(W.T @ S @ W, np.eye(W.shape[1]), atol=1e-6)
    assert np.allclose((S_B @ W) / scale[:, None], (S @ W * values) / scale[:, None], atol=1e-6 * max(1, values.max()))


def test_a_direction_in_which_recordings_differ_is_not_used():
    """The class is in the first two features alike, the first one also says who has recorded it."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = rng.standard_normal((400, 3)) + 2.0 * y[:, None] * [1, 1, 0]
    E = 10.0 * rng.standard_normal((50, 1)) * [1, 0, 0] / 50**0.5
    plain, aware = (np.abs(LDA(shrinkage=0.1).fit(X, y, rows).scalings_[:, 0]) for rows in (None, E))
    assert plain[0] > 0.8 * plain[1] and aware[0] < 0.05 * aware[1]


@pytest.mark.parametrize("rows", [np.zeros((2, 4)), np.full((2, 3), np.nan), np.zeros(3)])
def test_nuisance_of_another_shape_or_without_numbers_is_refused(rows):
    X, y = clips(0, 20, 3, 2)
    with pytest.raises(ValueError):
        LDA().fit(X, y, rows)
