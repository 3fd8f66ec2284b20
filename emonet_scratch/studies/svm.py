"""A linear support vector machine, the classifier that AFEW's own baseline puts behind audio vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import linalg

from ..data.folds import held_out


class LinearSVM:
    """One class against the rest, with the squared hinge: for each class k, with x extended by a 1 for the bias,

        minimise over w   1/2 ||w||^2 + C sum_i max(0, 1 - t_i x_i . w)^2         t_i = 1 for label k, else -1

    which is the L2-loss SVM of LIBLINEAR (Fan et al., JMLR 9, 2008, section 2). With w = X^T beta and G = X X^T it is solved
    by Newton's method (Chapelle, Neural Computation 19, 2007, section 3): where the clips S inside the margin do not change
    any more, beta_S = (G_SS + I / 2C)^-1 t_S and 0 elsewhere is the minimum, exactly. O(N^3) for N clips, whatever D is.

    X (N, D) should be standardised. After fit: classes_ (K,), coef_ (D + 1, K), the bias last.
    """

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray) -> "LinearSVM":
        """X (N, D), y (N,) with at least two classes."""
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"LinearSVM.fit needs at least 2 classes, got {len(self.classes_)}")
        X = _extended(X)
        G = X @ X.T                                                           # (N, N)
        self.coef_ = X.T @ np.stack([newton(G, np.where(y == k, 1.0, -1.0), self.C) for k in self.classes_], axis=1)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class with the largest x . w_k, X (N, D) -> (N,)."""
        return self.classes_[(_extended(X) @ self.coef_).argmax(axis=1)]


def newton(G: np.ndarray, t: np.ndarray, C: float) -> np.ndarray:
    """beta (N,) of the clips of a kernel matrix G (N, N) and signs t (N,): the machine says sum_i beta_i k(x_i, x)."""
    def objective(beta: np.ndarray) -> float:
        f = G @ beta
        return 0.5 * beta @ f + C * np.sum(np.maximum(0, 1 - t * f) ** 2)

    beta, least, inside = np.zeros(len(t)), C * len(t), np.ones(len(t), bool)
    for _ in range(100):
        goal = np.zeros(len(t))
        goal[inside] = linalg.solve(G[np.ix_(inside, inside)] + np.eye(inside.sum()) / (2 * C), t[inside], assume_a="pos")
        step = 1.0
        while (value := objective(beta + step * (goal - beta))) > least and step > 1e-6:
            step /= 2
        beta, least = beta + step * (goal - beta), min(value, least)
        before, inside = inside, t * (G @ beta) < 1
        if step <= 1e-6 or (step == 1 and np.array_equal(inside, before)):
            break
    return beta


def _extended(X: np.ndarray) -> np.ndarray:
    return np.concatenate([X, np.ones((len(X), 1))], axis=1)


def choose_C(X: np.ndarray, y: np.ndarray, grid: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
             seed: int = 0, groups: np.ndarray | None = None, machine: Callable[[float], Any] = LinearSVM) -> float:
    """The C of the grid with which most clips are right that were left out, in five folds of groups; of equals the least."""
    right = [sum(np.count_nonzero(machine(C).fit(X[~out], y[~out]).predict(X[out]) == y[out])
                 for out in held_out(y, 5, seed, groups) if len(np.unique(y[~out])) > 1) for C in grid]
    return grid[int(np.argmax(right))]
