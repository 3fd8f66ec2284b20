"""Runs CUDA kernels on the CPU: a compiler for emonet_scratch/kernels/cuda/launch.py, and the fixture `shim` that puts it
there.

Every launch runs twice from the same memory, in forward and in reverse order of blocks and threads, and must leave the same
bits. A kernel gets copies of its arrays between canaries, which are NaN when they are read as floats. See shim.h.
"""

import ctypes
import getpass
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch import backend, dispatch
from emonet_scratch.kernels.cuda import launch
from tests import device

SHIM = Path(__file__).with_name("shim.h").read_text()
CACHE = Path(tempfile.gettempdir()) / f"emonet_shim_{getpass.getuser()}"
CXX = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-DEMONET_SHIM", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing",
         "-fsanitize=bounds,alignment,signed-integer-overflow,shift,integer-divide-by-zero",
         "-fsanitize-undefined-trap-on-error", "-Wall", "-Wno-unused", "-Wno-unknown-pragmas"]
GUARD = 16 << 10
#: What lies around every array: a signalling NaN, which no arithmetic gives back unchanged.
CANARY = np.frombuffer(b"\xbf\xbf\xbf\xff" * (GUARD // 4), np.uint8)


class ShimError(RuntimeError):
    """A kernel did what it must not do."""


def build(text, options):
    """The source as a shared library, from the cache if the very same was compiled before."""
    thunks = "".join(
        f'extern "C" void {name}__thread(void** a) {{ {name}(' + ", ".join(
            f"*({ctype(p, dtype)}*)a[{i}]" for i, (_, p, dtype) in enumerate(parameters)) + "); }\n"
        for name, parameters in launch.signatures(text).items())
    # Behind shim.h, which has names like C and K of its own.
    defines = "".join(f"#define {o[2:].replace('=', ' ', 1)}\n" for o in options if o.startswith("-D"))
    whole = f"{SHIM}\n{defines}{dynamic_shared(text)}\n{thunks}"
    CACHE.mkdir(exist_ok=True)
    path = CACHE / (hashlib.sha256("\0".join([whole, *FLAGS]).encode()).hexdigest()[:24] + ".so")
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        run = subprocess.run([CXX, *FLAGS, "-x", "c++", "-", "-o", str(part)], input=whole,
                             capture_output=True, text=True, check=False)
        if run.returncode:
            raise ShimError(f"g++ refuses the kernel:\n{run.stderr[:3000]}")
        part.rename(path)
    return ctypes.CDLL(str(path))


def ctype(pointer, dtype):
    names = {"f4": "float", "f8": "double", "i4": "int", "u4": "unsigned", "u1": "unsigned char", "u2": "unsigned short",
             "i8": "long long", "u8": "unsigned long long"}
    return names[dtype.str[1:]] + ("*" if pointer else "")


def dynamic_shared(text):
    """`extern __shared__ float x[];` says the same as a pointer to the shim's dynamic shared memory."""
    return re.sub(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\[\]\s*;",
                  r"\1* const \2 = (\1*)shim::dynamic_shared;", text)


class Memory:
    """Copies of a launch's arrays between canaries, aligned as they are; arrays that overlap share a copy.

    A table of pointers holds addresses of other arrays on the device: they are copied too, and its copy points there.
    """

    def __init__(self, arrays):
        known = set(device.addresses)
        words = {name: set(a.ravel().tolist()) for name, a in arrays if a.dtype.str[1:] in ("i8", "u8")}
        self.tables = {name: all_of for name, all_of in words.items() if all_of & known}
        targets = {word: name for name, all_of in self.tables.items() for word in all_of if word >> 32}
        for word in targets.keys() - known:
            raise ShimError(f"{targets[word]} holds the address of an array that is dead")
        self.arrays = arrays + [(f"an array in {name}", device.addresses[t]) for t, name in targets.items()]
        self.regions = []                                                     # start, stop, the copy with its canaries
        for _, a in sorted(self.arrays, key=lambda pair: pair[1].ctypes.data):
            start, stop = a.ctypes.data, a.ctypes.data + a.nbytes
            if self.regions and start < self.regions[-1][1]:
                start, stop = self.regions[-1][0], max(stop, self.regions.pop()[1])
            self.regions.append((start, stop, room(stop - start, (start - owner(a).ctypes.data) % 256)))
        self.moved = {t: self.bytes_at(t, 0).ctypes.data for t in targets}

    def bytes_at(self, address, size):
        """The copy of so many bytes at an address."""
        start, _, whole = next(r for r in reversed(self.regions) if r[0] <= address)
        return whole[GUARD + address - start:][:size]

    def fill(self):
        for start, stop, whole in self.regions:
            whole[:GUARD] = whole[-GUARD:] = CANARY
            ctypes.memmove(whole.ctypes.data + GUARD, start, stop - start)
        for name, a in self.arrays:
            if name in self.tables:
                self.bytes_at(a.ctypes.data, a.nbytes).view(np.int64)[:] = [self.moved.get(t, t) for t in a.ravel().tolist()]

    def check(self, kernel):
        """Every canary is as it was."""
        for name, a in self.arrays:
            start, stop, whole = next(r for r in reversed(self.regions) if r[0] <= a.ctypes.data)
            for guard, where, at_edge in ((whole[:GUARD], "in front of", a.ctypes.data == start),
                                          (whole[-GUARD:], "behind", a.ctypes.data + a.nbytes == stop)):
                wrong = np.flatnonzero(guard != CANARY)
                if at_edge and wrong.size:
                    far = wrong[0] if where == "behind" else GUARD - 1 - wrong[-1]
                    raise ShimError(f"{kernel} wrote {where} {name}, {far // a.itemsize + 1} elements off")

    def results(self):
        """The bytes of every array."""
        return [self.bytes_at(a.ctypes.data, a.nbytes).copy() for _, a in self.arrays]


def owner(a):
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def room(size, offset):
    """Bytes with a canary in front and behind; what is between lies `offset` behind a multiple of 256."""
    whole = np.empty(size + 2 * GUARD + 256, np.uint8)
    return whole[(offset - whole.ctypes.data - GUARD) % 256:][:size + 2 * GUARD]


class Kernel:
    """What CuPy's RawKernel is to launch.py."""

    max_dynamic_shared_size_bytes = launch.DEFAULT_SHARED
    seconds = 60                                                              # that a launch may take

    def __init__(self, name, library, parameters, cooperative):
        self.name, self.library, self.parameters, self.cooperative = name, library, parameters, cooperative

    def __call__(self, grid, block, args, *, shared_mem=0):
        grid, block = ((*map(int, sizes), 1, 1)[:3] for sizes in (grid, block))
        self.check(grid, block, shared_mem)
        memory = Memory([(name, a.host) for (name, pointer, _), a in zip(self.parameters, args, strict=True) if pointer])
        forward, reverse = (self.run(grid, block, args, shared_mem, memory, order) for order in (0, 1))
        for (name, a), one, two in zip(memory.arrays, forward, reverse, strict=True):
            if (wrong := np.flatnonzero(one != two)).size:
                k = wrong[0] // a.itemsize
                raise ShimError(f"{self.name}: {name} depends on the order of threads: element {k} is "
                                f"{one.view(a.dtype)[k]} in forward and {two.view(a.dtype)[k]} in reverse order")
        for (name, a), result in zip(memory.arrays, forward, strict=True):
            if name not in memory.tables:
                a.reshape(-1).view(np.uint8)[...] = result

    def check(self, grid, block, shared_mem):
        limits = (2**31 - 1, 65535, 65535, 1024, 1024, 64)
        if not all(1 <= n <= limit for n, limit in zip(grid + block, limits, strict=True)) or np.prod(block) > 1024:
            raise ShimError(f"{self.name}: a GPU refuses grid {grid} and block {block}")
        if shared_mem > min(self.max_dynamic_shared_size_bytes, 227 << 10):
            raise ShimError(f"{self.name}: a GPU refuses {shared_mem} bytes of dynamic shared memory")

    def run(self, grid, block, args, shared_mem, memory, order):
        memory.fill()
        values = [ctypes.c_void_p(memory.bytes_at(a.host.ctypes.data, 0).ctypes.data) if pointer
                  else ctypes.create_string_buffer(a.tobytes(), a.nbytes)
                  for (_, pointer, _), a in zip(self.parameters, args, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        text = ctypes.create_string_buffer(1000)
        sizes = [(ctypes.c_uint * 3)(*three) for three in (grid, block)]
        if self.library.shim_launch(self.library[f"{self.name}__thread"], pointers, *sizes, ctypes.c_size_t(shared_mem),
                                    int(self.cooperative), order, self.seconds, text):
            raise ShimError(f"{self.name}, {text.value.decode()}")
        memory.check(self.name)
        return memory.results()


class Module:
    """What CuPy's RawModule is to launch.py."""

    def __init__(self, text, options, cooperative):
        self.library, self.signatures, self.cooperative = build(text, options), launch.signatures(text), cooperative

    def get_function(self, name):
        return Kernel(name, self.library, self.signatures[name], self.cooperative)


compiler = Module


def install(request, monkeypatch):
    """What the fixture `shim` gives: the module that is CuPy for the test."""
    if os.environ.get("EMONET_TEST_DEVICE") == "cuda":
        if "planted" in request.node.name or "shim" in request.module.__name__:
            pytest.skip("a wrong kernel is for the shim, which survives it")
        monkeypatch.setattr(dispatch, "loaded", lambda device: device == "cuda")
        return backend.import_cupy()
    if sys.platform != "linux" or shutil.which(CXX) is None:
        pytest.skip(f"the shim wants Linux and {CXX}")
    monkeypatch.setattr(launch, "compiler", compiler)
    loaded = dispatch.loaded                                                  # also where EMONET_KERNELS=off:
    monkeypatch.setattr(dispatch, "loaded", lambda device: device == "cuda" or loaded(device))
    monkeypatch.setattr(backend, "import_cupy", lambda: device.cupy)
    monkeypatch.setitem(sys.modules, "cupy", device.cupy)                     # dispatch.py looks there
    return device.cupy
