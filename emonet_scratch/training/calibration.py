"""How far probabilities can be believed: Brier score, calibration error, and one temperature that mends overconfidence."""

import math
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
COLDEST, HOTTEST = 0.2, 20.0


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T), normalised, (N, C) -> (N, C) float64: what softmax(logits / T) is of p = softmax(logits).

    Above 1 it brings the classes nearer to each other; the order of the classes never changes, in float64 nor for
    neighbours in float32.

    >>> temper(np.array([[0.8, 0.2]]), 2.0).round(3)
    array([[0.667, 0.333]])
    """
    p = probabilities.astype(np.float64)
    if temperature == 1:
        return p
    return np.exp(log_softmax(np.log(np.maximum(p, np.finfo(np.float32).tiny)) / temperature, axis=1))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T under which the labels (N,), -1 where unknown, are most likely by `temper`; 1 where fewer than 2 are known.

    Guo et al. 2017, On calibration of modern neural networks (arXiv:1706.04599), section 4.2. Labels count as right with
    (N + 1) / (N + 2) only (Platt 1999, Probabilistic outputs for support vector machines, section 2.2): no number of clips
    that are all right makes a network sure of everything.
    """
    known = labels >= 0
    N, C = int(known.sum()), probabilities.shape[1]
    if N < 2:
        return 1.0
    p, y = probabilities[known].astype(np.float64), labels[known]
    log_p = np.log(np.maximum(p, np.finfo(np.float32).tiny))
    target = np.full((N, C), 1 / (N + 2) / max(1, C - 1))
    target[np.arange(N), y] = (N + 1) / (N + 2)

    def loss(log_T: float) -> float:
        return -float((target * log_softmax(log_p / math.exp(log_T), axis=1)).sum())
    return math.exp(minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded").x)


def restored_temperature(meta: dict[str, Any]) -> float:
    """That of a checkpoint; 1 where it is of a time that had none. ValueError: no temperature."""
    T = meta.get("temperature", 1.0)
    if not (isinstance(T, float) and COLDEST / 2 < T < 2 * HOTTEST):
        raise ValueError(f"its temperature is {T!r}")
    return T


def calibration(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """{"brier", "ece", "bins"} of the clips whose label (N,) is known; bins: (clips, mean confidence, accuracy), 15 of them.

    brier: mean over clips of sum_c (p_c - [c = label])^2, 0 to 2 (Brier 1950). ece: expected calibration error, the mean
    over clips of |accuracy - confidence| of the bin of confidence (the largest probability) that each is in (Guo et al.,
    section 2).
    """
    p, y = probabilities[labels >= 0].astype(np.float64), labels[labels >= 0]
    truth = np.zeros_like(p)
    truth[np.arange(len(y)), y] = 1
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    mean, accuracy = (np.bincount(which, of, BINS) / np.maximum(count, 1) for of in (confidence, right.astype(float)))
    return {"brier": float(((p - truth) ** 2).sum(axis=1).mean()),
            "ece": float((count * np.abs(accuracy - mean)).sum() / max(1, len(y))),
            "bins": [[int(n), float(c), float(a)] for n, c, a in zip(count, mean, accuracy, strict=True)]}
