"""Frames a second of our decoder against plain ffmpeg with the same filters, which throws the frames away.

    python benchmarks/decode.py [--sizes 64 256] [CLIP ...]

Both run the ffmpeg program of imageio-ffmpeg; ours also carries the frames through a pipe into an array. Without clips: a
synthetic one in the form of AFEW (MPEG-2, 512 x 384, 10 seconds), and all clips in the folder crema_d of EMONET_TEST_DATA,
where that is set.
"""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from machine import machine
from peers import Contestant, arguments, measure
from report import summarise, table


def ours(case: dict) -> tuple[Callable, Callable]:
    """The whole clip as one array."""
    from emonet_scratch.data.video import read_clip

    def step() -> np.ndarray:
        return read_clip(case["clip"], case["size"])
    return step, lambda: {"frames": np.array(len(step()))}


def plain(case: dict) -> tuple[Callable, Callable]:
    """ffmpeg -i clip -vf filters -f null -"""
    command = _command(case["clip"], case["size"])

    def step() -> None:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answer() -> dict:
        log = subprocess.run([*command[:-3], "-progress", "pipe:1", *command[-3:]], capture_output=True, text=True)
        return {"frames": np.array(int(log.stdout.rpartition("frame=")[2].split()[0]))}
    return step, answer


def imageio_ffmpeg(case: dict) -> tuple[Callable, Callable]:
    """imageio_ffmpeg.read_frames with the same filters."""
    import imageio_ffmpeg as peer

    logging.disable()                                                 # it warns, each time, that the filters change the size
    command = _command(case["clip"], case["size"])
    filters = command[command.index("-vf"):-3]

    def step() -> np.ndarray:
        frames = peer.read_frames(case["clip"], output_params=filters, bits_per_pixel=24, pix_fmt="rgb24")
        next(frames)
        raw = b"".join(frames)
        return np.frombuffer(raw, np.uint8).reshape(-1, case["size"], case["size"], 3)
    return step, lambda: {"frames": np.array(len(step()))}


def _command(clip: str, size: int) -> list[str]:
    """Plain ffmpeg, with the very filters that our decoder asks for."""
    from emonet_scratch.data.video import read_clip

    with mock.patch("subprocess.Popen", side_effect=subprocess.Popen) as started:
        read_clip(clip, size)
    asked = next(words for (words, *_), _ in started.call_args_list if "-vf" in words)
    at = asked.index("-vf")
    shown = ["-map", "0:V:0", *asked[at:at + 4], "-pix_fmt", "rgb24"]          # filters, and how frames are passed through
    return [asked[0], "-nostdin", "-v", "error", "-i", clip, *shown, "-f", "null", "-"]


CONTESTANTS = [Contestant("ours", ours, "ours"),
               Contestant("ffmpeg -f null -", plain, "eager"),
               Contestant("imageio_ffmpeg.read_frames", imageio_ffmpeg, "other")]


def synthesize(path: Path, seconds: float) -> None:
    """A cartoon face, four times as large as in the synthetic data set, with its voice."""
    from emonet_scratch.data import synthetic

    frames, sound = synthetic.draw_clip("Happy", np.random.default_rng(0))
    times = int(np.ceil(seconds * synthetic.FPS / len(frames)))
    frames, sound = np.concatenate([frames] * times), np.concatenate([sound] * times)
    synthetic.encode(path, frames.repeat(4, axis=1).repeat(4, axis=2), sound)


def main() -> None:
    options = arguments(__doc__, ("clips", dict(nargs="*")), ("--sizes", dict(type=int, nargs="+", default=[64, 256])),
                        threads=False)
    machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clips = [Path(clip) for clip in options.clips]
        if not clips:
            clips = [Path(folder) / "synthetic.avi"]
            synthesize(clips[0], 1 if options.quick else 10)
            real = sorted(Path(os.environ.get("EMONET_TEST_DATA", folder), "crema_d").glob("*.flv"))
            print(f"{len(real)} real clips" + ("" if real else ": EMONET_TEST_DATA names no folder with crema_d/*.flv"))
            clips += real[:1] if options.quick else real
        for size in options.sizes:
            for clip in clips:
                found = measure(CONTESTANTS, {"clip": str(clip), "size": size}, options, None, {"frames": 0})
                title = f"{clip.name}, {size} x {size}"
                table(title, found, unit=("frames", float(found[0].answer["frames"])))
                rows.append((title, found))
    summarise(rows, {"frames a second, ours over plain ffmpeg": (["eager"], ["ours"])})


if __name__ == "__main__":
    main()
