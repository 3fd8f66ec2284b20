"""Side-by-side timing, shared by the scripts beside it: every contestant in a process of its own, all taking turns.

PyTorch's OpenMP can capture another library's threads in one process, so no two contestants ever share one. A worker builds
its contestant, hands back an answer (logits, gradients) that must agree with that of the first contestant, proves that
it has the threads it was given, and warms up. Then they take turns, A, B, C, A, B, C, ..., so that whatever slows the
machine down slows all of them. A turn is one untimed call, and as many timed ones as fill --turn seconds; or a single timed
one, where a call takes longer.

Ratios are seconds of the peer over seconds of the first contestant ("ours"): above 1, ours is faster. The ratio is that of
the medians; its quartiles are those of the ratios within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

CLEARED = ("EMONET_KERNELS", "EMONET_EXACT", "OMP_WAIT_POLICY", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT")
# No mmap for large blocks and nothing given back: without it, glibc maps and unmaps every activation, page faults and all.
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}
PATIENCE = 1800                     # seconds that a worker may take to build, compile and warm up


class Contestant(NamedTuple):
    """One way to do the work.

    build(case) runs in the worker, imports what it needs there, and returns (step, answer): step() is what is timed,
    answer() a dictionary of arrays (or of dictionaries of arrays) to compare, called once, before the first step.
    kind: "ours"; "eager", "compile", "float32": peers of the same precision; "exact", "definitions": other ways of ours;
    "bf16", "other": peers that do less or other work.
    """

    name: str
    build: Callable[[Any], tuple[Callable[[], Any], Callable[[], dict]]]
    kind: str
    environment: dict[str, str] | None = None


class Measured(NamedTuple):
    """A contestant with the seconds a call of each round, its answer, and the processors that it kept busy."""

    contestant: Contestant
    seconds: np.ndarray
    answer: dict
    busy: float


class Work(NamedTuple):
    """What one call does, from the shapes: floating-point operations, and bytes that have to move at the least."""

    flops: float = 0.0
    bytes: float = 0.0


class Peak(NamedTuple):
    """What the machine can do: a large float32 matrix product and a large copy (read and write), a second."""

    flops: float
    bytes: float


def arguments(doc: str, *extra: tuple[str, dict], threads: bool = True) -> argparse.Namespace:
    """The command line that all scripts share, and `extra` pairs of an option and its settings."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if threads:
        parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, os.cpu_count() or 1)}),
                            help="thread counts to measure, one after the other")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (15; with --quick 3)")
    parser.add_argument("--turn", type=float, help="seconds a turn should last (0.3; with --quick 0.02)")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between turns: spinning threads fall asleep")
    parser.add_argument("--skip", nargs="+", default=[], metavar="WORD", help="leave out contestants with WORD in the name")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works, measures nothing")
    for option, settings in extra:
        parser.add_argument(option, **settings)
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.turn = options.turn or (0.02 if options.quick else 0.3)
    return options


# ---- in the worker ----

def _serve(pipe: Any, build: Callable, case: Any, threads: int | None, turn: float) -> None:
    """The worker: build, answer, warm up, then one timed turn for every message."""
    try:
        step, answer = build(case)
        answered = answer()
        step()
        _assert_threads(threads)
        started = time.perf_counter()
        step()
        count = max(1, round(turn / (time.perf_counter() - started)))
        pipe.send(("ready", answered, _details()))
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]
        if isinstance(error, ModuleNotFoundError):
            reason = f"{error.name} is not installed"
        pipe.send(("failed", reason, ""))
        raise SystemExit(1) from None
    with contextlib.suppress(EOFError):
        while pipe.recv():
            if count > 1:                                             # a long call brings its data into the caches itself
                step()
            busy, started = _processor_time(), time.perf_counter()
            for _ in range(count):
                step()
            seconds = time.perf_counter() - started
            pipe.send((seconds / count, (_processor_time() - busy) / seconds))


def _processor_time() -> float:
    """Seconds of all threads of this process and of the processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _assert_threads(threads: int | None) -> None:
    """Every library of this process that computes in threads must have the number asked for."""
    if threads is None:
        return
    have = {}
    if "torch" in sys.modules:
        have["PyTorch"] = sys.modules["torch"].get_num_threads()
    if "emonet_scratch.kernels" in sys.modules and (library := sys.modules["emonet_scratch.kernels"].library()):
        have["the CPU kernels"] = library.threads
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info
        have |= {pool["prefix"]: pool["num_threads"] for pool in threadpool_info()}
    for name, count in have.items():
        if count != threads:
            raise RuntimeError(f"{name} runs {count} thread(s), expected {threads}")


def _details() -> str:
    """What this worker computes with, in words."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        return f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    if "emonet_scratch.kernels" in sys.modules:
        return sys.modules["emonet_scratch.kernels"].why()
    return f"NumPy {np.__version__}"


# ---- in the parent ----

@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """os.environ with these changes, which a process that is started meanwhile inherits."""
    before = dict(os.environ)
    for name in CLEARED:
        os.environ.pop(name, None)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Worker:
    """A contestant in its process; `details` where it is ready, `failure` in one line where it is not."""

    def __init__(self, contestant: Contestant, case: Any, threads: int | None, turn: float) -> None:
        self.contestant, self.failure, self.answer, self.details = contestant, None, {}, ""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "EMONET_THREADS") if threads else ()
        with _environment(dict.fromkeys(names, str(threads)) | (contestant.environment or {})):
            self.process = context.Process(target=_serve, args=(theirs, contestant.build, case, threads, turn), daemon=False)
            self.process.start()
        theirs.close()
        try:
            state, *rest = self.pipe.recv() if self.pipe.poll(PATIENCE) else ("failed", f"not ready in {PATIENCE} s", "")
        except EOFError:
            state, *rest = "failed", "its process ended", ""
        if state == "ready":
            self.answer, self.details = rest
        else:
            self.failure = rest[0]
            self.close()

    def turn(self) -> tuple[float, float]:
        """(seconds a call, processors kept busy)"""
        self.pipe.send(True)
        return self.pipe.recv()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(False)
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def measure(contestants: Sequence[Contestant], case: Any, options: argparse.Namespace, threads: int | None,
            tolerance: dict[str, float] | None = None) -> list[Measured]:
    """Run all contestants on `case` in turns. A contestant that cannot run is named, with the reason, and left out.

    tolerance: for each name in the answers, how far (see `difference`) a float32 contestant may be from the first one;
    SystemExit where one is further, before anything is timed. threads: None where threads are not ours to choose.
    """
    workers: list[_Worker] = []
    try:
        for contestant in contestants:
            if any(word in contestant.name for word in options.skip):
                continue
            worker = _Worker(contestant, case, threads, options.turn)
            if worker.failure and worker.failure.endswith("is not installed"):
                _say_once(f"{worker.failure}: those who need it are left out")
            elif worker.failure:
                print(f"{contestant.name}: left out ({worker.failure})", flush=True)
            else:
                workers.append(worker)
        if not workers or workers[0].contestant != contestants[0]:
            raise SystemExit(f"{contestants[0].name} cannot be left out: all others are compared with it")
        for worker in workers[1:]:
            for name, limit in (tolerance or {}).items():
                off = difference(worker.answer[name], workers[0].answer[name])
                if not off <= limit and worker.contestant.kind not in ("bf16", "other"):
                    raise SystemExit(f"{worker.contestant.name}: {name} differ by {off:.1e} from those of "
                                     f"{workers[0].contestant.name}, expected at most {limit:.0e}: not the same work")
        turns: list[list[tuple[float, float]]] = [[] for _ in workers]
        for _ in range(options.rounds):
            for worker, row in zip(workers, turns, strict=True):
                time.sleep(options.pause)
                row.append(worker.turn())
    finally:
        for worker in workers:
            worker.close()
    _say_once("; ".join(dict.fromkeys(worker.details for worker in workers)))
    found = [Measured(worker.contestant, np.array([t for t, _ in row]), worker.answer, float(np.median([b for _, b in row])))
             for worker, row in zip(workers, turns, strict=True)]
    for m in found:
        if threads and m.busy > threads + 0.2:
            print(f"{m.contestant.name}: kept {m.busy:.1f} processors busy with {threads} thread(s)")
    return found


def difference(a: Any, b: Any) -> float:
    """|a - b| / |b| in the Euclidean norm; of dictionaries, the largest of their entries."""
    if isinstance(b, dict):
        assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
        return max(difference(a[name], b[name]) for name in b)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1))


def quartiles(values: np.ndarray, digits: str = ".2f", middle: float | None = None) -> str:
    """ "median (lower..upper)" """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median if middle is None else middle:{digits}} ({low:{digits}}..{high:{digits}})"


def ratio(peer: Measured, ours: Measured) -> str:
    """Of the medians, and the quartiles of the ratios of each round."""
    return quartiles(peer.seconds / ours.seconds, middle=np.median(peer.seconds) / np.median(ours.seconds))


def table(title: str, found: Sequence[Measured], work: Work | None = None, top: Peak | None = None,
          unit: tuple[str, float] | None = None) -> None:
    """Print all contestants as a Markdown table. unit: ("frames", how many a call makes) adds a column frames/s."""
    heads, ours = ["", "ms", "over ours"], found[0]
    shown = [name for name in ours.answer if all(name in m.answer for m in found)]
    heads += [f"{unit[0]}/s"] if unit else []
    heads += ["GFLOP/s", "of sgemm", "GB/s", "of copy"] if work and top else []
    heads += ["cores busy", *(f"{name} differ" for name in shown)]
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for m in found:
        t = float(np.median(m.seconds))
        cells = [m.contestant.name, quartiles(1e3 * m.seconds, ".3g" if t < 1 else ".0f")]
        cells += ["1" if m is ours else ratio(m, ours)]
        cells += [f"{unit[1] / t:.0f}"] if unit else []
        if work and top:
            cells += [f"{work.flops / t / 1e9:.1f}", f"{work.flops / t / top.flops:.2f}",
                      f"{work.bytes / t / 1e9:.1f}", f"{work.bytes / t / top.bytes:.2f}"]
        cells += [f"{m.busy:.1f}"]
        cells += ["-" if m is ours else f"{difference(m.answer[name], ours.answer[name]):.0e}" for name in shown]
        print(f"| {' | '.join(cells)} |", flush=True)


SUMMARY = """
| work | ours vs eager | vs torch.compile | vs strongest float32 | vs bf16 | NumPy definitions vs eager |
| --- | --- | --- | --- | --- | --- |"""


def summary_row(title: str, found: Sequence[Measured]) -> str:
    """The row of RESULTS.md: ours against eager, the better torch.compile, the best peer of the same precision, bf16."""
    def best(*kinds: str) -> Measured | None:
        return min((m for m in found if m.contestant.kind in kinds), key=lambda m: float(np.median(m.seconds)), default=None)

    ours, eager, strongest = best("ours"), best("eager"), best("eager", "compile", "float32")
    pairs = [(eager, ours), (best("compile"), ours), (strongest, ours), (best("bf16"), ours), (eager, best("definitions"))]
    cells = [ratio(a, b) if a and b else "-" for a, b in pairs]
    if strongest:
        cells[2] += f" {strongest.contestant.name}"
    return f"| {title} | {' | '.join(cells)} |"


def summarise(rows: Sequence[str]) -> None:
    """Print the rows of `summary_row` as one table."""
    print("\n### Summary", SUMMARY, *rows, sep="\n", flush=True)


# ---- the machine ----

_said: set[str] = set()


def _say_once(line: str) -> None:
    if line and line not in _said:
        _said.add(line)
        print(f"\n{line}", flush=True)


def machine() -> None:
    """Print processor, versions and the settings that decide speed."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    versions = [f"Python {platform.python_version()}"]
    for package in ("numpy", "scipy", "emonet_scratch", "torch", "scikit-learn", "imageio-ffmpeg"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    print(f"{name}, {os.cpu_count()} core(s), {platform.system()} {platform.release()}, "
          f"{' '.join(platform.libc_ver())}\n{', '.join(versions)}")
    own = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("OMP_", "MKL_", "MALLOC_", "EMONET_", "KMP_"))
           and k != "EMONET_TEST_DATA"]
    print(f"environment: {' '.join(own) or 'nothing set'}; workers set OMP_, OPENBLAS_, MKL_NUM_THREADS and EMONET_THREADS; "
          f"\"tuned malloc\": {' '.join(f'{k}={v}' for k, v in TUNED_MALLOC.items())}")
    with contextlib.suppress(OSError):
        load = os.getloadavg()[0]
        print(f"load before the start: {load:.2f}"
              + (" (the machine is busy: these figures mean little)" if load > 0.5 else ""))
    sys.stdout.flush()


def _sgemm(case: dict) -> tuple[Callable, Callable]:
    A = np.ones((case["size"], case["size"]), np.float32)
    out = np.empty_like(A)
    return lambda: np.matmul(A, A, out=out), dict


def _copy(case: dict) -> tuple[Callable, Callable]:
    sources = np.array_split(np.ones(case["bytes"] // 4, np.float32), case["threads"])
    targets = [np.ones_like(s) for s in sources]
    pool = ThreadPoolExecutor(case["threads"])                        # copyto runs without the interpreter's lock
    return lambda: list(pool.map(np.copyto, targets, sources)), dict


def peak(options: argparse.Namespace, threads: int) -> Peak:
    """Measure the machine with so many threads, print it, and return the best round of each."""
    case = {"size": 256 if options.quick else 3072, "bytes": 2**20 if options.quick else 2**28, "threads": threads}
    found = measure([Contestant("sgemm", _sgemm, "ours"), Contestant("copy", _copy, "other")],
                    case, argparse.Namespace(**vars(options) | {"skip": [], "rounds": min(options.rounds, 7)}), threads)
    product, copy = (float(m.seconds.min()) for m in found)
    top = Peak(2 * case["size"]**3 / product, 2 * case["bytes"] / copy)
    print(f"\n## {threads} thread(s)\n\nThe machine's own peak: sgemm of {case['size']} x {case['size']} "
          f"{top.flops / 1e9:.0f} GFLOP/s, copy of {case['bytes'] >> 20} MiB {top.bytes / 1e9:.1f} GB/s (read and write)",
          flush=True)
    return top
