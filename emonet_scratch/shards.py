"""Work in S parts, the same whoever does them: who has which, their sum in a fixed order, and a process that has all.

Floating-point sums depend on their order. So what several processes compute together is cut into S parts, not one a process;
each part is computed alone, as if there were no other, and parts are added up in one binary tree over their numbers. One
process with all the parts, or eight with one each, then have the same bits. `Alone` is the one process; training/ranks.py is
several, by MPI.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .files import owned

Array = Any             # of NumPy or CuPy

ROUND = 16                  # items of each process in a round


def cut(N: int, S: int) -> list[tuple[int, int]]:
    """(first, end) of min(N, S) runs of 0..N-1, one after the other, none empty, of lengths that differ by at most 1.

    >>> cut(7, 3)
    [(0, 3), (3, 5), (5, 7)]
    """
    S = min(N, S)
    ends = [k * (N // S) + min(k, N % S) for k in range(S + 1)] if S else [0]
    return list(itertools.pairwise(ends))


def fold(nodes: dict[tuple[int, int], Any], S: int) -> dict[tuple[int, int], Any]:
    """Add up, in place, what can be, of {(level, k): the sum of parts k 2^level up to (k + 1) 2^level}, of S parts in all.
    Arrays among them are changed.

    Level 0 are the parts themselves; a node is the sum of the two below it, a last one without a neighbour goes up as it is;
    the sum of all is the one node of the last level. Whoever has all parts below a node can add them up without the others.

    >>> fold({(0, 0): 1, (0, 1): 2, (0, 2): 4}, 5)
    {(0, 2): 4, (1, 0): 3}
    >>> fold({(0, 2): 4, (1, 0): 3, (0, 3): 8, (0, 4): 16}, 5)
    {(3, 0): 31}
    """
    level = 0
    while S > 1:
        for k in range(0, S, 2):
            if (level, k) in nodes and ((level, k + 1) in nodes or k + 1 == S):
                left, right = nodes.pop((level, k)), nodes.pop((level, k + 1), None)
                if right is not None:
                    left += right
                nodes[level + 1, k // 2] = left
        level, S = level + 1, (S + 1) // 2
    return nodes


class Alone:
    """One process that does all the work, and what `Ranks` does differently for several.

    rank: the number of this process; size: of how many. Every method but `owned` has to be called by all of them.
    """

    rank, size = 0, 1

    def owned(self, S: int, rank: int | None = None) -> range:
        """Which of S parts are this process's, or those of a rank r, which lie before those of rank r + 1."""
        rank = self.rank if rank is None else rank
        return range(S * rank // self.size, S * (rank + 1) // self.size)

    def total(self, parts: Iterable[Array], S: int, P: int, like: Array) -> Array:
        """The sum by the tree over S parts, arrays (P,) of the type of `like`. parts: those of this process, which are
        changed."""
        return self.nodes(parts, S).popitem()[1]

    def nodes(self, parts: Iterable[Any], S: int, rank: int | None = None) -> dict[tuple[int, int], Any]:
        """What this process, or that of a rank, can add up of its own parts, as they come."""
        nodes: dict[tuple[int, int], Any] = {}
        for k, part in zip(self.owned(S, rank), parts, strict=False):
            nodes = fold(nodes | {(0, k): part}, S)
        return nodes

    def exchange(self, mine: Sequence[bytes]) -> list[bytes]:
        """What every process gives, for all of them, in the order of ranks."""
        return list(mine)

    def wait(self) -> None:
        """Until all are here."""

    def device(self, name: str) -> str:
        """The device of this process where all are told `name`."""
        return name

    def told(self, text: str) -> str:
        """What rank 0 says."""
        return text

    def agree(self, what: str, content: str) -> None:
        """DataError where the ranks do not all have the same content; `what` it is, for the message."""

    @contextmanager
    def owning(self, folder: Path) -> Iterator[Path]:
        """`owned`, by rank 0 for all."""
        with owned(folder) as mine:
            yield mine

    def spread(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[np.ndarray]:
        """function(item), float64 of any shape but flat, of every item, each computed by one process."""
        items = list(items)
        mine = [np.asarray(function(items[k]), np.float64).tobytes() for k in self.owned(len(items))]
        return [np.frombuffer(row) for row in self.exchange(mine)]

    def rounds(self, work: Callable[[list[Any]], Iterable[Any]], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """(item, what `work`, a function of some items, says of it, in JSON) for every item, each the work of one process;
        in rounds, so that what is done so far can be kept."""
        for first in range(0, len(items), ROUND * self.size):
            some = items[first:first + ROUND * self.size]
            said = work([some[k] for k in self.owned(len(some))])
            rows = self.exchange([json.dumps(one).encode() for one in said])
            yield from zip(some, (json.loads(bytes(row)) for row in rows), strict=True)

    def gram(self, U: np.ndarray, S: int) -> np.ndarray:
        """U^T U (D, D) of U (N, D), the sum of S runs of rows by the tree."""
        D, runs = U.shape[1], cut(len(U), S)
        mine = (U[first:end].T @ U[first:end] for first, end in (runs[k] for k in self.owned(len(runs))))
        return self.total((part.ravel() for part in mine), len(runs), D * D, U).reshape(D, D).copy()


ALONE = Alone()


def digest(text: str) -> bytes:
    """32 bytes that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
