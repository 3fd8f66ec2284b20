"""The face of a clip: found by OpenCV's Haar cascade (Viola & Jones 2001), followed through the clip, cut out.

Every STEP-th frame is searched: every WHOLE-th of these, and where nothing is found, the whole frame, others about the
faces found before, which takes a fraction of the time. Of a chain of findings that overlap from one to the next, the
longest is the face (the larger one of equals): a finding beside it is a mistake, or somebody who is in the picture for a
moment. A finding unlike those before and after it, by the median of MEDIAN of them, is a mistake too. Between findings the
box moves in a straight line, and all of it is smoothed over SMOOTH frames, since the cascade's boxes jump by some pixels.
Frames STEP and more before the first and after the last finding do not show the face (many clips begin or end in black),
and are left out. A clip without a chain of at least two findings (one, where one frame is all that was searched) shows no
face: it has no frames.

Faces are searched in frames of SEARCH pixels, whatever size is wanted in the end: where a face is does not depend on that.
It is cut out of frames of DETAIL times the wanted size or more, so that it has more pixels than it fills in the end.
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from ..errors import DataError
from .video import FrameCache, Frames, read_clip

STEP, WHOLE, MEDIAN, SMOOTH, SEARCH, DETAIL = 5, 5, 5, 3.0, 256, 2
MARGIN = 1.0                    # side of the square that is cut out, over the larger side of the finding
LEAST = 0.08                    # side of a finding, over that of the frame
OVERLAP = 0.2                   # of two findings of one face, intersection over union

OWN = threading.local()         # the cascade of each thread: one must not be used by two

Box = tuple[float, float, float, float]     # left, top, width, height


@functools.cache
def import_cv2() -> Any:
    """OpenCV with its cascades, or a DataError that says how to get it."""
    try:
        import cv2
        reason = f"OpenCV {cv2.__version__} has no Haar cascades"
    except ImportError as error:
        cv2, reason = None, str(error)
    if not hasattr(cv2, "CascadeClassifier"):
        raise DataError(f"face crops need OpenCV 4 ({reason}): pip install 'emonet_scratch[faces]'")
    return cv2


def detect(frame: np.ndarray, near: Box | None = None) -> list[Box]:
    """Frontal faces in one frame (H, W, 3) uint8 RGB; near: only about this box and of about its size."""
    cv2 = import_cv2()
    if not hasattr(OWN, "cascade"):               # reading it takes as long as searching a frame
        OWN.cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    most, least = max(frame.shape[:2]), max(20, round(LEAST * min(frame.shape[:2])))     # 20: what the cascade has learnt
    left = top = 0
    if near is not None:
        x, y, w, h = near
        left, top = max(0, round(x - w / 2)), max(0, round(y - h / 2))
        frame = np.ascontiguousarray(frame[top:round(y + 1.5 * h), left:round(x + 1.5 * w)])
        least, most = max(least, round(w / 1.4)), round(w * 1.4)
    found = OWN.cascade.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1.05, 3, minSize=(least, least),
                                         maxSize=(most, most))
    return [(float(x + left), float(y + top), float(w), float(h)) for x, y, w, h in found]


def find(frames: np.ndarray, search: Callable[..., list[Box]] = detect) -> list[tuple[int, list[Box]]]:
    """(frame, its boxes, large ones first) for every STEP-th of frames (T, H, W, 3)."""
    findings: list[tuple[int, list[Box]]] = []
    for t in range(0, len(frames), STEP):
        findings.append((t, find_in(frames[t], t, findings[-1][1] if findings else [], search)))
    return findings


def find_in(frame: np.ndarray, t: int, before: list[Box], search: Callable[..., list[Box]] = detect) -> list[Box]:
    """The boxes in frame t, large ones first, after those that were found STEP frames before."""
    known = before if t % (STEP * WHOLE) else []
    about = [max(found, key=lambda box: (overlap(box, near), box)) for near in known if (found := search(frame, near))]
    # OpenCV's order is that in which its threads come back
    return sorted(about or search(frame), key=lambda box: (-box[2] * box[3], box))


def overlap(a: Box, b: Box) -> float:
    """Intersection over union, 0..1."""
    across, down = (min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    both = max(0.0, across) * max(0.0, down)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def track(findings: list[tuple[int, list[Box]]], T: int) -> np.ndarray | None:
    """Centre and side (T, 3) of the face in every frame from the findings in some; None where there is no face.

    findings: (frame, its boxes), frames ascending. The side is 0 in frames that do not show the face.
    """
    chains: list[list[tuple[int, Box]]] = []
    for frame, boxes in findings:
        for box in boxes:
            last = [c for c in chains if c[-1][0] < frame and overlap(c[-1][1], box) >= OVERLAP]
            if last:
                max(last, key=len).append((frame, box))
            else:
                chains.append([(frame, box)])
    best = max(chains, key=lambda chain: (len(chain), np.median([b[2] * b[3] for _, b in chain])), default=[])
    if len(best) < min(2, len(findings)):
        return None
    return smooth(best, T)


def smooth(chain: list[tuple[int, Box]], T: int) -> np.ndarray:
    """Centre and side (T, 3) in every frame from the boxes of one face in some; the side is 0 far from any of them."""
    best = chain
    at = [frame for frame, _ in best]
    known = np.array([(x + w / 2, y + h / 2, MARGIN * max(w, h)) for _, (x, y, w, h) in best])
    known = median_filter(known, (MEDIAN, 1), mode="nearest")
    whole = np.stack([np.interp(np.arange(T), at, column) for column in known.T], axis=1)
    whole = gaussian_filter1d(whole, SMOOTH, axis=0, mode="nearest")
    whole[:max(0, at[0] - STEP + 1), 2] = whole[at[-1] + STEP:, 2] = 0
    return whole


def crop(frames: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """The squares `boxes` (T, 3) of frames (T, H, W, 3), as (t, size, size, 3) uint8, grey as the faces of FER2013.

    What has a side of 0 is left out. A square that sticks out of the frame is moved in; one that is larger than the frame
    is the frame's largest square.
    """
    cv2, (_T, H, W, _) = import_cv2(), frames.shape
    frames, boxes = frames[boxes[:, 2] > 0], boxes[boxes[:, 2] > 0]
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for seen, frame, (x, y, side) in zip(out, frames, boxes, strict=True):
        side = max(1, min(round(side), H, W))
        left, top = (int(np.clip(round(c - side / 2), 0, n - side)) for c, n in ((x, W), (y, H)))
        grey = cv2.cvtColor(frame[top:top + side, left:left + side], cv2.COLOR_RGB2GRAY)
        seen[...] = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)[..., None]
    return out


def read_face(path: str | os.PathLike, size: int, *, max_frames: int | None = None, cache: FrameCache | None = None,
              search: Callable[..., list[Box]] = detect,
              frames: np.ndarray | None = None) -> tuple[Frames, bool]:
    """((T, size, size, 3) uint8, whether a face was found): the face of a clip in grey, with no frames where there is none.

    frames: what `read_clip(path, SEARCH, max_frames=max_frames)` gives, where that is at hand. DataError as `read_clip`, and
    without OpenCV.
    """
    import_cv2()
    keys, clip, boxes = [], None, None
    if cache:
        settings = {"search": SEARCH, "max_frames": max_frames}
        keys = [cache.key(path, crop="faces-3/clip", size=size, **settings),
                cache.key(path, crop="faces-3/boxes", **settings)]
        clip = cache.load(keys[0], (size, size, 3), least=0, most=max_frames)
        known = cache.load(keys[1], (3,), np.float64, 0, max_frames)
        boxes = None if known is None else np.asarray(known)
    if clip is None or boxes is None:
        frames = read_clip(path, SEARCH, max_frames=max_frames) if frames is None else frames
        if boxes is None or len(boxes) not in (0, len(frames)) or not (np.abs(boxes) < 9).all():      # no rows: no face
            found = track(find(frames, search), len(frames))
            boxes = np.empty((0, 3)) if found is None else found / SEARCH
        if DETAIL * size > SEARCH and len(boxes):
            frames = read_clip(path, DETAIL * size, max_frames=max_frames)
        clip = crop(frames, boxes * frames.shape[1], size) if len(boxes) else np.empty((0, size, size, 3), np.uint8)
        if cache:
            cache.store(keys[1], boxes)
            clip = cache.keep(keys[0], clip)
    return clip, len(boxes) > 0
