"""The machine that measures: what it is, and what it can do at its best."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from peers import TUNED_MALLOC, Contestant, measure
from report import Peak


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
    found = measure([Contestant("sgemm", _sgemm, "other"), Contestant("copy", _copy, "other")],
                    case, argparse.Namespace(**vars(options) | {"skip": [], "rounds": min(options.rounds, 7)}), threads)
    product, copy = (float(m.seconds.min()) for m in found)
    top = Peak(2 * case["size"]**3 / product, 2 * case["bytes"] / copy)
    print(f"\n## {threads} thread(s)\n\nThe machine's own peak: sgemm of {case['size']} x {case['size']} "
          f"{top.flops / 1e9:.0f} GFLOP/s, copy of {case['bytes'] >> 20} MiB {top.bytes / 1e9:.1f} GB/s (read and write)",
          flush=True)
    return top
