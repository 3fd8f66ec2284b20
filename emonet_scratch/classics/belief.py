"""The audio network of Kahou et al. 2013: a deep belief net on frames of sound, pooled over time."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..layers import Dense, Dropout, ReLU, Sequential
from ..layers.base import Layer
from ..losses import softmax, softmax_cross_entropy
from ..optim import RMSprop
from . import evenly
from .rbm import RBM

MOST_FRAMES = 100               # of a clip; a maximum over more of them would be larger than in training


class TopTwo(Layer):
    """Each unit over the frames of a clip: y = (1.4 max1 + .6 max2) / 2, of its largest and its second largest value.

    x (B, H) holds the frames of clip 0, then those of clip 1, and so on; lengths (N,), each >= 1, with sum B; y (N, H). Of
    one frame max2 = max1. Backward: .7 dy goes to where the largest was, .3 dy to the second; of equals to the first.
    """

    def forward(self, x: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, Any]:
        if min(lengths) < 1 or sum(lengths) != len(x):
            raise ValueError(f"TopTwo got {len(x)} frames and lengths {lengths}: expected their sum, each 1 or more")
        columns, first, second = np.arange(x.shape[1]), [], []
        for start, T in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
            clip = x[start:start + T]
            top = clip.argmax(axis=0)
            rest = np.array(clip)
            rest[top, columns] = -np.inf
            first.append(start + top)
            second.append(start + (rest.argmax(axis=0) if T > 1 else top))
        a, b = np.array(first), np.array(second)                              # (N, H): rows of x
        return 0.7 * x[a, columns] + 0.3 * x[b, columns], (a, b, x.shape)

    def backward(self, dy: np.ndarray, cache: Any) -> tuple[np.ndarray, None]:
        a, b, shape = cache
        dx, columns = np.zeros(shape, dy.dtype), np.broadcast_to(np.arange(shape[1]), a.shape)
        np.add.at(dx, (a, columns), 0.7 * dy)
        np.add.at(dx, (b, columns), 0.3 * dy)
        return dx, None


def limit_columns(W: np.ndarray, limit: float) -> None:
    """Scale each column of W (D, H) in place to a norm of at most `limit` (Srivastava et al. 2014, section 5.1)."""
    norms = np.sqrt((W**2).sum(axis=0))
    W *= np.minimum(1, limit / np.maximum(norms, 1e-12))


class BeliefNet:
    """Frames (T, D) -> probabilities of C classes: two ReLU layers with dropout, `TopTwo` over time, softmax.

    Each layer begins as an RBM with Gaussian visible units that was trained by CD-1 on what the layer below makes of the
    frames, brought to a variance of 1 (the layer's W takes that back); then all is trained by backpropagation with RMSprop,
    and columns of W are kept short. Features are standardised by the frames of the training, and by no others. A clip
    without sound has no frame: it is in no fit, and 1 / C is said of it. pretrain=False begins at random.
    """

    def __init__(self, C: int, sizes: Sequence[int] = (200, 200), epochs: int = 40, lr: float = 1e-3, rate: float = 0.5,
                 longest: float = 3.0, pretrain: bool = True, seed: int = 0) -> None:
        self.C, self.sizes, self.epochs, self.lr, self.rate = C, sizes, epochs, lr, rate
        self.longest, self.pretrain = longest, pretrain
        self.rng = np.random.default_rng(seed)

    def fit(self, clips: Sequence[np.ndarray], y: np.ndarray) -> "BeliefNet":
        """clips: N arrays (T, D), not all with T = 0; y (N,) classes 0..C-1."""
        heard = [i for i, clip in enumerate(clips) if len(clip)]
        clips, y = [clips[i] for i in heard], y[heard]
        frames = np.concatenate([x[self._drawn(x)] for x in clips])
        self.mean, self.std = frames.mean(axis=0), np.maximum(frames.std(axis=0), 1e-6)
        v, layers, scale = self._standard(frames), [], 1.0
        self.rbms = []
        for k, (D, H) in enumerate(pairwise((v.shape[1], *self.sizes))):
            dense = Dense(D, H, self.rng)
            if self.pretrain:
                rbm = RBM(D, H, "gaussian", "relu", self.rng).fit(v, lr=1e-3)
                dense.W.value[...], dense.b.value[...] = rbm.W / scale, rbm.c
                v = rbm.up(v)
                scale = max(float(v.std()), 1e-6)
                v = (v / scale).astype(np.float32)
                self.rbms.append(rbm)
            layers += [dense, ReLU(), Dropout(self.rate if k else 0.2, int(self.rng.integers(2**31)))]
        self.body, self.pool = Sequential(*layers), TopTwo()
        self.top = Dense(self.sizes[-1], self.C, self.rng)
        optimizer = RMSprop([*self.body.parameters(), *self.top.parameters()], self.lr)
        for _ in range(self.epochs):
            order = self.rng.permutation(len(clips))
            for first in range(0, len(clips), 16):
                chosen = order[first:first + 16]
                self._step([clips[i][self._drawn(clips[i])] for i in chosen], y[chosen], optimizer)
        self.body.eval()
        return self

    def _drawn(self, x: np.ndarray) -> np.ndarray:
        """Which frames of a clip a batch takes: at most MOST_FRAMES, in random places."""
        return np.sort(self.rng.permutation(len(x))[:MOST_FRAMES])

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.mean) / self.std).astype(np.float32)

    def _step(self, clips: list[np.ndarray], y: np.ndarray, optimizer: RMSprop) -> None:
        x, below = self.body.forward(self._standard(np.concatenate(clips)))
        pooled, chosen = self.pool.forward(x, np.array([len(clip) for clip in clips]))
        logits, above = self.top.forward(pooled)
        _, dlogits = softmax_cross_entropy(logits, y)
        for layer in (self.body, self.top):
            layer.zero_grad()
        self.body.backward(self.pool.backward(self.top.backward(dlogits, above), chosen)[0], below)
        optimizer.step()
        for p in optimizer.params:
            if p.value.ndim == 2:
                limit_columns(p.value, self.longest)

    def predict_proba(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """(N, C) of N arrays (T, D)."""
        def logits(x: np.ndarray) -> np.ndarray:
            if not len(x):
                return np.zeros((1, self.C), np.float32)
            x = self._standard(evenly(x, MOST_FRAMES))
            return self.top.forward(self.pool.forward(self.body.forward(x)[0], np.array([len(x)]))[0])[0]
        return softmax(np.concatenate([logits(x) for x in clips]))
