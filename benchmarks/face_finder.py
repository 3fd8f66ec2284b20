"""What finds faces in video: OpenCV's cascades as they were and are used here, and dlib's detector (pip install dlib-bin).

    python benchmarks/face_finder.py --faces fer2013.csv CLIP...

Faces of FER2013 are pasted into frames of noise, 24 to 200 pixels wide: the share that is found (intersection over union
with the face >= .3), findings elsewhere, milliseconds a frame of 256 x 256 pixels. In clips: the share of the frames that
are not black in which something is found, and how often several things are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from emonet_scratch.data import faces
from emonet_scratch.data.faces import Box, detect, overlap
from emonet_scratch.data.fer2013 import read_fer2013
from emonet_scratch.data.video import read_clip

SIZES, EACH = (24, 32, 48, 72, 96, 140, 200), 30
Finder = Callable[[np.ndarray], list[Box]]


def cascade(name: str, scale: float, neighbours: int, least: int) -> Finder:
    """One of OpenCV's (Viola and Jones 2001), searched in steps of `scale`, from `least` pixels on."""
    found = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_{name}.xml")

    def find(frame: np.ndarray) -> list[Box]:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        return [tuple(map(float, box)) for box in found.detectMultiScale(grey, scale, neighbours, minSize=(least, least))]
    return find


def dlib_hog(scale: int) -> Finder:
    """dlib's histograms of gradients (Dalal and Triggs 2005; King 2015), whose smallest face has 80 pixels, enlarged."""
    import dlib
    detector = dlib.get_frontal_face_detector()

    def find(frame: np.ndarray) -> list[Box]:
        large = cv2.resize(frame, None, fx=scale, fy=scale)
        return [(b.left() / scale, b.top() / scale, b.width() / scale, b.height() / scale) for b in detector(large)]
    return find


def scenes(path: Path) -> list[tuple[int, np.ndarray, Box]]:
    """(size, frame, where the face is): half in white noise, half in blurred noise."""
    rng, everything = np.random.default_rng(0), read_fer2013(path, "test")
    usable = everything.images[(everything.votes.min(axis=1) >= 0) & (everything.votes[:, 9] == 0)]       # FER+: a face
    pictures, made = usable[rng.permutation(len(usable))[:60]], []
    for size in SIZES:
        for k in range(EACH):
            frame = rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)
            if k % 2:
                soft = cv2.GaussianBlur(rng.normal(128, 90, (256, 256, 3)).astype(np.float32), (0, 0), 4)
                frame = np.clip(soft, 0, 255).astype(np.uint8)
            x, y = rng.integers(0, 257 - size, 2)
            how = cv2.INTER_AREA if size < 48 else cv2.INTER_LINEAR
            frame[y:y + size, x:x + size] = cv2.resize(pictures[(7 * k + size) % 60], (size, size), interpolation=how)
            made.append((size, frame, (float(x), float(y), float(size), float(size))))
    return made


def in_noise(find: Finder, made: list[tuple[int, np.ndarray, Box]]) -> str:
    """A row of the table."""
    hits, false, started = dict.fromkeys(SIZES, 0), 0, time.perf_counter()
    for size, frame, where in made:
        right = [overlap(box, where) >= 0.3 for box in find(frame)]
        hits[size] += any(right)
        false += right.count(False)
    ms = 1000 * (time.perf_counter() - started) / len(made)
    return " | ".join([*(f"{hits[size] / EACH:.2f}" for size in SIZES), str(false), f"{ms:.0f}"])


def in_clips(find: Callable[[np.ndarray], list[list[Box]]], clips: list[Path]) -> str:
    """Found, several, milliseconds a searched frame."""
    found, several, searched, seconds = 0, 0, 0, 0.0
    for clip in clips:
        frames = read_clip(clip, faces.SEARCH, max_frames=250)
        frames = frames[frames.max(axis=(1, 2, 3)) > 40]
        started = time.perf_counter()
        boxes = find(frames)
        seconds += time.perf_counter() - started
        found, several = found + sum(map(bool, boxes)), several + sum(len(b) > 1 for b in boxes)
        searched += len(boxes)
    return f"{found / searched:.3f} | {several / searched:.3f} | {1000 * seconds / searched:.0f}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="FER2013 in any form")
    parser.add_argument("clips", type=Path, nargs="*")
    options = parser.parse_args()
    finders: dict[str, Finder] = {"default, 1.1, 5 neighbours, 25 pixels (before)": cascade("default", 1.1, 5, 25),
                                  "default, 1.05, 3, 20": cascade("default", 1.05, 3, 20),
                                  "alt, 1.05, 2, 20": cascade("alt", 1.05, 2, 20),
                                  "alt2, 1.05, 3, 20 (now)": detect}
    try:
        finders |= {f"dlib, enlarged {scale} times": dlib_hog(scale) for scale in (1, 2, 3)}
    except ImportError:
        print("dlib is not installed: left out")
    made = scenes(options.faces)
    print(f"| in noise: face of pixels | {' | '.join(map(str, SIZES))} | false of {len(made)} | ms |")
    print("| --- " * (len(SIZES) + 3) + "|")
    for name, find in finders.items():
        print(f"| {name} | {in_noise(find, made)} |", flush=True)
    if not options.clips:
        return
    print(f"\n| in {len(options.clips)} clips | found | several | ms a search |\n| --- | --- | --- | --- |")
    for name, find in finders.items():
        row = in_clips(lambda frames, find=find: [find(frame) for frame in frames[::faces.STEP]], options.clips)
        print(f"| {name} | {row} |", flush=True)
    row = in_clips(lambda frames: [boxes for _, boxes in faces.find(frames)], options.clips)
    print(f"| alt2, near what was found before (now, in clips) | {row} |")


if __name__ == "__main__":
    main()
