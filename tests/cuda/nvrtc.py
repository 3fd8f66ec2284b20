"""Compiles every kernel with NVRTC from PyPI's nvidia-cuda-nvrtc, on any machine, and says what each one needs on a GPU.

    python -m tests.cuda.nvrtc        write kernels/cuda/resources.json anew

A row of that table is [registers, bytes spilled, bytes of stack, bytes of static shared memory] of a thread, or of a block
for the last. tests/test_cuda_compile.py compares.
"""

import concurrent.futures
import ctypes
import functools
import getpass
import hashlib
import importlib.metadata
import json
import re
import tempfile
from pathlib import Path

from emonet_scratch.files import write_whole
from emonet_scratch.kernels.cuda import convolution, launch, lstm

ARCHITECTURES = ("sm_80", "sm_90")
CACHE = Path(tempfile.gettempdir()) / f"emonet_nvrtc_{getpass.getuser()}"
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
    """(module, its defines) of what a ResNet of width 16 asks for: all shapes in TF32, every piece of code in the others."""
    yield "norm", {}
    yield "lstm", {"UNITS": lstm.UNITS}
    yield "pointwise", {}
    known = {"a": (3, 16, 1), "b": (16, 16, 1), "c": (16, 32, 2), "d": (32, 32, 1), "e": (32, 64, 2), "f": (64, 64, 1)}
    for precision, shapes in enumerate(("a c f", "a b c d e f", "a c f")):
        for C, F, stride in map(known.get, shapes.split()):
            yield "conv_grad", {"C": C, "F": F, "STRIDE": stride, "PRECISION": precision}
            yield "conv", convolution.defines(C, F, stride, 0, precision, False)
            if C != F:
                yield "conv", convolution.defines(F, C, 1, stride - 1, precision, False)
            elif precision == 1:
                yield "conv", convolution.defines(C, F, stride, 0, precision, True)


def title(name, defines):
    return " ".join([name, *(f"{k}={v}" for k, v in sorted(defines.items()))])


def build(name, defines, architecture):
    """One module as CuPy compiles it: {kernel: resources}, from the cache if the very same was compiled before."""
    options = (*launch.options(defines), "-ftz=true", f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    text = launch.source(name)
    path = CACHE / hashlib.sha256("\0".join([version(), text, *options]).encode()).hexdigest()[:24]
    if not path.exists():
        cubin, log = compile_text(text, options)
        if not cubin.startswith(b"\x7fELF"):
            raise CompileError(f"NVRTC gave no cubin for {architecture}")
        CACHE.mkdir(exist_ok=True)
        write_whole(path, json.dumps(resources(log)).encode())
    return json.loads(path.read_text())


def _try(job):
    try:
        return build(*job)
    except CompileError as error:
        return error


def build_all():
    """{(title, architecture): resources, or the error}, by one process a core."""
    jobs = [(name, defines, a) for name, defines in variants() for a in ARCHITECTURES]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        return {(title(name, defines), a): built
                for (name, defines, a), built in zip(jobs, pool.map(_try, jobs), strict=True)}


def write():
    """The table: module and defines -> kernel -> architecture -> what it needs."""
    rows, everything = [], build_all()
    for name, defines in variants():
        built = {a: everything[title(name, defines), a] for a in ARCHITECTURES}
        for problem in built.values():
            if isinstance(problem, CompileError):
                raise problem
        names = sorted(built[ARCHITECTURES[0]])
        kernels = [f"  {json.dumps(k)}: {json.dumps({a: built[a][k] for a in ARCHITECTURES})}" for k in names]
        rows.append(f"{json.dumps(title(name, defines))}: {{\n" + ",\n".join(kernels) + "}")
    TABLE.write_text(f'{{"NVRTC": "{version()}",\n' + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    write()
