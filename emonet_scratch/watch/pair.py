"""What has a backward, as two functions that can be run again and again in float64: for gradient checks."""

import copy
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module, device_of, is_floating, to_device
from ..layers import Layer, Parameter
from ..layers.base import NamedParameter


class Pair(NamedTuple):
    """y, cache = forward(*inputs) and dx = backward(dy, cache), which adds to the gradients of `parameters`.

    inputs: how many forward can take.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    parameters: list[NamedParameter]
    inputs: int


def as_pair(f: Any, rng: np.random.Generator) -> Pair:
    """A layer, two functions, two methods of one layer, or a loss (see gradcheck) as a pair.

    A layer is copied and the copy's parameters are moved by N(0, 0.3^2), because initial values such as gamma = 1 hide
    mistakes; its forward starts from the same buffers every time. TypeError for anything else. ValueError for methods of an
    object that holds Parameters or arrays of which the pair could say nothing.
    """
    functions = (f.forward, f.backward) if isinstance(f, Layer) else f if isinstance(f, tuple) else (f,)
    if isinstance(f, type) or (isinstance(f, tuple) and len(f) != 2) or not all(map(callable, functions)):
        raise TypeError(f"a gradient check takes a layer, a pair (forward, backward) or a loss, got {f!r}")
    if len(functions) == 1:
        return Pair(functools.partial(_loss, f), lambda dy, dx: map_leaves(lambda g: float(dy) * g, dx), [],
                    len(inspect.signature(f).parameters))
    inputs = len(inspect.signature(functions[0]).parameters)
    owner, other = (getattr(function, "__self__", None) for function in functions)
    layer = _copy_of(f if isinstance(f, Layer) else owner)
    if not isinstance(layer, Layer) and not isinstance(other, Layer):
        return Pair(*functions, [], inputs)
    if owner is not other:
        raise ValueError(f"forward is of {owner!r}, backward of {other!r}: expected two methods of one layer")
    layer.astype(np.float64)
    parameters, buffers = layer.parameters(), layer.save_buffers()
    for p in parameters:
        p.value += to_device(0.3 * rng.standard_normal(p.value.shape), device_of(p.value))
    forward, backward = (types.MethodType(function.__func__, layer) for function in functions)

    def repeatable(*inputs: Any) -> Any:
        layer.restore_buffers(buffers)                                                  # the same dropout masks every time
        return forward(*inputs)
    return Pair(repeatable, backward, parameters, inputs)


def _copy_of(owner: Any) -> Any:
    """A copy; ValueError where it holds Parameters or arrays that are neither found nor named in `buffers`."""
    copied: dict[int, Any] = {}
    layer = copy.deepcopy(owner, copied)                                                # all that it holds, wherever
    known = set()
    if isinstance(layer, Layer):
        known = {id(a) for p in layer.parameters() for a in (p.parameter, p.value, p.grad)}
        known |= {id(a) for a in layer.named_buffers().values()}
    strange = [a for a in copied.values()
               if id(a) not in known and (isinstance(a, Parameter) or (is_floating(a) and a.ndim))]
    strange += _left_behind(layer) if isinstance(layer, Layer) else []
    for a in strange[:1]:
        what = repr(a) if isinstance(a, (Parameter, Layer)) else f"an array of shape {a.shape}"
        raise ValueError(f"{type(owner).__name__} holds {what} that no gradient check would see: weights of a Layer are "
                         f"Parameters in attributes, lists, tuples or dicts, its other arrays are named in `buffers`; "
                         f"weights of other objects can be inputs of forward and backward")
    return layer


def _left_behind(layer: Layer) -> list[Any]:
    """Other names of a parameter's array, which stay with the old one, and what is the class's and so not the copy's."""
    found: list[Any] = []
    for _, part in layer.walk():
        found += [a for name, a in vars(part).items() if name not in part.buffers and is_floating(a) and a.ndim]
        found += [a for kind in type(part).__mro__ for a in vars(kind).values() if isinstance(a, (Parameter, Layer))]
    return found


def _loss(f: Callable[..., Any], *inputs: Any) -> tuple[Any, Any]:
    """A loss as the forward of a pair, its gradients as the cache."""
    result = f(*inputs)
    if not isinstance(result, tuple) or len(result) != 2 or np.shape(result[0]) != ():
        raise TypeError(f"{f!r} is no loss, which returns (number, gradients): a layer goes in as (forward, backward)")
    value = np.asarray(result[0])
    return value if is_floating(value) else value.astype(np.float64), result[1]


def movable(a: Any) -> Any:
    """Nested tuples with float64 copies of floating-point arrays; constants as they are; TypeError for other numbers."""
    if isinstance(a, tuple):
        return tuple(map(movable, a))
    if is_floating(a):
        return array_module(a).array(a, np.float64)
    if _numbers(a):
        raise TypeError(f"an input of type {type(a).__name__} holds numbers that no gradient check can move: it takes "
                        f"floating-point arrays, or tuples of them")
    return a


def _numbers(a: Any) -> bool:
    """Whether this holds numbers, or objects, beside integers."""
    kind = getattr(np.asarray(a) if isinstance(a, (list, dict, set)) else a, "dtype", np.dtype(int)).kind
    return kind in "fcO"


def outputs(y: Any) -> list[Array]:
    """The floating-point arrays of y; TypeError where there is none, or an output whose numbers would not be compared."""
    found = list(filter(is_floating, leaves(y)))
    for a in leaves(y):
        if not is_floating(a) and (isinstance(a, (float, complex)) or _numbers(a)):
            raise TypeError(f"forward gives a {type(a).__name__}: expected a floating-point array, or a tuple of them")
    if not found:
        raise TypeError("forward gives no floating-point array, so there is nothing to compare")
    return found


def contents(tree: list[Any]) -> list[Any]:
    """What the arrays among these hold, to be compared later."""
    return [a.tobytes() if hasattr(a, "tobytes") else repr(a) for a in tree]


class Product:
    """phi: <dy, what forward gives now - y> over the floating-point arrays of y, with a random dy of norm 1 for each.

    rounding: of y, as it shows in phi; dy in the structure of y, what is no tuple as the only part of one.
    """

    def __init__(self, pair: Pair, inputs: Any, y: Any, rng: np.random.Generator) -> None:
        self.forward, self.inputs = pair.forward, inputs
        self.dy = top(map_leaves(lambda a: draw(rng, a) if is_floating(a) else None, y))
        both = enumerate(zip(leaves(self.dy), leaves(y), strict=True))
        self.terms = [(k, d, a.copy()) for k, (d, a) in both if d is not None]          # y may be x itself, which will move
        self.rounding = 2.0**-53 * sum(float(abs(d * a).sum()) for _, d, a in self.terms)

    def __call__(self) -> float:
        try:
            now = leaves(self.forward(*self.inputs)[0])
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):   # a long step has left the domain
            return np.nan
        return sum(float((d * (now[k] - a)).sum()) for k, d, a in self.terms)


def top(tree: Any) -> tuple[Any, ...]:
    """The parts of a tuple; of anything else, itself as the only one."""
    return tree if isinstance(tree, tuple) else (tree,)


def finite(a: Array) -> bool:
    """Whether all numbers of an array are finite."""
    return bool(array_module(a).isfinite(a).all())


def draw(rng: np.random.Generator, like: Array) -> Array:
    """A random array of Euclidean norm 1, shaped and placed as `like`."""
    return unit(array_module(like).asarray(rng.standard_normal(like.shape)))


def direction(rng: np.random.Generator, x: Array, gradient: Array, step: float) -> Array:
    """v: a random unit vector and the gradient's, added up on the side where they do not cancel, of norm 1 but for rounding.

    It has so few digits that x + s v is exact for s from `step` on, if x is not too large for that (1e8, for 1e-4).
    """
    v, g = draw(rng, gradient), unit(gradient)
    v = unit(v + g if float((v * g).sum()) >= 0 else v - g)
    digit = 2.0 ** (np.ceil(np.log2(float(abs(x).max()) + 1)) - 52) / step
    digit = min(max(digit, 2.0**-26), float(abs(v).max()) / 4)
    return array_module(v).rint(v / digit) * digit


def unit(a: Array) -> Array:
    """a with the Euclidean norm 1; 0 where a is 0."""
    return a / max(float((a * a).sum()) ** 0.5, 1e-300)


def leaves(tree: Any) -> list[Any]:
    """What is in nested tuples, from left to right."""
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else [tree]


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nested tuples, of function(leaf)."""
    return tuple(map_leaves(function, part) for part in tree) if isinstance(tree, tuple) else function(tree)
