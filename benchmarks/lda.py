"""Fitting LDA at the size of the paper: the clips x clips route, the D x D definition, scikit-learn (eigen).

    python benchmarks/lda.py                    # 773 clips x 1582 features, 7 classes
    python benchmarks/lda.py --clips 300 --features 400 --rounds 9

Every round runs each contestant once, in a new order, on the same arrays; medians and quartiles over the rounds.
NumPy and SciPy bring a BLAS each, whose threads go on spinning for a while after their last call and slow down
whoever comes next: --pause seconds between two runs lets them fall asleep (--pause 0 shows the difference).
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings

import numpy as np
import scipy
from scipy import linalg

from emonet_scratch.lda import LDA, scatter


def clips(N: int, D: int, C: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Like openSMILE: D functionals of 40 causes that depend on the class, plus noise; variance near 1."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, N)
    causes = rng.standard_normal((N, 40)) + 0.3 * rng.standard_normal((C, 40))[y]      # (N, 40)
    return (causes @ rng.standard_normal((40, D)) / np.sqrt(40) + rng.standard_normal((N, D))) / np.sqrt(2), y


def definition_top(X: np.ndarray, y: np.ndarray, shrinkage: str | float) -> np.ndarray:
    """The definition as fast as LAPACK has it: eigh for the C - 1 largest eigenvalues only."""
    priors = np.bincount(y) / len(y)
    _, U, t, M, _ = scatter(X, y, priors, shrinkage)
    D = X.shape[1]
    return linalg.eigh(M.T @ M, U.T @ U + np.diag(t), subset_by_index=[D - len(M) + 1, D - 1])[1]


def angle(A: np.ndarray, B: np.ndarray) -> float:
    """The largest principal angle between two column spaces, degrees."""
    return float(np.degrees(linalg.subspace_angles(A, B).max()))


def main() -> None:
    """Print a table of times and ratios, then what the answers differ by."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("clips", 773), ("features", 1582), ("classes", 7), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between two runs")
    options = parser.parse_args()
    X, y = clips(2 * options.clips, options.features, options.classes)
    X, y, fresh = X[: options.clips], y[: options.clips], X[options.clips:]
    K = options.classes - 1
    contestants = {
        "woodbury (clips x clips)": lambda s: LDA(shrinkage=s, solver="woodbury").fit(X, y),
        "definition (eigh, D x D)": lambda s: LDA(shrinkage=s, solver="eigh").fit(X, y),
        f"eigh, {K} largest only": lambda s: definition_top(X, y, s),
    }
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    try:
        import sklearn
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as Peer
        contestants["scikit-learn eigen"] = lambda s: Peer(solver="eigen", shrinkage=s).fit(X, y)
        versions += f", scikit-learn {sklearn.__version__}"
    except ImportError:
        print("scikit-learn is not installed: left out")
    print(f"{versions}; {cpu()}")
    print(f"{options.clips} clips, {options.features} features, {options.classes} classes, "
          f"{options.rounds} rounds, pause {options.pause} s")

    order = np.random.default_rng(1)
    for shrinkage in ("auto", 0.1):
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for round_ in range(options.rounds + 1):
            for name in order.permutation(list(contestants)):
                time.sleep(options.pause)
                start = time.perf_counter()
                contestants[name](shrinkage)
                if round_:                                                  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
        fast = np.median(seconds["woodbury (clips x clips)"])
        print(f"\nshrinkage {shrinkage!r:8}             median ms   quartiles ms        times woodbury")
        for name, values in seconds.items():
            low, median, high = 1e3 * np.quantile(values, [0.25, 0.5, 0.75])
            print(f"  {name:26} {median:10.1f}   {low:7.1f} ..{high:7.1f}   {median / fast / 1e3:12.1f}")

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
        if "scikit-learn eigen" in contestants:
            peer = contestants["scikit-learn eigen"](shrinkage)
            turned = f"{angle(a.scalings_, peer.scalings_[:, :K]):.2g} degrees"
        print("{!s:9}   {:41.0e} {:10.0e} {:14.0e}   {:>18}".format(shrinkage, *differences, turned))


def cpu() -> str:
    """The processor and how many threads each BLAS uses, as far as the system tells."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    try:
        from threadpoolctl import threadpool_info
        return f"{name}, BLAS threads {'+'.join(str(pool['num_threads']) for pool in threadpool_info())}"
    except ImportError:
        return name


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
