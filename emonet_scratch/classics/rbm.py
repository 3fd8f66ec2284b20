"""The restricted Boltzmann machine, by which Kahou et al. 2013 begin each layer of their audio network.

Smolensky 1986; Hinton 2002 (contrastive divergence); Hinton, Osindero & Teh 2006 (a stack of them).
"""

import numpy as np
from scipy.special import expit

from ..errors import DataError


class RBM:
    """Visible units v (N, V) and hidden units h (N, H), joined by W (V, H), with biases b (V,) and c (H,).

    The energy of a state, and the probability of it (Z sums over all states):

        E(v, h) = - v W h^T - b v - c h                     binary units of both kinds
        E(v, h) = |v - b|^2 / 2 - v W h^T - c h             visible="gaussian": real v, of variance 1 given h
        p(v, h) = exp(-E(v, h)) / Z

    Given v, no hidden unit depends on another one, since E is linear in each; and the same the other way round:

        p(h_j = 1 | v) = sigmoid(c_j + v W_j)               p(v_i = 1 | h) = sigmoid(b_i + W_i h)
                                                            gaussian: v | h ~ N(b + h W^T, 1)

    Summing p over h gives p(v) = exp(-F(v)) / Z with the free energy F; each sum over h_j in {0, 1} is 1 + exp(a_j):

        F(v) = - b v - sum_j log(1 + exp(a_j)), a = c + v W          gaussian: |v - b|^2 / 2 in place of - b v

    The gradient of the mean of -log p(v) over data is then that of F over the data, less that of F over what the machine
    believes in:  d/dt -log p(v) = dF(v)/dt - E_p[dF/dt],  dF/dW = - v^T sigmoid(a),  dF/db = -v (gaussian b - v),
    dF/dc = - sigmoid(a). The second term has no closed form. Contrastive divergence, CD-k, starts a Markov chain at the data
    and takes what it is at after k steps v -> h -> v in place of p; it is exact for k -> infinity (`cd`).

    hidden="relu": each unit stands for as many binary copies of itself with biases c - 1/2, c - 3/2, ..., whose sum is about
    max(0, a + N(0, sigmoid(a))) (Nair & Hinton 2010, section 2); no free energy is given for it.
    """

    def __init__(self, V: int, H: int, visible: str = "binary", hidden: str = "sigmoid",
                 rng: np.random.Generator | None = None) -> None:
        if visible not in ("binary", "gaussian") or hidden not in ("sigmoid", "relu"):
            raise ValueError(f"RBM wants visible binary or gaussian and hidden sigmoid or relu, got {visible!r}, {hidden!r}")
        self.visible, self.hidden = visible, hidden
        self.rng = rng or np.random.default_rng(0)
        self.W, self.b, self.c = 0.01 * self.rng.standard_normal((V, H)), np.zeros(V), np.zeros(H)

    def free_energy(self, v: np.ndarray) -> np.ndarray:
        """F (N,) of v (N, V)."""
        if self.hidden == "relu":
            raise ValueError("the free energy is that of hidden='sigmoid'")
        own = -v @ self.b if self.visible == "binary" else 0.5 * ((v - self.b) ** 2).sum(axis=1)
        return own - np.logaddexp(0, self.c + v @ self.W).sum(axis=1)

    def up(self, v: np.ndarray) -> np.ndarray:
        """What the hidden units are on average, given v: (N, V) -> (N, H); of "relu" by max(0, a)."""
        a = self.c + v @ self.W
        return expit(a) if self.hidden == "sigmoid" else np.maximum(a, 0)

    def down(self, h: np.ndarray) -> np.ndarray:
        """What the visible units are on average, given h: (N, H) -> (N, V)."""
        a = self.b + h @ self.W.T
        return expit(a) if self.visible == "binary" else a

    def sample_up(self, v: np.ndarray) -> np.ndarray:
        """h (N, H), drawn given v."""
        a = self.c + v @ self.W
        if self.hidden == "sigmoid":
            return (self.rng.random(a.shape) < expit(a)).astype(v.dtype)
        return np.maximum(0, a + np.sqrt(expit(a)) * self.rng.standard_normal(a.shape))

    def sample_down(self, h: np.ndarray) -> np.ndarray:
        """v (N, V), drawn given h."""
        mean = self.down(h)
        if self.visible == "binary":
            return (self.rng.random(mean.shape) < mean).astype(h.dtype)
        return mean + self.rng.standard_normal(mean.shape)

    def slope(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean over v (N, V) of dF/dW, dF/db, dF/dc."""
        h = self.up(v)
        db = -v if self.visible == "binary" else self.b - v
        return -v.T @ h / len(v), db.mean(axis=0), -h.mean(axis=0)

    def cd(self, v: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CD-k's estimate of the gradient of the mean of -log p over v (N, V), for W, b and c."""
        believed = v
        for _ in range(k):
            believed = self.sample_down(self.sample_up(believed))
        return tuple(d - e for d, e in zip(self.slope(v), self.slope(believed), strict=True))

    def fit(self, v: np.ndarray, epochs: int = 5, lr: float = 0.01, batch: int = 100, momentum: float = 0.5,
            weight_decay: float = 1e-4) -> "RBM":
        """CD-1 over batches of v (N, V) in random order (Hinton 2010, A practical guide). DataError where it diverges."""
        speed = [np.zeros_like(p) for p in (self.W, self.b, self.c)]
        for _ in range(epochs):
            order = self.rng.permutation(len(v))
            for first in range(0, len(v), batch):
                slopes = self.cd(v[order[first:first + batch]])
                for p, m, d, decay in zip((self.W, self.b, self.c), speed, slopes, (weight_decay, 0, 0), strict=True):
                    m *= momentum
                    m -= lr * (d + decay * p)
                    p += m
        if not np.isfinite(self.W).all():
            raise DataError(f"RBM.fit diverged: a smaller lr than {lr:g}, or standardised v")
        return self
