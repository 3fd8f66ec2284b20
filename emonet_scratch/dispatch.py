"""Optional faster twins of the definitions: finds the compiled kernels, hands them out, keeps their memory.

A definition is marked by `@twin`. Where a compiled twin is registered under its name and accepts the arguments
(float32 arrays of its device, shapes it knows), the twin runs instead; where none does, or where there are no kernels, the
definition does. Nothing else in the package knows about kernels. The twins for the CPU are in twins.py, those for GPUs in
gpu/; each kind is imported when it may be needed, the latter when CuPy is there.

The environment decides once, when the first twin is asked for:

    EMONET_KERNELS=off                  the definitions only
    EMONET_KERNELS=avx512|avx2|plain    this build of the kernels instead of the best that the processor can run
    EMONET_THREADS=2                    threads of the kernels (else OMP_NUM_THREADS, else one a usable core)
    EMONET_EXACT=1                      as `dispatch.exact = True`
    EMONET_PRECISION=tf32|bf16          as `dispatch.precision = ...`
    EMONET_GRAPH=1                      one clip in evaluation as one CUDA graph (gpu/graph.py)
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.machinery
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .errors import KernelError

VARIANTS = ("plain", "avx2", "avx512")
ABI = 2                             # of kernels/cpu/dispatch.c: another number is a library built from other sources

#: True: 3x3 convolutions as direct sums, not by Winograd's F(4x4, 3x3), whose rounding error is about ten times larger.
exact = os.environ.get("EMONET_EXACT", "") not in ("", "0")

PRECISIONS = ("fp32", "tf32", "bf16")

#: How products in the matrix units of a GPU round their factors; sums, and all that is stored, are float32. The CPU: fp32.
precision = os.environ.get("EMONET_PRECISION") or "fp32"

_twins: dict[str, Any] = {}         # for the CPU, by name of the definition
_gpu_twins: dict[str, Any] = {}
_lock = threading.Lock()


def _unlock_in_child() -> None:
    global _lock
    _lock = threading.Lock()                                                  # who held it does not live here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


class Library:
    """The compiled kernels of one instruction set: `library.conv3x3(...)` calls emonet_conv3x3_<variant>."""

    def __init__(self, path: Path, variant: str | None) -> None:
        self._dll = ctypes.CDLL(str(path))
        if not hasattr(self._dll, "emonet_abi") or self._dll.emonet_abi() != ABI:
            raise OSError("built from other sources: install the package again")
        best = VARIANTS[self._dll.emonet_supports()]
        if variant and VARIANTS.index(variant) > VARIANTS.index(best):
            raise KernelError(f"EMONET_KERNELS={variant}: this processor can run at most {best}")
        self.path, self.variant, self.threads = path, variant or best, 1
        self._narrow = Library(path, "avx2") if self.variant == "avx512" else self
        self.set_threads(_threads())

    def of_width(self, *channels: int) -> Library:
        """The kernels for convolutions of so many channels: where 8 would fill half a vector of AVX-512, those of AVX2."""
        return self._narrow if any(0 < c % 16 <= 8 for c in channels if c >= 8) else self

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
        return ctypes.c_void_p(a.__array_interface__["data"][0])
    if isinstance(a, (float, np.floating)):
        return ctypes.c_float(a)
    return int(a) if isinstance(a, np.integer) else a


def _threads() -> int:
    if value := os.environ.get("EMONET_THREADS"):
        if not value.isdecimal() or int(value) < 1:
            raise KernelError(f"EMONET_THREADS must be a positive integer, got {value!r}")
        return int(value)
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()       # "4,2": 4 at the outermost level
    if first.isdecimal() and int(first) > 0:
        return int(first)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choice() -> str:
    choice = os.environ.get("EMONET_KERNELS", "")
    if choice not in ("", "on", "off", *VARIANTS):
        raise KernelError(f"EMONET_KERNELS must be on, off or one of {', '.join(VARIANTS)}, got {choice!r}")
    return choice


@functools.cache
def _load() -> tuple[Library | None, str]:
    """The compiled kernels or None, and the reason in words."""
    choice = _choice()
    if choice == "off":
        return None, "off (EMONET_KERNELS=off); the NumPy definitions run"
    here = Path(__file__).parent                                              # an old build of another Python may lie beside
    found = [p for end in importlib.machinery.EXTENSION_SUFFIXES if (p := here / f"_cpu{end}").exists()]
    if not found:
        return None, "not built (no working C compiler at installation); the NumPy definitions run"
    try:
        lib = Library(found[0], choice if choice in VARIANTS else None)
    except OSError as error:
        return None, f"cannot be loaded ({error}); the NumPy definitions run"
    importlib.import_module(".twins", __package__)                            # registers them
    return lib, f"{lib.variant}, {lib.threads} thread(s), {found[0].name}: {', '.join(sorted(_twins))}"


def library() -> Library | None:
    """The compiled kernels, or None where there are none or they are off; `why()` says it in words."""
    return _load()[0]


def why() -> str:
    """One line: which kernels are in use, or why none are."""
    return f"CPU kernels: {_load()[1]}"


def why_gpu() -> str:
    """The same of those for GPUs, where CuPy works; they are compiled when they are first launched."""
    if not _load_gpu():
        return "GPU kernels: off (EMONET_KERNELS=off); the definitions run on CuPy"
    return f"GPU kernels: {precision}: {', '.join(sorted(_gpu_twins))}"


def use_precision(name: str | None, device: str) -> str:
    """Set `precision` for what runs on `device` from now on, and return it; None: as it is, which is fp32 on the CPU.

    KernelError for a name that is not in PRECISIONS, and for tf32 and bf16 on the CPU, which has fp32 only.
    """
    global precision
    if name not in (None, *PRECISIONS):
        raise KernelError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if device == "cpu":
        if name not in (None, "fp32"):
            raise KernelError(f"precision {name} is for GPUs, and this would run on the CPU: use --precision fp32, or "
                              f"--device cuda")
        return "fp32"
    precision = name or precision
    return precision


@functools.cache
def _load_gpu() -> bool:
    """Whether the twins for GPUs may be used; they are registered then."""
    if precision not in PRECISIONS:
        raise KernelError(f"EMONET_PRECISION must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if _choice() != "off":
        importlib.import_module(".gpu", __package__)
    return _choice() != "off"


def register(name: str, kernel: Any, device: str = "cpu") -> None:
    """Make `kernel` (a function, or an object with forward and backward) the twin of `name` on "cpu" or "cuda"."""
    (_gpu_twins if device == "cuda" else _twins)[name] = kernel


def _find(name: str) -> Iterator[Any]:
    """The twins of a definition; each answers NotImplemented to arrays of the other's device."""
    if library() is not None and name in _twins:
        yield _twins[name]
    if "cupy" in sys.modules and _load_gpu() and name in _gpu_twins:          # without CuPy there are no arrays on a GPU
        yield _gpu_twins[name]


class TwinCache:
    """What a twin's forward leaves for its own backward."""

    __slots__ = ("data", "kernel")

    def __init__(self, kernel: Any, data: Any) -> None:
        self.kernel, self.data = kernel, data


def twin(definition: Any) -> Any:
    """Mark a function or layer class as a definition that may have a twin, registered under its qualified name.

    The twin of a function takes its arguments; the twin of a layer has forward(layer, *inputs) -> (y, cache) and
    backward(layer, *gradients, cache). Forward returns NotImplemented for what it cannot do, before touching anything.
    """
    name = definition.__qualname__
    if not isinstance(definition, type):
        @functools.wraps(definition)
        def function(*args: Any, **kwargs: Any) -> Any:
            for kernel in _find(name):
                if (result := kernel(*args, **kwargs)) is not NotImplemented:
                    return result
            return definition(*args, **kwargs)
        return function

    forward, backward = definition.forward, definition.backward

    @functools.wraps(forward)
    def fast_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        for kernel in _find(name):
            if (result := kernel.forward(self, *args, **kwargs)) is not NotImplemented:
                return result[0], TwinCache(kernel, result[1])
        return forward(self, *args, **kwargs)

    @functools.wraps(backward)
    def fast_backward(self: Any, *args: Any) -> Any:
        cache = args[-1]
        if isinstance(cache, TwinCache):
            return cache.kernel.backward(self, *args[:-1], cache.data)
        return backward(self, *args)
    definition.forward, definition.backward = fast_forward, fast_backward
    return definition


# ---- memory: what a training step frees, the next one gets back, already mapped and warm ----

class _Arena:
    """Freed blocks by size, the size used longest ago first. No lock: a fork could leave one locked for ever."""

    def __init__(self, keep_bytes: int) -> None:
        self.keep_bytes, self.blocks = keep_bytes, {}

    def take(self, size: int) -> np.ndarray:
        try:
            return self.blocks[size].pop()
        except (KeyError, IndexError):
            return np.empty(size, np.uint8)

    def give(self, memory: np.ndarray) -> None:
        same = self.blocks.pop(memory.nbytes, [])
        same.append(memory)
        self.blocks[memory.nbytes] = same                                     # now the last of the dictionary
        sizes = [size * len(blocks) for size, blocks in list(self.blocks.items())]
        for size in list(self.blocks):
            if sum(sizes) <= self.keep_bytes:
                break
            self.blocks.pop(size, None)
            sizes.pop(0)


_arena = _Arena(keep_bytes=2 << 30)


class _Block:
    """Owner of an array's memory, which goes back to the arena when the last view of it dies."""

    __slots__ = ("__array_interface__", "_arena", "_memory")

    def __init__(self, size: int, arena: _Arena) -> None:
        self._memory, self._arena = arena.take(size), arena
        self.__array_interface__ = self._memory.__array_interface__

    def __del__(self) -> None:
        self._arena.give(self._memory)


def empty(*shape: int) -> np.ndarray:
    """An uninitialised float32 array; large ones come from memory that earlier arrays gave back.

    Fresh memory costs a page fault for every 4 KiB that is first written to, which in a training step with large activations
    takes longer than the arithmetic.
    """
    size = 4 * math.prod(shape)
    if size < 1 << 16:
        return np.empty(shape, np.float32)
    step = 1 << max(12, size.bit_length() - 4)                                # at most an eighth more than asked for
    return np.asarray(_Block(-(-size // step) * step, _arena))[:size].view(np.float32).reshape(shape)
