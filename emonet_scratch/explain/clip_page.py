"""The page of a clip: frames, probabilities and contributions over time, the voice, and why, window by window."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..data.sound import is10
from ..errors import DataError
from ..files import write_whole
from ..training.answer import Answerer, figures, summary
from ..training.report import drawn
from .descriptors import moved
from .gates import gates_figure, gates_of
from .page import jpeg, media, page, smaller, table, template, thinned, uri
from .saliency import grad_cam
from .tell import playable, several
from .timeline import FPS, Row, Timeline

SUFFIXES = (".html", ".htm")
FRAMES, WINDOWS, BATCH = 120, 300, 64   # at most: of the strip; with faces, heat and terms of the voice; faces at once
POINTS, LONGEST, MOST = 800, 60 * FPS, 16       # points of a curve; frames that the gates are drawn of, of so many people
NO_PICTURES = "There are no pictures in it."
GATES = ("The LSTM reads all frames of person {} in one go, {:.1f} seconds of them (each window above is read from zeros). "
         "Light: a gate is open. Input gate i writes, forget gate f keeps, output gate o shows; c is what is kept, blue "
         "below and red above zero, as tanh c. A row is a unit, those whose cell changes most first on top.")


class Few:
    """Items of a stream, evenly, at most `most` of them: when that many are kept, every second is dropped."""

    def __init__(self, most: int) -> None:
        self.most, self.step, self.seen = most, 1, 0
        self.kept: dict[int, Any] = {}

    def wanted(self) -> bool:
        """Whether the next one is to be added; it counts as seen."""
        self.seen += 1
        return (self.seen - 1) % self.step == 0

    def add(self, key: int, item: Any) -> None:
        """Keep one more, under a key."""
        if len(self.kept) == self.most:
            self.kept, self.step = dict(list(self.kept.items())[::2]), 2 * self.step
            if (self.seen - 1) % self.step:
                return
        self.kept[key] = item


class ClipPage:
    """Gathers what a page shows of a clip, as rows come; `write` writes it."""

    def __init__(self, timeline: Timeline, out: Path, embed: bool = False) -> None:
        if out.suffix.lower() not in SUFFIXES:
            raise DataError(f"{str(out)!r}: expected a name that ends in {', '.join(SUFFIXES)}")
        self.timeline, self.out, self.embed = timeline, out, embed
        self.rows: list[Row] = []
        self.window: list[Row] = []                                           # with their views, until the next one begins
        self.strip, self.more = Few(FRAMES), Few(WINDOWS)
        self.read: dict[int, list[tuple[int, np.ndarray]]] = {}               # (frame, features) of people, at most MOST

    def add(self, row: Row) -> None:
        """One more row."""
        if self.window and row.start > self.window[0].start:
            self._close()
        self.window.append(row)

    def _close(self) -> None:
        """A window is complete: keep what the page may show of it."""
        if self.window[0].view.frame is not None and self.strip.wanted():
            self.strip.add(len(self.rows), self._framed())
        if self.more.wanted():
            self.more.add(len(self.rows), [self._why(row) for row in self.window])
        for row in self.window:
            if row.view.features is not None:
                known = self.read.setdefault(row.person, [])
                last = known[-1][0] if known else -1
                found = zip(row.view.seen.tolist(), row.view.features, strict=True)
                known += [(t, x) for t, x in found if t > last][:LONGEST - len(known)]
        if len(self.read) > MOST:                                             # those of late, and who was there longest
            longest = max(self.read, key=lambda n: len(self.read[n]))
            self.read = {n: self.read[n] for n in sorted({longest, *list(self.read)[MOST // 2:]})}
        self.rows += [row.bare() for row in self.window]
        self.window = []

    def _framed(self) -> str:
        """The frame of a window, without the black beside it, a box about each face."""
        frame = self.window[0].view.frame
        image, S = Image.fromarray(frame), len(frame)
        for places in (row.view.places for row in self.window):
            x, y, side = places[len(places) // 2] * S
            if side:
                box = x - side / 2, y - side / 2, x + side / 2, y + side / 2
                ImageDraw.Draw(image).rectangle(box, outline="white", width=4)
        left, top = (round((S - S * n / max(self.timeline.size)) / 2) for n in self.timeline.size)
        return jpeg(np.asarray(image.crop((left, top, S - left, S - top))), 128)

    def _why(self, row: Row) -> dict[str, Any]:
        """Face, and terms of the voice."""
        answerer, label = self.timeline.answerer, int(row.answer.probabilities.argmax())
        found = {} if row.view.face is None else {"face": row.view.face, "label": label}
        return found | ({"terms": terms(answerer, row.answer.weights, row.view.audio, label)} if row.answer.voice else {})

    def _heated(self) -> dict[int, dict[str, Any]]:
        """{row: face, heat, terms} as they go into the page."""
        more = {first + k: dict(found) for first, window in self.more.kept.items() for k, found in enumerate(window)}
        faces = [found for found in more.values() if "face" in found]
        for part in (faces[first:first + BATCH] for first in range(0, len(faces), BATCH)):
            images, labels = (np.array([found.pop(name) for found in part]) for name in ("face", "label"))
            for found, image, heat in zip(part, images, grad_cam(self.timeline.answerer.faces, images, labels), strict=True):
                found |= {"crop": jpeg(image, 96), "heat": heat_png(heat)}
        return more

    def write(self, whole: bool) -> bool:
        """Write the page of what there is."""
        if self.window:
            self._close()
        rows, classes, line = self.rows, self.timeline.answerer.classes, self.timeline
        more = self._heated()
        data = {"classes": list(classes), "duration": max(rows[-1].end, line.seconds if whole else 0), "step": line.step,
                "every": self.more.step, "sound": sound_of(line.sound),
                "rows": [_row(row, more.get(k, {})) for k, row in enumerate(rows)]}
        names = dict.fromkeys(row.answer.weights for row in rows if row.answer.weights)
        body = template(
            "clip.html", summary=escape(said(rows, classes, whole)), window=f"{line.N / FPS:g}", gates=self._gates(),
            media=self._player(), table=table_of(rows, classes),
            strip="".join(f'<img alt="" src="{frame}">' for frame in self.strip.kept.values()) or NO_PICTURES,
            card="".join(f"<li>{escape(text)}</li>" for name in names for text in (summary(name), *figures(name))))
        write_whole(self.out, page(line.path.name, body, data, "clip.js"))
        return True

    def _player(self) -> str:
        if not self.embed:
            return ""
        content = playable(self.timeline.path)
        kind = "video" if self.timeline.size else "audio"
        return media(content, self.timeline.path.name, kind) or "<p>The clip could not be made playable.</p>"

    def _gates(self) -> str:
        if not self.read:
            return ""
        person = max(self.read, key=lambda n: (len(self.read[n]), -n))
        x = np.array([features for _, features in self.read[person]], np.float32)
        drawing = smaller(drawn(gates_figure, gates_of(self.timeline.answerer.models["fused"].net.lstm, x), FPS))
        return (f'<h2>What the LSTM does</h2><p class="muted">{GATES.format(person, len(x) / FPS)}</p>'
                f'<img class="whole" alt="Gates i, f, o and cell c of three layers over time" src="{drawing}">')


def said(rows: Sequence[Row], classes: Sequence[str], whole: bool) -> str:
    """A page in a sentence for each person."""
    lines = [] if whole else ["The reading was stopped: this is the beginning of the clip."]
    for n in sorted({row.person for row in rows}):
        of = [row for row in rows if row.person == n]
        p = np.mean([row.answer.probabilities for row in of], axis=0)
        lines.append(f"{f'Person {n}' if n else 'Without a face'}, {of[0].start:.1f} to {of[-1].end:.1f} s: on average "
                     f"{classes[int(p.argmax())]}, {p.max():.2f}, in {len(of)} windows.")
    if several(rows):
        lines.append("Whose voice is heard is not known: each person is read with the one sound track.")
    return " ".join(lines if len(lines) < 12 else [*lines[:10], f"And {len(lines) - 10} more."])


def _row(row: Row, more: dict[str, Any]) -> dict[str, Any]:
    adds = row.adds and [round(x, 4) for x in row.adds]
    return {"start": row.start, "end": row.end, "person": row.person, "label": row.answer.label, "adds": adds,
            "p": [round(float(x), 4) for x in row.answer.probabilities], "unlike": row.answer.unlike,
            "novelty": row.answer.novelty and round(row.answer.novelty, 3), **more}


def table_of(rows: Sequence[Row], classes: Sequence[str]) -> str:
    """All numbers, for who does not see the pictures."""
    lines = []
    for row in rows:
        adds = ["", ""] if row.adds is None else [f"{x:.2f}" for x in row.adds]
        lines.append([f"{row.start:.2f}", f"{row.end:.2f}", str(row.person or "voice"), row.answer.label,
                      *(f"{p:.3f}" for p in row.answer.probabilities), *adds])
    return table(["from, s", "to, s", "person", "class", *classes, "face adds", "voice adds"], lines)


def terms(answerer: Answerer, name: str, audio: np.ndarray, label: int) -> list[tuple[str, float]]:
    """The ten descriptors that moved LDA most for or against a class, in words; [] where it has not seen the class."""
    model = answerer.models[name if name in answerer.models else "fused"]
    if label not in model.projection.lda.classes_:
        return []
    found = moved(model.projection, model.feature_names, audio, label)
    return [(term.words, round(term.moves, 3)) for term in found]


def sound_of(sound: np.ndarray | None) -> dict[str, Any]:
    """Waveform, loudness and pitch of samples (S,) int16, at most POINTS points each, and how many seconds they last."""
    if sound is None or len(sound) < is10.SHORTEST:
        return {"wave": [], "loudness": [], "pitch": [], "seconds": 0}
    edges = np.linspace(0, len(sound), min(POINTS, len(sound)) + 1).astype(int)[:-1]
    pitch, loudness = is10.curves(sound)
    peaks = np.maximum(np.maximum.reduceat(sound, edges) / 32768, np.minimum.reduceat(sound, edges) / -32768)

    def few(values: Sequence[float], digits: int) -> list[float]:
        return [round(float(x), digits) for x in thinned(values, POINTS)]
    return {"wave": few(peaks, 3), "loudness": few(loudness, 3), "pitch": few(pitch, 1), "seconds": len(sound) / is10.RATE}


def heat_png(heat: np.ndarray) -> str:
    """Heat (H, W) from 0 as red that covers more where it is hotter, of its own maximum, a fourth as large."""
    share = heat[1::4, 1::4] / max(float(heat.max()), 1e-12)
    red = np.stack([np.full_like(share, 255), 80 * share, 0 * share, 190 * np.minimum(share, 1)], axis=2)
    content = io.BytesIO()
    Image.fromarray(red.astype(np.uint8)).save(content, "PNG")
    return uri("image/png", content.getvalue())
