"""Arrays, devices and seeds: the only file that knows that CuPy exists.

Every layer is written once against `xp = array_module(x)`, which is NumPy for host arrays and CuPy for
arrays on a GPU. CuPy is imported when a GPU is first asked for, never before.
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import numpy as np

from .errors import DeviceError

Array = Any  # a numpy.ndarray or a cupy.ndarray

_generator = np.random.default_rng(0)


@functools.cache
def import_cupy() -> ModuleType:
    """CuPy, or an ImportError that says how to get it."""
    try:
        return importlib.import_module("cupy")
    except Exception as error:                 # a broken driver or toolkit raises more kinds than ImportError
        raise ImportError(f"CuPy cannot be imported ({error}): install the extra cuda12 or cuda13") from error


def device_of(x: Array) -> str:
    """ "cpu" for a NumPy array or scalar, "cuda:K" for a CuPy array on GPU K."""
    return "cpu" if isinstance(x, (np.ndarray, np.generic)) else f"cuda:{x.device.id}"


def is_floating(a: object) -> bool:
    """Whether a is an array, or a number of NumPy's, in float16, float32 or float64."""
    return getattr(getattr(a, "dtype", None), "kind", None) == "f"


def array_module(*arrays: Array, **named: Array) -> ModuleType:
    """The module whose functions work on these arrays: `numpy` or `cupy`.

    Arrays passed by keyword are named in the error that mixed devices raise. None is ignored.

    >>> array_module(np.zeros(3)).__name__
    'numpy'
    """
    named.update({f"array {i}": a for i, a in enumerate(arrays)})
    on = {name: device_of(a) for name, a in named.items() if a is not None}
    if len(set(on.values())) > 1:
        places = ", ".join(f"{name} is on {device}" for name, device in on.items())
        raise DeviceError(f"{places}: call to_device")
    return np if set(on.values()) <= {"cpu"} else import_cupy()


def to_device(x: Array, device: str) -> Array:
    """x, an array or a list of numbers, as an array on "cpu" or "cuda:K"; x itself where it is there."""
    if isinstance(x, (list, tuple)):
        x = np.asarray(x)
    if device_of(x) == device:
        return x
    if device == "cpu":
        return x.get()
    cupy = import_cupy()
    with cupy.cuda.Device(int(device.split(":")[1])):
        return cupy.asarray(to_device(x, "cpu"))


@functools.cache
def probe_cuda(index: int = 0) -> str | None:
    """None where GPU `index` runs a kernel that was compiled just now, else the reason why not, on one line.

    CuPy imports and even counts devices without a working driver or compiler, so nothing short of a kernel
    proves it.
    """
    try:
        cupy = import_cupy()
        with cupy.cuda.Device(index):
            twice = cupy.ElementwiseKernel("float32 x", "float32 y", "y = 2 * x", "emonet_probe")
            result = float(twice(cupy.ones(1, dtype="float32"))[0])
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None if result == 2.0 else f"a test kernel returned {result} for 2 * 1"


def choose_device(name: str = "auto") -> tuple[str, str]:
    """(device, a line that says what was chosen and why) for "auto", "cpu", "cuda" or "cuda:K".

    "auto" takes GPU 0 if it runs a test kernel, else the CPU; a GPU asked for by name must work. The GPU
    chosen becomes CuPy's current device.
    """
    if name == "cpu":
        return "cpu", "device: cpu"
    head, _, index = name.partition(":")
    if head not in ("auto", "cuda") or (index and not index.isdigit()):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:K, got {name!r}")
    device, reason = f"cuda:{int(index or 0)}", probe_cuda(int(index or 0))
    if reason is None:
        import_cupy().cuda.Device(int(index or 0)).use()                   # temporaries go where the model is
        return device, f"device: {device}"
    if head == "cuda":
        raise DeviceError(f"device {name} cannot be used: {reason}")
    return "cpu", f"device: cpu (no usable GPU: {reason})"


def seed(value: int) -> None:
    """Restart the generator from which every layer built afterwards draws its parameters."""
    global _generator
    _generator = np.random.default_rng(value)


def generator() -> np.random.Generator:
    """The host generator of parameters: the same draw whichever device the model goes to."""
    return _generator
