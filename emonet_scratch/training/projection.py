"""From audio vectors to what the audio branch reads: standardise, LDA, standardise; all fitted on training clips only."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..data.afew import one_class
from ..data.folds import held_out, joined
from ..emotions import CLASSES
from ..errors import DataError, SingularScatterError
from ..lda import LDA
from ..shards import ALONE, Alone
from .novelty import Familiar

#: Intensities that shrinkage="cv" chooses from, beside Ledoit and Wolf's.
GRID = (0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8)
CV_FOLDS = 5

Nuisance = Callable[[np.ndarray], np.ndarray | None]        # rows (M, D) of `nuisance` for some of the clips


class AudioProjection:
    """x -> LDA(clip((x - mean) / spread)) / scale, (N, D) -> (N, K).

    mean and spread (D,) are those of the training clips, scale (K,) that of their projections: LDA makes the variance
    within a class 1, so without it well-separated classes would be large inputs. What is constant gets the spread 1.
    The classes of LDA are the labels themselves. n_components above D is taken as D.

    shrinkage   as LDA's, or "cv": what is right most often out of fold (see `choose_shrinkage`)
    clip        standard deviations at which a standardised feature is cut off, or None
    folds       2 or more: the training clips are projected out of fold (see `cross_fit`), and scale is that of these
                projections; `training` (N, K) holds them. 0 or 1: `training` is None

    Where clips are too few to leave some out, `training` is None, too.

    A missing vector, all NaN, is in no fit. It is projected to zeros, the centre of the training clips, which no sound hits;
    what zeros mean a network learns from `modality_dropout`.
    """

    training: np.ndarray | None = None
    familiar: Familiar | None = None

    def __init__(self, n_components: int | None = None, shrinkage: str | float | None = "auto", clip: float | None = None,
                 folds: int = 0, seed: int = 0) -> None:
        self.n_components, self.shrinkage, self.clip, self.folds, self.seed = n_components, shrinkage, clip, folds, seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None, classes: Sequence[str] = CLASSES,
            corpora: np.ndarray | None = None, varied: np.ndarray | None = None,
            people: np.ndarray | None = None, ranks: Alone = ALONE, shards: int = 1) -> "AudioProjection":
        """X (N, D), y (N,) numbers of classes; DataError with the reason where LDA has no answer.

        groups: (N,) numbers of who is left out whole where clips are left out. Clips with the same vector, and so with the
        same sound, are one group in any case. corpora (N,), varied (N, K, D): as of `nuisance`. people (N,): groups for
        `familiar`, where they are not these; see novelty.py. ranks: who else fits it: fits to choose by and fits out of fold
        are spread over them, and the scatter of the last one is the sum of `shards` parts.
        """
        known = ~missing(X)
        if not known.any():
            raise DataError("LDA of the training split's audio vectors: no clip of it has sound: train on video alone")
        group = joined(range(len(X)) if groups is None else groups.tolist(), [x.tobytes() for x in X])[known]
        people = group if people is None else np.asarray(people)[known]
        clips, X, y = len(X), X[known], y[known]
        corpora, varied = (None if a is None else np.asarray(a)[known] for a in (corpora, varied))
        if (label := one_class(y)) is not None:
            raise DataError(f"LDA of the training split's audio vectors: all clips that can be used are {classes[label]}: "
                            f"expected two classes and more (see `emonet doctor`)")
        self.mean, self.spread = X.mean(axis=0), _spread(X)
        Z = self.standardise(X)
        varied = None if varied is None else self.standardise(varied.reshape(-1, X.shape[1])).reshape(varied.shape)

        def rows(kept: np.ndarray) -> np.ndarray | None:
            return nuisance(Z[kept], y[kept], *(None if a is None else a[kept] for a in (corpora, varied)))
        self._fit_lda(Z, y, group, rows, ranks, shards)
        training = cross_fit(self.lda, Z, y, self.folds, self.seed, group, rows, ranks) if self.folds > 1 else None
        self.scale = _spread(self.lda.transform(Z) if training is None else training)
        self.familiar = Familiar.fit(Z, y, people, self.seed)
        self.training = None
        if training is not None:
            self.training = np.zeros((clips, training.shape[1]), np.float32)
            self.training[known] = training / self.scale
        return self

    def _fit_lda(self, Z: np.ndarray, y: np.ndarray, group: np.ndarray, rows: Nuisance, ranks: Alone, shards: int) -> None:
        try:
            if self.shrinkage == "cv":
                self.shrinkage = choose_shrinkage(Z, y, self.seed, group, rows, ranks)
            components = None if self.n_components is None else min(self.n_components, Z.shape[1])
            shared = partial(ranks.gram, S=shards) if shards > 1 else None
            self.lda = LDA(components, self.shrinkage).fit(Z, y, rows(np.full(len(y), True)), shared)
        except ValueError as error:
            reason = str(error)
            if isinstance(self.shrinkage, int | float) and self.shrinkage >= 0.1:      # what would be advised is in force
                reason = reason.replace("pass a larger shrinkage, such as 0.1, or drop", "drop")
            hint = " (--set lda_shrinkage=0.1)" if "shrinkage" in reason else ""
            raise DataError(f"LDA of the training split's audio vectors: {reason}{hint}") from error

    def transform(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K) float32"""
        Z = (self.lda.transform(self.standardise(X)) / self.scale).astype(np.float32)
        Z[missing(X)] = 0
        return Z

    def rule(self, z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """LDA's own decision on projected clips, as logits: W (K, C) and b (C,) for z @ W + b, over the classes of LDA.

        Of class k, with the mean m_k among the discriminants, the prior p_k, and z as `transform` gives it,

            t ((z * scale) . m_k - |m_k|^2 / 2) + ln p_k

        At t = 1 that is Bayes' rule for clips that scatter as those do that LDA was fitted on. New ones scatter more, so t
        is the number up to 1 under which the labels y (N,) of z (N, K), projected out of fold, are most likely
        (temperature scaling: Guo et al. 2017, arXiv:1706.04599).
        """
        means, prior = self.lda.transform(self.lda.means_), np.log(self.lda.priors_)       # (C, K)
        W, b = (means * self.scale).T, -0.5 * (means**2).sum(axis=1)
        scores, label = z @ W + b, np.searchsorted(self.lda.classes_, y)

        def negative_log_likelihood(t: float) -> float:
            return -log_softmax(t * scores + prior, axis=1)[np.arange(len(label)), label].mean()

        if not len(label):                                                    # nothing to fit it to
            return W, b + prior
        t = minimize_scalar(negative_log_likelihood, bounds=(0, 1), method="bounded", options={"xatol": 1e-8}).x
        return t * W, t * b + prior

    def standardise(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, D): what LDA reads; a missing vector is that of the mean"""
        Z = (np.where(missing(X)[:, None], self.mean, X) - self.mean) / self.spread
        return Z if self.clip is None else np.clip(Z, -self.clip, self.clip)

    def novelty(self, X: np.ndarray) -> np.ndarray:
        """(N,): how unlike the training clips vectors X (N, D) are; 0 where they are missing, or nothing to compare with."""
        return np.zeros(len(X)) if self.familiar is None else np.where(
            missing(X), 0, self.familiar.novelty(self.standardise(X)))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint."""
        state = {f"lda.{name}": a for name, a in self.lda.state_dict().items()}
        if self.familiar is not None:
            state |= {"familiar.basis": self.familiar.basis.astype(np.float32),
                      "familiar.threshold": np.array(self.familiar.threshold)}
        state |= {"mean": self.mean, "spread": self.spread, "scale": self.scale}
        state |= {} if self.clip is None else {"clip": np.array(self.clip)}
        return state | ({} if self.training is None else {"training": self.training})

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "AudioProjection":
        """The projection that gave this `state_dict()`."""
        self = cls(clip=float(state["clip"]) if "clip" in state else None)
        self.mean, self.spread, self.scale, self.lda = state["mean"], state["spread"], state["scale"], LDA()
        self.lda.load_state_dict({k[4:]: a for k, a in state.items() if k.startswith("lda.")})
        D, K = self.lda.scalings_.shape
        if [a.shape for a in (self.mean, self.spread, self.scale)] != [(D,), (D,), (K,)]:
            raise ValueError(f"its mean, spread and scale are not those of {D} features and {K} projections")
        self.training = state.get("training")
        if "familiar.basis" in state:                                         # older checkpoints do not know
            self.familiar = Familiar(state["familiar.basis"].astype(np.float64), float(state["familiar.threshold"]))
            if self.familiar.basis.ndim != 2 or self.familiar.basis.shape[1] != D or not self.familiar.threshold > 0:
                raise ValueError(f"what it is familiar with is not of {D} features")
        return self


def missing(X: np.ndarray) -> np.ndarray:
    """(N,) bools: which vectors (N, D) are missing, all NaN."""
    return np.isnan(X).all(axis=1)


def nuisance(Z: np.ndarray, y: np.ndarray, corpora: np.ndarray | None = None,
             varied: np.ndarray | None = None) -> np.ndarray | None:
    """What clips differ by that says nothing of their class: rows E (M, D) for `LDA.fit`, or None.

    Z (N, D) standardised vectors, y (N,), corpora (N,) where each is from, varied (N, K, D) standardised vectors of each
    clip's sound as other microphones and rooms would have taken it (data/sound/vary.py). S_W becomes S_W + S_V + S_C:

        S_V = 1/(N K) sum_i sum_k (v_ik - z_i)(v_ik - z_i)^T              recordings of a clip
        S_C = 1/|Q| sum_(c, q) in Q (m_cq - m_c)(m_cq - m_c)^T            corpora of a class

    with m_cq the mean of class c in corpus q, m_c the mean of these, and Q the pairs of classes that are in several corpora.
    """
    rows = []
    if varied is not None:
        difference = (varied - Z[:, None]).reshape(-1, Z.shape[1])
        rows.append(difference / max(1, len(difference)) ** 0.5)
    cells = [np.array([Z[(y == c) & (corpora == q)].mean(axis=0) for q in np.unique(corpora[y == c])])
             for c in np.unique(y)] if corpora is not None else []
    if several := [means - means.mean(axis=0) for means in cells if len(means) > 1]:
        rows.append(np.concatenate(several) / sum(map(len, several)) ** 0.5)
    return np.concatenate(rows) if rows else None


def choose_shrinkage(Z: np.ndarray, y: np.ndarray, seed: int, groups: np.ndarray | None = None,
                     rows: Nuisance = lambda kept: None, ranks: Alone = ALONE) -> str | float:
    """The shrinkage of GRID, or "auto", under which LDA is right about most of the clips that it was not fitted on.

    Z (N, D), y (N,); groups (N,) are left out whole. Of equals, the one that gives them the larger likelihood. (On real
    speech the likelihood alone asks for more shrinkage than is good for accuracy: docs/results.md.) An intensity under which
    S_W is singular, of all clips or of a fold, is out; where a class of one clip leaves nothing to choose by, the answer is
    0.1. Clips of a class that no other fold has count as wrong. Intensities are spread over `ranks`.
    """
    if np.unique(y, return_counts=True)[1].min() < 2:
        return 0.1
    folds = [(out, rows(~out)) for out in held_out(y, CV_FOLDS, seed, groups) if len(np.unique(y[~out])) > 1]
    whole = rows(np.full(len(y), True))

    def score(shrinkage: str | float) -> tuple[int, float]:
        """(clips right, log-likelihood); -1 right where S_W is singular."""
        right, likelihood = 0, 0.0
        try:
            LDA(None, shrinkage).fit(Z, y, whole)
            for out, differences in folds:
                lda = LDA(None, shrinkage).fit(Z[~out], y[~out], differences)
                out = out & np.isin(y, lda.classes_)
                log_p, label = lda.predict_log_proba(Z[out]), np.searchsorted(lda.classes_, y[out])
                right += int((log_p.argmax(axis=1) == label).sum())
                likelihood += log_p[np.arange(len(label)), label].sum()
        except SingularScatterError:
            return -1, 0.0
        return right, likelihood
    choices = ("auto", *GRID)
    scores = {choice: tuple(row) for choice, row in zip(choices, ranks.spread(score, choices), strict=True) if row[0] >= 0}
    return max(scores, key=scores.get, default=0.1)


def cross_fit(lda: LDA, Z: np.ndarray, y: np.ndarray, folds: int, seed: int,
              groups: np.ndarray | None = None, rows: Nuisance = lambda kept: None,
              ranks: Alone = ALONE) -> np.ndarray | None:
    """Project every clip by an LDA that has seen none of its group (N,), that of the other folds: (N, K). Folds are spread
    over `ranks`.

    None where a fold leaves no clip of some class, or too few clips for an S_W that is not singular.

    LDA pulls the clips that it is fitted on towards their class means, the more so the more features there are: a network
    trained on such projections learns to trust what new clips will not have. (Cross-fitting: Chernozhukov et al. 2018,
    Econometrics Journal 21, C1-C68, section 1; stacking: Wolpert 1992.)

    The axes of each fold's LDA are turned to those of `lda`: by the orthogonal R that takes the fold's class means P, among
    its own discriminants, nearest to those of `lda`, Q: min ||P R - Q|| is R = U V^T with P^T Q = U S V^T (Schoenemann
    1966, Psychometrika 31, 1-10).
    """
    K, Q = lda.scalings_.shape[1], lda.transform(lda.means_)                  # Q (C, K)

    def project(out: np.ndarray) -> np.ndarray:
        """(N_out, K); none where there is no such LDA."""
        if len(np.unique(y[~out])) < len(lda.classes_):
            return np.empty(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                                   # more components than classes - 1: said once
            try:
                part = LDA(K, lda.shrinkage).fit(Z[~out], y[~out], rows(~out))
            except SingularScatterError:
                return np.empty(0)
        U, _, Vt = np.linalg.svd(part.transform(part.means_).T @ Q)
        return part.transform(Z[out]) @ (U @ Vt)
    parts, projected = list(held_out(y, folds, seed, groups)), np.empty((len(y), K))
    for out, found in zip(parts, ranks.spread(project, parts), strict=True):
        if not len(found):
            return None
        projected[out] = found.reshape(-1, K)
    return projected


def _spread(X: np.ndarray) -> np.ndarray:
    """The standard deviation of every column, 1 where there is none but for rounding."""
    spread = X.std(axis=0)
    return np.where(spread > 1e-12 * np.maximum(1, np.abs(X).max(axis=0)), spread, 1.0)
