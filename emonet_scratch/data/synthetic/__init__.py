"""A data set to start with: cartoon faces that change expression, with a voice, in the layout of AFEW.

Each clip has one label and two messengers. The face moves from neutral to its expression; a voice says a few
syllables whose pitch, loudness, rate and roughness follow the emotion. In a share `UNCLEAR` of the clips the face
is a mixture of two expressions, in another share the voice is one of two emotions, and never both. The emotions
that a face mixes (`FACE_TWIN`) are others than those that a voice mixes (`VOICE_TWIN`), so a model that sees and
hears can tell what neither sense alone can.

Everything but these cues (person, place, light, noise, length, file name) is drawn before the label is looked at.
"""

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from ...emotions import CLASSES
from ...errors import DataError
from ...files import owned_file
from ..extract import made_by
from ..opensmile import write_arff
from ..sound import compact
from ..video import read_sound
from .face import FACE_CUES, FACES, draw_face
from .person import Person, Scene
from .voice import RATE, VOICE_SCALE, VOICES, draw_voice

# How hard it is. An unclear face or voice is (1 - m) of the label and m of its twin, m uniform in MIXTURE, so
# around m = 1/2 nobody can tell which of the two was meant.
UNCLEAR = 0.38              # share of clips with an unclear face, and as many with an unclear voice
MIXTURE = 0.30, 0.70
INTENSITY = 0.80, 1.10      # of an expression, 1 is the table in face.py
FACE_SPREAD = 0.12          # standard deviation of each face cue around the table
VOICE_SPREAD = 0.22         # of each voice cue, in units of the differences between emotions
FACE_TWIN = {"Angry": "Disgust", "Disgust": "Angry", "Fear": "Surprise", "Surprise": "Fear",
             "Sad": "Neutral", "Neutral": "Sad", "Happy": "Neutral"}
VOICE_TWIN = {"Angry": "Happy", "Happy": "Angry", "Fear": "Sad", "Sad": "Fear",
              "Disgust": "Neutral", "Neutral": "Disgust", "Surprise": "Happy"}

FPS = 25
SECONDS = 1.0, 2.4
SPLITS = "Train", "Val", "Test"


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
          workers: int | None = None, progress: Callable[[], object] | None = None, exist_ok: bool = False) -> Path:
    """Write a data set in AFEW's layout to `root` and return its path.

        Train_AFEW/Angry/000000042.avi     Train_Audio/Angry/000000042.arff     (70 of each class)
        Val_AFEW/...                       Val_Audio/...                        (20)
        Test_AFEW/000000007.avi            Test_Audio/000000007.arff            (4, in one folder and without labels)

    clips_per_class: the three counts. Clips are MPEG-2 video with MP3 sound, and the ARFF vectors are
    `compact.features` of that sound as it decodes. The pictures, sounds and ids follow from the seed, in any order of
    work. `progress` is called after each clip. The folder appears under its name when all of it is written.
    exist_ok: one that is there is left as it is, and one that another process is writing is waited for.
    DataError: `root` exists or another is writing it, counts below 1, a negative seed, ffmpeg failed. OSError: it cannot
    be written.
    """
    root = Path(root)
    if len(clips_per_class) != 3 or any(int(n) != n or n < 1 for n in clips_per_class):
        raise DataError(f"clips_per_class is {clips_per_class!r}, expected three whole numbers from 1: train, val, test")
    if seed < 0:
        raise DataError(f"seed is {seed!r}, expected a whole number from 0")
    with owned_file(root, wait=exist_ok) as alone:
        if not (exist_ok and root.exists()):
            _write(root, clips_per_class, seed, workers, progress, alone)
    return root


def _write(root: Path, clips_per_class: Sequence[int], seed: int, workers: int | None,
           progress: Callable[[], object] | None, alone: bool) -> None:
    """alone: nobody else is writing `root`, so what is half written was left by a process that was killed."""
    if os.path.lexists(root):
        raise DataError(f"{str(root)!r} exists already: name a folder that does not")
    jobs = [(split, label, [seed, s, k, i]) for s, (split, n) in enumerate(zip(SPLITS, clips_per_class, strict=True))
            for k, label in enumerate(CLASSES) for i in range(n)]
    numbers = np.random.default_rng(seed).permutation(len(jobs))             # so that an id tells nothing
    prefix = f".{root.name}.part-"
    for left in root.absolute().parent.glob(f"{glob.escape(prefix)}*") if alone else ():
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root.absolute().parent))
    try:
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for _ in pool.map(lambda job, number: _write_clip(folder, *job, f"{number:09}"), jobs, numbers):
                if progress:
                    progress()
        folder.chmod(0o755)
        folder.rename(root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_clip(root: Path, split: str, label: str, seed: list[int], name: str) -> None:
    """One .avi and its .arff."""
    place = () if split == "Test" else (label,)
    clip, arff = (root.joinpath(f"{split}_{kind}", *place) for kind in ("AFEW", "Audio"))
    for folder in (clip, arff):
        folder.mkdir(parents=True, exist_ok=True)
    frames, sound = draw_clip(label, np.random.default_rng(seed))
    encode(clip / f"{name}.avi", frames, sound)
    vector = compact.features(read_sound(clip / f"{name}.avi"))
    write_arff(arff / f"{name}.arff", made_by(compact.EXTRACTOR), compact.FEATURE_NAMES,
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
