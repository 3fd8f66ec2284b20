"""A stand-in for CuPy on machines without a GPU: NumPy's functions behind CuPy's rules.

Device arrays never turn into host arrays by themselves, never mix with host arrays (numbers and host scalars are
fine) and cannot be indexed with host arrays; `.get()` copies to the host, `asarray` to the device.
"""

import types
import weakref

import numpy as np

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
        return self.host.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("implicit conversion of a device array to a host array")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return call(getattr(ufunc, method), *inputs, **kwargs)

    def __pow__(self, k):
        return wrap(self.host ** unwrap(k))   # as arrays do: in older NumPy the ufunc is not the operator, by a bit

    def __getitem__(self, key):
        return wrap(self.host[unwrap(key)])

    def __setitem__(self, key, value):
        self.host[unwrap(key)] = unwrap(value)

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
        return float(self.host)

    def __bool__(self):
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
    out = kwargs.get("out")
    result = function(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()})
    return (out[0] if isinstance(out, tuple) else out) if out is not None else wrap(result)


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
        return DeviceArray(np.array(x, dtype))

    def empty(self, shape, dtype=float):
        """Memory that nobody has written to: all bits are 1, NaN in floats."""
        x = np.empty(shape, dtype)
        x.reshape(-1).view(np.uint8)[...] = 255
        return DeviceArray(x)

    def empty_like(self, x):
        return self.empty(x.shape, x.dtype)

    class cuda:
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
