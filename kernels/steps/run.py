"""Every version of one convolution and one LSTM: compiled, checked against the definition, timed in turn, in a table.

    python kernels/steps/run.py [--quick]

Each file is compiled alone by gcc -O3 -march=native and runs on one thread. The check is against the package's
definition in float64, within 16 eps sqrt(K) max|ref| with K the length of the sums. Rounds go through all versions one
after the other, so that what else the machine does meets all of them. A time is the processor's, not the clock's on the
wall, and the median of the rounds; the spread is half of what lies between the first and the third quarter. The peak is
what peak.c does, measured in the same rounds.
--quick: small sizes, one round.
"""

import argparse
import copy
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emonet_scratch.layers import Conv2d, LSTMCell

HERE = Path(__file__).parent
CC = os.environ.get("CC", "gcc")
FLAGS = ["-std=gnu11", "-O3", "-march=native", "-pthread", "-shared", "-fPIC", "-I", str(HERE), "-x", "c", "-"]
EPS = float(np.finfo(np.float32).eps)


class Case(NamedTuple):
    """What a version is called with: sizes and arrays; what it must give; K; and how many operations that is."""

    arguments: tuple[Any, ...]
    wanted: tuple[np.ndarray, ...]
    terms: int
    operations: float


def build(name: str, folder: Path, text: str | None = None) -> ctypes.CDLL:
    """The file NAME.c, or another text in its place, as a library."""
    library = folder / f"{name}.so"
    text = text or (HERE / f"{name}.c").read_text(encoding="utf-8")
    subprocess.run([CC, *FLAGS, "-o", str(library), "-lm"], input=text, text=True, check=True)
    return ctypes.CDLL(str(library))


def conv_case(N: int, H: int, W: int, C: int, F: int, seed: int = 0) -> Case:
    """One convolution of random numbers."""
    rng, layer = np.random.default_rng(seed), Conv2d(C, F, 3, 1, 1)
    x, layer.W.value = (rng.standard_normal(s).astype(np.float32) for s in ((N, H, W, C), (3, 3, C, F)))
    filters = layer.W.value
    want, _ = layer.astype(np.float64).forward(x.astype(np.float64))
    return Case((N, H, W, C, F, x, filters, np.empty(want.shape, np.float32)), (want,), 9 * C, layer.flops(want))


def lstm_case(T: int, N: int, D: int, H: int, seed: int = 0) -> Case:
    """T steps of random numbers from a random state."""
    rng, cell = np.random.default_rng(seed), LSTMCell(D, H)
    x, h, c = (rng.standard_normal(s).astype(np.float32) for s in ((T, N, D), (N, H), (N, H)))
    cell.b.value = rng.standard_normal(4 * H).astype(np.float32)
    weights, state = (cell.W_ih.value, cell.W_hh.value, cell.b.value), (h.astype(np.float64), c.astype(np.float64))
    cell.astype(np.float64)
    for step in x.astype(np.float64):
        state, _ = cell.forward(step, *state)
    return Case((T, N, D, H, x, *weights, h, c), state, D + H + 1, 8.0 * T * N * H * (D + H))


def call(function: Any, case: Case) -> Callable[[], tuple[np.ndarray, ...]]:
    """What calls a version on copies of the case's arrays and gives those that it overwrites, which come last."""
    arrays = copy.deepcopy(case.arguments)
    given = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arrays]

    def once() -> tuple[np.ndarray, ...]:
        function(*given)
        return tuple(arrays[-len(case.wanted):])
    return once


def excess(got: Sequence[np.ndarray], case: Case) -> float:
    """The largest error, in units of what is allowed."""
    limits = [16 * EPS * case.terms**0.5 * np.abs(want).max() for want in case.wanted]
    return float(np.max([np.abs(a - b).max() / limit for a, b, limit in zip(got, case.wanted, limits, strict=True)]))


def versions(family: str, function: str, folder: Path) -> dict[str, Any]:
    """The function of each file of a family, in order."""
    return {path.stem: build(path.stem, folder)[function] for path in sorted(HERE.glob(f"{family}_[0-9].c"))}


def seconds(once: Callable[[], Any], least: float) -> float:
    """Of one call, from as many as fill that time."""
    calls, start = 0, time.thread_time()
    while (passed := time.thread_time() - start) < least or not calls:
        once()
        calls += 1
    return passed / calls


def table(title: str, functions: dict[str, Any], case: Case, peak: Any, rounds: int, least: float,
          steps: int = 1) -> None:
    """Check all versions, time them in turn, print."""
    runs = {name: call(function, case) for name, function in functions.items()}
    for name, once in runs.items():
        if not (off := excess(once(), case)) <= 1:
            raise SystemExit(f"{name}: {off:.3g} times as far from the definition as is allowed")
    times, rates, number = {name: [] for name in runs}, [], ctypes.c_float(0)
    for _ in range(rounds):
        start = time.thread_time()
        operations = peak(100_000, ctypes.byref(number))
        rates.append(operations / (time.thread_time() - start))
        for name, once in runs.items():
            times[name].append(seconds(once, least) / steps)
    print(f"\n{title}; one core does {np.median(rates) / 1e9:.0f} GFLOP/s in registers\n\n| version | ms | spread "
          "| gain over the one before | over version 1 | share of the peak |\n|---|---|---|---|---|---|")
    middle = {name: float(np.median(t)) for name, t in times.items()}
    before = first = next(iter(middle.values()))
    for name, t in middle.items():
        low, high = np.percentile(times[name], (25, 75))
        share = case.operations / steps / t / np.median(rates)
        print(f"| `{name}.c` | {1e3 * t:.3g} | {50 * (high - low) / t:.0f} % | {before / t:.2f} | {first / t:.1f} "
              f"| {100 * share:.0f} % |")
        before = t


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    quick = parser.parse_args().quick
    if shutil.which(CC) is None:
        raise SystemExit(f"there is no {CC}: set CC to a C compiler that knows GNU C")
    rounds, least = (1, 0.0) if quick else (15, 0.02)
    sizes = (2, 8, 9, 16, 16) if quick else (16, 32, 32, 32, 32)
    N, D, H = (3, 5, 17) if quick else (16, 128, 256)
    with tempfile.TemporaryDirectory() as folder:
        peak = build("peak", Path(folder)).peak
        peak.restype = ctypes.c_double
        functions = versions("conv", "conv3x3", Path(folder))
        table(f"Convolution, N, H, W, C, F = {sizes}", functions, conv_case(*sizes), peak, rounds, least)
        functions = versions("lstm", "lstm_forward", Path(folder))
        for T in (1, 32):
            table(f"LSTM, N, D, H = {N, D, H}, a step of {T}", functions, lstm_case(T, N, D, H), peak, rounds, least, T)


if __name__ == "__main__":
    main()
