"""The activity model of Kahou et al. 2013: a relational autoencoder on blocks of video, a bag of motions, a chi-square SVM.

After Konda, Memisevic & Michalski 2014 (Learning to encode motion using spatio-temporal synchrony).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from ..layers import Parameter
from ..layers.base import Layer, check_last_axis
from ..optim import Adam
from .kmeans import Whitening, even_contrast, kmeans
from .machines import ProbableSVM, chi_square

SIZE, FRAMES = 16, 10           # a block: pixels each way, frames
STRIDE, STEP = 8, 5             # between blocks: pixels, frames


class RelationalAutoencoder(Layer):
    """Filters come in their own company: f = x W, h = sigmoid(f^2), y = (f h) W^T.

    Shapes: x and y (N, D), W (D, H), h (N, H), between 1/2 and 1. The square makes each unit a detector of agreement: over
    several frames f is a sum of what each frame gives, and f^2 has the products between frames, by which a filter that
    moves as the picture does is told from one that does not (the motion energy of Adelson & Bergen 1985). Without h it would
    be PCA.

    Backward, with r = f h and h = sigmoid(u), u = f^2, h' = h (1 - h):

        dr = dy W,  dW += dy^T r                               from y = r W^T
        df = dr h + dr f h' 2 f                                from r = f h, h = sigmoid(f^2)
        dW += x^T df,  dx = df W^T                             from f = x W
    """

    shown = ("D", "H")

    def __init__(self, D: int, H: int, rng: np.random.Generator | None = None) -> None:
        self.D, self.H = D, H
        rng = rng or np.random.default_rng(0)
        self.W = Parameter((rng.standard_normal((D, H)) / D**0.5).astype(np.float32))

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Any]:
        check_last_axis(self, x, self.D)
        f = x @ self.W.value
        h = expit(f**2)
        return (f * h) @ self.W.value.T, (x, f, h)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        x, f, h = cache
        dr = dy @ self.W.value
        df = dr * h + dr * f * h * (1 - h) * 2 * f
        self.W.grad += dy.T @ (f * h) + x.T @ df
        return df @ self.W.value.T

    def encode(self, x: np.ndarray) -> np.ndarray:
        """h of x (N, D) -> (N, H)"""
        return expit((x @ self.W.value) ** 2)


def blocks(faces: np.ndarray) -> np.ndarray:
    """All blocks of a clip: faces (T, 96, 96, 3), T >= 1, -> (B, 10 16 16) float32 of even contrast, of grey frames of half
    the size. A clip of fewer than 10 frames has its last one again until there are 10."""
    grey = faces.mean(axis=-1, dtype=np.float32)
    small = grey.reshape(len(grey), 48, 2, 48, 2).mean(axis=(2, 4))
    small = np.concatenate([small, np.repeat(small[-1:], max(0, FRAMES - len(small)), axis=0)])
    views = np.lib.stride_tricks.sliding_window_view(small, (FRAMES, SIZE, SIZE))[::STEP, ::STRIDE, ::STRIDE]
    return even_contrast(views.reshape(-1, FRAMES * SIZE * SIZE))


class Activity:
    """Faces of clips -> probabilities of C classes: whitened blocks, activations h of the autoencoder, words of k-means;
    each block adds its mean h - 1/2, by how much it moves its units, to the count of its word; a chi-square SVM (C = 100) of
    the shares. A clip without frames has no shares: zeros.
    """

    def __init__(self, C: int, units: int = 300, words: int = 100, epochs: int = 10, seed: int = 0) -> None:
        self.C, self.units, self.words, self.epochs, self.seed = C, units, words, epochs, seed

    def fit(self, clips: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray | None = None) -> "Activity":
        """clips: N arrays (T, 96, 96, 3) uint8; y (N,) classes 0..C-1; groups (N,)."""
        rng = np.random.default_rng(self.seed)
        seen = [clip for clip in clips if len(clip)]
        each = max(4, 12_000 // max(1, len(seen)))
        drawn = np.concatenate([rng.permutation(blocks(clip))[:each] for clip in seen])
        self.whitening = Whitening().fit(drawn)
        x = self.whitening.transform(drawn)
        self.net = RelationalAutoencoder(x.shape[1], self.units, rng)
        self.losses = self._train(x, rng)
        h = self.net.encode(x)
        self.centroids, _ = kmeans(h, min(self.words, len(h)), rng)
        X = self.describe(clips)
        chi2 = -np.log(np.maximum(chi_square(1.0)(X, X), 1e-300))
        self.svm = ProbableSVM(self.C, chi_square(float(chi2.mean()) or 1.0), 100.0).fit(X, y, groups, self.seed)
        return self

    def _train(self, x: np.ndarray, rng: np.random.Generator) -> list[float]:
        """The loss, half the squared error of a block, in each epoch."""
        optimizer, losses = Adam(self.net.parameters(), 1e-3), []
        for _ in range(self.epochs):
            total, order = 0.0, rng.permutation(len(x))
            for first in range(0, len(x), 100):
                batch = x[order[first:first + 100]]
                y, cache = self.net.forward(batch)
                total += 0.5 * float(((y - batch) ** 2).sum())
                self.net.zero_grad()
                self.net.backward((y - batch) / len(batch), cache)
                optimizer.step()
            losses.append(total / len(x))
        return losses

    def describe(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Shares of words: N arrays (T, 96, 96, 3) -> (N, words)."""
        out = np.zeros((len(clips), len(self.centroids)))
        for row, clip in zip(out, clips, strict=True):
            if len(clip):
                h = self.net.encode(self.whitening.transform(blocks(clip)))
                d = -2 * h @ self.centroids.T + (self.centroids**2).sum(axis=1)      # |h|^2 is the same for every word
                np.add.at(row, d.argmin(axis=1), h.mean(axis=1) - 0.5)
                row /= max(row.sum(), 1e-12)
        return out

    def predict_proba(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C)"""
        return self.svm.predict_proba(self.describe(clips))
