"""Recomputation: a long batch through a layer in bounded memory."""

from itertools import pairwise
from typing import Any

from ..backend import Array, array_module
from .base import Layer


class Chunked(Layer):
    """Run `layer` over the first axis of x in chunks of at most `size` rows; keep no caches of it.

    Shapes: x (B, ...), y (B, ...), as of `layer`. Backward recomputes a chunk's caches, uses them and drops
    them (gradient checkpointing, Chen et al. 2016), so the peak is one chunk's caches whatever B is, for one
    more forward. Buffers are put back after the recomputation, so running statistics count each chunk once.
    dx is None where that of `layer` is.

    Gradients equal those of the whole run wherever `layer` treats rows independently: always in evaluation
    mode. Batch normalisation in training mode takes the statistics of each chunk; that is another function of
    the input than the whole batch's, and its gradient is exact for that function.
    """

    def __init__(self, layer: Layer, size: int | None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"Chunked(size) must be None or at least 1, got {size}")
        self.layer: Any = layer
        self.size = size

    def __repr__(self) -> str:
        return f"Chunked({self.layer!r}, {self.size})"

    def forward(self, x: Array) -> tuple[Array, Any]:
        if self.size is None:
            y, cache = self.layer.forward(x)
            return y, cache
        chunks = self._chunks(x, self.size)
        states, parts = [], []
        training = any(layer.training for _, layer in self.layer.walk())
        for chunk in chunks:
            states.append(self.layer.save_buffers() if training else [])     # in evaluation no buffer changes
            parts.append(self.layer.forward(chunk)[0])
        return array_module(*parts).concatenate(parts), (chunks, states)

    def backward(self, dy: Array, cache: Any) -> Array | None:
        if self.size is None:
            return self.layer.backward(dy, cache)
        after = self.layer.save_buffers()
        parts = []
        for chunk, d, state in zip(cache[0], self._chunks(dy, self.size), cache[1], strict=True):
            if state:
                self.layer.restore_buffers(state)                        # the same masks and statistics again
            _, layer_cache = self.layer.forward(chunk)
            parts.append(self.layer.backward(d, layer_cache))
        self.layer.restore_buffers(after)
        return None if parts[0] is None else array_module(*parts).concatenate(parts)

    def _chunks(self, x: Array, size: int) -> list[Array]:
        """The fewest parts that are small enough, of equal length but for one row: no part of a single
        leftover.
        """
        count = max(1, -(-len(x) // size))                                    # of no rows: one part, of none
        edges = [len(x) * k // count for k in range(count + 1)]
        return [x[i:j] for i, j in pairwise(edges)]
