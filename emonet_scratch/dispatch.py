"""Which function runs: a definition, or a kernel that computes the same faster.

`@definition` marks a layer or a function that may have a kernel, registered under its qualified name. A
kernel says what it takes: arrays of its device, in float32, of shapes it knows. For everything else, and
where there are no kernels, the definition runs. This file imports no kernel: `add_loader` is given a function
for each device that imports and registers them, and calls it when a definition is about to run where arrays
of that device can be.

    EMONET_KERNELS=off                  the definitions only
    EMONET_KERNELS=avx512|avx2|plain    this build of the CPU's kernels instead of the best that can run here
    EMONET_THREADS=2                    threads of the CPU's kernels (else OMP_NUM_THREADS, else one a core)
    EMONET_EXACT=1                      `dispatch.exact` is True to begin with
    EMONET_PRECISION=tf32|bf16          `dispatch.precision` is this to begin with
    EMONET_TILES=0                      bf16 on the CPU without AMX, as on processors that have none

EMONET_EXACT and EMONET_PRECISION are read when this file is imported, the others when a kernel is asked for.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from .errors import KernelError

DEVICES = ("cpu", "cuda")
VARIANTS = ("plain", "avx2", "avx512")
PRECISIONS = ("fp32", "tf32", "bf16")

#: False: the definitions run, whatever is registered.
enabled = True

#: True: 3x3 convolutions as direct sums, not by Winograd's F(4x4, 3x3), whose rounding error is about ten
#: times larger.
exact = os.environ.get("EMONET_EXACT", "") not in ("", "0")

#: How kernels round the factors of products, see emonet_scratch/kernels/rounding.py; sums, and all that is
#: stored, are float32.
precision = os.environ.get("EMONET_PRECISION") or "fp32"

#: Those that the CPU's kernels can: their loader says so.
cpu_precisions: tuple[str, ...] = ("fp32",)

Definition = TypeVar("Definition", bound=Callable[..., Any])


class Kernel(NamedTuple):
    """A faster version of one definition on one device.

    Of a function: run takes what the definition takes. Of a layer: run(layer, *inputs) gives (y, cache), and
    backward(layer, *gradients, cache) what the layer's backward gives. takes, with the arguments of run, says
    whether it can; fits(layer) whether it still could, by the layer alone: parameters may be replaced between
    forward and backward.
    """

    takes: Callable[..., bool]
    run: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    fits: Callable[[Any], bool] = lambda layer: True


class KernelCache(NamedTuple):
    """What a kernel's forward leaves for its own backward."""

    kernel: Kernel
    data: Any


_loaders: dict[str, Callable[[], tuple[bool, str]]] = {}
_kernels: dict[str, dict[str, Kernel]] = {device: {} for device in DEVICES}


def add_loader(device: str, load: Callable[[], tuple[bool, str]]) -> None:
    """`load` registers the kernels of a device, and returns whether there are any, and which or why not."""
    _loaders[device] = load
    _load.cache_clear()


def register(device: str, name: str, kernel: Kernel) -> None:
    """Make `kernel` that of a definition, by its qualified name such as "Optimizer.step", on a device."""
    _kernels[device][name] = kernel


def registered(device: str) -> dict[str, Kernel]:
    """The registry of a device: the kernels that are loaded, by the name of their definition."""
    return _kernels[device]


def choice() -> str:
    """What EMONET_KERNELS says: "", "on", "off" or one of VARIANTS. KernelError for anything else."""
    value = os.environ.get("EMONET_KERNELS", "")
    if value not in ("", "on", "off", *VARIANTS):
        raise KernelError(f"EMONET_KERNELS must be on, off or one of {', '.join(VARIANTS)}, got {value!r}")
    return value


def use_precision(name: str | None, device: str) -> str:
    """Set `precision` for what runs on `device` from now on, and return it; None: as it is, and fp32 is
    returned where the device does not have that.

    KernelError for a name that the device does not have: a GPU all of PRECISIONS, the CPU cpu_precisions.
    """
    global precision
    can = PRECISIONS if device != "cpu" else cpu_precisions if loaded(device) else ("fp32",)
    if name not in (None, *can):
        raise KernelError(f"precision {name} cannot be had on {device}, only {', '.join(can)}: tf32 wants "
                          f"a GPU, bf16 a GPU or a CPU with AVX512-BF16 and kernels; use --precision fp32")
    if (name or precision) not in can:
        return "fp32"
    precision = name or precision
    return precision


@functools.cache
def _load(device: str) -> tuple[bool, str]:
    if precision not in PRECISIONS:
        raise KernelError(f"EMONET_PRECISION must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if choice() == "off":
        return False, "off (EMONET_KERNELS=off); the definitions run"
    if device not in _loaders:
        return False, "not in this installation; the definitions run"
    return _loaders[device]()


def loaded(device: str) -> bool:
    """Whether the kernels of this device may be used; they are registered then."""
    return _load(device)[0]


def why(device: str = "cpu") -> str:
    """One line: which kernels of this device are in use, or why none are."""
    return f"{'GPU' if device == 'cuda' else 'CPU'} kernels: {_load(device)[1]}"


def find(name: str, *args: Any, **kwargs: Any) -> Kernel | None:
    """The kernel of the definition `name` that takes these arguments, None where there is none."""
    for device in DEVICES if enabled else ():
        if device == "cuda" and "cupy" not in sys.modules:                 # then there are no arrays on a GPU
            continue
        kernel = _kernels[device].get(name) if loaded(device) else None
        if kernel is not None and kernel.takes(*args, **kwargs):
            return kernel
    return None


def definition(marked: Definition) -> Definition:
    """Mark a function, or a layer class with its forward and backward, as one that may have kernels."""
    name = marked.__qualname__
    if not isinstance(marked, type):
        @functools.wraps(marked)
        def function(*args: Any, **kwargs: Any) -> Any:
            kernel = find(name, *args, **kwargs)
            return (marked if kernel is None else kernel.run)(*args, **kwargs)
        return function                                                       # type: ignore[return-value]

    layer: Any = marked
    forward, backward = layer.forward, layer.backward

    @functools.wraps(forward)
    def fast_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = find(name, self, *args, **kwargs)
        if kernel is None:
            return forward(self, *args, **kwargs)
        y, data = kernel.run(self, *args, **kwargs)
        return y, KernelCache(kernel, data)

    @functools.wraps(backward)
    def fast_backward(self: Any, *args: Any) -> Any:
        *gradients, cache = args
        if not isinstance(cache, KernelCache):
            return backward(self, *args)
        if cache.kernel.backward is None or not cache.kernel.fits(self):
            raise ValueError(f"parameters of {self!r} were replaced after its forward by arrays that the "
                             f"kernels cannot use")
        return cache.kernel.backward(self, *gradients, cache.data)
    layer.forward, layer.backward = fast_forward, fast_backward
    return marked
