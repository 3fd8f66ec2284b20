"""The gradient of a batch, as a sum over its shards, each of which is the work of one rank (see ../shards.py)."""

from collections.abc import Sequence

import numpy as np

from ..backend import Array, array_module, is_floating, to_device
from ..data.batches import Batch, Draw
from ..layers.base import NamedParameter
from ..losses import softmax_cross_entropy
from ..models import EmoNet
from ..shards import Alone, cut
from .inference import count_right, forward


class Gradients:
    """Computes the gradients of the loss of a batch with respect to `params`, those of `model` that are trained.

    weights: of classes (C,), or None. The batch is cut into as many shards of clips as model.config.shards says. With w_s
    the weights of the labels of shard s, summed (without weights: its clips), and l_s its own mean loss,

        loss = sum_s (w_s / sum_s w_s) l_s

    is that of the whole batch, and so are the gradients. They are added up in the fixed tree, in the parameters' own type,
    and so are what the shards change the buffers by (the statistics of a trunk_norm="batch", which normalises each shard by
    itself), by their share of the clips. Dropout draws by the number of (step, shard).
    """

    def __init__(self, model: EmoNet, params: Sequence[NamedParameter], weights: np.ndarray | None, device: str,
                 ranks: Alone) -> None:
        self.model, self.params, self.weights, self.device, self.ranks = model, params, weights, device, ranks
        self.shards, self.smoothing = model.config.shards, model.config.label_smoothing
        self.class_weights = None if weights is None else to_device(weights, device)
        self.every = model.parameters()                                       # no walk over all layers for each shard
        self.places = [(layer, name) for _, layer in model.walk() for name in layer.buffers]

    def __call__(self, batch: Batch | Draw, step: int, buffers: list[Array]) -> tuple[float, int]:
        """(loss, clips right) of a batch, whose gradients are in the parameters then.

        step: how many there were before; buffers: as `save_buffers` gives them now.
        """
        if self.shards == 1:
            self.model.zero_grad()
            return self.accumulate(batch)
        parts = self._parts(batch)
        mine = (self._row(batch, *parts[k], step * self.shards + k, buffers) for k in self.ranks.owned(len(parts)))
        P = sum(a.size for a in (*(p.grad for p in self.params), *filter(is_floating, buffers))) + 2
        total = self.ranks.total(mine, len(parts), P, self.params[0].value)
        self._begin((step + 1) * self.shards, buffers)
        return self._unpack(to_device(total, self.device))

    def accumulate(self, batch: Batch | Draw) -> tuple[float, int]:
        """The same by this process alone, all shards in a row; ADDS to the gradients."""
        found = [self._part(batch, *part) for part in self._parts(batch)]
        return sum(loss for loss, _ in found), sum(right for _, right in found)

    def _parts(self, batch: Batch | Draw) -> list[tuple[int, int, float]]:
        """(first, end, share of the loss) of each shard."""
        runs = cut(len(batch), self.shards)
        if len(runs) == 1:
            return [(*runs[0], 1.0)]
        w = np.ones(len(batch)) if self.weights is None else self.weights[batch.labels].astype(np.float64)
        return [(first, end, float(w[first:end].sum() / w.sum())) for first, end in runs]

    def _part(self, batch: Batch | Draw, first: int, end: int, share: float) -> tuple[float, int]:
        """(share of the loss, clips right) of a shard; adds its share of the gradients to those of the parameters."""
        part = batch.part(first, end)
        logits, cache = forward(self.model, part, self.device)
        loss, dlogits = softmax_cross_entropy(logits, part.labels, self.smoothing, self.class_weights)
        self.model.backward(dlogits * share, cache)
        return loss * share, count_right(logits, part.labels)

    @property
    def buffers(self) -> list[Array]:
        """As they are now: a kernel may put another array in the place of one."""
        return [getattr(layer, name) for layer, name in self.places]

    def _begin(self, number: int, before: list[Array]) -> None:
        """Buffers are as they were, but that dropout's next mask is that of this number; gradients are 0."""
        for buffer, kept in zip(self.buffers, before, strict=True):
            buffer[...] = kept
            if not is_floating(buffer):
                buffer[1] = number
        for p in self.every:
            p.grad.fill(0)

    def _row(self, batch: Batch | Draw, first: int, end: int, share: float, number: int, before: list[Array]) -> Array:
        """(P,): what a shard adds to the step: gradients, changes of the buffers, loss and clips right."""
        self._begin(number, before)
        found = self._part(batch, first, end, share)
        clips = (end - first) / len(batch)
        changes = [clips * (now - then) for now, then in zip(self.buffers, before, strict=True) if is_floating(now)]
        flat = [a.ravel() for a in (*(p.grad for p in self.params), *changes)]
        xp = array_module(*flat)
        return xp.concatenate([*flat, xp.array(found, flat[0].dtype)])

    def _unpack(self, row: Array) -> tuple[float, int]:
        """(loss, clips right) of a sum of such rows; gradients and buffers are in place then."""
        first = 0
        for p in self.params:
            p.grad[...] = row[first:first + p.grad.size].reshape(p.grad.shape)
            first += p.grad.size
        for buffer in filter(is_floating, self.buffers):
            buffer += row[first:first + buffer.size].reshape(buffer.shape)
            first += buffer.size
        loss, right = to_device(row[-2:], "cpu")
        return float(loss), int(right)
