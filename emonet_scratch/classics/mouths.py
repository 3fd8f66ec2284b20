"""The bag of mouths of Kahou et al. 2013: what a mouth looks like, in words that k-means has found.

After Coates, Ng & Lee 2011 (An analysis of single-layer networks in unsupervised feature learning).
"""

from collections.abc import Sequence

import numpy as np

from . import evenly
from .kmeans import Whitening, distances, even_contrast, kmeans
from .machines import SoftmaxRegression

TOP, LEFT, HEIGHT, WIDTH = 48, 16, 48, 64       # of the mouth's region in a face of 96 x 96 pixels
GRID, PATCH, STRIDE = 4, 8, 2                   # sections each way; pixels
SECTION = HEIGHT // GRID, WIDTH // GRID         # 12 x 16 pixels
FRAMES = 12                                     # of a clip, evenly spaced


def patches(faces: np.ndarray) -> np.ndarray:
    """All patches of the mouth: faces (T, 96, 96, 3) -> (16 sections, T, P, 3 8 8), of even contrast, float32."""
    if faces.shape[1:] != (96, 96, 3):
        raise ValueError(f"patches got faces of shape {faces.shape}: expected (T, 96, 96, 3)")
    (h, w), T = SECTION, len(faces)
    mouth = faces[:, TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH].astype(np.float32)
    parts = mouth.reshape(T, GRID, h, GRID, w, 3).transpose(1, 3, 0, 2, 4, 5).reshape(GRID**2, T, h, w, 3)
    views = np.lib.stride_tricks.sliding_window_view(parts, (PATCH, PATCH), axis=(2, 3))[:, :, ::STRIDE, ::STRIDE]
    return even_contrast(np.ascontiguousarray(views).reshape(GRID**2, T, -1, 3 * PATCH**2))


class BagOfMouths:
    """Faces of clips -> probabilities of C classes.

    In each of 4 x 4 sections of the mouth's region, patches of 8 x 8 x 3 are whitened and become activations of `words`
    centroids, a_k = max(0, mean(z) - z_k) with z_k the distance to centroid k ("triangle", section 3.2.2 of Coates et al.),
    averaged over the section: 16 words numbers a frame. Softmax regression says of each frame what it shows, and of a clip
    the mean. Nothing of it knows the order of frames.
    """

    def __init__(self, C: int, words: int = 400, seed: int = 0) -> None:
        self.C, self.words, self.rng = C, words, np.random.default_rng(seed)

    def fit(self, clips: Sequence[np.ndarray], y: np.ndarray) -> "BagOfMouths":
        """clips: N arrays (T, 96, 96, 3) uint8, some of which may have no frame; y (N,) classes 0..C-1."""
        seen = [(evenly(clip, FRAMES), label) for clip, label in zip(clips, y, strict=True) if len(clip)]
        some = [patches(frames[self.rng.permutation(len(frames))[:4]]) for frames, _ in seen]
        drawn = np.concatenate([p.reshape(GRID**2, -1, p.shape[-1]) for p in some], axis=1)
        drawn = drawn[:, self.rng.permutation(drawn.shape[1])[:8000]]
        self.whitenings, self.centroids = [], []
        for section in drawn:
            self.whitenings.append(whitening := Whitening().fit(section))
            white = whitening.transform(section)
            self.centroids.append(kmeans(white, min(self.words, len(white)), self.rng, steps=10)[0])
        X = np.concatenate([self.encode(frames) for frames, _ in seen])
        labels = np.repeat([label for _, label in seen], [len(frames) for frames, _ in seen])
        self.regression = SoftmaxRegression(self.C, decay=0.1).fit(X, labels)
        return self

    def encode(self, faces: np.ndarray) -> np.ndarray:
        """(T, 96, 96, 3) -> (T, 16 words) float32."""
        out = []
        for section, whitening, centroids in zip(patches(faces), self.whitenings, self.centroids, strict=True):
            T, P, D = section.shape
            z = np.sqrt(distances(whitening.transform(section.reshape(T * P, D)), centroids))
            active = np.maximum(0, z.mean(axis=1, keepdims=True) - z)
            out.append(active.reshape(T, P, -1).mean(axis=1))
        return np.concatenate(out, axis=1).astype(np.float32)

    def predict_proba(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C); 1 / C of a clip without frames."""
        return np.array([self.regression.predict_proba(self.encode(evenly(clip, FRAMES))).mean(axis=0) if len(clip) else
                         np.full(self.C, 1 / self.C) for clip in clips])
