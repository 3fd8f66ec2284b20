"""How many re-encodings of real clips are found, and how many other takes are taken for one: `python -m tests.near`.

Three re-encodings of each clip: a low bit rate in another container and codec, scaled; the last tenth cut off, louder; one
twentieth cut off at both ends, brighter, quieter. Other takes: all pairs of the utterances of RAVDESS, of which every actor
says the same two sentences, each twice in every emotion. `found` and `taken` are what doctor does (data/doctor.py).
"""

import argparse
import itertools
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from emonet_scratch.data.afew import Clip
from emonet_scratch.data.doctor import _near, _read
from emonet_scratch.data.near import SAME, similarities
from emonet_scratch.data.video import SOUND_SUFFIXES
from tests.media import ffmpeg


def clips_of(data, number):
    """So many clips: half videos with sound, a quarter each of two corpora of sounds."""
    found = [sorted(Path(data, name).rglob(pattern)) for name, pattern in (
        ("java_sed", "*.mp4"), ("ravdess", "*.flac"), ("emodb", "*.flac"))]
    shares = (number - number // 4 * 2, number // 4, number // 4)
    return [path for paths, n in zip(found, shares, strict=True) for path in paths[::max(1, len(paths) // n)][:n]]


def reencode(path, folder, kind, seconds):
    """A copy of a clip, as of the three kinds."""
    sound = path.suffix.lower() in SOUND_SUFFIXES
    cut = {"coarse": [], "trimmed": ["-t", 0.9 * seconds], "inner": ["-ss", 0.05 * seconds, "-t", 0.9 * seconds]}[kind]
    heard = {"coarse": ["-c:a", "libmp3lame", "-b:a", "48k"], "trimmed": ["-af", "volume=6dB", "-c:a", "aac", "-b:a", "96k"],
             "inner": ["-af", "volume=-9dB", "-c:a", "libopus", "-b:a", "24k"]}[kind]
    seen = {"coarse": ["-vf", "scale=180:-2", "-c:v", "mpeg4", "-q:v", "6"],
            "trimmed": ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "30"],
            "inner": ["-vf", "eq=brightness=0.1:contrast=1.2", "-c:v", "libx264", "-preset", "ultrafast"]}[kind]
    suffix = {"coarse": ".mp3", "trimmed": ".m4a", "inner": ".ogg"}[kind] if sound else ".mkv"
    target = folder / f"{path.stem}-{kind}{suffix}"
    ffmpeg(*cut, "-i", path, *([] if sound else seen), *heard, target)
    return target


def read_all(paths, split):
    """What doctor reads of them, as if they were of this split."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_read, [Clip(split, path.stem, path, None) for path in paths]))


def found(readings, folder):
    """(share of the re-encodings that are named with their clip, lines about pairs that are none)."""
    jobs = [(r.clip.path, folder, kind, r.seconds) for r in readings for kind in ("coarse", "trimmed", "inner")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        copies = list(pool.map(lambda job: reencode(*job), jobs))
    lines = _near(Path(), [*readings, *read_all(copies, "val")])
    named = {tuple(Path(part.strip("'")).stem for part in line.split(":")[0].split(" = ")) for line in lines}
    wanted = {(job[0].stem, copy.stem) for job, copy in zip(jobs, copies, strict=True)}
    return len(named & wanted) / len(wanted), sorted(named - wanted), sorted(wanted - named)


def taken(readings):
    """(pairs, those of them that are taken for one recording)."""
    prints = [r.prints[0] for r in readings]
    flagged = [(i, j) for i, j, score in similarities(prints, prints) if i < j and score >= SAME]
    return len(prints) * (len(prints) - 1) // 2, flagged


def compared(readings, number):
    """Seconds for as many clips as that, half of them in each of two splits, beyond decoding."""
    many = list(itertools.islice(itertools.cycle(readings), number))
    many = [replace(r, clip=replace(r.clip, split=("train", "val")[i % 2]), key=str(i)) for i, r in enumerate(many)]
    started = time.perf_counter()
    _near(Path(), many)
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("EMONET_TEST_DATA"), help="folder of java_sed, ravdess, emodb")
    parser.add_argument("--clips", type=int, default=60)
    options = parser.parse_args()
    readings = read_all(clips_of(options.data, options.clips), "train")
    with tempfile.TemporaryDirectory() as folder:
        share, wrong, lost = found(readings, Path(folder))
    print(f"{3 * len(readings)} re-encodings of {len(readings)} clips: {100 * share:.1f} % found"
          + f" (not: {', '.join(copy for _, copy in lost) or 'none'}); {len(wrong)} other pairs named")
    takes = read_all(sorted(Path(options.data, "ravdess").rglob("*.flac")), "train")
    pairs, flagged = taken(takes)
    print(f"{pairs:,} pairs of {len(takes)} takes: {len(flagged)} flagged ({100 * len(flagged) / pairs:.4f} %)")
    print(f"1,000 clips, beyond decoding: {compared([*readings, *takes], 1000):.1f} s")


if __name__ == "__main__":
    main()
