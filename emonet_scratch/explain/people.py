"""Who is in the picture: faces of a stream of frames, with a number for each person, in order of appearance."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..data.faces import OVERLAP, STEP, Box, detect, find_in, overlap

GAP = 25            # frames: a face that is found again within a second is the same person's
# A cut: the mean difference to the frame before, of 255, is this large and as many times the median of a
# second before; or it is so large that there is no doubt. Of real clips, those without a cut reach 9.9 and 7 times, two
# people before one wall differ by 11 and 19 times (docs/explain.md). What happens in one half only is no cut: two clips may
# stand side by side.
LARGE, TIMES, SURE, STILL, BOTH = 5.0, 12.0, 40.0, 0.5, 0.1


@dataclass
class People:
    """Faces of frames that come one by one (`see`); `found[k]` are the findings (frame, box) of track k.

    `between` gives numbers to tracks when they are first in a window, so that what was found once has none.
    """

    search: Callable[..., list[Box]] = detect
    found: dict[int, list[tuple[int, Box]]] = field(default_factory=dict)
    searched: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    _here: set[int] = field(default_factory=set)
    _last: np.ndarray | None = None
    _changes: deque = field(default_factory=lambda: deque(maxlen=GAP))
    _tracks: int = 0

    def see(self, t: int, frame: np.ndarray) -> None:
        """Frame t = 0, 1, ..., (H, W, 3) uint8; every STEP-th is searched, and the first one after a cut."""
        cut = self._changed(frame)
        if cut:
            self.cuts.append(t)
            self._here = set()
        if t % STEP and not cut:
            return
        self.searched.append(t)
        self._here = {k for k in self._here if t - self.found[k][-1][0] <= GAP}
        known = [self.found[k][-1][1] for k in self._here]
        boxes = apart(find_in(frame, t, known, self.search), known)
        if len(boxes) < len(known):                                           # somebody is looked for where nobody was
            boxes = apart([*boxes, *self.search(frame)], known)
        free = set(self._here)
        for box in boxes:
            near = {k: overlap(self.found[k][-1][1], box) for k in free}
            best = max(near, key=lambda k: (near[k], -k), default=-1)
            if best >= 0 and near[best] >= OVERLAP:
                free.remove(best)
            else:
                best, self._tracks = self._tracks, self._tracks + 1
                self.found[best] = []
                self._here.add(best)
            self.found[best].append((t, box))

    def _changed(self, frame: np.ndarray) -> bool:
        """Whether another scene begins with this frame; black beside the picture does not count."""
        small = frame[::8, ::8, 1].astype(np.float32)                         # green is most of grey
        last, self._last = self._last, small
        if last is None:
            return False
        seen, half = np.maximum(small, last) > 0, small.shape[1] // 2
        change = float(np.abs(small - last).sum() / max(1, np.count_nonzero(seen)))
        sides = [np.abs(small - last)[:, side].sum() for side in (slice(half), slice(half, None))]
        usual = max(STILL, float(np.median(self._changes))) if self._changes else STILL
        cut = min(sides) > BOTH * max(sides) and (change > SURE or (change > LARGE and change > TIMES * usual))
        self._changes.append(change)
        if cut:
            self._changes.clear()
        return cut

    def between(self, first: int, end: int) -> dict[int, list[tuple[int, Box]]]:
        """{number: findings in frames first..end - 1, counted from there} of who has two, or one, if one was searched."""
        least = min(2, sum(first <= t < end for t in self.searched))
        inside = {k: [(t - first, box) for t, box in chain if first <= t < end] for k, chain in self.found.items()}
        return {self.numbers.setdefault(k, len(self.numbers) + 1): chain for k, chain in inside.items()
                if chain and len(chain) >= least}

    def scene(self, t: int) -> tuple[int, int | None]:
        """(first frame, first frame of the next one if it has begun) of the scene that frame t is in."""
        begun = [cut for cut in self.cuts if cut <= t]
        return begun[-1] if begun else 0, next((cut for cut in self.cuts if cut > t), None)

    def forget(self, before: int) -> None:
        """Drop findings before this frame, but for the last of each who is here: memory stays bounded in an hour."""
        for k, chain in list(self.found.items()):
            kept = [finding for finding in chain if finding[0] >= before] or (chain[-1:] if k in self._here else [])
            if kept:
                self.found[k] = kept
            else:
                del self.found[k]
        self.searched = [t for t in self.searched if t >= before]
        self.cuts = [*[cut for cut in self.cuts if cut < before][-1:], *(cut for cut in self.cuts if cut >= before)]


def apart(boxes: list[Box], known: list[Box]) -> list[Box]:
    """Without those half or more of which is in another: that is one face, found twice. Who overlaps more with `known`,
    boxes of faces a moment ago, stays; of equals, the larger one.
    """
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda box: (-max((overlap(box, old) for old in known), default=0), -box[2] * box[3])):
        if all(inside(box, other) < 0.5 for other in kept):
            kept.append(box)
    return kept


def inside(a: Box, b: Box) -> float:
    """Intersection over the smaller of the two, 0..1."""
    across, down = (min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    return max(0.0, across) * max(0.0, down) / min(a[2] * a[3], b[2] * b[3])
