"""Side-by-side timing, shared by the scripts beside it: every contestant in a process of its own, all taking turns.

PyTorch's OpenMP can capture another library's threads in one process, so no two contestants ever share one. A worker builds
its contestant, hands back an answer (logits, gradients) that must agree with that of the first contestant, proves that
it has the threads it was given, and warms up. Then they take turns, A, B, C, A, B, C, ..., so that whatever slows the
machine down slows all of them. A turn is one untimed call, and as many timed ones as fill --turn seconds; or a single timed
one, where a call takes longer.

With --before DIR, another checkout of the package takes turns, too: every contestant that runs the package, with its kernels
or with the definitions alone, is followed by one whose worker imports `emonet_scratch` from DIR. What a script names of
the package has to be in both.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CLEARED = ("EMONET_KERNELS", "EMONET_EXACT", "EMONET_PRECISION", "EMONET_TILES", "OMP_WAIT_POLICY", "KMP_AFFINITY",
           "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT")
# No mmap for large blocks and nothing given back: without it, glibc maps and unmaps every activation, page faults and all.
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)}
PATIENCE = 1800                     # seconds that a worker may take to build, compile and warm up


class Contestant(NamedTuple):
    """One way to do the work.

    build(case) runs in the worker, imports what it needs there, and returns (step, answer): step() is what is timed,
    answer() a dictionary of arrays (or of dictionaries of arrays) to compare, called once, before the first step; an empty
    one where nothing can be compared.
    kind: "ours"; "eager", "compile", "float32": peers of the same precision; "exact", "definitions": other ways of ours;
    "before", "definitions before": those of the checkout that --before names; "ours bf16"; "bf16", "other": peers that do
    less or other work. The answers of the last three are not held to ours.
    package: the folder to import emonet_scratch from; None: from where this process would.
    """

    name: str
    build: Callable[[Any], tuple[Callable[[], Any], Callable[[], dict]]]
    kind: str
    environment: dict[str, str] | None = None
    package: str | None = None


class Measured(NamedTuple):
    """A contestant with the seconds a call of each round, its answer, and the processors that it kept busy."""

    contestant: Contestant
    seconds: np.ndarray
    answer: dict
    busy: float

    @property
    def median(self) -> float:
        """Seconds a call."""
        return float(np.median(self.seconds))


def contestants(ours: Callable, theirs: Callable, exact: bool = True) -> list[Contestant]:
    """Ours, first, and PyTorch in the ways that every script compares.

    ours: a `build`; theirs: one that also takes `variant` and `half`, see torch_nets.py. exact: there are convolutions.
    """
    found = [Contestant("ours", ours, "ours"), Contestant("ours, bf16", ours, "ours bf16", {"EMONET_PRECISION": "bf16"}),
             Contestant("ours, bf16 in registers", ours, "other", {"EMONET_PRECISION": "bf16", "EMONET_TILES": "0"})]
    if exact:
        found.append(Contestant("ours, exact convolution", ours, "exact", {"EMONET_EXACT": "1"}))
    return [*found,
            Contestant("ours, NumPy definitions", ours, "definitions", {"EMONET_KERNELS": "off"}),
            Contestant("PyTorch eager", theirs, "eager"),
            Contestant("PyTorch eager, tuned malloc", theirs, "float32", TUNED_MALLOC),
            Contestant("torch.compile", partial(theirs, variant="compile"), "compile", TUNED_MALLOC),
            Contestant("PyTorch bf16", partial(theirs, half=True), "bf16", TUNED_MALLOC)]


def arguments(doc: str, *extra: tuple[str, dict], threads: bool = True, before: bool = True) -> argparse.Namespace:
    """The command line that all scripts share, and `extra` pairs of an option and its settings.

    threads, before: whether the script has --threads and --before.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    if threads:
        parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, os.cpu_count() or 1)}),
                            help="thread counts to measure, one after the other")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (15; with --quick 3)")
    parser.add_argument("--turn", type=float, help="seconds a turn should last (0.3; with --quick 0.02)")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between turns: spinning threads fall asleep")
    parser.add_argument("--skip", nargs="+", default=[], metavar="WORD", help="leave out contestants with WORD in the name")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works, measures nothing")
    if before:
        parser.add_argument("--before", type=_checkout, metavar="DIR",
                            help="another checkout of the package, built in place, to measure beside this one")
    for option, settings in extra:
        parser.add_argument(option, **settings)
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.turn = options.turn or (0.02 if options.quick else 0.3)
    options.before = options.before if before else None
    return options


def _checkout(folder: str) -> str:
    """The absolute path of a checkout of the package that is not the one in use."""
    path, spec = Path(folder).resolve(), importlib.util.find_spec("emonet_scratch")
    if not (path / "emonet_scratch/__init__.py").exists():
        raise argparse.ArgumentTypeError(f"{folder!r} has no emonet_scratch/__init__.py")
    if spec and spec.origin and Path(spec.origin).resolve().is_relative_to(path):
        raise argparse.ArgumentTypeError(f"{folder!r} is what emonet_scratch is imported from anyway")
    return str(path)


def _with_before(entries: Sequence[Contestant], before: str | None) -> list[Contestant]:
    """Each contestant of ours followed by the same from the checkout in `before`."""
    kinds, found = {"ours": "before", "definitions": "definitions before"} if before else {}, []
    for entry in entries:
        found.append(entry)
        if entry.kind in kinds:
            name = entry.name.replace("ours", "before", 1) if "ours" in entry.name else f"before: {entry.name}"
            found.append(entry._replace(name=name, kind=kinds[entry.kind], package=before))
    return found


# ---- in the worker ----

def _serve(pipe: Any, contestant: Contestant, case: Any, threads: int | None, turn: float) -> None:
    """The worker: build, answer, warm up, then one timed turn for every message."""
    try:
        if contestant.package:
            _assert_package(contestant.package)
        step, answer = contestant.build(case)
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


def _assert_package(folder: str) -> None:
    """An installed package may come before the folders of sys.path."""
    import emonet_scratch

    found = Path(emonet_scratch.__file__).resolve()
    if not found.is_relative_to(folder):
        raise RuntimeError(f"emonet_scratch was imported from {found.parent}, expected the one in {folder}")


def _assert_threads(threads: int | None) -> None:
    """Every library of this process that computes in threads must have the number asked for."""
    if threads is None:
        return
    have = {}
    if "torch" in sys.modules:
        have["PyTorch"] = sys.modules["torch"].get_num_threads()
    if library := _kernels():
        have["the CPU kernels"] = library.threads
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info
        have |= {pool["prefix"]: pool["num_threads"] for pool in threadpool_info()}
    for name, count in have.items():
        if count != threads:
            raise RuntimeError(f"{name} runs {count} thread(s), expected {threads}")


def _kernels() -> Any:
    """The library of the CPU kernels that this worker has loaded, or None."""
    if "emonet_scratch.kernels.cpu.library" in sys.modules:
        return sys.modules["emonet_scratch.kernels.cpu.library"].find()[0]
    before = sys.modules.get("emonet_scratch.kernels")                # once one file, the registry
    return before.library() if hasattr(before, "library") else None


def _details() -> str:
    """What this worker computes with, in words."""
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        return f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    if "emonet_scratch.dispatch" in sys.modules:
        return sys.modules["emonet_scratch.dispatch"].why("cpu")
    if "emonet_scratch.kernels" in sys.modules:
        return sys.modules["emonet_scratch.kernels"].why()
    return f"NumPy {np.__version__}"


# ---- in the parent ----

@contextlib.contextmanager
def _inherited(environment: dict[str, str], package: str | None) -> Iterator[None]:
    """What a process that is started meanwhile inherits: os.environ with these changes, and sys.path with `package` first.

    A spawned process replaces its own sys.path, to which PYTHONPATH has contributed, by that of its parent; so both are set.
    """
    old_environment, old_path = dict(os.environ), list(sys.path)
    for name in CLEARED:
        os.environ.pop(name, None)
    os.environ.update(environment)
    if package:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        sys.path.insert(0, package)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old_environment)
        sys.path[:] = old_path


class _Worker:
    """A contestant in its process; `details` where it is ready, `failure` in one line where it is not."""

    def __init__(self, contestant: Contestant, case: Any, threads: int | None, turn: float) -> None:
        self.contestant, self.failure, self.answer, self.details = contestant, None, {}, ""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "EMONET_THREADS") if threads else ()
        with _inherited(dict.fromkeys(names, str(threads)) | (contestant.environment or {}), contestant.package):
            self.process = context.Process(target=_serve, args=(theirs, contestant, case, threads, turn), daemon=False)
            self.process.start()
        theirs.close()
        try:
            state, *rest = self.pipe.recv() if self.pipe.poll(PATIENCE) else ("failed", f"not ready in {PATIENCE} s", "")
        except EOFError:
            state, *rest = "failed", "its process ended", ""
        if state == "ready":
            self.answer, details = rest
            self.details = f"before: {details}" if contestant.package else details
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


def measure(entries: Sequence[Contestant], case: Any, options: argparse.Namespace, threads: int | None,
            tolerance: dict[str, float] | None = None) -> list[Measured]:
    """Run all contestants on `case` in turns. A contestant that cannot run is named, with the reason, and left out.

    tolerance: for each name in the answers, how far (see `difference`) a float32 contestant may be from the first one;
    SystemExit where one is further, before anything is timed. threads: None where threads are not ours to choose.
    """
    workers: list[_Worker] = []
    try:
        for entry in _with_before(entries, options.before):
            if not any(word in entry.name for word in options.skip):
                workers.append(_Worker(entry, case, threads, options.turn))
        ready = _ready(workers)
        if not ready or ready[0].contestant != entries[0]:
            raise SystemExit(f"{entries[0].name} cannot be left out: all others are compared with it")
        _assert_agreement(ready, tolerance or {})
        found = _take_turns(ready, options)
    finally:
        for worker in workers:
            worker.close()
    _say_once("; ".join(dict.fromkeys(worker.details for worker in ready)))
    for m in found:
        if threads and m.busy > threads + 0.2:
            print(f"{m.contestant.name}: kept {m.busy:.1f} processors busy with {threads} thread(s)")
    return found


def _take_turns(workers: Sequence[_Worker], options: argparse.Namespace) -> list[Measured]:
    """A, B, C, A, B, C, ..., options.rounds times, all asleep in between."""
    turns: list[list[tuple[float, float]]] = [[] for _ in workers]
    for _ in range(options.rounds):
        for worker, row in zip(workers, turns, strict=True):
            time.sleep(options.pause)
            row.append(worker.turn())
    found = []
    for worker, row in zip(workers, turns, strict=True):
        seconds, busy = np.array(row).T
        found.append(Measured(worker.contestant, seconds, worker.answer, float(np.median(busy))))
    return found


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those that can run; the others are named. SystemExit where the checkout of --before cannot."""
    for worker in workers:
        if not worker.failure:
            continue
        if worker.contestant.package:
            raise SystemExit(f"{worker.contestant.name}: {worker.failure}")
        if worker.failure.endswith("is not installed"):
            _say_once(f"{worker.failure}: those who need it are left out")
        else:
            print(f"{worker.contestant.name}: left out ({worker.failure})", flush=True)
    return [worker for worker in workers if not worker.failure]


def _assert_agreement(workers: Sequence[_Worker], tolerance: dict[str, float]) -> None:
    """SystemExit where a contestant that should compute the same as the first one does not."""
    first = workers[0]
    for worker in workers[1:]:
        if worker.contestant.kind in ("ours bf16", "bf16", "other"):
            continue
        for name in tolerance.keys() & worker.answer.keys():
            off = difference(worker.answer[name], first.answer[name])
            if not off <= tolerance[name]:
                raise SystemExit(f"{worker.contestant.name}: {name} differ by {off:.1e} from those of "
                                 f"{first.contestant.name}, expected at most {tolerance[name]:.0e}: not the same work")


def difference(a: Any, b: Any) -> float:
    """|a - b| / |b| in the Euclidean norm; of dictionaries, the largest of their entries."""
    if isinstance(b, dict):
        assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())
        return max(difference(a[name], b[name]) for name in b)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1))


_said: set[str] = set()


def _say_once(line: str) -> None:
    if line and line not in _said:
        _said.add(line)
        print(f"\n{line}", flush=True)
