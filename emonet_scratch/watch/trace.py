"""Watching a network run: after every forward and backward of every layer, tell a listener."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..layers import Layer


@contextmanager
def trace(model: Layer, forward: Callable[..., None] | None = None,
          backward: Callable[..., None] | None = None) -> Iterator[None]:
    """Within the block, call forward(path, layer, y, cache) and backward(path, layer, dx) when a layer has
    run.

    path is the dotted path from `model`. A layer reports after the layers that it called, so the first report
    with some property comes from the innermost layer that has it. The definitions run, not their kernels,
    which would hide the layers of a composition.
    """
    wrapped = [*model.walk()]

    def watch(path: str, layer: Layer, method: str, listener: Callable[..., None] | None) -> None:
        run = getattr(layer, method)
        if method == "forward" and hasattr(run, "__wrapped__"):              # backward follows from the cache
            run = partial(run.__wrapped__, layer)

        def call(*args: Any) -> Any:
            result = run(*args)
            if listener:
                listener(path, layer, *(result if method == "forward" else (result,)))
            return result
        setattr(layer, method, call)

    try:
        for path, layer in wrapped:
            watch(path, layer, "forward", forward)
            watch(path, layer, "backward", backward)
        yield
    finally:
        for _, layer in wrapped:
            vars(layer).pop("forward", None)
            vars(layer).pop("backward", None)
