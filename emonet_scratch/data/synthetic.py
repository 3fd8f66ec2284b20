"""A data set to start with: cartoon faces that change expression, with a voice, in the layout of AFEW.

Each clip has one label and two messengers. The face moves from neutral to its expression; a voice says a few
syllables whose pitch, loudness, rate and roughness follow the emotion. In a share `UNCLEAR` of the clips the face
is a mixture of two expressions, in another share the voice is one of two emotions, and never both. The emotions
that a face mixes (`FACE_TWIN`) are others than those that a voice mixes (`VOICE_TWIN`), so a model that sees and
hears can tell what neither sense alone can.

Everything but these cues (person, place, light, noise, length, file name) is drawn before the label is looked at.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from scipy.signal import lfilter

from ..emotions import CLASSES
from ..errors import DataError
from .opensmile import write_arff
from .sound import compact
from .video import read_sound

# How hard it is. An unclear face or voice is (1 - m) of the label and m of its twin, m uniform in MIXTURE, so
# around m = 1/2 nobody can tell which of the two was meant.
UNCLEAR = 0.38              # share of clips with an unclear face, and as many with an unclear voice
MIXTURE = 0.30, 0.70
INTENSITY = 0.80, 1.10      # of an expression, 1 is the table below
FACE_SPREAD = 0.12          # standard deviation of each face cue around the table
VOICE_SPREAD = 0.22         # of each voice cue, in units of the differences between emotions
FACE_TWIN = {"Angry": "Disgust", "Disgust": "Angry", "Fear": "Surprise", "Surprise": "Fear",
             "Sad": "Neutral", "Neutral": "Sad", "Happy": "Neutral"}
VOICE_TWIN = {"Angry": "Happy", "Happy": "Angry", "Fear": "Sad", "Sad": "Fear",
              "Disgust": "Neutral", "Neutral": "Disgust", "Surprise": "Happy"}

SIZE = 96, 128              # height, width in pixels
FPS, RATE = 25, 16000
SECONDS = 1.0, 2.4
SPLITS = "Train", "Val", "Test"

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
# Columns: pitch (semitones from the speaker's own), accents (semitones up and down), slope (semitones over the
# clip), loudness (dB), syllables a second, roughness, breath, brightness.
VOICE_SCALE = (3.0, 1.2, 2.5, 3.5, 0.9, 0.35, 0.3, 0.5)     # one step of difference in each column
VOICES = {
    "Angry":    ( 4.0, 2.5, -4.0,  7.0, 5.0, 1.0, 0.1,  1.0),
    "Disgust":  (-4.0, 1.5, -5.0,  1.0, 3.0, 0.7, 0.3, -0.4),
    "Fear":     ( 7.0, 0.8,  1.0, -3.0, 6.2, 0.4, 0.8,  0.0),
    "Happy":    ( 5.0, 4.5,  2.0,  5.0, 5.0, 0.1, 0.1,  0.7),
    "Neutral":  ( 0.0, 1.0, -1.0,  0.0, 4.0, 0.1, 0.1,  0.0),
    "Sad":      (-2.0, 0.6, -4.0, -7.0, 2.6, 0.3, 0.5, -1.0),
    "Surprise": ( 6.0, 1.5, 10.0,  3.0, 3.6, 0.1, 0.3,  0.4),
}
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))   # Hz, a e i o u

SKINS = ((255, 219, 188), (244, 196, 158), (222, 168, 126), (190, 134, 94), (148, 98, 66), (118, 78, 54))
HAIRS = ((40, 30, 26), (74, 46, 28), (122, 74, 38), (196, 150, 84), (158, 66, 34), (150, 146, 142), (28, 28, 34))
EYES = ((70, 46, 30), (60, 96, 140), (70, 110, 70), (96, 84, 60))


@dataclass(frozen=True)
class Person:
    """What stays the same about a face and a voice: lengths in half head heights, colours (3,) 0 to 255."""

    width: float
    jaw: float
    eye_gap: float
    eye_size: float
    eye_y: float
    brow: float
    mouth_y: float
    mouth: float
    nose: float
    hairline: float
    wave: float
    volume: float
    long_hair: float
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    shirt: np.ndarray
    f0: float               # usual pitch, Hz
    tract: float            # factor on all formants: 1 / relative length of the vocal tract
    gain: float             # dB

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Person":
        """A new person, different from every other one."""
        u = rng.uniform
        tint = u(0.93, 1.05)
        high = u() < 0.5
        return cls(u(.80, .92), u(.0, .16), u(.35, .41), u(.92, 1.12), u(-.14, -.06), u(.055, .08), u(.46, .52),
                   u(.92, 1.10), u(.8, 1.2), u(.50, .68), u(-.06, .06), u(.05, .14), u(-.4, 1.0),
                   np.array(SKINS[rng.integers(len(SKINS))]) * tint, np.array(HAIRS[rng.integers(len(HAIRS))]) * tint,
                   np.array(EYES[rng.integers(len(EYES))]), u(30, 220, 3),
                   (195 if high else 110) * 2 ** u(-.25, .25), (1.12 if high else .98) * u(.95, 1.05), u(-2.5, 2.5))


@dataclass(frozen=True)
class Scene:
    """Where the face is and how it is lit and filmed."""

    x: float
    y: float                # centre of the head, shares of width and height of the picture
    scale: float            # half height of the head, share of the height of the picture
    walls: np.ndarray       # (2, 3) colours of the background, left and right
    blobs: np.ndarray       # (B, 7): x, y, radius, strength, colour of lights out of focus
    light: np.ndarray       # (2,) direction, length = strength
    gain: np.ndarray        # (3,) brightness and tint
    noise: float            # standard deviation, grey levels

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Scene":
        """A new place."""
        u = rng.uniform
        blobs = np.concatenate([u((0, 0, .05, .1), (1, 1, .25, .5), (4, 4)), u(60, 250, (4, 3))], axis=1)
        return cls(u(.48, .52), u(.50, .54), u(.45, .49), u(60, 180, (2, 3)), blobs, u(-.15, .15, 2),
                   u(.9, 1.1) * u(.97, 1.03, 3), u(2, 6))


def draw_face(cues: np.ndarray, person: Person, scene: Scene, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Pictures of one person: cues (T, 9) in the order of `FACE_CUES` -> (T, H, W, 3) float32, 0 to 255.

    Every part is a signed distance to its outline, in half head heights: coverage = 1/2 - distance in pixels,
    cut to 0..1, which is antialiasing. What does not move is painted once; what does, in its own rectangle.
    """
    height, width = size
    cues = np.asarray(cues, np.float32)
    unit = scene.scale * height                              # pixels in a half head height
    u = (np.arange(width, dtype=np.float32) + .5 - scene.x * width)[None, :] / unit
    v = (np.arange(height, dtype=np.float32) + .5 - scene.y * height)[:, None] / unit
    p = person

    def cover(d: np.ndarray) -> np.ndarray:
        return np.clip(.5 - d * unit, 0, 1)

    still = _background(scene, height, width)
    line = p.skin * .35                                      # outlines
    jaw = p.width * (1 - p.jaw * np.clip(v, 0, 1))           # narrower towards the chin
    head = _ellipse(u, v, jaw, 1.0)
    hair_back = _ellipse(u, v + .12, p.width + p.volume, 1.0 + p.volume * .7)
    if p.long_hair > 0:
        half = .15 + .5 * p.long_hair
        strands = _box(u, v - half, p.width + p.volume - .2, half) - .2
        hair_back = np.minimum(hair_back, strands)
    _paint(still, cover(hair_back), p.hair)
    _paint(still, cover(np.maximum(np.abs(u) - .34, .5 - v)), p.skin * .8)                          # neck
    _paint(still, cover(_ellipse(u, v - 1.55, 1.25, .52)), p.shirt)
    for side in (-1, 1):
        _paint(still, cover(_ellipse(u - side * p.width, v - .02, .13, .2)), p.skin * .88)          # ears
    _paint(still, cover(head - .025), line)
    _paint(still, cover(head), p.skin)
    hairline = v + p.hairline - .3 * u**2 - p.wave * np.sin(5 * u)
    _paint(still, cover(np.maximum(_ellipse(u, v + .02, p.width + .04, 1.04), hairline)), p.hair)
    _paint(still, .5 * cover(_ellipse(u, v - .24, .09 * p.nose, .055)), line)                       # tip of the nose
    _paint(still, .35 * cover(np.maximum(np.abs(u - .05) - .018, np.abs(v - .1) - .14)), line)      # and its side

    frames = np.repeat(still[None], len(cues), axis=0)
    c = {name: cues[:, i, None, None] for i, name in enumerate(FACE_CUES)}
    happy = np.clip(c["smile"], 0, 1)
    mouth_width = .33 * p.mouth * (1 + .30 * c["wide"] + .12 * happy)
    opening = .27 * p.mouth * np.maximum(c["open"], 0)

    def patch(u0: float, u1: float, v0: float, v1: float) -> tuple:
        """The rectangle u0..u1, v0..v1 of all frames, a view, and its coordinates."""
        xs, ys = (u[0] > u0) & (u[0] < u1), (v[:, 0] > v0) & (v[:, 0] < v1)
        xs = slice(*(np.flatnonzero(xs)[[0, -1]] + (0, 1)))
        ys = slice(*(np.flatnonzero(ys)[[0, -1]] + (0, 1)))
        return frames[:, ys, xs], u[None, :, xs], v[None, ys]

    for side in (-1, 1):
        x0, y0 = side * p.eye_gap, p.eye_y
        # Eye: white, iris, pupil and a glint, all inside an opening whose upper lid follows the brow.
        a, b = .225 * p.eye_size, .165 * p.eye_size * np.maximum(1 + .48 * c["eyes"], .08)
        img, x, y = patch(x0 - .36, x0 + .36, y0 - .36, y0 + .36)
        inward = -side * (x - x0)                            # grows towards the nose
        lid = -y + y0 - .9 * b + .35 * inward * np.clip(c["outer"] - c["inner"], -1.5, 1.2)
        eye = np.maximum(_ellipse(x - x0, y - y0, a, b), lid)
        iris = np.hypot(x - x0, y - y0)
        _paint(img, cover(eye - .045), line * .7)
        _paint(img, cover(eye), np.array((250, 250, 248)))
        _paint(img, np.minimum(cover(iris - .115), cover(eye)), p.iris)
        _paint(img, np.minimum(cover(iris - .06), cover(eye)), np.array((16, 12, 12)))
        _paint(img, np.minimum(cover(np.hypot(x - x0 - .04, y - y0 + .05) - .03), cover(eye)), np.full(3, 255.))
        # Brow: a stroke along a bent line from the inner end to the outer end.
        img, x, y = patch(x0 - .45, x0 + .45, y0 - .66, y0 - .02)
        s = -side * (x - x0) + .04 - .07 * c["pinch"]        # -.27 outer end .. .27 inner end
        tilt = (c["inner"] - c["outer"]) * .5
        middle = y0 - .31 - .10 * (c["inner"] + c["outer"]) - tilt * .62 * s + .9 * (s**2 - .03)
        slope = 1.8 * s - .62 * tilt
        stroke = _box(s, (y - middle) / np.sqrt(1 + slope**2), .23, 0) - p.brow * (1 + s)
        _paint(img, cover(stroke), np.minimum(p.hair, p.skin * .5) * .7)
        # Cheeks: blush of a smile, fold of a sneer.
        img, x, y = patch(side * .52 - .22, side * .52 + .22, .08, .5)
        blush = np.exp(-((x - side * .52) ** 2 + (y - .27) ** 2) / .02)
        _paint(img, .45 * happy * blush, np.array((226, 92, 84)))
        img, x, y = patch(side * .3 - .22, side * .3 + .22, .08, .62)
        fold = np.abs(side * x - .18 - .22 * (y - .16) / .26) - .022
        _paint(img, .8 * np.clip(c["nose"], 0, 1) * cover(np.maximum(fold, np.abs(y - .3) - .15)), line)

    img, x, y = patch(-.16, .16, -.3, .1)                    # wrinkles of the nose, and the crease of a frown
    wave = np.abs((y + .03 - .5 * x**2 + .16) % .11 - .055) - .02
    wrinkles = np.maximum(wave, np.maximum(np.abs(x) - .12, np.abs(y + .05) - .14))
    _paint(img, .85 * np.clip(c["nose"], 0, 1) * cover(wrinkles), line)

    img, x, y = patch(-.62, .62, .16, .98)
    t2 = np.minimum((x / mouth_width) ** 2, 1)
    bulge = np.sqrt(1 - t2)
    middle = p.mouth_y + .17 * c["smile"] * (.45 - t2)
    sneer = .10 * np.clip(c["nose"], 0, 1) * np.exp(-((x - .12) / .13) ** 2)
    upper = middle - (.45 - .30 * happy) * opening * bulge - sneer
    lower = middle + (.75 + .30 * happy) * opening * bulge
    lips = _box(x, y - (upper + lower) / 2, mouth_width, (lower - upper) / 2)
    red = p.skin * np.array((.72, .38, .38))
    _paint(img, cover(lips - .055 + .02 * t2), red)
    inside = cover(lips - .012)
    _paint(img, inside, np.array((58, 14, 18)))
    _paint(img, np.minimum(inside, cover(_ellipse(x, y - lower, .6 * mouth_width, .35 * opening))),
           np.array((208, 88, 92)))
    teeth = np.minimum(inside, cover(y - upper - .13 * np.clip(c["teeth"], 0, 1.2)))
    _paint(img, teeth * np.clip(3 * c["teeth"] - .6, 0, 1), np.array((252, 250, 242)))

    shade = 1 + scene.light[0] * np.clip(u, -1.3, 1.3) + scene.light[1] * np.clip(v, -1.3, 1.3)
    frames *= (shade[:, :, None] * scene.gain).astype(np.float32)
    return frames


def _ellipse(x: np.ndarray, y: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """Nearly the distance to an ellipse with half axes a, b; exact on its outline and for a circle."""
    a, b = np.maximum(a, 1e-3), np.maximum(b, 1e-3)
    k = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    return k * (k - 1) / np.maximum(np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2), 1e-6)


def _box(x: np.ndarray, y: np.ndarray, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
    """The distance to the rectangle |x| <= a, |y| <= b, a segment where b = 0: minus r, its corners are round."""
    dx, dy = np.abs(x) - a, np.abs(y) - b
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _paint(image: np.ndarray, coverage: np.ndarray, colour: np.ndarray) -> None:
    """image (..., H, W, 3) becomes colour (3,) where coverage (..., H, W) is 1."""
    image += np.float32(coverage)[..., None] * (np.float32(colour) - image)


def _background(scene: Scene, height: int, width: int) -> np.ndarray:
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    image = scene.walls[0] + (scene.walls[1] - scene.walls[0]) * x + np.zeros((height, 1, 1))
    image = image.astype(np.float32)
    for bx, by, radius, strength, *colour in scene.blobs:
        d = np.hypot((x[..., 0] - bx) * width / height, y - by)
        _paint(image, strength * np.clip((radius - d) * 20, 0, 1), np.array(colour))
    return image


def draw_voice(cues: np.ndarray, person: Person, n: int, rng: np.random.Generator) -> np.ndarray:
    """Syllables said by one person: cues (8,) in the columns of `VOICES` -> n samples (n,) float32, full scale 1.

    Source and filter (Fant 1960): pulses of Rosenberg's shape (1971), each period a little off in length and height
    (roughness), plus breath, through three resonances a vowel. Loudness is set for the whole clip, so it does not
    depend on vowel or pitch.
    """
    pitch, accent, slope, loudness, rate, rough, breath, bright = cues
    rough, breath, rate = max(rough, 0), max(breath, 0), max(rate, 1.5)
    seconds = n / RATE
    t = np.arange(n) / RATE
    count = max(1, round(rate * (seconds - .1)))
    starts = .05 + (np.arange(count) + rng.uniform(-.12, .12, count)) * (seconds - .1) / count
    accents = rng.permuted(np.where(np.arange(count) % 2, 1.0, -1.0)) * rng.uniform(.7, 1.3, count)
    centres = starts + .5 * (seconds - .1) / count
    wander = np.interp(t, np.arange(0, seconds + .02, .01),
                       rng.standard_normal(len(np.arange(0, seconds + .02, .01))))
    semitones = (pitch + accent * np.interp(t, centres, accents) + slope * (t / seconds - .5) + .35 * rough * wander)
    f0 = np.clip(person.f0 * 2 ** (semitones / 12), 70, 480)

    cycle = np.cumsum(f0) / RATE
    index = cycle.astype(int)
    phase = cycle - index
    opened = .62                                             # share of a period in which the glottis is open
    rise = np.clip(phase / (opened * .7), 0, 1)
    fall = np.clip((phase - opened * .7) / (opened * .3), 0, 1)
    glottis = .5 * (1 - np.cos(np.pi * rise)) * np.cos(.5 * np.pi * fall)
    height = 1 + .35 * rough * rng.standard_normal(index[-1] + 1) - .3 * rough * (np.arange(index[-1] + 1) % 2)
    source = np.diff(glottis * height[index], prepend=0) * 4
    source += breath * .25 * rng.standard_normal(n) * (.3 + glottis)
    tilt = np.clip(.75 - .2 * bright, 0, .97)                # one pole: a soft voice has weaker high harmonics
    source = lfilter([1 - tilt], [1, -tilt], source)

    sound = np.zeros(n)
    for start in starts:
        length = .82 * (seconds - .1) / count
        i, j = int(max(start, 0) * RATE), min(n, int((start + length) * RATE))
        piece = source[i:j]
        vowel = VOWELS[rng.integers(len(VOWELS))]
        for formant, band in zip(vowel, (90, 110, 170), strict=True):
            r = np.exp(-np.pi * band / RATE)
            a = [1, -2 * r * np.cos(2 * np.pi * min(formant * person.tract, 7000) / RATE), r * r]
            piece = lfilter([sum(a)], a, piece)
        window = np.sin(np.pi * np.linspace(0, 1, len(piece))) ** .6
        sound[i:j] += piece * window / (np.sqrt((piece**2).mean()) + 1e-9) * rng.uniform(.8, 1.2)
    level = 10 ** ((-26 + loudness + person.gain) / 20)
    sound *= level / np.sqrt((sound**2).mean())
    sound += 10 ** (rng.uniform(-58, -48) / 20) * lfilter([1], [1, -.7], rng.standard_normal(n))   # the room
    return np.clip(sound, -1, 1).astype(np.float32)


def draw_cues(label: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What the face (9,) and the voice (8,) of one clip say about its label. The same number of draws a label."""
    unclear, mixture, intensity = rng.uniform(), rng.uniform(*MIXTURE), rng.uniform(*INTENSITY)
    face_noise, voice_noise = rng.standard_normal(len(FACE_CUES)), rng.standard_normal(len(VOICE_SCALE))

    def mix(table: dict[str, tuple], twin: dict[str, str], m: float) -> np.ndarray:
        return (1 - m) * np.array(table[label]) + m * np.array(table[twin[label]])

    face = mix(FACES, FACE_TWIN, mixture if unclear < UNCLEAR else 0)
    voice = mix(VOICES, VOICE_TWIN, mixture if unclear > 1 - UNCLEAR else 0)
    return intensity * face + FACE_SPREAD * face_noise, voice + VOICE_SPREAD * np.array(VOICE_SCALE) * voice_noise


def draw_clip(label: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One clip: frames (T, 96, 128, 3) uint8 at 25 a second and its sound (S,) float32 at 16 kHz, S = 640 T."""
    if label not in CLASSES:
        raise DataError(f"label is {label!r}, expected one of {', '.join(CLASSES)}")
    n = int(rng.integers(round(SECONDS[0] * FPS), round(SECONDS[1] * FPS) + 1))
    person, scene = Person.draw(rng), Scene.draw(rng)
    onset, rise, blink = rng.uniform(.0, .15), rng.uniform(.15, .35), rng.uniform(.1, 1)
    grain, syllables = (np.random.default_rng(s) for s in rng.integers(2**63, size=2))
    face, voice = draw_cues(label, rng)

    t = np.arange(n) / (n - 1)
    s = np.clip((t - onset) / rise, 0, 1)
    cues = np.outer(s * s * (3 - 2 * s), face)               # from neutral, smoothly, and then it stays
    cues[:, 3] -= 1.6 * np.exp(-(((t - blink) * n / 1.6) ** 2))
    sound = draw_voice(voice, person, n * RATE // FPS, syllables)
    pixels = draw_face(cues, person, scene)
    pixels += scene.noise * grain.standard_normal(pixels.shape[:3], np.float32)[..., None]
    return np.clip(pixels + .5, 0, 255).astype(np.uint8), sound


def write(root: str | os.PathLike, clips_per_class: Sequence[int] = (70, 20, 4), seed: int = 0,
          workers: int | None = None, progress: Callable[[], object] | None = None) -> Path:
    """Write a data set in AFEW's layout to `root`, which must not exist, and return its path.

        Train_AFEW/Angry/000000042.avi     Train_Audio/Angry/000000042.arff     (70 of each class)
        Val_AFEW/...                       Val_Audio/...                        (20)
        Test_AFEW/000000007.avi            Test_Audio/000000007.arff            (4, in one folder and without labels)

    clips_per_class: the three counts. Clips are MPEG-2 video with MP3 sound, and the ARFF vectors are
    `compact.features` of that sound as it decodes. The pictures, sounds and ids follow from the seed, in any order of
    work. `progress` is called after each clip. The folder appears under its name when all of it is written.
    DataError: `root` exists, counts below 1, a negative seed, ffmpeg failed. OSError: it cannot be written.
    """
    root = Path(root)
    if len(clips_per_class) != 3 or any(int(n) != n or n < 1 for n in clips_per_class):
        raise DataError(f"clips_per_class is {clips_per_class!r}, expected three whole numbers from 1: train, val, test")
    if seed < 0:
        raise DataError(f"seed is {seed!r}, expected a whole number from 0")
    if os.path.lexists(root):
        raise DataError(f"{str(root)!r} exists already: name a folder that does not")
    jobs = [(split, label, [seed, s, k, i]) for s, (split, n) in enumerate(zip(SPLITS, clips_per_class, strict=True))
            for k, label in enumerate(CLASSES) for i in range(n)]
    numbers = np.random.default_rng(seed).permutation(len(jobs))             # so that an id tells nothing
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name[:80]}.", dir=root.absolute().parent))
    try:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            done = [pool.submit(_write_clip, folder, *job, f"{number:09}")
                    for job, number in zip(jobs, numbers, strict=True)]
            try:
                for job in done:
                    job.result()
                    if progress:
                        progress()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        folder.chmod(0o755)
        folder.rename(root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return root


def _write_clip(root: Path, split: str, label: str, seed: list[int], name: str) -> None:
    """One .avi and its .arff."""
    place = () if split == "Test" else (label,)
    clip, arff = (root.joinpath(f"{split}_{kind}", *place) for kind in ("AFEW", "Audio"))
    for folder in (clip, arff):
        folder.mkdir(parents=True, exist_ok=True)
    frames, sound = draw_clip(label, np.random.default_rng(seed))
    encode(clip / f"{name}.avi", frames, sound)
    vector = compact.features(read_sound(clip / f"{name}.avi"))
    write_arff(arff / f"{name}.arff", compact.EXTRACTOR, compact.FEATURE_NAMES,
               [(name, label if place else None, vector)])


def encode(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    """frames (T, H, W, 3) uint8 at 25 a second, sound (S,) float32 at 16 kHz -> .avi as in AFEW: MPEG-2 and MP3."""
    height, width = frames.shape[1:3]
    exact = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]
    with tempfile.NamedTemporaryFile(suffix=".s16") as samples:
        samples.write(np.rint(sound * 32767).astype("<i2").tobytes())
        samples.flush()
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
                   "-s", f"{width}x{height}", "-r", str(FPS), "-i", "pipe:0", "-f", "s16le", "-ar", str(RATE), "-ac", "1",
                   "-i", samples.name, "-c:v", "mpeg2video", "-q:v", "2", "-c:a", "libmp3lame", "-b:a", "64k", *exact,
                   "file:" + os.path.abspath(path)]
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DataError(f"{str(path)!r}: ffmpeg could not write it ({reason[-1]})")
