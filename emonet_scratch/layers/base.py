"""What every layer is: parameters, children, and a forward/backward pair.

    y, cache = layer.forward(x)        # pure but for running statistics and generators
    dx = layer.backward(dy, cache)     # ADDS to the .grad of its parameters, RETURNS dx, mutates no argument

The cache travels beside the data: one layer can be run many times before its backwards, in any order.
A layer with several inputs or outputs takes one gradient for each output before the cache, in the structure
in which forward gave them, and returns one gradient for each array that forward took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Array, device_of, is_floating, to_device

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on


class Parameter:
    """A trained array and the gradient of the loss with respect to it: same shape, dtype and device.

    lr_factor: by how much of the optimizer's rate it is moved (Howard & Ruder 2018, section 3.2).
    """

    def __init__(self, value: Array) -> None:
        if not is_floating(value):
            raise TypeError(f"Parameter takes an array of floating-point numbers, got {value!r}")
        self.value: Array = np.asarray(value) if isinstance(value, np.generic) else value
        self.grad = np.zeros_like(value)
        self.lr_factor = 1.0

    def __repr__(self) -> str:
        return f"Parameter(shape {self.value.shape}, {self.value.dtype})"


def _of_parameter(name: str) -> Any:
    """An attribute that is the parameter's own, to be read and to be set."""
    return property(lambda self: getattr(self.parameter, name),
                    lambda self, value: setattr(self.parameter, name, value))


class NamedParameter:
    """A view of a parameter under its path from the layer that was asked, such as "stage1.0.conv1.W"."""

    def __init__(self, name: str, parameter: Parameter) -> None:
        self.name = name
        self.parameter = parameter

    value = _of_parameter("value")
    grad = _of_parameter("grad")
    lr_factor = _of_parameter("lr_factor")

    def __repr__(self) -> str:
        return f"{self.name!r}: {self.parameter!r}"


class Layer:
    """Base of all layers. Parameters and child layers are found among the attributes, and in lists, tuples
    and dicts there. One that is in several places is found once, under the name of the first.
    """

    training = True
    buffers: tuple[str, ...] = ()   # attributes that are saved but not trained (running statistics, counters)
    shown: tuple[str, ...] = ()     # attributes that repr, and so every error, shows

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name in self.shown)})"

    def forward(self, *inputs: Any, **options: Any) -> tuple[Any, Any]:
        """(y, cache)"""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def backward(self, *gradients_and_cache: Any, **options: Any) -> Any:
        """dx; adds to the gradients of the parameters."""
        raise TypeError(f"{type(self).__name__} defines no backward")

    def flops(self, y: Array) -> int:
        """Floating-point operations of a forward that gave y, a multiply-add as two; 0: negligible."""
        return 0

    def children(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """(attribute name or "name.index", layer) of every direct child, in the order of construction."""
        return _find(Layer, prefix, vars(self))

    def walk(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Layer]]:
        """(dotted path, layer) of this layer ("" by default) and all below it, but for those in `seen`."""
        seen = set() if seen is None else seen
        if id(self) not in seen:
            seen.add(id(self))
            yield prefix, self
            for path, child in self.children(prefix):
                yield from child.walk(path, seen)

    def parameters(self) -> list[NamedParameter]:
        """Every parameter of this layer and those below it, each named by its path from here."""
        found: dict[int, NamedParameter] = {}
        for path, layer in self.walk():
            for name, parameter in _find(Parameter, path, vars(layer)):
                found.setdefault(id(parameter), NamedParameter(name, parameter))
        return list(found.values())

    def named_buffers(self) -> dict[str, Array]:
        """{dotted path: buffer} of this layer and those below it."""
        return {f"{path}.{name}".lstrip("."): getattr(layer, name)
                for path, layer in self.walk() for name in layer.buffers}

    def save_buffers(self) -> list[Array]:
        """Copies of all buffers of the tree, for `restore_buffers`."""
        return [array.copy() for array in self.named_buffers().values()]

    def restore_buffers(self, saved: list[Array]) -> None:
        """Put back what `save_buffers` copied, in place: the next forward sees the same masks, statistics."""
        for array, kept in zip(self.named_buffers().values(), saved, strict=True):
            array[...] = kept

    def zero_grad(self) -> None:
        """Set every gradient to zero, in place."""
        for p in self.parameters():
            p.grad.fill(0)

    def train(self, mode: bool = True) -> Self:
        """Switch batch normalisation and dropout of the whole tree to training behaviour."""
        for _, layer in self.walk():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Switch the whole tree to evaluation: running statistics, no dropout."""
        return self.train(False)

    def to_device(self, device: str) -> Self:
        """Move parameters, gradients and buffers to "cpu" or "cuda:K"."""
        return self._convert(lambda a: to_device(a, device))

    def astype(self, dtype: Any) -> Self:
        """Convert parameters, gradients and floating-point buffers, for gradient checks in float64."""
        return self._convert(lambda a: a.astype(dtype) if is_floating(a) else a)

    def _convert(self, function: Callable[[Array], Array]) -> Self:
        for p in self.parameters():
            p.value, p.grad = function(p.value), function(p.grad)
        for _, layer in self.walk():
            for name in layer.buffers:
                setattr(layer, name, function(getattr(layer, name)))
        return self

    def _state(self) -> dict[str, Array]:
        return {p.name: p.value for p in self.parameters()} | self.named_buffers()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Host copies of all parameters and buffers by dotted path."""
        return {name: np.array(to_device(a, "cpu")) for name, a in self._state().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy `state` into this layer, in place. Names and shapes must be those of `state_dict()`."""
        mine = self._state()
        missing, extra = sorted(mine.keys() - state.keys()), sorted(state.keys() - mine.keys())
        if missing or extra:
            raise ValueError(f"the state is of another model: {len(missing)} arrays are missing "
                             f"{missing[:1]}, {len(extra)} are not known here {extra[:1]}")
        for name, array in mine.items():
            if array.shape != state[name].shape:
                raise ValueError(f"the state is of another model: {name} has shape {state[name].shape}, "
                                 f"this model has {array.shape}")
        for name, array in mine.items():
            array[...] = to_device(np.asarray(state[name]), device_of(array))


def _find(kind: Any, name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, found) of all of this kind that value is, or that lists, tuples and dicts in it hold."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _find(kind, f"{name}.{key}" if name else str(key), part)


def check_last_axis(layer: Layer, x: Array, size: int, ndim: int | None = None) -> None:
    """Raise the one-line error of a layer that got the wrong shape."""
    if x.shape[-1:] != (size,) or (ndim is not None and x.ndim != ndim):
        axes = "" if ndim is None else f"{ndim} axes and "
        raise ValueError(f"{layer!r} got x of shape {x.shape}: expected {axes}a last axis of {size}")
