"""What a network is made of, read off a real run of it."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from ..layers.base import Layer
from ..layers.trace import trace


def summary(model: Layer, *inputs: Array) -> str:
    """A table with a row for each layer that ran on `inputs`: output shape, parameters, activations, FLOPs.

    Activations are the bytes of the arrays in the layer's cache that no earlier layer's cache holds: what a training
    step keeps for the backward pass. FLOPs are those of one forward, a multiply-add counted as two.
    """
    rows: list[tuple[str, Layer, Any, int]] = []
    seen: set[int] = set()
    keep = []                                                                 # ids stay unique while arrays live

    def listen(path: str, layer: Layer, y: Any, cache: Any) -> None:
        if any(done.startswith(f"{path}.") or not path for done, *_ in rows):
            return                                                            # a composition: its parts are listed
        fresh = [a for a in _arrays(cache) if id(a) not in seen]
        seen.update(map(id, fresh))
        keep.extend(fresh)
        rows.append((path, layer, y, sum(a.nbytes for a in {id(a): a for a in fresh}.values())))

    with trace(model, forward=listen):
        model.forward(*inputs)
    table = [("layer", "kind", "output", "parameters", "activations", "FLOPs")]
    total = [0, 0, 0]
    for path, layer, y, size in rows:
        shape = (y[0] if isinstance(y, tuple) else y).shape
        counts = [sum(p.value.size for p in layer.parameters()), size, layer.flops(y)]
        total = [t + c for t, c in zip(total, counts, strict=True)]
        table.append((path, type(layer).__name__, "x".join(map(str, shape)), *(f"{c:,}" for c in counts)))
    model.parameters()                                                        # names start at the model again
    table.append(("total", "", "", *(f"{t:,}" for t in total)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) if k < 3 else cell.rjust(w)
                               for k, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
                     for row in table)


def _arrays(tree: Any) -> list[Array]:
    """The arrays that own the memory that a cache refers to."""
    if isinstance(tree, (tuple, list)):
        return [a for part in tree for a in _arrays(part)]
    if not hasattr(tree, "dtype"):
        return []
    while getattr(tree, "base", None) is not None and hasattr(tree.base, "dtype"):
        tree = tree.base
    return [tree]
