"""The face tubes of Kahou et al. 2013: what a network of single faces says along a clip, and an RBF SVM of that."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..layers import Normalize, Sequential
from ..layers.input import IMAGENET_MEAN, IMAGENET_STD
from ..losses import softmax
from ..models import ResNet
from ..studies.svm import choose_C
from .machines import KernelSVM, ProbableSVM, rbf

SEGMENTS = 10


def segments(p: np.ndarray, number: int = SEGMENTS) -> np.ndarray:
    """Means over segments of equal length: p (T, K), each row of sum 1, -> (number, K), each row of sum 1.

    Segment k has the frames from floor(k T / number) to floor((k + 1) T / number), the end left out; one that would have
    none, as in a clip of fewer frames than segments, has the one at its beginning, so a frame is in several. T = 0, no face:
    1 / K everywhere.

    >>> segments(np.array([[1.0, 0.0], [0.0, 1.0]]), 4)[:, 0]
    array([1., 1., 0., 0.])
    """
    T, K = p.shape
    if T == 0:
        return np.full((number, K), 1 / K)
    starts = np.arange(number + 1) * T // number
    return np.array([p[a:max(a + 1, b)].mean(axis=0) for a, b in pairwise(starts)])


class FaceTubes:
    """Faces of clips -> probabilities of C classes: 10 segments x 7 mean probabilities of the trunk that knows faces, in
    place of the paper's ConvNet, then an RBF SVM, its C by folds of groups, gamma = 1 / (D variance)."""

    def __init__(self, C: int, seed: int = 0) -> None:
        self.C, self.seed = C, seed
        self.net = Sequential(normalize=Normalize(IMAGENET_MEAN, IMAGENET_STD), resnet=ResNet.pretrained("faces")).eval()

    def describe(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """N arrays (T, 96, 96, 3) uint8 -> (N, 70): faces of 48 x 48, grey."""
        rows = []
        for clip in clips:
            small = clip.reshape(len(clip), 48, 2, 48, 2, 3).mean(axis=(2, 4, 5), dtype=np.float32)
            grey = np.repeat(small[..., None], 3, axis=-1).round().astype(np.uint8)
            said = [softmax(self.net.forward(grey[k:k + 256])[0]) for k in range(0, len(grey), 256)]
            rows.append(segments(np.concatenate(said) if said else np.empty((0, self.net.resnet.dense.M))).ravel())
        return np.array(rows, np.float64)

    def fit(self, clips: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray | None = None) -> "FaceTubes":
        """clips: N arrays (T, 96, 96, 3) uint8; y (N,) classes 0..C-1; groups (N,)."""
        X = self.describe(clips)
        kernel = rbf(1 / max(X.shape[1] * X.var(), 1e-12))
        best = choose_C(X, y, (0.1, 1.0, 10.0), self.seed, groups, lambda C: KernelSVM(self.C, kernel, C))
        self.svm = ProbableSVM(self.C, kernel, best).fit(X, y, groups, self.seed)
        return self

    def predict_proba(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C)"""
        return self.svm.predict_proba(self.describe(clips))
