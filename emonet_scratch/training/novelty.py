"""How unlike all training clips a clip is: a distance that strangers in known rooms keep, and other rooms do not."""

import numpy as np

from ..data.folds import held_out

DIRECTIONS, FOLDS, LEVEL = 64, 5, 0.95


class Familiar:
    """What vectors of training clips span: `basis` (r, D), rows orthonormal, and the `threshold` of the distance to it.

    The distance of a standardised vector z is |z - B^T B z|, with B the r <= 64 first principal directions: what is left of
    a clip when all is taken out by which training clips differ. The threshold is that which LEVEL of the clips of people
    stay below whom B was not fitted on; the `novelty` of a clip is its distance over the threshold, so 1 in 20 clips of
    strangers who were recorded like the people that are known has more than 1.
    """

    def __init__(self, basis: np.ndarray, threshold: float) -> None:
        self.basis, self.threshold = basis, threshold

    @classmethod
    def fit(cls, Z: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int = 0) -> "Familiar":
        """Z (N, D) standardised vectors, y (N,) labels and groups (N,) of clips, both for folds of whole groups."""
        folds = held_out(y, FOLDS, seed, groups)
        apart = [distance(Z[out], directions(Z[~out])) for out in folds if not out.all()]
        return cls(directions(Z), float(np.quantile(np.concatenate(apart), LEVEL)) if apart else np.inf)

    def novelty(self, Z: np.ndarray) -> np.ndarray:
        """(N,) of standardised vectors (N, D)."""
        return distance(Z, self.basis) / self.threshold


def directions(Z: np.ndarray) -> np.ndarray:
    """(r, D): the first principal directions of Z (N, D), r = min(64, N / 2, D / 2) rounded down."""
    r, gram = min(DIRECTIONS, len(Z) // 2, Z.shape[1] // 2), Z @ Z.T if len(Z) < Z.shape[1] else Z.T @ Z
    V = np.linalg.eigh(gram)[1][:, ::-1][:, :r]
    return np.linalg.qr(Z.T @ V if len(Z) < Z.shape[1] else V)[0].T


def distance(Z: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(N,): the length of what of Z (N, D) is not in the span of the rows of `basis` (r, D)."""
    return np.linalg.norm(Z - Z @ basis.T @ basis, axis=1)
