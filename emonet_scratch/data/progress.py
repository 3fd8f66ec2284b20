"""How far a long piece of work is: a bar on a terminal; without one, a plain line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

EVERY = 10.0                # seconds: shorter work says nothing


def progress(work: Iterable[Any] | None, what: str, total: int, unit: str = "clip", initial: int = 0) -> Any:
    """`work` as it is, counted on standard error; without `work`, a context whose `update` counts. total: with `initial`."""
    if sys.stderr.isatty():
        return tqdm(work, what, total, unit=unit, initial=initial, leave=False)
    return Lines(work, what, total, unit, initial)


class Lines:
    """What tqdm does, in lines such as `reading clips: 120 of 1750 clips, 11.8 a second, 02:18 left`.

    The speed is that since the last line, so that a fast start (from a cache) promises nothing.
    """

    def __init__(self, work: Iterable[Any] | None, what: str, total: int, unit: str = "clip", initial: int = 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.work, self.what, self.total, self.unit, self.clock = work, what, total, unit, clock
        self.done = self.said = initial
        self.since = clock()

    def __iter__(self) -> Iterator[Any]:
        for item in self.work or ():
            yield item
            self.update()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def set_postfix(self, **figures: str) -> None:
        """Nothing: for a bar only."""

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        now = self.clock()
        if now - self.since >= EVERY and self.done > self.said:
            speed = (self.done - self.said) / (now - self.since)
            left = tqdm.format_interval((self.total - self.done) / speed)
            print(f"{self.what}: {self.done} of {self.total} {self.unit}s, {speed:.3g} a second, {left} left",
                  file=sys.stderr, flush=True)
            self.since, self.said = now, self.done
