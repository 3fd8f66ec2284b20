"""Directional derivatives in float64: does backward belong to forward?"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import array_module, device_of, to_device
from .layers.base import Layer


class GradientError(AssertionError):
    """A backward pass that does not belong to its forward pass; the message holds the evidence."""


def gradcheck(f: Any, *inputs: Any, eps: float = 1e-5, rtol: float = 1e-7, atol: float = 1e-9,
              directions: int = 1, seed: int = 0) -> None:
    """Compare gradients with central differences in float64; raise GradientError where they differ.

    f is one of

        a layer             y, cache = f.forward(*inputs);  f.backward(dy, cache) adds gradients, returns dx
        (forward, backward) the same as two functions
        a loss              value, gradient(s) = f(*inputs), as softmax_cross_entropy: value is a number

    inputs: arrays of any shape; floating-point ones are taken in float64 and checked, all others (labels,
    lengths, None) are constants. Inputs, outputs and gradients may be nested tuples. A layer is copied and
    the copy's parameters moved by N(0, 0.3^2), because initial values such as gamma = 1 hide mistakes.

    For a unit vector v and an output gradient dy, both random, backward's <dx, v> must equal

        (<dy, f(x + eps v)> - <dy, f(x - eps v)>) / (2 eps)

    within atol + rtol * max(|either|), for every checked input and every parameter, `directions` times. Also
    an error: gradients that overwrite instead of add, a wrong shape, a changed argument.

    >>> from emonet_scratch import layers
    >>> gradcheck(layers.Dense(3, 2), np.ones((4, 3)))
    >>> gradcheck((lambda x: (x**2, x), lambda dy, x: dy * x), np.ones(2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    emonet_scratch.gradcheck.GradientError: input 0, shape (2,): backward gives ...
    """
    rng = np.random.default_rng(seed)
    forward, backward, layer = _as_pair(f, rng)
    inputs = _map(lambda a: a.astype(np.float64) if _checked(a) else a, inputs)
    y, cache = forward(*inputs)
    dy = _map(lambda a: _draw(rng, a), y)

    def phi() -> float:
        moved = _leaves(forward(*inputs)[0])
        return sum(float((d * a).sum()) for d, a in zip(_leaves(dy), moved, strict=True))

    for _ in range(directions):
        for name, x, gradient in _gradients(backward, cache, inputs, dy, layer, rng):
            _compare(name, x, gradient, phi, rng, eps, rtol, atol)


def _gradients(backward: Callable[..., Any], cache: Any, inputs: tuple[Any, ...], dy: Any,
               layer: Layer | None, rng: np.random.Generator) -> list[tuple[str, Any, Any]]:
    """(name, array, gradient) of every checked input and every parameter, by one backward."""
    leaves = [a for a in _leaves(inputs) if _checked(a)]
    parameters = layer.parameters() if layer else []
    start = [_draw(rng, p.grad) for p in parameters]
    for p, g in zip(parameters, start, strict=True):
        p.grad[...] = g                                                   # backward must add to what is there
    before = _map(_copy, (inputs, dy))
    args = dy if isinstance(dy, tuple) else (dy,)
    dx = [d for d in _leaves(backward(*args, cache)) if d is not None]
    for a, b in zip(_leaves((inputs, dy)), _leaves(before), strict=True):
        if _checked(a) and not bool((a == b).all()):
            raise GradientError(f"backward changed an argument, of shape {a.shape}, or an input of forward")
    if len(dx) < len(leaves):
        raise GradientError(f"backward returned {len(dx)} gradients for {len(leaves)} floating-point inputs")
    checks = [(f"input {k}", x, d) for k, (x, d) in enumerate(zip(leaves, dx, strict=False))]
    for p, g in zip(parameters, start, strict=True):
        checks.append((f"parameter {p.name}", p.value, p.grad - g))
    return checks


def _compare(name: str, x: Any, gradient: Any, phi: Callable[[], float], rng: np.random.Generator,
             eps: float, rtol: float, atol: float) -> None:
    """One direction of one array: perturb x in place, put it back, compare."""
    if gradient.shape != x.shape:
        raise GradientError(f"{name}: the gradient has shape {gradient.shape}, the array has {x.shape}")
    if x.size == 0:
        return
    v, original = _draw(rng, x), x.copy()
    x[...] = original + eps * v
    plus = phi()
    x[...] = original - eps * v
    minus = phi()
    x[...] = original
    numeric, analytic = (plus - minus) / (2 * eps), float((gradient * v).sum())
    if not abs(numeric - analytic) <= atol + rtol * max(abs(numeric), abs(analytic)):   # not <=: catches NaN
        direction = np.array2string(to_device(v, "cpu").ravel(), threshold=8, edgeitems=3, precision=4)
        raise GradientError(f"{name}, shape {x.shape}: backward gives {analytic:.12g}, central differences "
                            f"give {numeric:.12g} (difference {analytic - numeric:.3g}) with step {eps:g} "
                            f"along the direction {direction}")


def _as_pair(f: Any, rng: np.random.Generator) -> tuple[Callable[..., Any], Callable[..., Any], Layer | None]:
    """f as a forward and a backward function, and the float64 copy of the layer if it is one."""
    if isinstance(f, tuple):
        return (*f, None)
    if not isinstance(f, Layer):
        def loss_forward(*inputs: Any) -> tuple[Any, Any]:
            value, gradients = f(*inputs)
            return np.asarray(value, np.float64), gradients
        return loss_forward, (lambda dy, gradients: _map(lambda g: float(dy) * g, gradients)), None
    layer = copy.deepcopy(f).astype(np.float64)
    for p in layer.parameters():
        p.value += to_device(0.3 * rng.standard_normal(p.value.shape), device_of(p.value))
    buffers = layer.save_buffers()

    def forward(*inputs: Any) -> Any:
        layer.restore_buffers(buffers)                                     # the same dropout masks every time
        return layer.forward(*inputs)
    return forward, layer.backward, layer


def _checked(a: Any) -> bool:
    return hasattr(a, "dtype") and a.dtype.kind == "f"


def _copy(a: Any) -> Any:
    return a.copy() if hasattr(a, "copy") else a


def _draw(rng: np.random.Generator, like: Any) -> Any:
    """A random array of Euclidean norm 1, shaped and placed as `like`."""
    v = rng.standard_normal(like.shape)
    return array_module(like).asarray(v / max(np.linalg.norm(v), 1e-300))


def _leaves(tree: Any) -> list[Any]:
    return [leaf for part in tree for leaf in _leaves(part)] if isinstance(tree, tuple) else [tree]


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    return tuple(_map(function, part) for part in tree) if isinstance(tree, tuple) else function(tree)
