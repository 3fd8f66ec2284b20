"""Softmax regression, and a support vector machine of any kernel that gives probabilities."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from ..data.folds import held_out
from ..losses import softmax, softmax_cross_entropy
from ..studies.svm import newton

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


class SoftmaxRegression:
    """p = softmax(x W + b), at the minimum of the mean cross-entropy + decay / 2 |W|^2 (L-BFGS, Nocedal 1980).

    X (N, D) is standardised by the X of the fit; labels 0..C-1, of which some may not occur. After fit: W (D, C), b (C,).
    """

    def __init__(self, C: int, decay: float = 1e-2, steps: int = 100) -> None:
        self.C, self.decay, self.steps = C, decay, steps

    def fit(self, X: np.ndarray, y: np.ndarray) -> "SoftmaxRegression":
        """X (N, D), y (N,) integers."""
        self.mean, self.std = X.mean(axis=0), np.maximum(X.std(axis=0), 1e-8)
        X, shape = (X - self.mean) / self.std, (X.shape[1] + 1, self.C)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            theta = flat.reshape(shape).astype(X.dtype)
            loss, dlogits = softmax_cross_entropy(X @ theta[:-1] + theta[-1], y)
            slope = np.vstack([X.T @ dlogits + self.decay * theta[:-1], dlogits.sum(axis=0)])
            return float(loss) + self.decay / 2 * float((theta[:-1] ** 2).sum()), slope.ravel().astype(np.float64)
        found = minimize(objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options={"maxiter": self.steps})
        self.W, self.b = np.split(found.x.reshape(shape).astype(X.dtype), [-1])
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, C)"""
        return softmax((X - self.mean) / self.std @ self.W + self.b)


def rbf(gamma: float) -> Kernel:
    """k(a, b) = exp(-gamma |a - b|^2)"""
    return lambda A, B: np.exp(-gamma * np.maximum(
        (A**2).sum(axis=1)[:, None] - 2 * A @ B.T + (B**2).sum(axis=1), 0))


def chi_square(scale: float) -> Kernel:
    """k(a, b) = exp(-chi2 / scale), chi2 = sum_d (a_d - b_d)^2 / (a_d + b_d), of histograms (Zhang et al. 2007)."""
    def kernel(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        chi2 = [((a - B) ** 2 / np.maximum(a + B, 1e-12)).sum(axis=1) for a in A]
        return np.exp(-np.array(chi2).reshape(len(A), len(B)) / scale)
    return kernel


class KernelSVM:
    """One class against the rest, f_k(x) = sum_i beta_ik (k(x_i, x) + 1), with the squared hinge of `studies.svm`; the 1 is
    for the bias.

    kernel: (N, D), (M, D) -> (N, M). Labels 0..K-1, of which some may not occur: their f is 0.
    """

    def __init__(self, K: int, kernel: Kernel, C: float = 1.0) -> None:
        self.K, self.kernel, self.C = K, kernel, C

    def fit(self, X: np.ndarray, y: np.ndarray) -> "KernelSVM":
        """X (N, D), y (N,); two classes at least."""
        G, self.X = self.kernel(X, X) + 1, X
        self.beta = np.stack([newton(G, np.where(y == k, 1.0, -1.0), self.C) if (y == k).any() else np.zeros(len(y))
                              for k in range(self.K)], axis=1)
        return self

    def decision(self, X: np.ndarray) -> np.ndarray:
        """f: (M, D) -> (M, K)"""
        return (self.kernel(X, self.X) + 1) @ self.beta

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The class with the largest f, (M, D) -> (M,)."""
        return self.decision(X).argmax(axis=1)


class ProbableSVM(KernelSVM):
    """A KernelSVM with probabilities: softmax regression of what machines say of clips that they were not fitted on (Platt
    1999, with two classes; in five folds of groups)."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> "ProbableSVM":
        """X (N, D), y (N,); groups (N,): not on both sides of a fold."""
        said = np.zeros((len(y), self.K))
        for out in held_out(y, 5, seed, groups):
            said[out] = KernelSVM(self.K, self.kernel, self.C).fit(X[~out], y[~out]).decision(X[out])
        self.regression = SoftmaxRegression(self.K).fit(said, y)
        super().fit(X, y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """(M, D) -> (M, K)"""
        return self.regression.predict_proba(self.decision(X))
