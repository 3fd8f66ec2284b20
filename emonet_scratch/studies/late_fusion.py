"""Late fusion: the probabilities of several networks, added with a weight for each network and class."""

import numpy as np

from ..data.folds import held_out


def fuse(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_m weights[m, k] probabilities[m, n, k], so that each clip's sum is 1: (M, N, K), (M, K) -> (N, K)."""
    mixed = np.einsum("mnk,mk->nk", probabilities, weights)
    return mixed / mixed.sum(axis=1, keepdims=True)


def find_weights(probabilities: np.ndarray, labels: np.ndarray, seed: int = 0, draws: int = 10_000) -> np.ndarray:
    """Weights (M, K) >= 0 for M networks, by random search on clips with known labels (N,).

    As the winners of EmotiW 2013 did (Kahou et al., ICMI 2013): weights of a class are drawn at random and sum to 1 over
    the networks; a second search draws around the best of the first. The first candidate is equal weights. The best is
    that with most clips right, of equals the one with the greatest mean log-probability of the label.
    """
    M, _, K = probabilities.shape
    rng = np.random.default_rng(seed)
    weights = np.full((M, K), 1 / M)
    best = _score(probabilities, labels, weights[None])[0]
    for spread in (None, 0.2, 0.05):                                          # anywhere, then nearer and nearer
        for _ in range(max(1, draws // 3 // 500)):
            if spread is None:
                candidates = rng.exponential(size=(500, M, K))                # uniform on the simplex of each class
            else:
                candidates = np.maximum(0, weights + spread * rng.standard_normal((500, M, K))) + 1e-9
            candidates /= candidates.sum(axis=1, keepdims=True)
            scores = _score(probabilities, labels, candidates)
            k = max(range(len(scores)), key=scores.__getitem__)
            if scores[k] > best:
                best, weights = scores[k], candidates[k]
    return weights


def _score(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> list[tuple[int, float]]:
    """(clips right, mean log-probability of the labels) of each candidate (B, M, K)."""
    mixed = np.einsum("mnk,bmk->bnk", probabilities, weights, optimize=True)
    mixed /= mixed.sum(axis=2, keepdims=True)
    likelihood = np.log(np.maximum(mixed[:, np.arange(len(labels)), labels], 1e-12)).mean(axis=1)
    right = (mixed.argmax(axis=2) == labels).sum(axis=1)
    return list(zip(right.tolist(), likelihood.tolist(), strict=True))


def fuse_across_folds(probabilities: np.ndarray, labels: np.ndarray, seed: int = 0,
                      groups: np.ndarray | None = None, draws: int = 10_000) -> np.ndarray:
    """Fused probabilities (N, K); the weights of a clip come from four fifths of the clips, none of its group (N,)."""
    fused = np.empty(probabilities.shape[1:])
    for out in held_out(labels, 5, seed, groups):
        fused[out] = fuse(probabilities[:, out], find_weights(probabilities[:, ~out], labels[~out], seed, draws))
    return fused
