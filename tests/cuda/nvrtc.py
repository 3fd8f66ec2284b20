"""Compiles every kernel with NVRTC from PyPI's nvidia-cuda-nvrtc, on any machine, and says what each one needs on a GPU.

    python -m tests.cuda.nvrtc        write kernels/cuda/resources.json anew

A row of that table is [registers, bytes spilled, bytes of stack, bytes of static shared memory] of a thread, or of a block
for the last. tests/test_cuda_compile.py compares.
"""

import ctypes
import functools
import importlib
import importlib.metadata
import json
import pkgutil
import re
from pathlib import Path

from emonet_scratch import gpu
from emonet_scratch.gpu import launch

ARCHITECTURES = ("sm_80", "sm_90")
TABLE = Path(__file__).parents[2] / "kernels" / "cuda" / "resources.json"


class CompileError(RuntimeError):
    """NVRTC refused a source."""


def installed():
    return any(importlib.metadata.distributions(name="nvidia-cuda-nvrtc"))


@functools.cache
def library():
    """libnvrtc, with its builtins loaded first: it would look for them by name only, in the system's folders."""
    def load(name):
        files = importlib.metadata.files("nvidia-cuda-nvrtc")
        return ctypes.CDLL(str(next(f for f in files if f.name.startswith(name)).locate()), ctypes.RTLD_GLOBAL)
    load("libnvrtc-builtins.so")
    return load("libnvrtc.so")


def version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_text(text, options):
    """(the cubin, what NVRTC and ptxas said)"""
    nvrtc, program, size = library(), ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options)))
    parts = []
    for name in ("ProgramLog", "CUBIN"):
        if name == "ProgramLog" or not failed:
            getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
            buffer = ctypes.create_string_buffer(size.value)
            getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
            parts.append(buffer.raw)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = parts[0].decode().rstrip("\0")
    if failed:
        raise CompileError(log)
    return parts[1], log


def resources(log):
    """{kernel: [registers, bytes spilled, stack, static shared memory]} from what ptxas said."""
    found = {}
    for part in log.split("Compiling entry function ")[1:]:
        def number(pattern, part=part):
            match = re.search(rf"(\d+) {pattern}", part)
            return int(match[1]) if match else 0
        found[part.split("'")[1]] = [number("registers"), number("bytes spill stores") + number("bytes spill loads"),
                                     number("bytes stack frame"), number("bytes smem")]
    return found


def variants():
    """(module, its defines) of all that the launch code compiles."""
    files = [importlib.import_module(f"{gpu.__name__}.{f.name}") for f in pkgutil.iter_modules(gpu.__path__)]
    return [(name, defines) for file in files for name, sets in getattr(file, "VARIANTS", {}).items() for defines in sets]


def title(name, defines):
    return " ".join([name, *(f"{k}={v}" for k, v in sorted(defines.items()))])


def build(name, defines, architecture):
    """One module as CuPy compiles it: (cubin, {kernel: resources})."""
    options = (*launch.options(defines), "-ftz=true", f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    cubin, log = compile_text(launch.source(name), options)
    return cubin, resources(log)


def write():
    """The table: module and defines -> kernel -> architecture -> what it needs."""
    rows = []
    for name, defines in variants():
        built = {a: build(name, defines, a)[1] for a in ARCHITECTURES}
        names = sorted(built[ARCHITECTURES[0]])
        kernels = [f"  {json.dumps(k)}: {json.dumps({a: built[a][k] for a in ARCHITECTURES})}" for k in names]
        rows.append(f"{json.dumps(title(name, defines))}: {{\n" + ",\n".join(kernels) + "}")
    TABLE.write_text(f'{{"NVRTC": "{version()}",\n' + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    write()
