"""What a network is made of, read off a real run of it."""

import weakref
from typing import Any

from ..backend import Array
from ..layers import Layer
from .trace import trace


def summary(model: Layer, *inputs: Array) -> str:
    """A table with a row for each layer that ran on `inputs`: output shape, parameters, activations, FLOPs.

    Activations are the bytes of the arrays in the layer's cache that no earlier row counts and that are still
    there when the whole forward is through: what a training step keeps for the backward pass, without what
    Chunked drops. FLOPs are those of one forward, a multiply-add counted as two. A layer that ran on chunk
    after chunk has one row, with its outputs joined; a composition has one where it keeps more than its parts
    do. The run moves no buffers, and is one of the definitions: a kernel may keep less.
    """
    rows: dict[str, tuple[Layer, list[Any], list[Any], list[int]]] = {}
    seen: dict[int, weakref.ref[Any]] = {}                                  # a dead array's id may come again

    def listen(path: str, layer: Layer, y: Any, cache: Any) -> None:
        owners = {id(a): weakref.ref(a) for a in _arrays(cache)}
        fresh = [ref for i, ref in owners.items() if seen.get(i) is not ref]
        seen.update(owners)
        if fresh or not any(done.startswith(f"{path}." if path else "") for done in rows):
            _, shapes, caches, flops = rows.setdefault(path, (layer, [], [], []))
            shapes.append((y[0] if isinstance(y, tuple) else y).shape)
            caches.extend(fresh)
            flops.append(layer.flops(y))

    buffers = model.save_buffers()
    with trace(model, forward=listen):
        _kept = model.forward(*inputs)                             # so its arrays live until they are counted
    model.restore_buffers(buffers)
    table: list[tuple[str, ...]] = [("layer", "kind", "output", "parameters", "activations", "FLOPs")]
    total, counted = [0, 0, 0], set[int]()
    for path, (layer, shapes, caches, flops) in rows.items():
        parameters = [p for p in layer.parameters() if id(p.parameter) not in counted]
        counted.update(id(p.parameter) for p in parameters)
        size = sum(a.nbytes for ref in caches if (a := ref()) is not None)
        counts = [sum(p.value.size for p in parameters), size, sum(flops)]
        total = [t + c for t, c in zip(total, counts, strict=True)]
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
        table.append((path, type(layer).__name__, "x".join(map(str, shape)), *(f"{c:,}" for c in counts)))
    table.append(("total", "", "", *(f"{t:,}" for t in total)))
    return "\n".join(_aligned(table))


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Lines with three columns of words to the left, the numbers behind them to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(w) if k < 3 else cell.rjust(w)
                      for k, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip() for row in table]


def _arrays(tree: Any) -> list[Array]:
    """The arrays that own the memory that a cache refers to."""
    if isinstance(tree, (tuple, list)):
        return [a for part in tree for a in _arrays(part)]
    if not getattr(tree, "ndim", 0):
        return []
    while getattr(tree, "base", None) is not None and hasattr(tree.base, "dtype"):
        tree = tree.base
    return [tree]
