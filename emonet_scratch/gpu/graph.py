"""EMONET_GRAPH=1: the evaluation of one clip, or of one image, is captured as a CUDA graph and replayed as one launch.

A clip is hundreds of launches of a few microseconds each, and the host needs longer to issue them than the GPU to do them.
A shape that is seen for the second time is captured: forward runs once more on a stream of its own, to compile and to
fill tables, then under capture. All that it allocates comes from a memory pool of its own, which lives as long as the graph,
so that no address in it is ever given to anybody else. A replay copies the clip into the graph's inputs, launches, and
copies the logits.

A graph holds addresses, not values: parameters that change in place are seen (filters are packed inside), and parameters
that are replaced by other arrays lead to another graph. What a capture does not allow (cuBLAS, waiting, copies from the
host) does not happen in these forwards; tests/test_cuda_graph.py holds it to that. Never run on a GPU so far.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .. import dispatch
from ..backend import Array, import_cupy
from ..layers import Layer
from ..models import EmoNet, ResNet
from . import conv
from .gemm import own_products

enabled = os.environ.get("EMONET_GRAPH", "") not in ("", "0")

MOST_GRAPHS = 8                 # of one model; the one used longest ago goes first

_graphs: weakref.WeakKeyDictionary[Layer, OrderedDict[Any, Any]] = weakref.WeakKeyDictionary()
_SEEN, _FAILED = "seen once", "cannot be captured"


class _Graph:
    """The forward of one model for one shape of inputs; what is no array among them is part of it.

    It has one set of buffers: replays belong on one stream at a time.
    """

    def __init__(self, forward: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        cuda = import_cupy().cuda
        self.pool, stream = cuda.MemoryPool(), cuda.Stream(non_blocking=True)
        cuda.get_current_stream().synchronize()                               # what it reads is there
        with stream, cuda.using_allocator(self.pool.malloc), own_products():
            self.inputs = [x.copy() if _on_gpu(x) else x for x in inputs]
            forward(*self.inputs)
            stream.synchronize()
            stream.begin_capture()
            try:
                self.y, _ = forward(*self.inputs)
            except BaseException:
                with contextlib.suppress(Exception):                          # the first error is the one to tell
                    stream.end_capture()
                raise
            self.graph = stream.end_capture()
            self.graph.launch(stream)                                         # what cannot be launched is found out here
            stream.synchronize()
        # tables of addresses, which the kernels read and conv.py may replace
        self.tables = [list(tables.values()) for tables in conv._tables.values()]

    def replay(self, *inputs: Any) -> Array:
        """y for other values of the inputs."""
        for mine, x in zip(self.inputs, inputs, strict=True):
            if _on_gpu(mine):
                mine[...] = x
        self.graph.launch(import_cupy().cuda.get_current_stream())
        return self.y.copy()


def _on_gpu(x: Any) -> bool:
    return isinstance(x, import_cupy().ndarray)


class _Evaluation:
    """The twin of a model's forward; `used` gives the inputs of one clip or image that count, or None for anything else."""

    def __init__(self, definition: type[Layer], used: Callable[..., tuple[Any, ...] | None]) -> None:
        self.definition, self.used = definition, used

    def forward(self, model: Layer, *inputs: Any) -> Any:
        """(y, cache), where this shape has a graph or gets one now."""
        if not enabled or any(part.training for _, part in model.walk()):
            return NotImplemented
        arrays, used = list(model._state().values()), self.used(model, *inputs)
        if used is None or not all(map(_on_gpu, arrays)):
            return NotImplemented
        key = (tuple((x.shape, x.dtype.str) if _on_gpu(x) else x for x in used), dispatch.precision,
               tuple(a.data.ptr for a in arrays))
        known = _graphs.setdefault(model, OrderedDict())
        graph = known.pop(key, None)
        if graph is _SEEN:
            try:
                graph = _Graph(functools.partial(self.definition.forward.__wrapped__, model), used)
            except Exception as error:
                graph = _FAILED
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"EMONET_GRAPH: no graph of this {model!r}, its kernels are launched one by one: {reason}",
                              stacklevel=2)
        known[key] = graph or _SEEN
        while len(known) > MOST_GRAPHS:
            known.popitem(last=False)
        return (graph.replay(*used), inputs) if isinstance(graph, _Graph) else NotImplemented

    def backward(self, model: Layer, dy: Any, cache: Any) -> Any:
        """Hardly ever comes in evaluation; runs forward once more."""
        _, kept = self.definition.forward.__wrapped__(model, *cache)
        return self.definition.backward.__wrapped__(model, dy, kept)


def _one_clip(model: EmoNet, frames: Any, lengths: Any, audio: Any) -> tuple[Any, ...] | None:
    used = [x if kind in model.config.modalities else None for x, kind in ((frames, "video"), (audio, "audio"))]
    if len(lengths) != 1 or not all(x is None or _on_gpu(x) for x in used):
        return None
    return used[0], tuple(map(int, lengths)), used[1]


def _one_image(model: ResNet, x: Any) -> tuple[Any, ...] | None:
    return (x,) if _on_gpu(x) and x.ndim == 4 and len(x) == 1 else None


dispatch.register("EmoNet", _Evaluation(EmoNet, _one_clip), "cuda")
dispatch.register("ResNet", _Evaluation(ResNet, _one_image), "cuda")
