"""The clip with boxes about faces, what they show, and a bar of probabilities, as a film with its sound."""

import mmap
import tempfile
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.io import wavfile

from ..data.progress import progress
from ..data.sound.is10 import RATE
from ..data.video import read_media, stream_frames
from ..errors import DataError
from ..files import write_whole
from .timeline import FPS, Row, Timeline, View

LARGEST, FINE = 1280, 44100             # pixels of the longer side; samples a second of its sound
COLOURS = ("#d55e00", "#6a7d00", "#8a4fbf", "#e69f00", "#9a9a9a", "#0072b2", "#cc79a7")       # as in clip.js


class Film:
    """Gathers the rows of a clip; `write` decodes it once more, draws them into its frames, and writes an .mp4."""

    def __init__(self, timeline: Timeline, out: Path) -> None:
        if out.suffix.lower() != ".mp4":
            raise DataError(f"{str(out)!r}: expected a name that ends in .mp4")
        if timeline.size is None:
            raise DataError(f"{str(timeline.path)!r} has no pictures: a film cannot be made of it")
        self.timeline, self.out, self.rows = timeline, out, list[Row]()

    def add(self, row: Row) -> None:
        """One more row, of which only places are kept."""
        self.rows.append(replace(row, view=View(None, None, row.view.places, row.view.seen, None, np.empty(0))))

    def write(self, whole: bool) -> bool:
        """Write the film; nothing where the reading was stopped, which has taken less time than this takes."""
        if not whole:
            return False
        path, size = self.timeline.path, self.timeline.size
        longest = min(LARGEST, max(size))
        width, height = (max(2, round(n * longest / max(size)) // 2 * 2) for n in size)
        with tempfile.TemporaryDirectory() as folder:
            silent, sound = Path(folder, "film.mp4"), Path(folder, "sound.wav")
            hears = {}
            if self.timeline.sound is not None:
                fine = read_media(path, rate=FINE).sound                      # of the moments of the pictures
                if fine is None:                                              # too long for that
                    wavfile.write(sound, RATE, self.timeline.sound)
                else:
                    wavfile.write(sound, FINE, np.multiply(fine, 32768, out=fine).astype(np.int16))
                hears = {"audio_path": str(sound), "audio_codec": "aac"}
            writer = imageio_ffmpeg.write_frames(str(silent), (width, height), fps=FPS, codec="libx264", macro_block_size=2,
                                                 output_params=["-crf", "23", "-preset", "veryfast"], quality=None,
                                                 ffmpeg_log_level="error", **hears)
            writer.send(None)
            try:
                for frame in self._frames(longest, width, height):
                    writer.send(np.ascontiguousarray(frame))
            finally:
                writer.close()
            with open(silent, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                write_whole(self.out, content)
        return True

    def _frames(self, longest: int, width: int, height: int) -> Iterator[np.ndarray]:
        """Frames (height, width, 3) uint8 with all that is drawn."""
        font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), max(12, height // 24))
        people = {n: [row for row in self.rows if row.person == n] for n in sorted({row.person for row in self.rows})}
        middles = {n: [(row.start + row.end) / 2 for row in rows] for n, rows in people.items()}
        left, top = (longest - width) // 2, (longest - height) // 2
        frames = stream_frames(self.timeline.path, longest, FPS)
        for t, frame in enumerate(progress(frames, "film", round(self.timeline.seconds * FPS), unit="frame")):
            image = Image.fromarray(frame[top:top + height, left:left + width])
            seconds, shown = (t + 0.5) / FPS, 0
            for n, rows in people.items():
                k = bisect(middles[n], seconds)
                row = min(rows[max(0, k - 1):k + 1], key=lambda row: abs((row.start + row.end) / 2 - seconds))
                if row.start <= seconds < row.end and self._draw(image, row, t, longest, shown, font):
                    shown += 1
            yield np.asarray(image)

    def _draw(self, image: Image.Image, row: Row, t: int, longest: int, shown: int, font: ImageFont.FreeTypeFont) -> bool:
        """One person: a box, its class, and a bar above those that are drawn already; whether there was anything to draw."""
        draw, (W, H), k = ImageDraw.Draw(image), image.size, int(row.answer.probabilities.argmax())
        places, colour = row.view.places, COLOURS[k % len(COLOURS)]
        x, y, side = places[min(max(0, t - round(row.start * FPS)), len(places) - 1)] * longest if len(places) else (0, 0, 0)
        if row.person and not side:
            return False
        left, top = x - side / 2 - (longest - W) // 2, y - side / 2 - (longest - H) // 2
        if side:
            draw.rectangle((left, top, left + side, top + side), outline=colour, width=max(2, H // 150))
        at = (max(0, left), max(0, top - font.size * 1.3)) if side else (4, 4)
        text = f"{row.person or 'voice'}: {row.answer.label} {row.answer.probabilities[k]:.2f}"
        draw.rectangle(draw.textbbox(at, text, font=font), fill="black")
        draw.text(at, text, fill="white", font=font)
        high = max(8, H // 30)
        box = (0, H - (shown + 1) * high, W, H - shown * high)
        bar(draw, box, row.answer.probabilities, self.timeline.answerer.classes, font)
        return True


def bar(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], p: np.ndarray, classes: Sequence[str],
        font: ImageFont.FreeTypeFont) -> None:
    """Probabilities side by side, with the names of those that have room for it."""
    left, top, right, bottom = box
    small = font.font_variant(size=max(8, int((bottom - top) * 0.8)))
    edges = left + (right - left) * np.concatenate([[0], np.cumsum(p) / p.sum()])
    for k, (a, b) in enumerate(pairwise(edges)):
        draw.rectangle((a, top, b, bottom), fill=COLOURS[k % len(COLOURS)])
        if draw.textlength(classes[k], small) < b - a - 4:
            draw.text((a + 2, top), classes[k], fill="black", font=small)

