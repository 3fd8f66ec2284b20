"""What both devices launch in the same way: a row of layers that starts with a convolution, and one step of an optimizer."""

import operator
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..layers import Sequential
from ..optim import SGD, Optimizer
from . import takes


@dataclass(frozen=True)
class Row:
    """A Sequential that starts with Conv2d, BatchNorm, ReLU: those three as one, and the rest by itself.

        stem(row, conv, bn, x) -> (y, cache)        stem_backward(row, conv, bn, x, cache, dy) -> dx
        trunk(row, conv, bn, blocks, x) -> y        stem and residual blocks in evaluation, batch norms folded into filters

    A trunk keeps no caches; a backward, which hardly ever comes in evaluation, runs forward once more to get them, with the
    parameters that it finds.
    """

    device: takes.Device
    stem: Callable[..., Any]
    stem_backward: Callable[..., Any]
    trunk: Callable[..., Any]

    def forward(self, row: Sequential, x: Any) -> tuple[Any, Any]:
        """(y, (x, caches or None))"""
        conv, bn, _relu, *rest = (layer for _, layer in row.children())
        blocks = None if bn.training else takes.trunk(self.device, rest, conv.F)
        if blocks is None:
            y, caches = self._forward_with_caches(row, x)
            return y, (x, caches)
        return self.trunk(row, conv, bn, blocks, x), (x, None)

    def _forward_with_caches(self, row: Sequential, x: Any) -> tuple[Any, Any]:
        conv, bn, _relu, *rest = (layer for _, layer in row.children())
        y, stem_cache = self.stem(row, conv, bn, x)
        y, rest_cache = Sequential(*rest).forward(y)
        return y, (stem_cache, rest_cache)

    def _recomputed_caches(self, row: Sequential, x: Any) -> Any:
        """Those of a forward in evaluation, whatever the mode is now."""
        modes = [(layer, layer.training) for _, layer in row.walk()]
        row.eval()
        _, caches = self._forward_with_caches(row, x)
        for layer, mode in modes:
            layer.training = mode
        return caches

    def backward(self, row: Sequential, dy: Any, cache: Any) -> Any:
        """dx"""
        conv, bn, _relu, *rest = (layer for _, layer in row.children())
        x, caches = cache
        stem_cache, rest_cache = caches or self._recomputed_caches(row, x)
        dy = Sequential(*rest).backward(dy, rest_cache)
        return self.stem_backward(row, conv, bn, x, stem_cache, dy)

    def register(self) -> None:
        """As the kernel of Sequential."""
        self.device.kernel("Sequential", self.forward, self.backward)


@dataclass(frozen=True)
class Tables:
    """Where the arrays of parameters lie, as a kernel reads it: made once, and anew when an array is another object.

    build(rows): a row (value, grad, m, v) of arrays, or None for what there is not, a parameter -> the table.
    """

    build: Callable[[list[list[Any]]], Any]
    known: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = field(default_factory=weakref.WeakKeyDictionary)

    def of(self, owner: Any, use: Any, **columns: Sequence[Any]) -> Any:
        """The table of these columns, kept with `owner` under the name `use`."""
        arrays = [a for column in columns.values() for a in column]
        kept = self.known.setdefault(owner, {})
        before, table = kept.get(use, ((), None))
        if len(before) != len(arrays) or not all(map(operator.is_, before, arrays)):
            rows = len(next(iter(columns.values())))
            table = self.build([[columns[c][k] if c in columns else None for c in ("value", "grad", "m", "v")]
                                for k in range(rows)])
            kept[use] = arrays, table
        return table


@dataclass(frozen=True)
class Steps:
    """One optimizer step over all parameters: one launch for each factor on the learning rate that occurs.

        sgd(table, lr, decay, momentum, nesterov)
        adam(table, lr, decay, shrink, beta1, beta2, unbias2, eps)      lr over 1 - beta1^t, unbias2 = 1 / (1 - beta2^t)
    """

    tables: Tables
    sgd: Callable[..., None]
    adam: Callable[..., None]

    def run(self, o: Optimizer) -> None:
        """The kernel of Optimizer.step."""
        o.t += 1
        for factor in {p.lr_factor: None for p in o.params}:
            chosen = [k for k, p in enumerate(o.params) if p.lr_factor == factor]
            slots = {name: [arrays[k] for k in chosen] for name, arrays in o.slots.items()}
            table = self.tables.of(o, factor, value=[o.params[k].value for k in chosen],
                                   grad=[o.params[k].grad for k in chosen], **slots)
            lr = o.lr * factor
            if isinstance(o, SGD):
                self.sgd(table, lr, o.weight_decay, o.momentum, o.nesterov)
            else:
                decay, shrink = (0, 1 - lr * o.weight_decay) if o.decoupled else (o.weight_decay, 1)
                self.adam(table, lr / (1 - o.beta1**o.t), decay, shrink, o.beta1, o.beta2, 1 / (1 - o.beta2**o.t), o.eps)
