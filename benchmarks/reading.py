"""Reading a folder of clips before a training (pictures, sound, 1582 audio features) beside openSMILE and plain ffmpeg.

    python benchmarks/reading.py [--clips 60] [--rounds 5] [--size 64]      (openSMILE: pip install opensmile, to compare)

Every round, in turn, on the same clips and with all cores: `prepare` with an empty cache, and again with the one it filled;
openSMILE for the sound alone, as it is used (ffmpeg writes a .wav of each clip, `process_files` reads them, with its
configuration IS10_paraling_compat, as many workers as cores); ffmpeg that decodes pictures and sound and throws them away.
Two folders: clips made by ffmpeg, 1.1 s of pictures and 3 s of sound, and real ones, of java_sed in EMONET_TEST_DATA, where
that is set. openSMILE is a peer to measure against and nothing else; where it is not installed, it is left out.
"""

import argparse
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from machine import machine

from emonet_scratch.data.prepare import prepare

CORES = os.cpu_count() or 1


def ffmpeg(*words: object) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, words)], check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def synthesize(folder: Path, count: int) -> None:
    """MPEG-2 at 360 x 288 and MP3 in .avi, as AFEW has them: a moving pattern; a voice whose pitch wanders, and pauses."""
    for k in range(count):
        pitch = f"{110 + 7 * k % 140}+40*sin(2*PI*0.7*t)"
        voice = "+".join(f"{0.2 / n:.3f}*sin(2*PI*{n}*({pitch})*t)" for n in range(1, 9))
        ffmpeg("-f", "lavfi", "-i", f"mandelbrot=s=360x288:r=25:start_scale={3 / (1 + k % 9)}", "-f", "lavfi", "-i",
               f"aevalsrc='({voice})*max(0,sin(2*PI*1.5*t))+0.01*random(0)':s=44100:d=3", "-map", "0:v", "-map", "1:a",
               "-t", 3, "-vf", "trim=duration=1.1", "-c:v", "mpeg2video", "-q:v", 4, "-c:a", "libmp3lame",
               folder / f"{k:04}.avi")


def ours(root: Path, cache: Path, size: int) -> None:
    prepare(root, ("train",), frame_size=size, cache=cache, log=lambda line: None)


def plain(clips: list[Path], size: int) -> None:
    """The same filters as ours, in as many processes as cores."""
    def one(clip: Path) -> None:
        ffmpeg("-i", clip, "-map", "0:V:0", "-vf", f"fps=25,scale={size}:{size}:flags=area,format=rgb24", "-f", "null", "-",
               "-map", "0:a:0", "-ac", 1, "-ar", 16000, "-f", "null", "-")
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one, clips))


def smile() -> Callable[[list[Path]], None] | None:
    """What openSMILE does with clips; None where it is not installed."""
    try:
        import opensmile
    except ImportError:
        return None
    config = Path(opensmile.__file__).parent / "core/config/is09-13/IS10_paraling_compat.conf"
    extractor = opensmile.Smile(feature_set=str(config), feature_level="func", num_workers=CORES)

    def run(clips: list[Path]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            sounds = [Path(folder, f"{clip.stem}.wav") for clip in clips]
            with ThreadPoolExecutor(CORES) as pool:
                list(pool.map(lambda pair: ffmpeg("-i", pair[0], "-vn", "-ac", 1, "-ar", 16000, pair[1]),
                              zip(clips, sounds, strict=True)))
            assert extractor.process_files([str(sound) for sound in sounds]).shape == (len(clips), 1582)
    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="in each folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="of the pictures, pixels")
    parser.add_argument("--quick", action="store_true", help="one round of a few clips: shows that the script works")
    options = parser.parse_args()
    if options.quick:
        options.clips, options.rounds = 4, 1
    machine()
    peer = smile()
    if peer is None:
        print("opensmile is not installed: no comparison with it")
    with tempfile.TemporaryDirectory() as work:
        folders = {"1.1 s of pictures, 3 s of sound": Path(work, "made"), "Java-SED": Path(work, "real")}
        for root in folders.values():
            (root / "Train" / "Happy").mkdir(parents=True)
        synthesize(folders["1.1 s of pictures, 3 s of sound"] / "Train" / "Happy", options.clips)
        real = sorted(Path(os.environ.get("EMONET_TEST_DATA", work), "java_sed").glob("*.mp4"))
        for clip in real[::max(1, len(real) // options.clips)][:options.clips]:
            (folders["Java-SED"] / "Train" / "Happy" / clip.name).symlink_to(clip)
        if not real:
            print("no real clips: EMONET_TEST_DATA names no folder with java_sed/*.mp4")
        for title, root in folders.items():
            if clips := sorted(root.glob("*/*/*")):
                measure(title, root, clips, peer, options)


def measure(title: str, root: Path, clips: list[Path], peer: Callable[[list[Path]], None] | None,
            options: argparse.Namespace) -> None:
    """One folder, interleaved; the table of milliseconds a clip."""
    cache = root / "cache"
    runs = {"ours, pictures + sound + features": lambda: ours(root, cache, options.size),
            "ours, a second time": lambda: ours(root, cache, options.size),
            "openSMILE, sound + features": (lambda: peer(clips)) if peer else None,
            "ffmpeg, pictures + sound": lambda: plain(clips, options.size)}
    took: dict[str, list[list[float]]] = {name: [] for name, run in runs.items() if run}
    for turn in range(options.rounds + 1):                          # the first one warms up, and does not count
        shutil.rmtree(cache, ignore_errors=True)
        for name in took:
            started = time.perf_counter(), processor()
            runs[name]()
            if turn or options.quick:
                seconds = time.perf_counter() - started[0], processor() - started[1]
                took[name].append([1000 * s / len(clips) for s in seconds])
    wall = {name: np.array(times)[:, 0] for name, times in took.items()}
    print(f"\n{title}: {len(clips)} clips, {options.rounds} rounds, {CORES} cores\n\n"
          "| | ms a clip, median (least - most) | of processor time | time over ours |\n| --- | --- | --- | --- |")
    for name, times in wall.items():
        ratio = np.median(times / next(iter(wall.values())))
        print(f"| {name} | {np.median(times):.1f} ({times.min():.1f} - {times.max():.1f}) | "
              f"{np.median(np.array(took[name])[:, 1]):.1f} | {ratio:.{3 if ratio < 0.1 else 2}f} |")


def processor() -> float:
    """Seconds of all cores so far, of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


if __name__ == "__main__":
    main()
