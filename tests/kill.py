"""Kill commands at random moments and go on with them: `python -m tests.kill --count 500`; exit 1 where the end is another.

A round is one run of a command in a folder of its own, killed (SIGKILL) after a random time, gone on with, killed again and
so on until it comes to its end; what it leaves is compared, byte for byte, with what a run leaves that nobody killed. Rounds
go on until so many kills have hit. Every process is forked from one that has imported everything, so that kills hit work
and not imports.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from emonet_scratch.cli import main as emonet
from tests.tiny import build

SMALL = "--data ../data --preset small --epochs 2 --device cpu --runs ."
#: How each command is begun, and how it goes on once `file` is there.
COMMANDS = {"train": (f"train {SMALL} --out run --save-every 2", "run/config.json", "train --resume run"),
            "compare": (f"compare {SMALL} --out run", "run/config.json", "compare --run run"),
            "features": ("features ../data --out vectors.csv --extractor emonet-1 --workers 1", "", "")}
NOT_COMPARED = {"run/config.json", "run/results.txt"}                         # the command line; the seconds, as text


def call(folder: Path, command: str) -> None:
    """What a process does: the command in the folder, its words at the end of the file `said` beside it."""
    os.chdir(folder)
    with open(f"{folder}.said", "ab") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.exit(emonet(command.split()))


def start(folder: Path, name: str) -> multiprocessing.Process:
    """The next process of a round."""
    begin, file, go_on = COMMANDS[name]
    command = go_on if file and (folder / file).exists() else begin
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["emonet_scratch.cli", "tests.tiny", "safetensors.numpy", "matplotlib.figure",
                                    "matplotlib.backends.backend_agg"])
    process = context.Process(target=call, args=(folder, command))
    process.start()
    return process


def content(folder: Path) -> dict[str, bytes]:
    """What a round has left, but for seconds, by file name; files half written are among them, locks are not."""
    found = {}
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if file.is_file() and name not in NOT_COMPARED and not name.endswith(".lock"):
            raw = file.read_bytes()
            found[name] = re.sub(rb'"seconds": [\d.e-]+', b"", raw) if file.suffix in (".json", ".jsonl") else raw
    return found


def survives(root: Path, name: str, count: int, seed: int) -> tuple[int, int, list[str]]:
    """(kills, rounds, what was other than without them) of a command on the data set root/data."""
    rng, kills, rounds, wrong = random.Random(seed), 0, 0, []
    for k in range(2):                                                        # twice: the first one starts the server
        reference = root / f"{name}-{k}"
        reference.mkdir()
        started = time.monotonic()
        process = start(reference, name)
        process.join()
        took = time.monotonic() - started
        assert process.exitcode == 0, Path(f"{reference}.said").read_text()
    expected = content(reference)
    while kills < count:
        rounds += 1
        folder = root / f"{name}-killed-{rounds}"
        folder.mkdir()
        for k in itertools.count():
            started = time.monotonic()
            process = start(folder, name)
            # Longer each time, so that a machine which has become slower than `took` comes to the end as well.
            process.join(rng.uniform(0, took * 1.1 ** k) if kills < count else None)
            process.kill()
            process.join()
            if process.exitcode != -9:
                break
            kills += 1
        if k == 0:                                                            # nobody killed it: that is what it takes now
            took = time.monotonic() - started
        found = content(folder)
        if found != expected:
            wrong.append(f"round {rounds}, exit status {process.exitcode}: "
                         f"{sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))} "
                         f"{Path(f'{folder}.said').read_text().splitlines()[-1:]}")
    return kills, rounds, wrong


def main() -> int:
    """Print how many kills there were, and what they broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=list(COMMANDS), default="train")
    parser.add_argument("--count", type=int, default=500, help="kills that hit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= {"EMONET_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as root:
        build(Path(root, "data"))
        kills, rounds, wrong = survives(Path(root), options.command, options.count, options.seed)
    print(f"{options.command}: {kills} kills in {rounds} rounds, {len(wrong)} with another end", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
