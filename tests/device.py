"""A stand-in for CuPy on machines without a GPU: NumPy's functions behind CuPy's rules.

Device arrays never turn into host arrays by themselves, never mix with host arrays (numbers and host scalars are
fine) and cannot be indexed with host arrays; `.get()` copies to the host, `asarray` to the device.

While a stream captures, every operation is noted, to be done again into the same memory by `Graph.launch`; what CUDA or CuPy
refuses then (waiting, copies to and from the host, cuBLAS), and memory of the common pool, is an error.
"""

import contextlib
import types
import weakref

import numpy as np

BLAS = ("matmul", "dot", "einsum", "vdot", "tensordot", "inner")
recording = None            # the operations of the stream that captures
own_pool = False
addresses = weakref.WeakValueDictionary()   # host arrays by the address that was asked for, as tables of pointers hold it


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that only `cupy` (below) may compute with."""

    device = types.SimpleNamespace(id=0)

    def __init__(self, host):
        self.host = host

    @property
    def data(self):
        addresses[self.host.ctypes.data] = self.host
        return types.SimpleNamespace(ptr=self.host.ctypes.data)

    def get(self):
        refuse("a copy to the host")
        return self.host.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion of a device array to a host array")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return call(getattr(ufunc, method), *inputs, **kwargs)

    def __getitem__(self, key):
        return wrap(self.host[unwrap(key)])

    def __setitem__(self, key, value):
        def assign():
            self.host[unwrap(key)] = unwrap(value)
        record(assign)
        assign()

    def __getattr__(self, name):
        if name.startswith("__"):                                             # __array_interface__ and the like
            raise AttributeError(name)
        value = getattr(self.__dict__["host"], name)
        if callable(value):
            return lambda *args, **kwargs: call(value, *args, **kwargs)
        return wrap(value)

    def __len__(self):
        return len(self.host)

    def __float__(self):
        refuse("a number for the host")
        return float(self.host)

    def __bool__(self):
        refuse("a number for the host")
        return bool(self.host)

    def __copy__(self):
        return DeviceArray(self.host)

    def __deepcopy__(self, memo):
        return DeviceArray(self.host.copy())


def unwrap(x):
    if isinstance(x, DeviceArray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError("a host array met a device array")
    if isinstance(x, (tuple, list)):
        return type(x)(map(unwrap, x))
    return x


def wrap(x):
    return DeviceArray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def call(function, *args, **kwargs):
    out, name = kwargs.get("out"), getattr(getattr(function, "__self__", function), "__name__", "")

    def run():
        return function(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()})
    result = run()
    if recording is not None:
        if name in BLAS or getattr(function, "__name__", "") in BLAS:
            refuse("cuBLAS")
        sources = [a for a in (*unwrap(args), getattr(function, "__self__", None)) if isinstance(a, np.ndarray)]
        if out is not None:
            record(run)
        elif isinstance(result, (np.ndarray, np.generic)) and not any(np.shares_memory(result, a) for a in sources):
            result = np.asarray(result)
            if not own_pool:
                refuse("memory of the common pool")
            record(lambda: np.copyto(result, run()))
    return (out[0] if isinstance(out, tuple) else out) if out is not None else wrap(result)


def refuse(what):
    if recording is not None:
        raise RuntimeError(f"{what} while a stream captures")


def record(operation):
    if recording is not None:
        recording.append(operation)


class Graph:
    def __init__(self, operations):
        self.operations = operations

    def launch(self, stream):
        for operation in self.operations:
            operation()


class Stream:
    def __init__(self, non_blocking=False):
        pass

    def synchronize(self):
        refuse("waiting")

    def begin_capture(self):
        globals()["recording"] = []

    def end_capture(self):
        operations, globals()["recording"] = recording, None
        return Graph(operations)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None


@contextlib.contextmanager
def using_allocator(allocator):
    before, globals()["own_pool"] = own_pool, True
    try:
        yield
    finally:
        globals()["own_pool"] = before


class Cupy(types.ModuleType):
    """The functions that layers call on `xp`."""

    ndarray = DeviceArray

    def __getattr__(self, name):
        if name.startswith("__"):                                             # __file__ and the like
            raise AttributeError(name)
        function = getattr(np, name)
        return lambda *args, **kwargs: call(function, *args, **kwargs)

    def asarray(self, x, dtype=None):
        if isinstance(x, DeviceArray):
            return x
        refuse("a copy from the host")
        return DeviceArray(np.array(x, dtype))

    def empty(self, shape, dtype=float):
        """Memory that nobody has written to: all bits are 1, NaN in floats."""
        if recording is not None and not own_pool:
            refuse("memory of the common pool")
        x = np.empty(shape, dtype)
        x.reshape(-1).view(np.uint8)[...] = 255
        return DeviceArray(x)

    def empty_like(self, x):
        return self.empty(x.shape, x.dtype)

    class cuda:
        Stream, using_allocator = Stream, staticmethod(using_allocator)
        get_current_stream = staticmethod(Stream)

        class MemoryPool:
            def malloc(self, size):
                raise AssertionError("the stand-in allocates by itself")

        class Device:
            attributes = types.MappingProxyType({"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 227 << 10})

            def __init__(self, index=0):
                self.index = index

            def use(self):
                return self

            def __enter__(self):
                return self

            def __exit__(self, *exc):
                return None


cupy = Cupy("cupy")
