"""What a layer and an optimizer promise beside the right numbers; AssertionError says which promise is broken."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..backend import is_floating
from ..layers import Layer, Parameter
from ..optim import Optimizer
from ..watch.pair import as_pair, contents, draw, leaves, map_leaves, top

EPS32 = float(np.finfo(np.float32).eps)


def contract(layer: Layer, *inputs: Any, seed: int = 0) -> None:
    """All of this, on copies of a layer on the host, with inputs as for `gradcheck`. That is another check: a backward that
    is wrong in the same way each time passes here.

    * forward and backward change none of their arguments, nor what forward gave, nor a parameter;
    * float32 stays float32, float64 stays float64, and both agree: to 16 eps of float32, times the root of the largest
      array's size, times the largest number (at least 1) of each array;
    * a second backward gives the same and adds as much again;
    * of three forwards in a row each keeps its own cache: their backwards, in another order, give what they give at once;
    * `state_dict` gives copies of all parameters and buffers, under a name each, `load_state_dict` takes them, and no other
      array, and no Parameter that is not found, is in the layer (ValueError).
    """
    as_pair(layer, np.random.default_rng(seed))
    single, double = (_once(copy.deepcopy(layer).astype(dtype), _cast(inputs, dtype), np.dtype(dtype), seed)
                      for dtype in (np.float32, np.float64))
    limit = 16 * EPS32 * max((a.size for a in double), default=0) ** 0.5
    for a, b in zip(single, double, strict=True):
        _promise(bool((abs(a - b) <= limit * max(1, abs(b).max(initial=0))).all()), "float32 is far from float64")
    layer, inputs = copy.deepcopy(layer).astype(np.float64), _cast(inputs, np.float64)
    for p in layer.parameters():
        p.value += 0.5                                                                  # a 0 that is lost would be 0 again
    _check_caches(layer, inputs, seed)
    _check_state(layer, inputs)


def _promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)


def _cast(tree: Any, dtype: Any) -> Any:
    """Copies that hold float32's digits whatever the type is."""
    return map_leaves(lambda a: a.astype(np.float32).astype(dtype) if is_floating(a) else copy.copy(a), tree)


def _floating(tree: Any) -> list[Any]:
    return [a for a in leaves(tree) if is_floating(a)]


def _forward(layer: Layer, inputs: Any, seed: int) -> tuple[Any, Any, Callable[[], Any]]:
    """(y, dy, backward of dy)"""
    y, cache = layer.forward(*inputs)
    rng = np.random.default_rng([seed, 2])
    dy = map_leaves(lambda a: draw(rng, a).astype(np.float32).astype(a.dtype) if is_floating(a) else None, y)
    return y, dy, lambda: layer.backward(*top(dy), cache)


def _gradients(layer: Layer) -> list[np.ndarray]:
    return [p.grad.copy() for p in layer.parameters()]


def _once(layer: Layer, inputs: Any, dtype: Any, seed: int) -> list[np.ndarray]:
    """Outputs and gradients, which are of this type; nothing is changed; twice is the double."""
    layer.zero_grad()
    values = [p.value for p in layer.parameters()]
    before = contents(leaves(inputs) + values)
    y, dy, backward = _forward(layer, inputs, seed)
    _promise(contents(leaves(inputs) + values) == before, "forward changed an argument or a parameter")
    _promise(all(p.value is a for p, a in zip(layer.parameters(), values, strict=True)),
             "forward replaced a parameter")
    held = leaves((inputs, y, dy)) + values
    before = contents(held)
    dx, once = backward(), _gradients(layer)
    _promise(contents(held) == before, "backward changed an argument, a parameter, or what forward took or gave")
    results = [*_floating(copy.deepcopy((y, dx))), *once]
    wrong = [a.dtype for a in results if a.dtype != dtype]
    _promise(not wrong, f"of {dtype} comes {wrong[:1]}: outputs and gradients have the type of inputs and parameters")
    again = _floating(backward())
    _promise(all(map(np.array_equal, again, _floating(dx))), "a second backward gives another gradient of an input")
    _promise(all(abs(g - 2 * h).max(initial=0) <= 1e-4 * abs(h).max(initial=0)
                 for g, h in zip(_gradients(layer), once, strict=True)),
             "two backwards do not double the gradients of the parameters: backward must add")
    return results


def _check_caches(layer: Layer, inputs: Any, seed: int) -> None:
    """Three inputs in a row, with backwards at once and with backwards in another order."""
    def shuffled(a: Any, k: int) -> Any:
        """Other values from the same domain; of integers, only where no floats tell the rows apart."""
        if not is_floating(a) and (_floating(inputs) or not isinstance(a, np.ndarray)):
            return a
        b = np.random.default_rng([seed, k]).permutation(a.ravel()).reshape(a.shape) if k else a
        return b / 2**k if is_floating(a) else b
    rows = [map_leaves(lambda a, k=k: shuffled(a, k), inputs) for k in range(3)]
    apart, together = copy.deepcopy(layer), copy.deepcopy(layer)
    at_once = [_floating(_forward(apart, row, seed + k)[2]()) for k, row in enumerate(rows)]
    given = [_forward(together, row, seed + k) for k, row in enumerate(rows)]
    waiting = [backward for _, _, backward in given]
    first = copy.deepcopy(layer).forward(*rows[0])[0]
    _promise(all(map(np.array_equal, _floating(given[0][0]), _floating(first))), "a later forward changed an earlier output")
    for k in (1, 2, 0):
        _promise(all(map(np.array_equal, _floating(waiting[k]()), at_once[k])), "a later forward changed an earlier cache")
    _promise(all(map(np.allclose, _gradients(together), _gradients(apart))), "a later forward changed an earlier cache")


def _check_state(layer: Layer, inputs: Any) -> None:
    """A copy that was changed in all that has a name becomes the layer again."""
    state, other = layer.state_dict(), copy.deepcopy(layer)
    other.load_state_dict({name: a + 1 for name, a in state.items()})
    before = contents([*layer.state_dict().values()])
    other.load_state_dict(state)
    for a in state.values():
        a += 1
    for one in (layer, other):
        _promise(contents([*one.state_dict().values()]) == before, "a state that was loaded differs, or shares memory")
    y, again = (_floating(one.forward(*inputs)[0]) for one in (layer, other))
    _promise(all(map(np.array_equal, y, again)), "forward is another with the same state")


def contract_of_optimizer(make: Callable[[list[Parameter]], Optimizer], shapes: Iterable[tuple[int, ...]] = ((3, 2), (4,)),
                          seed: int = 0) -> None:
    """make(params) is an optimizer that changes values in place and nothing else, and that, put together again from
    `state_dict` and the values after two steps, goes on as one that was never taken apart."""
    rng = np.random.default_rng([seed, 3])
    params = [Parameter(rng.standard_normal(shape)) for shape in shapes]
    steps = [[rng.standard_normal(p.value.shape) for p in params] for _ in range(4)]

    def run(optimizer: Optimizer, ours: list[Parameter], gradients: list[list[np.ndarray]]) -> None:
        for step in gradients:
            for p, g in zip(ours, step, strict=True):
                p.grad[...] = g
            arrays = [p.value for p in ours]
            optimizer.step()
            _promise(all(p.value is a for p, a in zip(ours, arrays, strict=True)), "a step replaced a parameter's array")
            _promise(all(np.array_equal(p.grad, g) for p, g in zip(ours, step, strict=True)), "a step changed a gradient")

    start = copy.deepcopy(params)
    optimizer = make(params)
    run(optimizer, params, steps[:1])
    _promise(not any(np.array_equal(p.value, q.value) for p, q in zip(params, start, strict=True)), "a step changes nothing")
    run(optimizer, params, steps[1:2])
    held = copy.deepcopy(start)
    for p in held:
        p.lr_factor = 0.0
    run(make(held), held, steps[:2])
    _promise(all(np.array_equal(p.value, q.value) for p, q in zip(held, start, strict=True)), "lr_factor 0 moves")
    resumed = copy.deepcopy(params)
    other = make(resumed)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, ours in ((optimizer, params), (other, resumed)):
        run(one, ours, steps[2:])
    _promise(all(np.array_equal(p.value, q.value) for p, q in zip(params, resumed, strict=True)),
             "an optimizer that was made anew from state_dict goes on otherwise")
