"""Linear discriminant analysis: the directions w along which class means stand apart and clips of a class do
not.

Fisher (1936), Rao (1948); equations 1-3 of the EmoNet paper, all divided by the number of clips N. For
classes k = 1..C with prior pi_k (n_k / N unless given), mean m_k and overall mean m = sum_k pi_k m_k:

    S_W = sum_k pi_k C_k,  C_k = 1/n_k sum_{x in k} (x - m_k)(x - m_k)^T     within classes, shrunk: `scatter`
    S_B = sum_k pi_k (m_k - m)(m_k - m)^T                                    between classes, rank <= C - 1
    S_B w = lambda S_W w,   W^T S_W W = I,   lambda_1 >= lambda_2 >= ...      generalized eigenproblem

Two routes give the same answer (docs/lda.md has the derivations): `definition` is scipy.linalg.eigh(S_B, S_W)
on D x D matrices; `woodbury` inverts a clips x clips matrix instead and never holds anything D x D.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
from scipy import linalg

from .errors import SingularScatterError
from .files import parse_json, read_tensors, write_tensors

EPS = np.finfo(np.float64).eps


def ledoit_wolf(Z: np.ndarray) -> float:
    """The intensity s in [0, 1] for which (1 - s) S + s mu I is nearest to the true covariance, on average.

    Ledoit & Wolf, J. Multivariate Analysis 88 (2004) 365-411, section 3.2. Z (n, D) is centred,
    S = Z^T Z / n, mu = tr(S) / D:

        d^2 = ||S - mu I||^2,   b^2 = 1/n^2 sum_i ||z_i z_i^T - S||^2,   s = min(b^2, d^2) / d^2,

    with b^2 = (sum_i ||z_i||^4 / n - ||S||^2) / n, and ||S|| from the smaller of Z Z^T and Z^T Z.
    """
    n, D = Z.shape
    gram = Z @ Z.T if n < D else Z.T @ Z
    norms = np.einsum("ij,ij->i", Z, Z)                                     # ||z_i||^2 (n,)
    S2 = np.vdot(gram, gram) / n**2                                         # ||S||^2, Frobenius
    d2 = S2 - (norms.sum() / n) ** 2 / D
    b2 = (norms @ norms / n - S2) / n                                    # from two clips: 0, but for rounding
    return float(min(b2, d2) / d2) if D > 1 and min(b2, d2) > D * EPS * S2 else 0.0


def scatter(X: np.ndarray, codes: np.ndarray, priors: np.ndarray,
            shrinkage: str | float | None) -> tuple[np.ndarray, ...]:
    """The factors of both matrices: S_W = U^T U + diag(t), S_B = M^T M.

    X (N, D), codes (N,) in 0..C-1, priors (C,) -> means (C, D), U (N, D), t (D,), M (C, D), s (C,).
    With a number s: S_W = (1 - s) S + s tr(S)/D I. With "auto" each class is standardised, shrunk by Ledoit
    and Wolf's s_k and scaled back, as scikit-learn does: C_k -> (1 - s_k) C_k + s_k mu_k diag(std_k^2). A
    feature that is constant in a class has std 1 there. Either way the target is diagonal, the rest has a row
    for each clip.
    """
    C, D = len(priors), X.shape[1]
    means, U = np.empty((C, D)), np.empty(X.shape)
    t, s = np.zeros(D), np.zeros(C)
    for k in range(C):
        rows = codes == k
        Xk, n = X[rows], np.count_nonzero(rows)                             # (n, D)
        means[k] = Xk.mean(axis=0)
        Z = Xk - means[k]
        var = np.mean(Z**2, axis=0)
        constant = var <= n * EPS * var + (n * EPS * means[k]) ** 2         # all that is left is rounding
        Z[:, constant] = 0
        means[k, constant] = Xk[0, constant]
        var[constant] = 0
        if shrinkage == "auto":
            std2 = np.where(constant, 1, var)
            s[k] = ledoit_wolf(Z / np.sqrt(std2))
            t += priors[k] * s[k] * np.mean(~constant) * std2             # mu_k = share of features that vary
        elif shrinkage is not None:
            s[k] = shrinkage
            t += priors[k] * s[k] * var.mean()                              # tr(C_k) / D
        U[rows] = np.sqrt(priors[k] * (1 - s[k]) / n) * Z
    M = means - means[0]                                                    # equal means: exactly zero
    return means, U, t, np.sqrt(priors)[:, None] * (M - priors @ M), s


def definition(U: np.ndarray, t: np.ndarray, M: np.ndarray, R: int,
               gram: Callable[[np.ndarray], np.ndarray] = lambda U: U.T @ U) -> tuple[np.ndarray, np.ndarray]:
    """eigh(S_B, S_W): the R largest lambda (R,) and their directions (D, R). O(D^3), two D x D matrices.

    Solved for v = w / e, e = diag(S_W)^(-1/2): features in hertz and in percent then weigh alike in the
    rounding. gram(U) = U^T U, for who has several processes to share its O(N D^2).
    """
    D = len(t)
    S_W, S_B = gram(U) + np.diag(t), M.T @ M                                # (D, D)
    diagonal = np.diag(S_W)
    e = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1))
    S_W, S_B = S_W * e * e[:, None], S_B * e * e[:, None]
    L, failed = linalg.lapack.dpotrf(S_W, lower=1)
    if failed or linalg.lapack.dpocon(L, np.linalg.norm(S_W, 1), uplo="L")[0] < D * EPS:
        spectrum = linalg.eigvalsh(S_W)
        rank = np.count_nonzero(spectrum > D * EPS * spectrum[-1])
        if failed or rank < D:
            raise SingularScatterError(
                f"S_W has rank {min(rank, D - 1)} < {D} features ({len(U)} clips, {len(M)} classes, "
                f"{np.count_nonzero(diagonal == 0)} features constant within every class): "
                "pass a larger shrinkage, such as 0.1, or drop constant and duplicate features")
    eigenvalues, V = linalg.eigh(S_B, S_W, subset_by_index=(D - R, D - 1))  # ascending
    return eigenvalues[::-1], e[:, None] * V[:, ::-1]


def woodbury(U: np.ndarray, t: np.ndarray, M: np.ndarray, R: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The same without a D x D matrix: O(N^2 D). None if too little shrinkage leaves fewer than 8 digits.

    With tau = sqrt(t), V = U / tau, A = M / tau, u = tau w:  S_W = tau (I + V^T V) tau, S_B = tau A^T A tau.
      1. Every u with lambda > 0 lies in the span of (I + V^T V)^-1 A^T; by Woodbury's identity
         (I + V^T V)^-1 = I - V^T (I + V V^T)^-1 V.
      2. In an (I + V^T V)-orthonormal basis B of that span, S_B is (A B)^T (A B): an SVD with C rows.
      3. lambda = 0 is what is orthogonal to the rows of A. Where R asks for such directions, seeded ones will
      do.
    NumPy throughout: its BLAS and SciPy's keep a thread pool each, and taking turns costs more than the work
    here.
    """
    N, D = U.shape
    tau = np.sqrt(t)
    V, A = U / tau, M / tau                                                 # (N, D), (C, D)
    K = V @ V.T                                                             # (N, N)
    K.flat[:: N + 1] += 1                                              # I + V V^T: its least eigenvalue is 1,
    if np.linalg.norm(K) > 1e9:                                             # so its norm bounds its condition
        return None

    def orthonormal(Y: np.ndarray) -> np.ndarray:
        """A basis B (D, r) of the span of Y (D, r) with B^T (I + V^T V) B = I."""
        Q = np.linalg.qr(Y)[0]
        T = np.asarray(np.linalg.qr(np.vstack([Q, V @ Q]), mode="r"))       # Q^T (I + V^T V) Q = T^T T
        return np.linalg.solve(T.T, Q.T).T                                  # Q T^-1

    _, sigma, P = np.linalg.svd(A, full_matrices=False)
    P = P[sigma > D * EPS * sigma[0]].T[:, :R]                              # (D, r): rows of A, r <= C - 1
    r = P.shape[1]
    eigenvalues, directions = np.zeros(R), np.empty((D, R))
    if r:
        B = orthonormal(P - V.T @ np.linalg.solve(K, V @ P))
        _, sigma, H = np.linalg.svd(A @ B, full_matrices=False)             # (C, r) -> sigma (r,), H (r, r)
        eigenvalues[:r], directions[:, :r] = sigma**2, B @ H.T
    if r < R:
        E = np.random.default_rng(0).standard_normal((D, R - r))
        directions[:, r:] = orthonormal(np.linalg.qr(np.hstack([P, E]))[0][:, r:])
    return eigenvalues, directions / tau[:, None]


class LDA:
    """Linear discriminant analysis, on the host in float64.

    n_components  K, at most D; None: min(C - 1, D), beyond which every eigenvalue is zero
    shrinkage     "auto" (Ledoit-Wolf), a number in [0, 1], or None
    priors        (C,) in the order of the sorted labels; None: their frequencies
    solver        "eigh", "woodbury", or "auto": woodbury with more features than clips and with shrinkage

    After fit: classes_ (C,), priors_ (C,), means_ (C, D), mean_ (D,), shrinkage_ (C,) the intensity in each
    class, eigenvalues_ (K,) descending, scalings_ (D, K), coef_ (C, D) and intercept_ (C,) of Bayes' rule,
    solver_ the route taken. In each column of scalings_ the entry of largest magnitude (the first of equals)
    is positive.
    """

    ARRAYS = ("coef_", "eigenvalues_", "intercept_", "mean_", "means_", "priors_", "scalings_", "shrinkage_")

    def __init__(self, n_components: int | None = None, shrinkage: str | float | None = "auto",
                 priors: np.ndarray | None = None, solver: str = "auto"):
        number = isinstance(shrinkage, Real) and not isinstance(shrinkage, bool)
        if not (shrinkage is None or shrinkage == "auto" or (number and 0 <= float(shrinkage) <= 1)):
            raise ValueError(f"shrinkage must be 'auto', None or a number in [0, 1], got {shrinkage!r}")
        if n_components is not None and not (isinstance(n_components, Integral) and n_components >= 1):
            raise ValueError(f"n_components must be None or an integer from 1, got {n_components!r}")
        if solver not in ("auto", "eigh", "woodbury"):
            raise ValueError(f"solver must be 'auto', 'eigh' or 'woodbury', got {solver!r}")
        self.n_components = n_components
        self.shrinkage, self.solver = shrinkage, solver
        self.priors = priors

    def fit(self, X: np.ndarray, y: np.ndarray, nuisance: np.ndarray | None = None,
            gram: Callable[[np.ndarray], np.ndarray] | None = None) -> LDA:
        """Learn the directions and Bayes' rule from X (N, D) and labels y (N,), integers or strings.

        nuisance: rows E (M, D) of differences that say nothing of the class, such as between two recordings
        of one utterance. S_W + E^T E takes the place of S_W: w^T E^T E w = |E w|^2 is what a direction w sees
        of them, so that lambda is large where classes stand apart by more than clips of a class and
        recordings of a clip do. gram: as `definition` takes it.
        """
        X = _features(X)
        N, D = X.shape
        y = _labels(y, N)
        if N < 2 or D < 1:
            raise ValueError(f"LDA.fit needs at least 2 clips and 1 feature, got X of shape {X.shape}")
        classes, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
        C = len(classes)
        if C < 2:
            raise ValueError(f"LDA.fit needs at least 2 classes, got only {classes[0]}")
        K = self._components(C, D)
        priors = counts / N if self.priors is None else np.asarray(self.priors, dtype=np.float64)
        if priors.shape != (C,) or not (priors > 0).all() or abs(priors.sum() - 1) > 1e-6:
            raise ValueError(f"priors must be {C} positive numbers with sum 1, got {priors}")
        means, U, t, M, s = scatter(X, codes, priors, self.shrinkage)
        U = U if nuisance is None else np.vstack([U, _features(nuisance)])
        R = max(K, min(C - 1, D))
        eigenvalues, W = self._solve(U, t, M, R, gram or (lambda U: U.T @ U))
        eigenvalues = np.where(np.arange(R) < C - 1, np.maximum(eigenvalues, 0), 0)     # rank S_B <= C - 1
        W[~(U.any(axis=0) | M.any(axis=0)), : C - 1] = 0                    # a constant separates nothing
        size = np.abs(W)
        first = np.argmax(size > (1 - 1e-6) * size.max(axis=0), axis=0)
        W = W * np.sign(W[first, np.arange(R)])
        mean = means[0] + priors @ (means - means[0])
        B = (means - mean) @ W[:, : C - 1]                                  # class means among discriminants
        self.classes_, self.priors_ = classes, priors
        self.means_, self.mean_ = means, mean
        self.shrinkage_ = s
        self.eigenvalues_ = eigenvalues[:K]
        self.scalings_ = np.ascontiguousarray(W[:, :K])
        self.coef_ = B @ W[:, : C - 1].T                                    # S_W^-1 (m_k - m), whatever K is
        self.intercept_ = np.log(priors) - 0.5 * np.sum(B**2, axis=1)
        return self

    def _components(self, C: int, D: int) -> int:
        """K for C classes and D features; a warning where some of them separate nothing."""
        K = min(C - 1, D) if self.n_components is None else int(self.n_components)
        if K > D:
            raise ValueError(f"n_components={K} exceeds the {D} features of X: ask for at most {D}")
        if K > C - 1:
            warnings.warn(f"LDA(n_components={K}): {C} classes have only {C - 1} non-zero eigenvalues, the "
                          f"other {K - C + 1} directions separate nothing", UserWarning, stacklevel=3)
        return K

    def _solve(self, U: np.ndarray, t: np.ndarray, M: np.ndarray, R: int,
               gram: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """R eigenvalues and directions, by the route that `solver` says; `solver_` notes which it was."""
        N, D = U.shape
        if self.solver == "woodbury" and not t.all():
            raise ValueError("solver='woodbury' needs a positive shrinkage in some class: pass a number such "
                             "as shrinkage=0.1, or solver='eigh'")
        if self.solver == "woodbury" or (self.solver == "auto" and D > N and t.all()):
            self.solver_ = "woodbury"
            if (found := woodbury(U, t, M, R)) is not None:
                return found
        self.solver_ = "eigh"
        return definition(U, t, M, R, gram)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """(X - m) W, X (N, D) -> (N, K): within a class each column has variance 1."""
        return np.asarray(self._centred(X) @ self.scalings_)

    def predict_log_proba(self, X: np.ndarray) -> np.ndarray:
        """log p(k | x) for Gaussian classes with common covariance S_W, X (N, D) -> (N, C).

        log pi_k - 1/2 (x - m_k)^T S_W^-1 (x - m_k), less what is the same for every k, is
        (x - m)^T S_W^-1 (m_k - m) - 1/2 (m_k - m)^T S_W^-1 (m_k - m) + log pi_k.
        """
        scores = self._centred(X) @ self.coef_.T + self.intercept_
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """p(k | x), X (N, D) -> (N, C), columns in the order of classes_."""
        return np.asarray(np.exp(self.predict_log_proba(X)))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable class of each clip, X (N, D) -> (N,)."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def score(self, X: np.ndarray, y: np.ndarray) -> float:
        """The share of clips whose class is predicted, in [0, 1]."""
        return float(np.mean(self.predict(X) == _labels(y, len(X))))

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that was fitted, as numeric arrays; `config`, JSON in UTF-8, has the choices and the labels."""
        self._check_fitted()
        config = {"n_components": self.n_components and int(self.n_components), "solver": self.solver,
                  "shrinkage": float(self.shrinkage) if isinstance(self.shrinkage, Real) else self.shrinkage,
                  "priors": None if self.priors is None else self.priors_.tolist(), "solver_": self.solver_,
                  "classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str}
        text = np.frombuffer(json.dumps(config).encode(), dtype=np.uint8).copy()
        return {"config": text, **{name: getattr(self, name).copy() for name in self.ARRAYS}}

    def load_state_dict(self, d: dict[str, np.ndarray]) -> None:
        """Become the LDA whose state_dict this is; nothing changes if it is not one."""
        try:
            config = parse_json(np.asarray(d["config"]).tobytes())
            arrays = {name: np.array(d[name], dtype=np.float64, order="C") for name in self.ARRAYS}
            classes = _labels(config.pop("classes"), len(d["priors_"])).astype(config.pop("dtype")[-3:])
            route, C = config.pop("solver_"), len(classes)
            D, K = arrays["scalings_"].shape
            fresh = LDA(**config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the state of an LDA: {type(error).__name__}: {error}") from error
        shapes = {"coef_": (C, D), "eigenvalues_": (K,), "means_": (C, D), "mean_": (D,), "scalings_": (D, K)}
        for name, array in arrays.items():
            expected = shapes.get(name, (C,))
            if array.shape != expected or not np.isfinite(array).all():
                raise ValueError(f"state of LDA: {name} {array.shape} is not finite or not {expected}")
        self.__dict__.update(vars(fresh), classes_=classes, solver_=route, **arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all: `path` is never half written."""
        write_tensors(path, self.state_dict(), {})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LDA:
        """Read what save wrote; anything else is a ValueError that names the file."""
        lda = cls()
        try:
            lda.load_state_dict(read_tensors(path)[0])
        except ValueError as error:
            raise ValueError(f"{path} is no complete LDA file ({error}): fit and save again") from error
        return lda

    def _check_fitted(self) -> None:
        if not hasattr(self, "scalings_"):
            raise RuntimeError("this LDA is not fitted: call fit(X, y) or load a saved one first")

    def _centred(self, X: np.ndarray) -> np.ndarray:
        self._check_fitted()
        X = _features(X)
        if X.shape[1] != len(self.mean_):
            raise ValueError(f"LDA was fitted on {len(self.mean_)} features, got X of shape {X.shape}")
        return np.asarray(X - self.mean_)


def _features(X: np.ndarray) -> np.ndarray:
    """X as (N, D) float64, every entry finite and small enough to be squared and summed."""
    if hasattr(X, "__cuda_array_interface__"):
        raise ValueError("LDA works on the host, X is on a GPU: call .get() first")
    X = np.asarray(X)
    if X.ndim != 2 or X.dtype.kind not in "buif":
        raise ValueError(f"X must be a 2-D array of numbers (N, D), got shape {X.shape}, dtype {X.dtype}")
    X = X.astype(np.float64, copy=False)
    if not -1e150 < X.min(initial=0) <= X.max(initial=0) < 1e150:          # NaN fails every comparison
        bad = ~(np.abs(X) < 1e150)
        row, column = np.argwhere(bad)[0]
        raise ValueError(f"X[{row}, {column}] is {X[row, column]}: features must be finite and below 1e150; "
                         f"{bad.any(axis=1).sum()} clips and {bad.any(axis=0).sum()} features are affected")
    return X


def _labels(y: np.ndarray, N: int) -> np.ndarray:
    """y as (N,) integers or strings."""
    y = np.asarray(y)
    if y.dtype == object and all(isinstance(label, str) for label in y.ravel()):
        y = y.astype(str)
    if y.shape != (N,) or y.dtype.kind not in "biuU":
        raise ValueError(f"y must hold {N} integers or strings, one a clip, got shape {y.shape}, {y.dtype}")
    return y
