"""From audio vectors to what the audio branch reads: standardise, LDA, standardise; all fitted on training clips only."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.errors import DataError
from ..lda import LDA


class AudioProjection:
    """x -> LDA((x - mean) / spread) / scale, (N, D) -> (N, K).

    mean and spread (D,) are those of the training clips, scale (K,) that of their projections: LDA makes the variance
    within a class 1, so without it well-separated classes would be large inputs. What is constant gets the spread 1.
    The classes of LDA are the labels themselves. n_components above D is taken as D.
    """

    def __init__(self, n_components: int | None = None, shrinkage: str | float | None = "auto") -> None:
        self.n_components, self.shrinkage = n_components, shrinkage

    def fit(self, X: np.ndarray, y: np.ndarray) -> AudioProjection:
        """X (N, D), y (N,) integers; DataError with the reason where LDA has no answer."""
        self.mean, self.spread = X.mean(axis=0), _spread(X)
        n_components = None if self.n_components is None else min(self.n_components, X.shape[1])
        try:
            self.lda = LDA(n_components, self.shrinkage).fit(self.standardise(X), y)
        except ValueError as error:
            hint = " (--set lda_shrinkage=0.1)" if "shrinkage" in str(error) else ""
            raise DataError(f"LDA of the training split's audio vectors: {error}{hint}") from error
        self.scale = _spread(self.lda.transform(self.standardise(X)))
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K) float32"""
        return (self.lda.transform(self.standardise(X)) / self.scale).astype(np.float32)

    def standardise(self, X: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, D): what LDA reads"""
        return (X - self.mean) / self.spread

    def state_dict(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint."""
        lda = {f"lda.{name}": a for name, a in self.lda.state_dict().items()}
        return lda | {"mean": self.mean, "spread": self.spread, "scale": self.scale}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> AudioProjection:
        """The projection that gave this `state_dict()`."""
        self = cls()
        self.mean, self.spread, self.scale, self.lda = state["mean"], state["spread"], state["scale"], LDA()
        self.lda.load_state_dict({k[4:]: a for k, a in state.items() if k.startswith("lda.")})
        return self


def _spread(X: np.ndarray) -> np.ndarray:
    """The standard deviation of every column, 1 where there is none but for rounding."""
    spread = X.std(axis=0)
    return np.where(spread > 1e-12 * np.maximum(1, np.abs(X).max(axis=0)), spread, 1.0)
