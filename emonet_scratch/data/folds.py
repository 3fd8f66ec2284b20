"""Groups, which must not be on both sides of a split, and folds of whole groups."""

from collections.abc import Hashable, Sequence

import numpy as np
import scipy  # scipy.sparse takes a while to import: only where it is called

from .batches import Split


def joined(*keys: Sequence[Hashable | None]) -> np.ndarray:
    """(N,) numbers of groups: clips are in one that share a key of one of these kinds, and so on; None is no key.

    >>> joined(["ann", "bob", "ann", None], ["x", None, "y", "y"])
    array([0, 1, 0, 0], dtype=int32)
    """
    N, pairs = len(keys[0]), []
    for kind in keys:
        first: dict[Hashable, int] = {}
        pairs += [(i, first.setdefault(key, i)) for i, key in enumerate(kind) if key is not None]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    links = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), (N, N))
    return scipy.sparse.csgraph.connected_components(links, directed=False)[1]


def groups_of(split: Split) -> np.ndarray:
    """(N,) numbers of the groups of its clips: of one name, with the same bytes, or with the same audio vector."""
    sounds = () if split.audio is None else (["" if np.isnan(x).all() else x.tobytes() for x in split.audio],)
    kinds = [kind for kind in (split.groups, split.keys, *sounds) if kind]
    return joined(range(len(split)), *([key or None for key in kind] for kind in kinds))


def stratified_folds(y: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """(N,) numbers of folds in which each of the labels y (N,) is about equally frequent, and groups (N,) stay whole.

    Without groups, and where all clips are of one, each class is dealt out in random order, the next class starting where
    the last one ended. Groups are dealt out large ones first and equal ones in random order, each to the fold that it makes
    the least uneven: where

        sum over classes, and of all, of (clips in the fold / clips of the class)^2

    grows the least: an empty fold comes before any other.
    """
    rng, fold = np.random.default_rng([seed, folds]), np.empty(len(y), np.int64)
    if groups is None or len(np.unique(groups)) in (1, len(y)):
        dealt = 0
        for label in np.unique(y):
            clips = rng.permutation(np.flatnonzero(y == label))
            fold[clips] = (dealt + np.arange(len(clips))) % folds
            dealt += len(clips)
        return fold
    _, label = np.unique(y, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((group.max() + 1, label.max() + 1))
    np.add.at(counts, (group, label), 1)
    counts = np.column_stack([counts, counts.sum(axis=1)])
    shares, filled = counts / counts.sum(axis=0), np.zeros((folds, counts.shape[1]))
    fold_of = np.empty(len(counts), np.int64)
    order = rng.permutation(len(counts))
    for g in order[np.argsort(-counts[order, -1], kind="stable")]:
        fold_of[g] = k = ((2 * filled + shares[g]) * shares[g]).sum(axis=1).argmin()
        filled[k] += shares[g]
    return fold_of[group]


def held_out(y: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> list[np.ndarray]:
    """For each of these folds, (N,) bools: which clips are in it, and so not among those that something is fitted on."""
    fold = stratified_folds(y, folds, seed, groups)
    return [fold == k for k in np.unique(fold)]


def a_fifth(y: np.ndarray, seed: int, groups: np.ndarray) -> np.ndarray:
    """(N,) bools: the clips of one of five folds, of few groups of that which is nearest to a fifth, for validation."""
    fold = stratified_folds(y, 5, seed, groups)
    sizes = np.bincount(fold)
    return fold == np.where(sizes, abs(5 * sizes - len(y)), np.inf).argmin()
