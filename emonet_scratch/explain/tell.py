"""A timeline, told to whatever is made of it: a table, a page, a film."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from ..data.progress import progress
from ..data.video.ffmpeg import Ffmpeg
from ..errors import DataError
from ..files import owned_file, say, shown
from .page import uri
from .timeline import Row, Timeline

OWNER = "of several people in a picture, whose voice is heard is not known: each is read with the one sound track"


class Teller(Protocol):
    """What is told rows one by one, and writes a file in the end."""

    out: Path

    def add(self, row: Row) -> None:
        """One more row."""

    def write(self, whole: bool) -> bool:
        """Write what there is, or nothing; whether it did. whole: that is all of the clip."""


def tell(timeline: Timeline, tellers: Sequence[Teller], log: Callable[[str], None]) -> list[Row]:
    """Read a clip once for all of them; its rows, without views. What there is when it is stopped is written, too.

    Each file that is written is said. OSError, DataError: the first that could not be; others are written all the same.
    """
    rows: list[Row] = []
    with ExitStack() as stack:
        for teller in tellers:
            if teller.out.exists() and teller.out.samefile(timeline.path):
                raise DataError(f"{str(teller.out)!r} is the clip itself: name another file")
            if teller.out.is_dir():
                raise DataError(f"{str(teller.out)!r} is a folder: name a file")
            stack.enter_context(owned_file(teller.out))
        if timeline.fault:
            log(f"without sound: {str(timeline.path)!r}: {timeline.fault}")
        whole = False
        try:
            with progress(None, "timeline", timeline.windows, unit="window") as bar:
                for row in timeline:
                    if not rows or row.start > rows[-1].start:
                        bar.update()
                    for teller in tellers:
                        teller.add(row)
                    rows.append(row.bare())
            whole = True
        finally:
            faults = [fault for teller in tellers if rows and (fault := _written(teller, whole))]
        if faults:
            raise faults[0]
    if several(rows):
        log(OWNER)
    return rows


def _written(teller: Teller, whole: bool) -> Exception | None:
    """Have it write, and say so; what went wrong."""
    try:
        if teller.write(whole):
            say(f"wrote {shown(teller.out)}")
    except (OSError, DataError) as fault:
        return fault
    return None


def several(rows: Sequence[Row]) -> bool:
    """Whether two people are in one window."""
    return any(a.start == b.start for a, b in pairwise(rows))


def usual(rows: Sequence[Row]) -> tuple[Row, np.ndarray]:
    """A row of whoever is in most windows (the first of equals), and the mean (C,) of the probabilities in all of theirs.

    Windows in which there is neither face nor voice count only where there are no others.
    """
    known = [row for row in rows if row.answer.weights] or list(rows)
    times = {n: sum(row.person == n for row in known) for n in sorted({row.person for row in known})}
    of = [row for row in known if row.person == max(times, key=lambda n: (times[n], -n))]
    return of[0], np.mean([row.answer.probabilities for row in of], axis=0)


def playable(path: Path, height: int = 240) -> str:
    """The clip as every browser plays it, small, as a data URI; "" where it cannot be converted. DataError: no file."""
    options = ["-map", "0:V:0?", "-map", "0:a:0?", "-vf", f"scale=-2:'trunc(min({height},ih)/2)*2'", "-c:v", "libx264",
               "-preset", "veryfast", "-crf", "32", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "48k", "-ac", "1",
               "-movflags", "frag_keyframe+empty_moov+default_base_moof", "-fs", str(2**26), "-f", "mp4"]
    with closing(Ffmpeg(path, sound=options)) as run:                         # into the pipe that sound comes from elsewhere
        run.finish()
    return "" if run.code or not run.sound else uri("video/mp4", bytes(run.sound))
