"""After Yao et al. 2015: for each pair of emotions the patches of a face that tell the two apart, and their relations.

(Capturing AU-aware facial features and their latent relations for emotion recognition in the wild, ICMI 2015.) Public
are the steps, not the sizes: which patches, descriptors and edges the authors used is not said. Ours, and why: patches of
12 x 12 pixels in a grid of 8 x 8 (about a mouth's corner in a face of 96 pixels); as descriptor a histogram of directions of
gradients (HOG, Dalal & Triggs 2005), which light does not change; a patch is as good as the two emotions are apart in it, by
Fisher's criterion; edges are cosines of descriptors, 1 for two patches that look alike.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from ..studies.svm import LinearSVM, choose_C
from . import evenly

GRID, SIDE, BINS = 8, 12, 8     # patches each way, pixels, directions
CHOSEN = 8                      # patches of a pair
FRAMES = 12


def describe(faces: np.ndarray) -> np.ndarray:
    """Faces (T, 96, 96, 3) -> (64 patches, 8): for each of 8 directions the mean length of gradients over pixels and frames,
    each patch divided by its norm plus one grey level; without frames zeros."""
    if not len(faces):
        return np.zeros((GRID**2, BINS))
    grey = evenly(faces, FRAMES).mean(axis=-1, dtype=np.float32)
    down, across = np.gradient(grey, axis=(1, 2))
    length, turn = np.hypot(down, across), (np.arctan2(down, across) / (2 * np.pi) * BINS) % BINS
    low = np.floor(turn)
    weights = length * (1 - (turn - low)), length * (turn - low)              # shared between the two nearest directions
    bins = np.zeros((BINS, *grey.shape), np.float32)
    for k in range(BINS):
        bins[k] = weights[0] * (low % BINS == k) + weights[1] * ((low + 1) % BINS == k)
    cells = bins.mean(axis=1).reshape(BINS, GRID, SIDE, GRID, SIDE).mean(axis=(2, 4)).reshape(BINS, -1).T
    return (cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1)).astype(np.float64)


def fisher(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far apart two classes are in each patch: descriptors (n, P, D), (m, P, D) -> (P,).

    (m_a - m_b)^T S_W^-1 (m_a - m_b), S_W the mean of both covariances with a tenth of its mean variance added, so that few
    clips can be inverted (lda.py has the same with two classes).
    """
    parts = [np.einsum("npd,npe->pde", x - x.mean(axis=0), x - x.mean(axis=0)) / len(x) for x in (a, b)]
    S_W = sum(parts) / 2
    D = S_W.shape[-1]
    ridge = 0.1 * np.trace(S_W, axis1=1, axis2=2) / D + 1e-9
    apart = a.mean(axis=0) - b.mean(axis=0)                                   # (P, D)
    w = np.linalg.solve(S_W + ridge[:, None, None] * np.eye(D), apart[..., None])[..., 0]
    return np.einsum("pd,pd->p", apart, w)


class PatchGraphs:
    """Descriptors -> classes: for each pair of classes the CHOSEN patches that are furthest apart, their descriptors (nodes)
    and the cosines between them (edges); all pairs in a row, and linear SVMs.

    After fit: chosen {(a, b): numbers of patches, row by row from the top left, the best first}, of these clips alone.
    """

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: np.ndarray, y: np.ndarray) -> "PatchGraphs":
        """X (N, 64 8), rows of `describe`; y (N,) integers, two classes at least."""
        D = self._patches(X)
        self.chosen = {(a, b): np.argsort(-fisher(D[y == a], D[y == b]), kind="stable")[:CHOSEN]
                       for a, b in itertools.combinations(np.unique(y), 2)}
        Z = self._graphs(D)
        self.mean, self.std = Z.mean(axis=0), np.maximum(Z.std(axis=0), 1e-9)
        self.svm = LinearSVM(self.C).fit((Z - self.mean) / self.std, y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N, 64 8) -> (N,)"""
        return self.svm.predict((self._graphs(self._patches(X)) - self.mean) / self.std)

    def _patches(self, X: np.ndarray) -> np.ndarray:
        return X.reshape(len(X), GRID**2, BINS)

    def _graphs(self, D: np.ndarray) -> np.ndarray:
        """(N, P, D) -> (N, pairs (CHOSEN D + CHOSEN (CHOSEN - 1) / 2))"""
        i, j = np.triu_indices(CHOSEN, 1)
        parts = []
        for numbers in self.chosen.values():
            nodes = D[:, numbers]
            unit = nodes / np.maximum(np.linalg.norm(nodes, axis=2, keepdims=True), 1e-9)
            parts += [nodes.reshape(len(D), -1), np.einsum("nkd,nkd->nk", unit[:, i], unit[:, j])]
        return np.concatenate(parts, axis=1)


def patch_graphs(clips: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray | None = None, seed: int = 0) -> PatchGraphs:
    """Fitted on faces of clips, N arrays (T, 96, 96, 3) uint8, y (N,), with the C that folds of groups (N,) choose,
    in each of which patches are chosen anew."""
    X = np.array([describe(clip).ravel() for clip in clips])
    return PatchGraphs(choose_C(X, y, (1e-4, 1e-3, 1e-2), seed, groups, PatchGraphs)).fit(X, y)
