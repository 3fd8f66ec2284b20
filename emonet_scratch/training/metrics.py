"""Accuracy with its interval and what it has to beat, F1, confusion, and whether two classifiers differ."""

import math

import numpy as np

DRAWS = 2000        # of a bootstrap

def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: row = true class, column = predicted class. labels, predicted: (N,) integers."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def macro_f1(confusion: np.ndarray) -> float:
    """The mean over classes of F1 = 2 tp / (2 tp + fp + fn); classes that neither occur nor are predicted are left out.

    >>> macro_f1(np.array([[2, 0], [1, 1]]))  # F1 of .8 and 2/3
    0.7333333333333334
    """
    tp, seen, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    there = (seen + said) > 0
    return float((2 * tp[there] / (seen + said)[there]).mean())


def unweighted_recall(confusion: np.ndarray) -> float:
    """The mean over the classes that occur of the share of their clips that are right; rows are true classes.

    >>> unweighted_recall(np.array([[2, 0], [1, 1]]))
    0.75
    """
    seen = confusion.sum(axis=1)
    return float((np.diag(confusion)[seen > 0] / seen[seen > 0]).mean())


def bootstrap_interval(right: np.ndarray, groups: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the share of right (N,) when whole groups (N,) are drawn anew, with replacement, DRAWS times.

    Clips of one speaker are right or wrong together: intervals that take them for independent are too narrow (Efron and
    Tibshirani 1993, An introduction to the bootstrap, section 8.3). Of one group it is as wide as can be, (0, 1).
    """
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, right.astype(float)), np.bincount(group)
    if len(counts) < 2:
        return 0.0, 1.0
    drawn = np.random.default_rng(seed).integers(0, len(counts), (DRAWS, len(counts)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def chance_and_majority(labels: np.ndarray) -> tuple[float, float]:
    """What an accuracy has to beat: that of guessing, and that of always naming the most frequent class.

    labels: (N,) integers, N >= 1. Guessing takes each of the classes that are there equally often: 1 / their number.
    The most frequent class has its share of the N right. ValueError where there is no label.

    >>> chance_and_majority(np.array([0, 0, 0, 5]))
    (0.5, 0.75)
    """
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) == 0:
        raise ValueError("chance_and_majority wants at least one label, got none")
    return 1 / len(counts), float(counts.max() / counts.sum())


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of `correct` in `total` trials (Wilson 1927), which stays inside [0, 1].

    >>> [round(x, 3) for x in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"wilson_interval wants 0 <= correct <= total and total >= 1, got {correct} of {total}")
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))   # p is inside, rounding or not


def mcnemar(b: int, c: int) -> float:
    """The two-sided p of McNemar's exact test (Psychometrika 12, 1947, by the binomial distribution).

    b, c: clips that only the first, only the second of two classifiers has right. If both were equally good, each of the
    b + c clips would fall to either side like a coin.

    >>> mcnemar(1, 5)  # 2 (1 + 6) / 64
    0.21875
    """
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1))
    return min(1.0, 2 * tail / 2 ** (b + c))
