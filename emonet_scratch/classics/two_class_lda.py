"""LDA of two classes at a time: one class against the rest, and every pair.

After Ekenel & Stiefelhagen (Two-class linear discriminant analysis for face recognition, 2007).
"""

import itertools
from contextlib import suppress

import numpy as np
from scipy import linalg

from ..errors import SingularScatterError
from ..lda import LDA, ledoit_wolf


class OneAgainstRest:
    """A direction for each class k against all others, and a threshold on it.

        w_k = S_W,k^-1 (m_k - m_rest),   S_W,k within the two classes "k" and "the rest"

    The total scatter is S_T = S_W,k + pi_k (1 - pi_k) d d^T with d = m_k - m_rest, whatever k is, so by Sherman and Morrison
    S_T^-1 d is proportional to S_W,k^-1 d; and m_k - m = (1 - pi_k) d. One Cholesky factor of S_T gives all directions:

        w_k proportional to S_T^-1 (m_k - m)

    Unshrunk, these C directions (one of them too many: sum_k pi_k (m_k - m) = 0) span exactly what LDA of C classes spans,
    since S_T^-1 S_B and S_W^-1 S_B have the same eigenvectors. As a projection it adds nothing; what can differ is shrinkage
    and this rule: on its own direction each class and its rest are two Gaussians of one variance,

        log p(k | x) / p(rest | x) = (z - (mu_k + mu_rest) / 2) (mu_k - mu_rest) / s^2 + log pi_k / (1 - pi_k),   z = x w_k

    and the class with the largest of these is said.

    shrinkage: 0 for none, a number of [0, 1] towards tr(S_T) / D, or "auto" by Ledoit and Wolf, .001 at least. X (N, D)
    should be standardised. After fit: classes_ (C,), scalings_ (D, C), slope_ and offset_ (C,).
    """

    def __init__(self, shrinkage: float | str = "auto") -> None:
        self.shrinkage = shrinkage

    def fit(self, X: np.ndarray, y: np.ndarray) -> "OneAgainstRest":
        """X (N, D), y (N,); ValueError for one class, SingularScatterError."""
        self.classes_, counts = np.unique(y, return_counts=True)
        if len(counts) < 2:
            raise ValueError("OneAgainstRest.fit needs at least 2 classes, got 1")
        self.mean_ = X.mean(axis=0)
        Z, pi = X - self.mean_, counts / len(y)
        D = X.shape[1]
        s = max(ledoit_wolf(Z), 1e-3) if self.shrinkage == "auto" else float(self.shrinkage)
        S_T = (1 - s) * (Z.T @ Z / len(Z))
        S_T.flat[::D + 1] += s * np.vdot(Z, Z) / len(Z) / D
        means = np.array([Z[y == k].mean(axis=0) for k in self.classes_])     # m_k - m (C, D)
        try:
            self.scalings_ = linalg.cho_solve(linalg.cho_factor(S_T), means.T)
        except linalg.LinAlgError as error:
            raise SingularScatterError(f"S_T of {len(X)} clips and {D} features is singular: pass a larger shrinkage "
                                       f"than {s:g}") from error
        z = Z @ self.scalings_
        own = y[:, None] == self.classes_                                     # (N, C)
        mu = [np.where(side, z, 0).sum(axis=0) / side.sum(axis=0) for side in (own, ~own)]
        variance = np.mean((z - np.where(own, *mu)) ** 2, axis=0)
        self.slope_ = (mu[0] - mu[1]) / variance
        self.offset_ = np.log(pi / (1 - pi)) - self.slope_ * (mu[0] + mu[1]) / 2
        return self

    def decision(self, X: np.ndarray) -> np.ndarray:
        """Log-odds of each class against its rest, (N, D) -> (N, C)."""
        return (X - self.mean_) @ self.scalings_ * self.slope_ + self.offset_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,)"""
        return self.classes_[self.decision(X).argmax(axis=1)]


class EveryPair:
    """C (C - 1) / 2 LDAs of two classes each, with a scatter of their own, shrunk; the class with the largest sum of its
    log-probabilities in its C - 1 pairs is said.

    Where clips are too few for a scatter that can be inverted, a pair has a shrinkage of 1/2; where they do not differ
    within their classes at all, 1/2 is said of both. X (N, D) should be standardised. After fit: classes_ (C,), pairs_
    {(a, b): LDA}; the directions are their scalings_.
    """

    def __init__(self, shrinkage: float | str = "auto") -> None:
        self.shrinkage = shrinkage

    def fit(self, X: np.ndarray, y: np.ndarray) -> "EveryPair":
        """X (N, D), y (N,), two classes at least."""
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError("EveryPair.fit needs at least 2 classes, got 1")
        self.pairs_ = {}
        for a, b in itertools.combinations(range(len(self.classes_)), 2):
            two = np.isin(y, self.classes_[[a, b]])
            for shrinkage in (self.shrinkage, 0.5):
                with suppress(SingularScatterError):
                    self.pairs_[a, b] = LDA(shrinkage=shrinkage).fit(X[two], y[two])
                    break
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,)"""
        total = np.zeros((len(X), len(self.classes_)))
        for pair in itertools.combinations(range(len(self.classes_)), 2):
            lda = self.pairs_.get(pair)
            total[:, list(pair)] += np.log(0.5) if lda is None else lda.predict_log_proba(X)
        return self.classes_[total.argmax(axis=1)]
