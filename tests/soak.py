"""Many clips through `doctor`, `train` and `predict`: what it takes, and that nothing is lost when they are killed.

    python -m tests.soak FOLDER_OF_CLIPS [--count 50000] [--kills 10] [--out soak.json] [--work FOLDER]

The clips are links, each of a name of its own, to up to 60 real files, in AFEW's layout; so vectors are computed once for
each content, and `doctor` reads every link. Each command runs once to its end and once more, stopped by SIGKILL at `kills`
random moments and begun again (train resumes), with at most 256 open files; both have to give the same. Printed and written:
seconds, clips a second, the largest memory and number of open files of the command itself (ffmpeg apart). Linux only.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from emonet_scratch.emotions import CLASSES

FILES = 256                 # open at once
WITHIN = 120                # seconds, in which a command is killed: doctor keeps nothing, and would never come to its end
PREDICTED = 500             # clips in one call of predict: the system limits the length of a command


def lay_out(sources: list[Path], root: Path, count: int) -> list[Path]:
    """`count` links in folders of splits and classes, four of five of them for training."""
    clips = [root / ("Val_AFEW" if k % 5 == 0 else "Train_AFEW") / CLASSES[k // 5 % 7]
             / f"{k:09}{sources[k % len(sources)].suffix}" for k in range(count)]
    for k, clip in enumerate(clips):
        clip.parent.mkdir(parents=True, exist_ok=True)
        clip.symlink_to(sources[k % len(sources)].resolve())
    return clips


def run(arguments: list[str], after: float | None = None) -> dict[str, Any]:
    """One call of emonet, killed `after` so many seconds: its exit, output, seconds, largest memory and open files."""
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    start, most, files = time.monotonic(), 0, 0
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([sys.executable, "-m", "emonet_scratch", *arguments], stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=subprocess.DEVNULL, preexec_fn=limit)
        while process.poll() is None:
            if after is not None and time.monotonic() - start > after:
                process.kill()
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = max([most, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
                files = max(files, len(os.listdir(f"/proc/{process.pid}/fd")))
            except OSError:
                pass
            time.sleep(0.02)
        out.seek(0)
        return {"exit": process.returncode, "output": out.read().decode(), "seconds": time.monotonic() - start,
                "memory_MB": most // 1024, "files": files}


def killed(arguments: list[str], again: list[str], started: Path | None, whole: dict[str, Any], kills: int,
           rng: random.Random) -> dict[str, Any]:
    """The command that is killed at random moments of what it takes as a `whole` and begun again until it ends."""
    stopped, seconds = 0, whole["seconds"]
    while True:
        call = again if started and started.exists() else arguments
        result = run(call, rng.uniform(0, min(seconds, WITHIN)) if stopped < kills else None)
        if result["exit"] == -9 and stopped < kills:
            stopped += 1
        elif stopped >= kills or result["exit"] != whole["exit"]:
            return result | {"killed": stopped}
        else:
            seconds = min(seconds, result["seconds"])                         # a second time it is quicker: from the cache


def soak(sources: list[Path], work: Path, count: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """The figures by command; ValueError where a killed command gives anything else than the undisturbed one."""
    rng, data, report = random.Random(seed), work / "data", {"clips": count, "contents": len(sources)}
    clips = lay_out(sources, data, count)
    train = ["train", "--data", str(data), "--modalities", "audio", "--epochs", "1", "--device", "cpu", "--out"]
    one, two = work / "whole" / "run", work / "killed" / "run"                # each with a cache of its own, beside it
    predict = ["predict", *map(str, clips[:PREDICTED]), "--csv", "--device", "cpu", "--checkpoint"]
    for name, first, second, again, started, number in (
            ("doctor", ["doctor", str(data)], ["doctor", str(data)], [], None, count),
            ("train", [*train, str(one)], [*train, str(two)], ["train", "--resume", str(two)], two / "config.json", count),
            ("predict", [*predict, str(one)], [*predict, str(two)], [], None, min(count, PREDICTED))):
        whole = run(first)
        report[name] = {key: whole[key] for key in ("exit", "seconds", "memory_MB", "files")}
        report[name]["clips_a_second"] = number / whole["seconds"]
        if kills:
            broken = killed(second, again, started, whole, kills, rng)
            report[name] |= {"killed": broken["killed"], "memory_MB": max(whole["memory_MB"], broken["memory_MB"])}
            same = broken["exit"] == whole["exit"] and (
                broken["output"] == whole["output"] if name != "train" else
                (one / "audio" / "best.safetensors").read_bytes() == (two / "audio" / "best.safetensors").read_bytes())
            if not same:
                raise ValueError(f"{name}: killed, it gives something else: {broken['exit']}\n{broken['output'][-2000:]}")
        if whole["exit"] not in ((0, 1) if name == "doctor" else (0,)) or not whole["output"]:
            raise ValueError(f"{name}: exit {whole['exit']}\n{whole['output'][-2000:]}")
        print(name, report[name], flush=True)
    return report


def main() -> None:
    """Print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    sources = sorted(path for path in options.clips.iterdir() if path.is_file())[:60]
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        text = json.dumps(soak(sources, Path(work), options.count, options.kills), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
