"""How long an answer takes: one clip from the command line, and many clips in one call.

    python benchmarks/predict.py CLIP... [--clips 100]

The first clip is asked about by `emonet predict CLIP` five times, in a process each; then all of them, over and over, until
there are as many as --clips, in one process. Where the time goes is told for the second.
"""

import argparse
import cProfile
import itertools
import pstats
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import machine

from emonet_scratch.data.video.decoding import read_media
from emonet_scratch.training.answer import Answerer

#: Functions whose time, with what they call, adds up to an answer: file, name, what it does.
PARTS = (("decoding.py", "read_media", "ffmpeg: pictures and sound"),
         ("faces.py", "find", "finding the face"), ("faces.py", "crop", "cutting it out"),
         ("prepare.py", "_vectors", "descriptors of the sound"), ("trunk.py", "with_trunk_features", "the trunk"),
         ("inference.py", "evaluate", "the rest of the network"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP")
    parser.add_argument("--clips", dest="count", type=int, default=100, help="how many answers in one call")
    options = parser.parse_args()
    machine()
    seconds = [len(read_media(path, 16).frames) / 25 for path in options.clips]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "emonet_scratch", "predict", str(options.clips[0]), "--device", "cpu"],
                       check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    print(f"one clip of {seconds[0]:.1f} s, command and imports included: {middle:.2f} s ({low:.2f} - {high:.2f})")

    answerer, profile = Answerer(), cProfile.Profile()
    chosen = list(itertools.islice(itertools.cycle(range(len(seconds))), options.count))
    started = time.perf_counter()
    for _ in answerer.answers(options.clips[k] for k in chosen):
        pass
    took, length = time.perf_counter() - started, sum(seconds[k] for k in chosen)
    print(f"{len(chosen)} clips, {length:.0f} s of video, in {took:.1f} s: {length / took:.1f} times real time")
    print("One by one, under the profiler:")
    started = time.perf_counter()
    profile.runcall(lambda: [answerer(options.clips[k]) for k in chosen[:20]])
    took = time.perf_counter() - started
    stats = pstats.Stats(profile).stats
    for file, function, what in PARTS:
        for (path, _, name), (_, _, _, whole, _) in stats.items():
            if Path(path).name == file and name == function:
                print(f"  {what}: {whole / took:.0%}")


if __name__ == "__main__":
    main()
