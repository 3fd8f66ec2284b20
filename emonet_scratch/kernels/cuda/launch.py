"""From the text of a CUDA source file to kernels that can be called.

    y = module("pointwise").kernel("emonet_scale")(grid, block, (x, y, np.int32(n)))

A module is common.cuh and NAME.cu as one text (CuPy's cache on the disk looks at the text only, not at what it includes),
compiled by `compiler`: CuPy's RawModule on a GPU, tests/cuda/shim.py on a CPU. Arguments are arrays on the device and NumPy
scalars, of the very types of the kernel's signature; everything else is an error here, because on the GPU it would be read
as other bytes.

tests/test_cuda_compile.py compiles every module, with the defines that a ResNet asks for, for all architectures.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ... import backend

#: Where the sources are: beside this file in an installed package, else in the repository.
FOLDERS = (Path(__file__).with_name("sources"), Path(__file__).parents[3] / "kernels" / "cuda")

DEFAULT_SHARED = 48 << 10       # bytes of shared memory that a block may have without asking

TYPES = {"float": "f4", "double": "f8", "int": "i4", "unsigned": "u4", "unsigned int": "u4", "u32": "u4", "u8": "u1",
         "unsigned char": "u1", "u16": "u2", "unsigned short": "u2", "i64": "i8", "long long": "i8", "u64": "u8",
         "unsigned long long": "u8"}

SIGNATURE = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^()]*\)\s*)?(\w+)\s*\(([^)]*)\)')


class LaunchError(ValueError):
    """A kernel was called with something else than its signature says."""


def source(name: str) -> str:
    """The whole text of the module `name`."""
    folder = next((f for f in FOLDERS if (f / f"{name}.cu").exists()), None)
    if folder is None:
        raise FileNotFoundError(f"no {name}.cu in {' or '.join(map(str, FOLDERS))}")
    return "".join(f'#line 1 "{file}"\n{(folder / file).read_text(encoding="utf-8")}\n'
                   for file in ("common.cuh", f"{name}.cu"))


def options(defines: dict[str, Any]) -> tuple[str, ...]:
    """What every compiler gets."""
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in sorted(defines.items())))


def signatures(text: str) -> dict[str, list[tuple[str, bool, np.dtype]]]:
    """(name, is it a pointer, type) of every parameter of every kernel in a source text."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    return {name: [_parameter(p, name) for p in parameters.split(",") if p.strip()]
            for name, parameters in SIGNATURE.findall(text)}


def _parameter(text: str, kernel: str) -> tuple[str, bool, np.dtype]:
    *words, name = re.sub(r"\b(const|__restrict__|volatile)\b", " ", text.replace("*", " * ")).split()
    kind, pointer = " ".join(w for w in words if w != "*"), words.count("*")
    if kind not in TYPES or pointer > 1:
        raise LaunchError(f"{kernel}: parameter {text.strip()!r} is none of {', '.join(TYPES)} or a pointer to one")
    return name, bool(pointer), np.dtype(TYPES[kind])


def _cupy_module(text: str, compiler_options: tuple[str, ...], cooperative: bool) -> Any:
    return backend.import_cupy().RawModule(code=text, options=compiler_options, enable_cooperative_groups=cooperative)


#: (source, options, cooperative) -> an object whose get_function(name) is called as CuPy's RawKernel is.
compiler: Callable[[str, tuple[str, ...], bool], Any] = _cupy_module


class Kernel:
    """`kernel(grid, block, args, shared_mem=0)`, its arguments checked against its signature."""

    def __init__(self, name: str, parameters: list[tuple[str, bool, np.dtype]], function: Any) -> None:
        self.name, self.parameters, self.function, self.allowed = name, parameters, function, DEFAULT_SHARED

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0) -> None:
        if len(args) != len(self.parameters):
            raise LaunchError(f"{self.name} got {len(args)} arguments, expected {len(self.parameters)}: "
                              f"{', '.join(name for name, _, _ in self.parameters)}")
        for a, (name, pointer, dtype) in zip(args, self.parameters, strict=True):
            kind = getattr(a, "dtype", None)                                  # mostly the very same object
            if (kind is not dtype and kind != dtype) or isinstance(a, np.generic) is pointer or isinstance(a, np.ndarray):
                raise LaunchError(f"{self.name}: {name} is {_describe(a)}, expected "
                                  f"{f'an array of {dtype} on the device' if pointer else f'numpy.{dtype}'}")
            if pointer and not a.flags.c_contiguous:
                raise LaunchError(f"{self.name}: {name} of shape {a.shape} is not contiguous")
        if shared_mem > self.allowed:
            self.function.max_dynamic_shared_size_bytes = self.allowed = shared_mem
        self.function(grid, block, args, shared_mem=shared_mem)


def _describe(a: Any) -> str:
    if isinstance(a, np.ndarray):
        return f"an array of {a.dtype} on the host"
    if isinstance(a, np.generic):
        return f"numpy.{a.dtype}"
    return f"an array of {a.dtype} on the device" if hasattr(a, "dtype") else f"a Python {type(a).__name__}"


class Module:
    """One compiled source text."""

    def __init__(self, name: str, defines: dict[str, Any], cooperative: bool, compile_text: Any) -> None:
        text = source(name)
        self.name, self.signatures = name, signatures(text)
        self._module, self._kernels = compile_text(text, options(defines), cooperative), {}

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name."""
        if name not in self._kernels:
            if name not in self.signatures:
                raise LaunchError(f"{self.name}.cu has no kernel {name}: it has {', '.join(sorted(self.signatures))}")
            self._kernels[name] = Kernel(name, self.signatures[name], self._module.get_function(name))
        return self._kernels[name]


@functools.cache
def _module(name: str, defines: tuple[tuple[str, Any], ...], cooperative: bool, compile_text: Any) -> Module:
    return Module(name, dict(defines), cooperative, compile_text)


def module(name: str, *, cooperative: bool = False, **defines: Any) -> Module:
    """kernels/cuda/NAME.cu compiled with these defines, once; cooperative=True for kernels that call grid_barrier."""
    return _module(name, tuple(sorted(defines.items())), cooperative, compiler)


def blocks(n: int, size: int) -> int:
    """How many blocks of `size` cover n."""
    return -(-n // size)
