"""k-means, and what patches and blocks of video are brought to before it: even contrast, independent directions."""

import numpy as np


def distances(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared distances |x - c|^2 = |x|^2 - 2 x c + |c|^2: (N, D), (K, D) -> (N, K)."""
    d = (x**2).sum(axis=1)[:, None] - 2 * x @ centroids.T + (centroids**2).sum(axis=1)
    return np.maximum(d, 0)


def plus_plus(x: np.ndarray, K: int, rng: np.random.Generator) -> np.ndarray:
    """K rows of x (N, D), each drawn with a probability that is its squared distance to those before it (k-means++, Arthur
    & Vassilvitskii 2007): the expected cost is within 8 (ln K + 2) of the best. ValueError for more than N."""
    if not 1 <= K <= len(x):
        raise ValueError(f"k-means wants 1 to {len(x)} centroids of {len(x)} points, got {K}")
    chosen = [int(rng.integers(len(x)))]
    nearest = np.full(len(x), np.inf)
    while len(chosen) < K:
        nearest = np.minimum(nearest, distances(x, x[chosen[-1:]])[:, 0])
        total = nearest.sum()
        p = nearest / total if total > 0 else np.full(len(x), 1 / len(x))     # fewer distinct points than K
        chosen.append(int(rng.choice(len(x), p=p.astype(np.float64) / p.astype(np.float64).sum())))
    return x[chosen]


def kmeans(x: np.ndarray, K: int, rng: np.random.Generator, steps: int = 30,
           start: np.ndarray | None = None) -> tuple[np.ndarray, list[float]]:
    """(centroids (K, D), cost before each step) by Lloyd's steps (1957, published 1982) from k-means++, or from `start`.

        cost = sum_n min_k |x_n - c_k|^2,      c_k <- mean of the x_n that are nearest to c_k

    Neither half of a step can raise the cost, and it ends where a step leaves it as it is. A centroid that is nearest to
    nobody stays.
    """
    centroids = np.array(plus_plus(x, K, rng) if start is None else start)
    costs: list[float] = []
    for _ in range(steps):
        d = distances(x, centroids)
        nearest = d.argmin(axis=1)
        costs.append(float(np.take_along_axis(d, nearest[:, None], axis=1).sum()))
        if len(costs) > 1 and costs[-1] >= costs[-2]:
            break
        counts = np.bincount(nearest, minlength=len(centroids))
        order = np.argsort(nearest, kind="stable")                            # sums of runs: a matrix of N x K is not needed
        there = np.flatnonzero(counts)
        starts = (np.cumsum(counts) - counts)[there]
        centroids[there] = np.add.reduceat(x[order], starts, axis=0) / counts[there, None]
    return centroids, costs


def even_contrast(x: np.ndarray, floor: float = 10.0) -> np.ndarray:
    """Each row of x (..., D) without its mean and divided by its standard deviation, plus `floor` grey levels: what is flat
    stays small instead of becoming noise (Coates, Ng & Lee 2011, section 3.1)."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / (np.sqrt((x**2).mean(axis=-1, keepdims=True)) + floor)


class Whitening:
    """PCA: y = (x - mean) E L^(-1/2), with the eigenvectors E that have `keep` of the variance; y has the covariance I.

    After fit: mean (D,), map (D, R).
    """

    def fit(self, x: np.ndarray, keep: float = 0.9) -> "Whitening":
        """x (N, D)."""
        self.mean = x.mean(axis=0)
        centred, few = x - self.mean, len(x) < x.shape[1]
        gram = centred @ centred.T if few else centred.T @ centred            # both have the same values above 0
        values, vectors = np.linalg.eigh(gram / len(x))                       # ascending
        values, vectors = np.maximum(values[::-1], 1e-8), vectors[:, ::-1]
        R = min(1 + int(np.searchsorted(np.cumsum(values) / values.sum(), keep)), len(values))
        vectors = centred.T @ vectors[:, :R] / np.sqrt(len(x) * values[:R]) if few else vectors[:, :R]
        self.map = vectors / np.sqrt(values[:R])
        return self

    def transform(self, x: np.ndarray) -> np.ndarray:
        """(..., D) -> (..., R)"""
        return (x - self.mean) @ self.map
