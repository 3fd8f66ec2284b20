"""Ranks: how long a step takes one rank, one with two threads, and two; what the exchange costs; and what more would do.

    python benchmarks/ranks.py                      # steps of training, and the messages alone, of 2 to 8 ranks
    python benchmarks/ranks.py --quick              # tiny: shows that the script works

1. A step of the optimizer, whole, in 8 shards: 1 rank of one thread, 1 rank of two, 2 ranks of one thread each, and two
   trainings of one thread side by side that know nothing of each other: what the machine gives to who communicates nothing.
   Every launch is one turn, and they take turns. Ranks are bound to cores, so that one of one thread has one.
   In one shard a batch is computed whole, which no number of ranks could share.
2. A simulation of n ranks, n = 2 to 8, on however many cores there are: instead of computing a shard each rank sleeps for as
   long as the shard took in 1, which needs no core; messages and sums are real. Beside it stands what docs/scale.md says
   that this takes, with the time of a shard from 1 and latency and bandwidth from sums of 2 ranks.
3. What the same formula says of up to 64 ranks on networks that are not here: 128 clips in 64 shards.

Speed-ups are those of medians over launches; in brackets quartiles of the ratios within each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from report import markdown, quartiles

from emonet_scratch.data.batches import Split, batches
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.shards import Alone
from emonet_scratch.training import Trainer
from emonet_scratch.training.ranks import Ranks

SHARDS = 8
CLIPS = 16                  # of a batch
FEATURES = 64               # of a frame, where the trunk is frozen
#: Work by name: changes to the preset, frames of a clip, steps of a launch.
WORK: dict[str, tuple[str, dict[str, Any], int]] = {
    "small, 32 x 32, 4 frames": ("small", {}, 30),
    "default, frozen trunk, 50 frames": ("default", {"freeze_trunk": True, "trunk": "random"}, 12),
    "default on faces, 48 x 48, 50 frames": ("default", {"frame_size": 48, "trunk": "faces"}, 1),
}
CONTESTANTS = {"1 rank of 1 thread": (1, 1), "the same, in one shard": (1, 1), "1 rank of 2 threads": (1, 2),
               "2 ranks of 1 thread": (2, 1), "two of 1 thread, apart": (2, 1)}
NETWORKS = {"10 Gb/s, 30 us": (1.25e9, 30e-6), "100 Gb/s, 2 us": (12.5e9, 2e-6)}


def config_of(work: str, shards: int) -> EmoNetConfig:
    preset, changes, _ = WORK[work]
    return EmoNetConfig.preset(preset).replace(**changes, batch_size=CLIPS, shards=shards, lda_components=6, augment=False,
                                               modalities=("audio", "video"), audio_shortcut=False)


def trainer_of(work: str, ranks: Alone, shards: int) -> tuple[Trainer, Any]:
    """A trainer that has started, and a batch."""
    config, rng = config_of(work, shards), np.random.default_rng(0)
    frames, size = config.frames, config.frame_size
    shape = (frames, FEATURES) if config.freeze_trunk else (frames, size, size, 3)
    clips = [rng.integers(0, 256, shape).astype(np.float32 if config.freeze_trunk else np.uint8) for _ in range(CLIPS)]
    split = Split([str(k) for k in range(CLIPS)], np.arange(CLIPS) % 7, clips, rng.standard_normal((CLIPS, 6)), None)
    trainer = Trainer(config, split, split, Path(), projection=Passing(), ranks=ranks, log=lambda line: None)
    return trainer, next(batches(trainer.train, CLIPS, config.frames, training=True))


class Passing:
    """Stands for a projection that is not what is measured."""

    scale, training = np.ones(6), None

    def transform(self, X: np.ndarray) -> np.ndarray:
        return X.astype(np.float32)


# ---- what a rank does ----

def step(ranks: Alone, work: str, steps: int, shards: int = SHARDS) -> dict[str, Any]:
    """Seconds of steps of the optimizer, and of the sums in them once all shards are there; bytes of a shard's row."""
    trainer, batch = trainer_of(work, ranks, shards)
    total, seen = ranks.total, []

    def timed(parts: Iterable[Any], S: int, P: int, like: Any) -> Any:
        rows = list(parts)
        ranks.wait()                                                          # who is late is not the message's fault
        started = time.perf_counter()
        found = total(iter(rows), S, P, like)
        seen.append((time.perf_counter() - started, P * rows[0].itemsize))
        return found
    took = []
    for k in range(2 * steps + 1):                                            # the first for memory; then once as it is,
        if k == steps + 1:                                                    # and once with the sum on the clock
            ranks.total = timed
        ranks.wait()
        started = time.perf_counter()
        trainer.step(batch)
        took.append(time.perf_counter() - started)
    rest = [] if shards == 1 else [s for s, _ in seen]
    return {"step": took[1:steps + 1], "sum": rest or [0.0], "bytes": seen[0][1] if rest else 0}


def simulate(ranks: Alone, work: str, steps: int, shard: float, size: int) -> dict[str, Any]:
    """The same where a shard is `shard` seconds of sleep and `size` bytes, without the step of the optimizer."""
    row, took = np.ones(size // 4, np.float32), []

    def parts() -> Iterator[np.ndarray]:
        for _ in ranks.owned(SHARDS):
            time.sleep(shard)
            yield row.copy()
    for _ in range(steps + 1):
        ranks.wait()
        started = time.perf_counter()
        ranks.total(parts(), SHARDS, len(row), row)
        took.append(time.perf_counter() - started)
    return {"step": took[1:]}


def messages(ranks: Alone, size: int) -> dict[str, Any]:
    """Seconds of the sum of one row of `size` bytes of each rank."""
    row, took = np.ones(size // 4, np.float32), []
    for _ in range(50):
        own = [row.copy()]
        ranks.wait()
        started = time.perf_counter()
        ranks.total(own, ranks.size, len(row), row)
        took.append(time.perf_counter() - started)
    return {"seconds": float(np.median(took[5:]))}


# ---- launches ----

def launch(n: int, threads: int, *words: Any, bind: bool = True) -> dict[str, Any]:
    """What rank 0 of n says."""
    environment = os.environ | dict.fromkeys(("EMONET_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    found = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise SystemExit("benchmarks/ranks.py wants mpiexec: pip install 'emonet_scratch[mpi]' mpich")
    core = ["-bind-to", f"core:{threads}"] if bind else []
    done = subprocess.run([found, *core, "-n", str(n), sys.executable, __file__, "--rank", *map(str, words)], text=True,
                          env=environment, capture_output=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def steps(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Table 1; of each work the seconds of a shard, of what is not shards, and bytes of a shard's row."""
    facts = {}
    for work, (_, _, count) in WORK.items():
        if not any(word in work for word in options.only):
            continue
        count = 2 if options.quick else count
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for _ in range(options.rounds):
            for name, (n, threads) in CONTESTANTS.items():
                what = {"apart": "apart", "shard": "whole"}.get(name.rpartition(" ")[2], "step")
                turns[name].append(launch(n, threads, what, work, count))
        seconds = {name: np.array([np.median(turn["step"]) for turn in every]) / (1 + name.endswith("apart"))
                   for name, every in turns.items()}
        sums = {name: float(np.median([s for turn in every for s in turn["sum"]])) for name, every in turns.items()}
        first, size = seconds["1 rank of 1 thread"], turns["1 rank of 1 thread"][0]["bytes"]

        def row(name: str, seconds: Any = seconds, sums: Any = sums, first: Any = first) -> list[str]:
            speed = quartiles(first / seconds[name], middle=np.median(first) / np.median(seconds[name]))
            return [name, quartiles(1e3 * seconds[name], ".1f"), speed, f"{1e3 * sums[name]:.2f}"]
        markdown(f"{work}: {CLIPS} clips in {SHARDS} shards, {size / 1e6:.2f} MB a shard",
                 ("", "ms a step", "speed-up", "of it for the sum, ms"), map(row, CONTESTANTS))
        facts[work] = {"shard": float(np.median(first)) / SHARDS, "row": size}
    return facts


def predicted(n: int, S: int, fact: dict[str, float], latency: float, bandwidth: float, shared: float = 1) -> float:
    """Seconds of a step of n ranks with S shards up to the sum, as in docs/scale.md: the most shards that a rank has, two
    collectives, and the bytes that a rank gets in them, where `shared` ranks share one core and one network."""
    every = Alone()
    every.size = n
    nodes = [len(every.nodes([0] * S, S, rank)) for rank in range(n)]
    most = max(len(every.owned(S, rank)) for rank in range(n))
    got = fact["row"] * ((sum(nodes) - min(nodes)) / n + (n - 1) / n)
    return most * fact["shard"] + shared * (latency * (n - 1) + got / bandwidth)


def projection(facts: dict[str, dict[str, float]]) -> None:
    """Table 3."""
    for work, fact in facts.items():
        cells = []
        for n in (1, 2, 4, 8, 16, 32, 64):
            took = [predicted(n, 64, fact, latency, bandwidth) for bandwidth, latency in NETWORKS.values()]
            cells.append([str(n), *(f"{1e3 * t:.1f}, {64 * fact['shard'] / t:.1f}" for t in took)])
        markdown(f"{work}, 128 clips in 64 shards, by the formula: ms a step, speed-up", ("ranks", *NETWORKS), cells)


def simulation(options: argparse.Namespace, facts: dict[str, dict[str, float]]) -> None:
    """Table 2."""
    tiny, large = ([launch(2, 1, "messages", size)["seconds"] for _ in range(options.rounds)] for size in (64, 2**23))
    latency = float(np.median(tiny))
    bandwidth = 2**23 / (float(np.median(large)) - latency)                   # half of it twice
    print(f"\nsums of 2 ranks of this machine: latency {1e6 * latency:.0f} us, {bandwidth / 1e9:.2f} GB/s")
    for work, fact in facts.items():
        cells, cores = [], os.cpu_count() or 1
        for n in range(2, 9):
            found = launch(n, 1, "simulate", work, 3 if options.quick else 9, fact["shard"], int(fact["row"]), bind=False)
            took, want = float(np.median(found["step"])), predicted(n, SHARDS, fact, latency, bandwidth, max(1.0, n / cores))
            cells.append([str(n), f"{1e3 * took:.1f}", f"{1e3 * want:.1f}", f"{took / want:.2f}",
                          f"{SHARDS * fact['shard'] / took:.2f}"])
        markdown(f"{work}: n ranks that sleep for a shard of {1e3 * fact['shard']:.1f} ms",
                 ("ranks", "ms up to the sum", "predicted", "ratio", "speed-up"), cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="launches of each contestant")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="the work with WORD in its name")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rank", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        ranks = Ranks()
        what, *words = options.rank
        found = {"step": lambda work, steps: step(ranks, work, int(steps)),
                 "apart": lambda work, steps: step(Alone(), work, int(steps)),
                 "whole": lambda work, steps: step(ranks, work, int(steps), 1),
                 "simulate": lambda work, steps, shard, size: simulate(ranks, work, int(steps), float(shard), int(size)),
                 "messages": lambda size: messages(ranks, int(size))}[what](*words)
        if ranks.rank == 0:
            print(json.dumps(found), flush=True)
        return 0
    options.rounds = 1 if options.quick else options.rounds
    machine()
    facts = steps(options)
    simulation(options, facts)
    projection(facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
