"""Timelines and pages: how fast, how large, how much memory an hour takes, and whether a moment is read as well as a clip.

    python benchmarks/timeline.py minute CLIP...               clips joined to a minute: timeline and page, five times
    python benchmarks/timeline.py hour CLIP...                 the same for an hour, once, with the peak of memory
    python benchmarks/timeline.py joined CLIP... --check DIR   clips of one actor in a row, one emotion after the other

DIR is the --out of `examples/train_people.py --check clips`: each actor is read by the network that has not seen them.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from machine import machine

from emonet_scratch.data.video import probe
from emonet_scratch.explain.timeline import Timeline
from emonet_scratch.training import load_model
from emonet_scratch.training.answer import Answerer
from emonet_scratch.training.metrics import bootstrap_interval


def join(clips: list[Path], out: Path, seconds: float | None = None) -> list[tuple[float, float]]:
    """Write the clips one after the other, as 640 x 360 at 25 frames a second; where each begins and ends."""
    inputs = [text for clip in clips for text in ("-i", str(clip))]
    parts = "".join(f"[{k}:v:0]scale=640:360:force_original_aspect_ratio=decrease,pad=640:360:-1:-1,setsar=1,fps=25[v{k}];"
                    f"[{k}:a:0]aresample=44100,aformat=channel_layouts=mono[a{k}];" for k in range(len(clips)))
    graph = parts + "".join(f"[v{k}][a{k}]" for k in range(len(clips))) + f"concat=n={len(clips)}:v=1:a=1[v][a]"
    length = [] if seconds is None else ["-t", str(seconds)]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *inputs, "-filter_complex", graph, "-map", "[v]",
                    "-map", "[a]", *length, "-c:v", "libx264", "-preset", "veryfast", "-c:a", "aac", str(out)], check=True)
    ends = np.cumsum([0.0] + [probe(clip).duration for clip in clips])
    return list(itertools.pairwise(ends))


def minute(clips: list[Path], folder: Path, seconds: float = 60, times: int = 5) -> None:
    """How long `emonet predict --timeline --page` takes, imports included, and how much memory."""
    every = [clips[k % len(clips)] for k in range(1 + int(60 // min(probe(clip).duration for clip in clips)))]
    join(every, folder / "minute.mp4", 60)
    clip = folder / "clip.mp4"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", str(int(seconds // 60) - 1), "-i",
                    str(folder / "minute.mp4"), "-c", "copy", str(clip)], check=True)
    call = [sys.executable, "-m", "emonet_scratch", "predict", str(clip), "--device", "cpu"]
    took = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run([*call, "--timeline", str(folder / "out.csv"), "--page", str(folder / "out.html")], check=True,
                       capture_output=True)
        took.append(time.perf_counter() - started)
    low, middle, high = np.quantile(took, [0.25, 0.5, 0.75])
    print(f"{seconds:.0f} s of video: {middle:.1f} s ({low:.1f} - {high:.1f}), {seconds / middle:.1f} times real time "
          f"({seconds / high:.1f} - {seconds / low:.1f}); page {(folder / 'out.html').stat().st_size / 1e6:.2f} MB, "
          f"{(folder / 'out.csv').read_text().count(chr(10)) - 1} rows")
    print(f"peak memory of the largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f} MB")


def joined(clips: list[Path], check: Path, folder: Path) -> None:
    """Of clips alone and in a row: how often the class is right, by actors whom the network has not seen."""
    found = json.loads((check / "check-clips.json").read_text())["clips"]
    known, by = {clip.stem: clip for clip in clips}, {}
    for id, label, group in zip(found["ids"], found["label"], found["group"], strict=True):
        if id in known:
            by.setdefault(group, {}).setdefault(label, []).append(known[id])
    alone, row, who = [], [], []
    for group, of in by.items():
        answerer = Answerer()
        answerer.models["fused"] = load_model(check / "check" / "clips" / str(group) / "fused")
        for k in range(min(map(len, of.values()))):
            labels = list(of)
            parts = join([of[label][k] for label in labels], folder / "row.mp4")
            rows = list(Timeline(answerer, folder / "row.mp4"))
            for label, clip, (first, last) in zip(labels, (of[label][k] for label in labels), parts, strict=True):
                near = min(rows, key=lambda r: (abs((r.start + r.end - first - last) / 2), -r.answer.probabilities.max()))
                alone.append(int(answerer(clip).probabilities.argmax()) == label)
                row.append(int(near.answer.probabilities.argmax()) == label)
                who.append(group)
        print(f"actor {group}: alone {np.mean(np.array(alone)[np.array(who) == group]):.3f}, in a row "
              f"{np.mean(np.array(row)[np.array(who) == group]):.3f}", flush=True)
    alone, row, who = np.array(alone), np.array(row), np.array(who)
    for name, right in (("alone", alone), ("in a row", row), ("in a row less alone", row.astype(float) - alone)):
        low, high = bootstrap_interval(right, who)
        print(f"{name}: {right.mean():.3f} (95 % over {len(by)} actors {low:.3f} to {high:.3f}), {len(right)} clips")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["minute", "hour", "joined"])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--check", type=Path, metavar="DIR")
    options = parser.parse_args()
    machine()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "joined":
            joined(options.clips, options.check, Path(folder))
        else:
            minute(options.clips, Path(folder), *((60, 5) if options.what == "minute" else (3600, 1)))


if __name__ == "__main__":
    main()
