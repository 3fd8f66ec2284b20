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

ROUND = 16                  # items of each process in a round


def cut(N: int, S: int) -> list[tuple[int, int]]:
    """(first, end) of min(N, S) runs of 0..N-1, one after the other, none empty, of lengths that differ by at most 1.

    >>> cut(7, 3)
    [(0, 3), (3, 5), (5, 7)]
    """
    S = min(N, S)
    ends = [k * (N // S) + min(k, N % S) for k in range(S + 1)] if S else [0]
    return list(itertools.pairwise(ends))


def tree_sum(rows: np.ndarray) -> np.ndarray:
    """The sum over the first axis of rows (S, ...), S >= 1, in a fixed order: ((0 + 1) + (2 + 3)) + (4 + ...), a lone last
    one waiting for the next level."""
    while len(rows) > 1:
        pairs = rows[0:len(rows) - 1:2] + rows[1::2]
        rows = np.concatenate([pairs, rows[-1:]]) if len(rows) % 2 else pairs
    return rows[0]


class Alone:
    """One process that does all the work, and what `Ranks` does differently for several.

    rank: the number of this process; size: of how many. Every method but `owned` has to be called by all of them.
    """

    rank, size = 0, 1

    def owned(self, S: int) -> range:
        """Which of S parts are this process's; those of rank r lie before those of rank r + 1."""
        return range(S * self.rank // self.size, S * (self.rank + 1) // self.size)

    def exchange(self, mine: Sequence[bytes]) -> list[bytes]:
        """What every process gives, for all of them, in the order of ranks."""
        return list(mine)

    def wait(self) -> None:
        """Until all are here."""

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
        D, parts = U.shape[1], cut(len(U), S)
        rows = self.spread(lambda part: U[part[0]:part[1]].T @ U[part[0]:part[1]], parts)
        return tree_sum(np.reshape(rows, (-1, D, D)))


ALONE = Alone()


def digest(text: str) -> bytes:
    """32 bytes that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
