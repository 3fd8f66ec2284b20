"""Directional derivatives in float64: does backward belong to forward?"""

from typing import Any

import numpy as np

from .backend import Array, is_floating, to_device
from .differences import Comparison, Report, derivative
from .watch.pair import Pair, Product, as_pair, contents, direction, draw, finite, leaves, movable, outputs


class GradientError(AssertionError):
    """A backward pass that does not belong to its forward pass; the message holds the evidence."""


def gradcheck(f: Any, *inputs: Any, eps: float = 2.0**-11, rtol: float = 1e-8, atol: float = 0.0,
              directions: int = 1, seed: int = 0) -> Report:
    """Compare gradients with central differences in float64; raise GradientError where they differ.

    f is one of

        a layer             y, cache = f.forward(*inputs);  f.backward(dy, cache) adds gradients, returns dx
        (forward, backward) the same as two functions; as methods of a layer: its parameters, too
        a loss              value, gradient(s) = f(*inputs), as softmax_cross_entropy: value is a number

    inputs: arrays of any shape; floating-point ones are taken in float64 and checked, integers, None and
    single numbers (labels, lengths, rates) are constants. Inputs, outputs and gradients may be nested tuples.
    A layer is copied and the copy's parameters moved by N(0, 0.3^2), because initial values such as gamma = 1
    hide mistakes. Returns a row for each checked input and each parameter, `directions` times.

    With dy random, of norm 1, and phi(s) = <dy, f(x + s v) - y>, backward's <dx, v> must equal phi'(0). v is
    a random unit vector plus or minus dx / |dx|, scaled to norm 1: the random part finds any mistake, and
    along dx the derivative is largest and rounding counts least; the sign is that with which the two do not
    cancel. v has few digits and steps are powers of two, so the first x + s v are exact, and the size of x
    costs nothing, up to 1e8; a larger offset is to be taken out of x first.

    phi'(0) and its error come from differences.py: what is left of the curvature when steps are halved, and
    five times the rounding that phi shows, at least 2^-53 sum |dy y|, over the step. Steps are `eps` to eps /
    4, and, where the error is above rtol |phi'(0)|, 4096 eps to eps / 2048. The tolerance is this error and,
    for the rounding of backward, atol + rtol * max(|either|).

    Also an error: forward is not repeatable, not finite, not in float64, or has a kink where it is checked;
    gradients that overwrite instead of add; too few or too many; a wrong shape or type; a changed argument.
    ValueError or TypeError where nothing, or not all that is trained, can be compared.

    >>> from emonet_scratch import layers
    >>> [row.name for row in gradcheck(layers.Dense(3, 2), np.ones((4, 3)))]
    ['input 0', 'parameter W', 'parameter b']
    >>> gradcheck((lambda x: (x**2, x), lambda dy, x: dy * x), np.ones(2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    emonet_scratch.gradcheck.GradientError: input 0, shape (2,): backward gives ...
    """
    rng = np.random.default_rng([seed, 1])         # another stream than that of who draws inputs from `seed`
    pair = as_pair(f, rng)
    inputs = movable(inputs)
    held = leaves(inputs) + [p.value for p in pair.parameters]
    if directions < 1 or not any(a.size for a in filter(is_floating, held)):
        raise ValueError("gradcheck has nothing to compare: no parameter and no floating-point input in it")
    y, cache = _forward(pair, inputs, held)
    phi = Product(pair, inputs, y, rng)
    if not abs(phi()) <= 1e6 * phi.rounding:
        raise GradientError("forward gives two results for one input: name what it draws from in `buffers`")
    rows, more = _gradients(pair, inputs, cache, phi.dy, held, rng)
    compared = [_compare(*row, phi, rng, eps, rtol, atol)
                for _ in range(directions) for row in rows if row[1].size]
    skipped = [f"{name}, which is empty" for name, x, _ in rows if not x.size]
    skipped += [f"an input of type {type(a).__name__}" for a in leaves(inputs) if not is_floating(a)]
    return Report(compared, skipped + [f"{more} gradients of inputs that were left out"] * (more > 0))


def _forward(pair: Pair, inputs: Any, held: list[Any]) -> tuple[Any, Any]:
    """(y, cache), y finite and in float64; nothing that is held has changed."""
    before = contents(held)
    y, cache = pair.forward(*inputs)
    if contents(held) != before:
        raise GradientError("forward changed an argument or a parameter")
    if not all(a.dtype == np.float64 and finite(a) for a in outputs(y)):
        raise GradientError("forward gives nan, inf, or less than float64 for float64")
    return y, cache


def _gradients(pair: Pair, inputs: Any, cache: Any, dy: Any, held: list[Any],
               rng: np.random.Generator) -> tuple[list[tuple[str, Array, Array]], int]:
    """(name, array, gradient) of every input and parameter, by one backward, and how many are of no input."""
    start = [draw(rng, p.value) for p in pair.parameters]                 # backward must add to what is there
    for p, g in zip(pair.parameters, start, strict=True):
        p.grad[...] = g
    before = contents(held + leaves(dy))
    gradients = [g for g in leaves(pair.backward(*dy, cache)) if g is not None]
    if contents(held + leaves(dy)) != before:
        raise GradientError("backward changed an argument, a parameter, or an input of forward")
    arrays = list(filter(is_floating, leaves(inputs)))
    more = len(gradients) - len(arrays)
    if more < 0 or (more and len(inputs) == pair.inputs and not any(a is None for a in inputs)):
        raise GradientError(f"backward returned {len(gradients)} gradients for {len(arrays)} checked inputs")
    rows = [(f"input {k}", x, g) for k, (x, g) in enumerate(zip(arrays, gradients, strict=False))]
    rows += [(f"parameter {p.name}", p.value, p.grad - g)
             for p, g in zip(pair.parameters, start, strict=True)]
    for row in rows:
        _check_kind(*row)
    return rows, more


def _check_kind(name: str, x: Array, gradient: Any) -> None:
    """GradientError for a gradient of another shape or type than its array, or with NaN or inf in it."""
    kind = getattr(gradient, "dtype", type(gradient).__name__)
    if np.shape(gradient) != x.shape or kind != x.dtype:
        raise GradientError(f"{name}: the gradient has shape {np.shape(gradient)} and type {kind}, the array "
                            f"has {x.shape} and {x.dtype}")
    if not finite(gradient):
        raise GradientError(f"{name}, shape {x.shape}: backward gives nan or inf")


@np.errstate(all="ignore")                                                # large steps may leave the domain
def _compare(name: str, x: Array, gradient: Array, product: Product, rng: np.random.Generator,
             eps: float, rtol: float, atol: float) -> Comparison:
    """One direction of one array: perturb x in place, put it back, compare."""
    v = direction(rng, x, gradient, eps / 4)
    original = x.copy()

    def phi(s: float) -> float:
        x[...] = original + s * v
        return product()

    found = derivative(phi, eps, rtol, product.rounding)
    x[...] = original
    numeric, analytic = found.value, float((gradient * v).sum())
    largest = max(abs(numeric), abs(analytic))
    row = Comparison(name, x.shape, analytic, numeric, found.error + rtol * largest + atol, found.step)
    if not abs(numeric - analytic) <= row.tolerance:                      # not <=: catches NaN
        along = np.array2string(to_device(v, "cpu").ravel(), threshold=8, edgeitems=3, precision=4)
        raise GradientError(f"{row} along the direction {along}")
    if not found.error <= max(1e-3 * largest, 1e9 * product.rounding):
        raise GradientError(f"{row}: no step tells more; is there a kink, such as an exact 0 before a ReLU?")
    return row
