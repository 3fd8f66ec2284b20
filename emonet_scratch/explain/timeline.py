"""When and who: the answer of the weights that come along, window by window and person by person."""

import csv
import io
import itertools
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.blas import one_blas_thread
from ..data.faces import SEARCH, Box, crop, smooth
from ..data.prepare import Reading
from ..data.sound.is10 import FEATURE_NAMES, RATE, features
from ..data.video import probe, read_media, stream_frames
from ..errors import DataError, NoPicturesError
from ..files import write_whole
from ..training.answer import Answer, Answerer
from ..training.calibration import temper
from ..training.trunk import sights
from .contributions import Shares, shapley
from .people import People

FPS = 25
WINDOW, STEP = 2.0, 0.5         # seconds
WHOLE = 250                     # frames that are seen of a whole clip: no longer ones are one window for that reason
AHEAD = 4                       # windows whose sound is described before their frames are there
SIDES = ("left", "top", "width", "height")


class View(NamedTuple):
    """What a picture of a row needs, and no table.

    frame (SEARCH, SEARCH, 3) uint8 and face (size, size, 3), in the middle of the window, or None; places (T, 3): centre and
    side of the face in each frame, as shares of the padded square, side 0 where it is not seen; seen (T',): the frames of
    the clip in which it is; features (T', D): what the LSTM read of these, or None; audio (1582,): descriptors, or NaN.
    """

    frame: np.ndarray | None
    face: np.ndarray | None
    places: np.ndarray
    seen: np.ndarray
    features: np.ndarray | None
    audio: np.ndarray


@dataclass(frozen=True)
class Row:
    """What is said of one person in one window.

    start, end: seconds; person: 1, 2, ... in order of appearance, 0 where there is only a voice; box: left, top, width and
    height of the face in the middle of the window, in pixels of the clip, or None; shares: what face and voice add to the
    log-odds of each class, None where nothing or a single picture has been answered for.
    """

    start: float
    end: float
    person: int
    box: Box | None
    answer: Answer
    shares: Shares | None
    view: View | None = field(default=None, compare=False, repr=False)

    @property
    def adds(self) -> tuple[float, float] | None:
        """What face and voice add to the log-odds of the likeliest class, in nats, or None."""
        k = self.answer.probabilities.argmax()
        return None if self.shares is None else (float(self.shares.face[k]), float(self.shares.voice[k]))

    def bare(self) -> "Row":
        """Without its view, which is large."""
        return replace(self, view=None)


class Timeline:
    """The rows of one clip: windows of `window` seconds, one every `step` seconds, read as they are asked for.

    A clip in which there is no second window is one window as a whole, and its answer that of the clip. Where pictures end
    before the sound, windows go on without them. Frames are kept for one window, the sound (one track) as a whole.
    sound (S,) int16 at RATE, or None; fault: why it cannot be decoded; size: width and height of the pictures as they are to
    be seen, or None. DataError: the clip cannot be read, or has neither sound nor pictures that can be looked at.
    """

    def __init__(self, answerer: Answerer, path: Path, window: float = WINDOW, step: float = STEP) -> None:
        if window <= 0 or step <= 0:
            raise ValueError(f"expected a window and a step of more than 0 seconds, got {window} and {step}")
        self.answerer, self.path, self.step, self.N = answerer, path, step, max(1, round(window * FPS))
        media = read_media(path, rate=RATE)
        self.sound, self.fault, self.size = None, media.fault, None
        if media.sound is not None:
            # as it was decoded: of an hour 115 MB
            self.sound = np.multiply(media.sound, 32768, out=media.sound).astype(np.int16)
        self.seconds = 0.0 if self.sound is None else len(self.sound) / RATE
        try:
            header = probe(path)
            self.size, self.seconds = (header.display_width, header.display_height), max(self.seconds, header.duration)
        except NoPicturesError:
            if self.fault:
                raise DataError(f"{str(path)!r}: {self.fault}") from None
            if self.sound is None:
                raise
        if self.sound is None and answerer.blind:
            raise DataError(f"{str(path)!r} has no sound, and pictures are not looked at: {answerer.blind}")
        self.windows = max(1, int((self.seconds - window) / step) + 1)        # about: headers err

    def __iter__(self) -> Iterator[Row]:
        people, memory = People(), Memory(self.answerer)
        with one_blas_thread(), ThreadPoolExecutor(1) as pool:
            coming = ((first, pool.submit(self._hear, first, first + self.N)) for first in starts(self.step))
            waiting = deque(itertools.islice(coming, AHEAD))
            try:
                for frames, whole in self._windows(people, waiting):
                    first, heard = waiting.popleft()
                    if whole:
                        T, audio = max(len(frames), self._sound_frames()), self._hear(0, None)
                    else:
                        T, audio = self.N, heard.result()
                    yield from self._rows(people, memory, frames, first, audio, T)
                    waiting.append(next(coming))
                    people.forget(waiting[0][0])
                    memory.forget(waiting[0][0])
            finally:
                pool.shutdown(cancel_futures=True)

    def _windows(self, people: People, waiting: deque) -> Iterator[tuple[list[np.ndarray], bool]]:
        """(frames of the next window, of which the first in `waiting` tells the beginning; whether it is the whole clip).

        They are (SEARCH, SEARCH, 3) each, fewer than N where pictures end before the sound.
        """
        most = max(self.N, min(waiting[1][0] + self.N - 1, WHOLE))            # so long a clip is one window
        frames, t = deque[np.ndarray](maxlen=most + 1), -1

        def part() -> list[np.ndarray]:
            skip = max(0, waiting[0][0] - (t + 1 - len(frames)))
            return list(itertools.islice(frames, skip, skip + self.N))

        looks = self.size is not None and not self.answerer.blind
        for t, frame in enumerate(stream_frames(self.path, SEARCH) if looks else ()):
            people.see(t, frame)
            frames.append(frame)
            while t + 1 > most and t + 1 >= waiting[0][0] + self.N:
                yield part(), False
        total = max(t + 1, self._sound_frames())
        if total <= most:
            yield list(frames), True
            return
        while waiting[0][0] + self.N <= total:
            yield part(), False

    def _sound_frames(self) -> int:
        """How long the sound is, in frames."""
        return 0 if self.sound is None else max(1, len(self.sound) * FPS // RATE)

    def _hear(self, first: int, end: int | None) -> np.ndarray:
        """Descriptors (1582,) of the sound of these frames."""
        heard = () if self.sound is None else self.sound[first * RATE // FPS:None if end is None else end * RATE // FPS]
        return features(heard) if len(heard) else np.full(len(FEATURE_NAMES), np.nan)

    def _rows(self, people: People, memory: "Memory", frames: list[np.ndarray], first: int, audio: np.ndarray,
              T: int) -> Iterator[Row]:
        """Of one window of T frames, of which some may have no picture."""
        for n, chain in sorted(people.between(first, first + T).items()) or [(0, [])]:
            places = np.zeros((len(frames), 3))
            if chain:
                places = smooth(chain, len(frames))
                start, end = people.scene(first + chain[0][0])                # another scene shows another face
                places[:max(0, start - first), 2] = 0
                places[len(frames) if end is None else end - first:, 2] = 0
            places, faces, seen = memory.look(n, first, frames, places)
            found = Reading(faces, audio, sights=seen)
            answer = self.answerer.say(self.path, found)
            shown = np.flatnonzero(places[:, 2])
            k = int(np.abs(shown - len(frames) // 2).argmin()) if len(shown) else None     # nearest to the middle
            features, shares = shares_of(self.answerer, found, answer)
            frame, face = frames[len(frames) // 2] if len(frames) else None, None if k is None else faces[k]
            view = View(frame, face, places / SEARCH, shown + first, features, audio)
            box = None if k is None else self.pixels(places[shown[k]] / SEARCH)
            yield Row(first / FPS, (first + T) / FPS, n, box, answer, shares, view)

    def pixels(self, place: np.ndarray) -> Box:
        """Left, top, width, height in pixels of the clip, from centre and side as shares of the padded square."""
        width, height = self.size
        x, y, side = place * max(width, height)
        return x - side / 2 - (max(width, height) - width) / 2, y - side / 2 - (max(width, height) - height) / 2, side, side


def starts(step: float) -> Iterator[int]:
    """The first frames of windows, ascending."""
    last = -1
    for k in itertools.count():
        if (first := round(k * step * FPS)) > last:
            yield (last := first)


class Memory:
    """What the trunk has seen of each person, frame by frame: windows overlap, and nothing is looked at twice."""

    def __init__(self, answerer: Answerer) -> None:
        self.answerer, self.known = answerer, dict[int, dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]]()

    def look(self, n: int, first: int, frames: Sequence[np.ndarray],
             places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(places (T, 3), faces (T', size, size, 3), sights (T', D)) of person n, as first found in these frames."""
        known, places = self.known.setdefault(n, {}), places.copy()
        new = [t for t in np.flatnonzero(places[:, 2]) if first + t not in known]
        size = self.answerer.size
        faces = crop(np.stack([frames[t] for t in new]), places[new], size) if new else self._none()
        net = self.answerer.models["fused"].net
        for t, *seen in zip(new, places[new], faces, sights(net, faces, self.answerer.device), strict=True):
            known[first + t] = tuple(seen)
        here = [t for t in range(len(places)) if first + t in known]
        for t in here:
            places[t] = known[first + t][0]
        if not here:
            return places, self._none(), sights(net, self._none(), self.answerer.device)
        return places, *(np.array([known[first + t][k] for t in here]) for k in (1, 2))

    def _none(self) -> np.ndarray:
        return np.empty((0, self.answerer.size, self.answerer.size, 3), np.uint8)

    def forget(self, before: int) -> None:
        """Drop frames before this one."""
        self.known = {n: kept for n, seen in self.known.items() if (kept := {t: x for t, x in seen.items() if t >= before})}


def shares_of(answerer: Answerer, found: Reading, answer: Answer) -> tuple[np.ndarray | None, Shares | None]:
    """(what the LSTM read (T, D), what face and voice add); None for what is not known.

    By four answers of the fused network: of both, of each alone, and of nothing. Where the network for voices has spoken,
    the face adds nothing, and the voice all that differs from what this network says of nothing.
    """
    silent = np.full(len(found.audio), np.nan)
    if answer.weights not in answerer.models:
        return None, None
    model, one = answerer.models[answer.weights], answerer.split(answer.weights, found)
    T = max(1.0, answer.novelty or 0.0) ** 2
    if answer.weights == "voices":
        two = replace(one, ids=[""] * 2, labels=np.full(2, -1), audio=np.array([found.audio, silent]))
        voice, nothing = temper(model.probabilities(two, answerer.device)[1], T)
        return None, shapley(voice, nothing, voice, nothing)
    heard = found.audio if answer.voice else silent
    blind, dark = one.frames[0][:0], np.full_like(one.looks[0], np.nan)
    four = replace(one, ids=[""] * 4, labels=np.full(4, -1), frames=[one.frames[0], one.frames[0], blind, blind],
                   audio=np.array([heard, silent, heard, silent]), looks=np.array([one.looks[0], one.looks[0], dark, dark]))
    return one.frames[0], shapley(*temper(model.probabilities(four, answerer.device)[1], T))


FORMATS = (".csv", ".json")


class Table:
    """A timeline as a file, .csv or .json, a row a window and person. DataError: a name that ends otherwise."""

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        if out.suffix.lower() not in FORMATS:
            raise DataError(f"{str(out)!r}: expected a name that ends in {', '.join(FORMATS)}")
        self.out, self.classes, self.rows = out, classes, list[dict[str, Any]]()

    def add(self, row: Row) -> None:
        """One more row."""
        self.rows.append(as_table(row, self.classes))

    def write(self, whole: bool) -> bool:
        """Write what there is."""
        del whole
        write_whole(self.out, self._csv() if self.out.suffix.lower() == ".csv" else json.dumps(self.rows, indent=1).encode())
        return True

    def _csv(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*(key for key in self.rows[0] if key != "box"), *SIDES])
        for row in self.rows:
            values = [int(x) if isinstance(x, bool) else x for key, x in row.items() if key != "box"]
            writer.writerow(values + (row["box"] or [None] * 4))
        return text.getvalue().encode()


def as_table(row: Row, classes: Sequence[str]) -> dict[str, Any]:
    """A row for CSV and JSON."""
    face, voice = (None, None) if row.adds is None else (round(x, 6) for x in row.adds)
    probabilities = dict(zip(classes, (round(float(p), 6) for p in row.answer.probabilities), strict=True))
    box = row.box and [round(float(x), 1) for x in row.box]
    return {"start": row.start, "end": row.end, "person": row.person, "box": box, "class": row.answer.label, **probabilities,
            "adds_face": face, "adds_voice": voice, **row.answer.facts}
