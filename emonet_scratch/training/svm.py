"""A linear support vector machine, the classifier that AFEW's own baseline puts behind audio vectors."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from .projection import stratified_folds


class LinearSVM:
    """One class against the rest, with the squared hinge: for each class k, with x extended by a 1 for the bias,

        minimise over w_k   1/2 ||w_k||^2 + C sum_i max(0, 1 - t_ik x_i . w_k)^2     t_ik = 1 for label k, else -1

    which is the L2-loss SVM of LIBLINEAR (Fan et al., JMLR 9, 2008, equation 1 with loss 3), solved in the primal by
    L-BFGS: the objective is convex and has a continuous gradient

        w_k - 2 C sum_i max(0, 1 - t_ik x_i . w_k) t_ik x_i

    X (N, D) should be standardised. After fit: classes_ (K,), coef_ (D + 1, K), the bias last.
    """

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray) -> LinearSVM:
        """X (N, D), y (N,) with at least two classes."""
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"LinearSVM.fit needs at least 2 classes, got {len(self.classes_)}")
        X, T = _extended(X), np.where(y[:, None] == self.classes_, 1.0, -1.0)  # (N, D + 1), (N, K)
        shape = X.shape[1], len(self.classes_)

        def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
            W = w.reshape(shape)
            slack = np.maximum(0, 1 - T * (X @ W))                            # (N, K)
            dW = W - 2 * self.C * X.T @ (slack * T)
            return 0.5 * np.vdot(W, W) + self.C * np.vdot(slack, slack), dW.ravel()

        found = optimize.minimize(objective, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B",
                                  options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": 1e-6})
        self.coef_ = found.x.reshape(shape)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class with the largest x . w_k, X (N, D) -> (N,)."""
        return self.classes_[(_extended(X) @ self.coef_).argmax(axis=1)]


def _extended(X: np.ndarray) -> np.ndarray:
    return np.concatenate([X, np.ones((len(X), 1))], axis=1)


def choose_C(X: np.ndarray, y: np.ndarray, grid: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
             seed: int = 0) -> float:
    """The C of the grid with which most clips are right that were left out, in five folds; of equals the least."""
    fold = stratified_folds(y, 5, seed)
    right = [sum(np.count_nonzero(LinearSVM(C).fit(X[fold != k], y[fold != k]).predict(X[fold == k]) == y[fold == k])
                 for k in np.unique(fold)) for C in grid]
    return grid[int(np.argmax(right))]
