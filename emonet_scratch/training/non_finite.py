"""Where did it go wrong? The first layer whose output, or whose gradient, is not finite."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module
from ..layers.base import Layer, Parameter
from ..watch import trace


def overflow_unwarned() -> np.errstate:
    """A context in which NumPy does not warn of overflow: who enters it looks for what is not finite, and names it."""
    return np.errstate(over="ignore", invalid="ignore")


class _Found(Exception):
    """Carries the finding out of the traced run."""


def first_non_finite(model: Layer, step: Callable[[], Any]) -> str:
    """Repeat `step`, a forward and backward of `model`, and say where the first value that is not finite appears.

    Parameters are looked at first, then the outputs in the order of forward, then the gradients in that of backward.
    Buffers must be as they were before the failing step.
    """
    for p in model.parameters():
        if not _finite(p.value):
            return f"in the parameter {p.name}"

    def look(path: str, layer: Layer, values: Any, what: str) -> None:
        if not _finite(values):
            raise _Found(f"in the {what} of {path or 'the model'}, {layer!r}")

    def parameters(path: str, layer: Layer, dx: Any) -> None:
        look(path, layer, dx, "input gradient")
        for name, value in vars(layer).items():
            if isinstance(value, Parameter) and not _finite(value.grad):
                raise _Found(f"in the gradient of {name} of {path or 'the model'}, {layer!r}")

    model.zero_grad()
    try:
        with overflow_unwarned(), trace(model, lambda path, layer, y, cache: look(path, layer, y, "output"), parameters):
            step()
    except _Found as found:
        return str(found)
    return "in the loss, though every layer is finite"


def _finite(values: Any) -> bool:
    if isinstance(values, (tuple, list)):
        return all(map(_finite, values))
    return values is None or bool(array_module(values).isfinite(values).all())
