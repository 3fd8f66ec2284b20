"""The shared library that setup.py makes of kernels/cpu/*.c: found, checked, and called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ... import dispatch
from ...dispatch import VARIANTS
from ...errors import KernelError

ABI = 3                         # of kernels/cpu/dispatch.c: another number is a library built from other sources

_lock = threading.Lock()


def _unlock_in_child() -> None:
    global _lock
    _lock = threading.Lock()                                                  # who held it does not live here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def _threads() -> int:
    """How many threads the CPU's kernels are to use. KernelError: EMONET_THREADS is no positive integer."""
    if value := os.environ.get("EMONET_THREADS"):
        if not value.isdecimal() or int(value) < 1:
            raise KernelError(f"EMONET_THREADS must be a positive integer, got {value!r}")
        return int(value)
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()      # "4,2": 4 at the outermost level
    if first.isdecimal() and int(first) > 0:
        return int(first)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Library:
    """The compiled kernels of one instruction set: `library.conv3x3(...)` calls emonet_conv3x3_<variant>."""

    def __init__(self, path: Path, variant: str | None) -> None:
        self._dll = ctypes.CDLL(str(path))
        if not hasattr(self._dll, "emonet_abi") or self._dll.emonet_abi() != ABI:
            raise OSError("built from other sources: install the package again")
        best = VARIANTS[self._dll.emonet_supports()]
        if variant in VARIANTS and VARIANTS.index(variant) > VARIANTS.index(best):
            raise KernelError(f"EMONET_KERNELS={variant}: this processor can run at most {best}")
        self.path, self.variant, self.threads = path, variant or best, 1
        self._narrow = Library(path, "avx2") if self.variant == "avx512" else self
        self._rounding, self.round_convolutions = None, False
        self.can_round = self.variant == "avx512" and self._dll.emonet_rounds(0) > 0
        self.set_threads(_threads())

    def of_products(self, *channels: int) -> Library:
        """The kernels for products in `dispatch.precision`: of convolutions of so many channels, or, for none, of an LSTM.

        In bf16, convolutions are rounded only in tiles, where that is faster. In float32, where 8 channels would fill half a
        vector of AVX-512, they are left to AVX2.
        """
        if self.can_round and dispatch.precision == "bf16":
            if self._rounding is None:                                        # the first to want tiles asks the system
                self.use_tiles(os.environ.get("EMONET_TILES") != "0")
                self._rounding = Library(self.path, "bf16")
            if self.round_convolutions or not channels:
                return self._rounding
        return self._narrow if any(0 < c % 16 <= 8 for c in channels if c >= 8) else self

    def use_tiles(self, use: bool) -> None:
        """Compute products of bf16 in tiles (AMX) from now on, if they can be, and else in registers."""
        self.round_convolutions = use and self._dll.emonet_rounds(1) == 2
        with _lock:                                                           # not under a kernel that runs
            self._dll.emonet_use_tiles(int(self.round_convolutions))

    def set_threads(self, threads: int) -> None:
        """Share the work of every kernel among so many threads (at most 256) from now on."""
        with _lock:                                                           # not under a kernel that runs
            self.threads = self._dll.emonet_set_threads(threads)

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._dll, f"emonet_{name}_{self.variant}")

        def call(*arguments: Any) -> None:
            with _lock:                                                       # one scratch memory for all callers
                failed = function(*[_argument(a) for a in arguments])
            if failed:
                raise MemoryError(f"no memory for the scratch buffers of {name}")
        setattr(self, name, call)                                             # the next call finds it at once
        return call


def _argument(a: Any) -> Any:
    if isinstance(a, np.ndarray):
        return ctypes.c_void_p(address(a))
    if isinstance(a, ctypes.Structure):
        return ctypes.byref(a)
    if isinstance(a, (float, np.floating)):
        return ctypes.c_float(a)
    return int(a) if isinstance(a, np.integer) else a


def struct(kind: type[ctypes.Structure], **values: Any) -> Any:
    """A struct of numbers and of the addresses of arrays, as the kernels take it; what is not named is 0."""
    return kind(**{k: address(v) if isinstance(v, np.ndarray) else v for k, v in values.items()})


def address(a: np.ndarray) -> int:
    """Where its first number lies."""
    return a.__array_interface__["data"][0]


@functools.cache
def find() -> tuple[Library | None, str]:
    """(the compiled kernels or None, which or why none); KernelError where EMONET_KERNELS asks for others than are there."""
    here = Path(__file__).parent                                              # an old build of another Python may lie beside
    found = [p for end in importlib.machinery.EXTENSION_SUFFIXES if (p := here / f"_cpu{end}").exists()]
    if not found:
        return None, "not built (no working C compiler at installation); the NumPy definitions run"
    wanted = dispatch.choice()
    try:
        library = Library(found[0], wanted if wanted in VARIANTS else None)
    except OSError as error:
        return None, f"cannot be loaded ({error}); the NumPy definitions run"
    return library, f"{library.variant}{' and bf16' * library.can_round}, {library.threads} thread(s)"


def current() -> Library:
    """The library that the kernels call."""
    library, reason = find()
    if library is None:
        raise KernelError(f"the CPU kernels are {reason}")
    return library
