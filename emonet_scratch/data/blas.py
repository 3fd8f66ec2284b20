"""NumPy's products in one thread, where threads of our own already use all cores.

OpenBLAS starts as many threads as there are cores in each of ours, and they wait for each other: on two busy cores that cost
as much processor time as the audio features. NumPy has no setting for it, so its library is asked itself, where it is found.
"""

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np


@functools.cache
def _threads() -> tuple[Callable[[], int], Callable[[int], None]]:
    """The functions of NumPy's OpenBLAS that tell and set the number of its threads; without one, two that do nothing."""
    for file in Path(np.__file__).parents[1].glob("numpy.libs/*openblas*"):
        for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
            with suppress(OSError, AttributeError):
                library = ctypes.CDLL(str(file))
                return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return (lambda: 1), (lambda number: None)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Until it ends, in all threads of this process."""
    get, set_to = _threads()
    before = get()
    set_to(1)
    try:
        yield
    finally:
        set_to(before)
