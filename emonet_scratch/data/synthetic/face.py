"""A cartoon face, from what an emotion does to its parts.

Every part is a signed distance to its outline, in half head heights: coverage = 1/2 - distance in pixels, cut to
0..1, which is antialiasing. What does not move is painted once; what does, in its own rectangle of all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .person import Person, Scene

SIZE = 96, 128              # height, width in pixels

# Columns: inner and outer brow up, brows pinched, eyes open, corners of the mouth up, mouth open, mouth wide,
# upper lip and teeth, nose wrinkled. All 0 is the neutral face.
FACE_CUES = "inner", "outer", "pinch", "eyes", "smile", "open", "wide", "teeth", "nose"
FACES = {
    "Angry":    (-1.0,  0.4,  1.0, -0.15, -0.5,  0.40,  0.3, 1.0, 0.3),
    "Disgust":  (-0.5, -0.5,  0.5, -0.70, -0.8,  0.15, -0.2, 0.7, 1.0),
    "Fear":     ( 0.9, -0.4,  0.6,  0.70, -0.6,  0.40,  0.5, 0.6, 0.0),
    "Happy":    ( 0.2,  0.2,  0.0, -0.35,  1.0,  0.55,  0.7, 1.0, 0.0),
    "Neutral":  ( 0.0,  0.0,  0.0,  0.00,  0.0,  0.00,  0.0, 0.0, 0.0),
    "Sad":      ( 0.9, -0.7,  0.3, -0.45, -1.0,  0.00, -0.2, 0.0, 0.0),
    "Surprise": ( 0.9,  1.0, -0.2,  1.00,  0.0,  1.00, -0.6, 0.1, 0.0),
}

Cues = dict[str, np.ndarray]    # cue: (T, 1, 1), how much of it each frame has


@dataclass
class _Canvas:
    """Pictures, image (..., H, W, 3) float32, 0 to 255; x (..., 1, W) and y (..., H, 1) say where their pixels lie.

    x and y count half head heights, each of `unit` pixels, from the centre of the head, right and down.
    """

    image: np.ndarray
    x: np.ndarray
    y: np.ndarray
    unit: float

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """How much of each pixel lies inside an outline: (..., H, W), 0..1."""
        return np.clip(.5 - distance * self.unit, 0, 1)

    def paint(self, coverage: np.ndarray, colour: np.ndarray | Sequence[float]) -> None:
        """The image becomes `colour` (3,) where coverage (..., H, W) is 1."""
        self.image += np.float32(coverage)[..., None] * (np.float32(colour) - self.image)

    def patch(self, left: float, right: float, top: float, bottom: float) -> _Canvas:
        """The part within a rectangle; painting it paints this one."""
        columns = np.flatnonzero((self.x > left) & (self.x < right))
        rows = np.flatnonzero((self.y > top) & (self.y < bottom))
        columns, rows = slice(columns[0], columns[-1] + 1), slice(rows[0], rows[-1] + 1)
        return _Canvas(self.image[..., rows, columns, :], self.x[..., columns], self.y[..., rows, :], self.unit)


def draw_face(cues: np.ndarray, person: Person, scene: Scene, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pictures of one person: cues (T, 9) in the order of `FACE_CUES` -> (T, H, W, 3) float32, 0 to 255."""
    height, width = size
    cues = np.asarray(cues, np.float32)
    unit = scene.scale * height
    x = (np.arange(width, dtype=np.float32) + .5 - scene.x * width)[None, :] / unit
    y = (np.arange(height, dtype=np.float32) + .5 - scene.y * height)[:, None] / unit
    still = _Canvas(np.empty((height, width, 3), np.float32), x, y, unit)
    _draw_background(still, scene)
    _draw_head(still, person)
    moving = _Canvas(np.repeat(still.image[None], len(cues), axis=0), x[None], y[None], unit)
    c = {name: cues[:, i, None, None] for i, name in enumerate(FACE_CUES)}
    for side in (-1, 1):
        _draw_eye(moving, person, c, side)
        _draw_brow(moving, person, c, side)
        _draw_cheek(moving, person, c, side)
    _draw_nose(moving, person, c)
    _draw_mouth(moving, person, c)
    shade = 1 + scene.light[0] * np.clip(x, -1.3, 1.3) + scene.light[1] * np.clip(y, -1.3, 1.3)
    moving.image *= (shade[:, :, None] * scene.gain).astype(np.float32)
    return moving.image


def _draw_background(canvas: _Canvas, scene: Scene) -> None:
    """A wall whose colour changes from left to right, and lights out of focus on it."""
    height, width = canvas.image.shape[:2]
    x = np.linspace(0, 1, width, dtype=np.float32)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    canvas.image[:] = scene.walls[0] + (scene.walls[1] - scene.walls[0]) * x[:, None]
    for bx, by, radius, strength, *colour in scene.blobs:
        distance = np.hypot((x - bx) * width / height, y - by)
        canvas.paint(strength * np.clip((radius - distance) * 20, 0, 1), colour)


def _draw_head(canvas: _Canvas, p: Person) -> None:
    """All that does not move: hair, neck, shirt, ears, head, tip and side of the nose."""
    x, y, cover, paint = canvas.x, canvas.y, canvas.cover, canvas.paint
    outline = p.skin * .35
    behind = _ellipse(x, y + .12, p.width + p.volume, 1.0 + p.volume * .7)
    if p.long_hair > 0:
        half = .15 + .5 * p.long_hair
        behind = np.minimum(behind, _box(x, y - half, p.width + p.volume - .2, half) - .2)
    paint(cover(behind), p.hair)
    paint(cover(np.maximum(np.abs(x) - .34, .5 - y)), p.skin * .8)                              # neck
    paint(cover(_ellipse(x, y - 1.55, 1.25, .52)), p.shirt)
    for side in (-1, 1):
        paint(cover(_ellipse(x - side * p.width, y - .02, .13, .2)), p.skin * .88)              # ears
    jaw = p.width * (1 - p.jaw * np.clip(y, 0, 1))                                              # narrower towards the chin
    head = _ellipse(x, y, jaw, 1.0)
    paint(cover(head - .025), outline)
    paint(cover(head), p.skin)
    hairline = y + p.hairline - .3 * x**2 - p.wave * np.sin(5 * x)
    paint(cover(np.maximum(_ellipse(x, y + .02, p.width + .04, 1.04), hairline)), p.hair)
    paint(.5 * cover(_ellipse(x, y - .24, .09 * p.nose, .055)), outline)                        # tip of the nose
    paint(.35 * cover(np.maximum(np.abs(x - .05) - .018, np.abs(y - .1) - .14)), outline)       # and its side


def _draw_eye(canvas: _Canvas, p: Person, c: Cues, side: int) -> None:
    """White, iris, pupil and a glint, all inside an opening whose upper lid follows the brow."""
    x0, y0 = side * p.eye_gap, p.eye_y
    a, b = .225 * p.eye_size, .165 * p.eye_size * np.maximum(1 + .48 * c["eyes"], .08)
    canvas = canvas.patch(x0 - .36, x0 + .36, y0 - .36, y0 + .36)
    x, y, cover, paint = canvas.x, canvas.y, canvas.cover, canvas.paint
    inward = -side * (x - x0)                                # grows towards the nose
    lid = -y + y0 - .9 * b + .35 * inward * np.clip(c["outer"] - c["inner"], -1.5, 1.2)
    eye = np.maximum(_ellipse(x - x0, y - y0, a, b), lid)
    iris = np.hypot(x - x0, y - y0)
    paint(cover(eye - .045), p.skin * .35 * .7)
    paint(cover(eye), (250, 250, 248))
    paint(np.minimum(cover(iris - .115), cover(eye)), p.iris)
    paint(np.minimum(cover(iris - .06), cover(eye)), (16, 12, 12))
    paint(np.minimum(cover(np.hypot(x - x0 - .04, y - y0 + .05) - .03), cover(eye)), (255, 255, 255))


def _draw_brow(canvas: _Canvas, p: Person, c: Cues, side: int) -> None:
    """A stroke along a bent line from the inner end to the outer end."""
    x0, y0 = side * p.eye_gap, p.eye_y
    canvas = canvas.patch(x0 - .45, x0 + .45, y0 - .66, y0 - .02)
    s = -side * (canvas.x - x0) + .04 - .07 * c["pinch"]     # -.27 outer end .. .27 inner end
    tilt = (c["inner"] - c["outer"]) * .5
    middle = y0 - .31 - .10 * (c["inner"] + c["outer"]) - tilt * .62 * s + .9 * (s**2 - .03)
    slope = 1.8 * s - .62 * tilt
    stroke = _box(s, (canvas.y - middle) / np.sqrt(1 + slope**2), .23, 0) - p.brow * (1 + s)
    canvas.paint(canvas.cover(stroke), np.minimum(p.hair, p.skin * .5) * .7)


def _draw_cheek(canvas: _Canvas, p: Person, c: Cues, side: int) -> None:
    """The blush of a smile and the fold of a sneer."""
    cheek = canvas.patch(side * .52 - .22, side * .52 + .22, .08, .5)
    blush = np.exp(-((cheek.x - side * .52) ** 2 + (cheek.y - .27) ** 2) / .02)
    cheek.paint(.45 * np.clip(c["smile"], 0, 1) * blush, (226, 92, 84))
    cheek = canvas.patch(side * .3 - .22, side * .3 + .22, .08, .62)
    fold = np.abs(side * cheek.x - .18 - .22 * (cheek.y - .16) / .26) - .022
    fold = np.maximum(fold, np.abs(cheek.y - .3) - .15)
    cheek.paint(.8 * np.clip(c["nose"], 0, 1) * cheek.cover(fold), p.skin * .35)


def _draw_nose(canvas: _Canvas, p: Person, c: Cues) -> None:
    """Its wrinkles, and the crease of a frown."""
    nose = canvas.patch(-.16, .16, -.3, .1)
    wave = np.abs((nose.y + .03 - .5 * nose.x**2 + .16) % .11 - .055) - .02
    wrinkles = np.maximum(wave, np.maximum(np.abs(nose.x) - .12, np.abs(nose.y + .05) - .14))
    nose.paint(.85 * np.clip(c["nose"], 0, 1) * nose.cover(wrinkles), p.skin * .35)


def _draw_mouth(canvas: _Canvas, p: Person, c: Cues) -> None:
    """Lips, and inside them tongue and teeth."""
    canvas = canvas.patch(-.62, .62, .16, .98)
    x, y, cover, paint = canvas.x, canvas.y, canvas.cover, canvas.paint
    happy = np.clip(c["smile"], 0, 1)
    width = .33 * p.mouth * (1 + .30 * c["wide"] + .12 * happy)
    opening = .27 * p.mouth * np.maximum(c["open"], 0)
    t2 = np.minimum((x / width) ** 2, 1)
    bulge = np.sqrt(1 - t2)
    middle = p.mouth_y + .17 * c["smile"] * (.45 - t2)
    sneer = .10 * np.clip(c["nose"], 0, 1) * np.exp(-((x - .12) / .13) ** 2)
    upper = middle - (.45 - .30 * happy) * opening * bulge - sneer
    lower = middle + (.75 + .30 * happy) * opening * bulge
    lips = _box(x, y - (upper + lower) / 2, width, (lower - upper) / 2)
    paint(cover(lips - .055 + .02 * t2), p.skin * np.array((.72, .38, .38)))
    inside = cover(lips - .012)
    paint(inside, (58, 14, 18))
    paint(np.minimum(inside, cover(_ellipse(x, y - lower, .6 * width, .35 * opening))), (208, 88, 92))
    teeth = np.minimum(inside, cover(y - upper - .13 * np.clip(c["teeth"], 0, 1.2)))
    paint(teeth * np.clip(3 * c["teeth"] - .6, 0, 1), (252, 250, 242))


def _ellipse(x: np.ndarray, y: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """Nearly the distance to an ellipse with half axes a, b; exact on its outline and for a circle."""
    a, b = np.maximum(a, 1e-3), np.maximum(b, 1e-3)
    k = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    return k * (k - 1) / np.maximum(np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2), 1e-6)


def _box(x: np.ndarray, y: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """The distance to the rectangle |x| <= a, |y| <= b, a segment where b = 0: minus r, its corners are round."""
    dx, dy = np.abs(x) - a, np.abs(y) - b
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)
