"""Fitting LDA at the size of the paper: the clips x clips route, the D x D definition, scikit-learn (eigen).

    python benchmarks/lda.py                    # 773 clips x 1582 features, 7 classes
    python benchmarks/lda.py --clips 300 --features 400 --rounds 9

NumPy and SciPy bring a BLAS each, whose threads go on spinning for a while after their last call and slow down
whoever comes next: --pause seconds between two turns let them fall asleep (--pause 0 shows the difference).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from machine import machine
from peers import Contestant, arguments, measure
from report import summarise, table
from scipy import linalg

from emonet_scratch.lda import LDA, scatter


def clips(N: int, D: int, C: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Like openSMILE: D functionals of 40 causes that depend on the class, plus noise; variance near 1."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, N)
    causes = rng.standard_normal((N, 40)) + 0.3 * rng.standard_normal((C, 40))[y]      # (N, 40)
    return (causes @ rng.standard_normal((40, D)) / np.sqrt(40) + rng.standard_normal((N, D))) / np.sqrt(2), y


def ours(case: dict, solver: str) -> tuple[Callable, Callable]:
    """LDA by one of its two routes."""
    def step() -> LDA:
        return LDA(shrinkage=case["shrinkage"], solver=solver).fit(case["X"], case["y"])
    return step, lambda: {"probabilities": step().predict_proba(case["fresh"])}


def definition_top(case: dict) -> tuple[Callable, Callable]:
    """The definition as fast as LAPACK has it: eigh for the C - 1 largest eigenvalues only."""
    X, y = case["X"], case["y"]
    D = X.shape[1]

    def step() -> np.ndarray:
        priors = np.bincount(y) / len(y)
        _, U, t, M, _ = scatter(X, y, priors, case["shrinkage"])
        return linalg.eigh(M.T @ M, U.T @ U + np.diag(t), subset_by_index=[D - len(M) + 1, D - 1])[1]
    return step, dict


def scikit_learn(case: dict) -> tuple[Callable, Callable]:
    """Its eigen solver, which shrinks S_B as well: docs/lda.md."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    peer = LinearDiscriminantAnalysis(solver="eigen", shrinkage=case["shrinkage"])
    return lambda: peer.fit(case["X"], case["y"]), dict


CONTESTANTS = [Contestant("ours, Woodbury (clips x clips)", partial(ours, solver="woodbury"), "ours"),
               Contestant("ours, definition (eigh, D x D)", partial(ours, solver="eigh"), "definitions"),
               Contestant("eigh, largest only", definition_top, "other"),
               Contestant("scikit-learn, eigen", scikit_learn, "eager")]
RATIOS = {"ours vs scikit-learn, eigen": (["eager"], ["ours"]), "vs definition": (["definitions"], ["ours"])}


def angle(A: np.ndarray, B: np.ndarray) -> float:
    """The largest principal angle between two column spaces, degrees."""
    return float(np.degrees(linalg.subspace_angles(A, B).max()))


def routes(X: np.ndarray, y: np.ndarray, fresh: np.ndarray) -> None:
    """What the answers of both routes differ by, and how far the peer's directions are turned."""
    try:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as Peer
    except ImportError:
        Peer = None
    print("\non as many fresh clips")
    print("shrinkage   woodbury against definition: eigenvalues  transform  probabilities   "
          "largest angle to scikit-learn eigen")
    for shrinkage in (0.001, 0.01, 0.1, 0.5, "auto"):
        a, b = (LDA(shrinkage=shrinkage, solver=solver).fit(X, y) for solver in ("woodbury", "eigh"))
        T = b.transform(fresh)
        differences = (np.abs(a.eigenvalues_ / b.eigenvalues_ - 1).max(),
                       np.abs(a.transform(fresh) - T).max() / T.std(),
                       np.abs(a.predict_proba(fresh) - b.predict_proba(fresh)).max())
        turned = "-"
        if Peer:
            peer = Peer(solver="eigen", shrinkage=shrinkage).fit(X, y)
            turned = f"{angle(a.scalings_, peer.scalings_[:, :a.scalings_.shape[1]]):.2g} degrees"
        print("{!s:9}   {:41.0e} {:10.0e} {:14.0e}   {:>18}".format(shrinkage, *differences, turned))


def main() -> None:
    sizes = (("--clips", 773), ("--features", 1582), ("--classes", 7))
    options = arguments(__doc__, *((name, dict(type=int, default=default)) for name, default in sizes))
    machine()
    N, D, C, rows = options.clips, options.features, options.classes, []
    if options.quick:
        N, D = 60, 80
    X, y = clips(2 * N, D, C)
    X, y, fresh = X[:N], y[:N], X[N:]
    for threads in options.threads:
        for shrinkage in ("auto", 0.1):
            title = f"LDA fit, {N} x {D}, {C} classes, shrinkage {shrinkage!r}, {threads} thread(s)"
            case = {"X": X, "y": y, "fresh": fresh, "shrinkage": shrinkage}
            found = measure(CONTESTANTS, case, options, threads, {"probabilities": 1e-6})
            table(title, found)
            rows.append((title, found))
    summarise(rows, RATIOS)
    routes(X, y, fresh)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
