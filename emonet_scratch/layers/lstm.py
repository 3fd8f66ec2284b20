"""Long short-term memory: one step, and backpropagation through time over a padded batch of sequences."""

from typing import Any

import numpy as np

from ..backend import Array, array_module, device_of, generator, to_device
from ..dispatch import definition
from .base import Layer, Parameter, check_last_axis


def gates(a: Array, c_prev: Array) -> tuple[Array, Array, Any]:
    """From the pre-activations a (N, 4H), in the order i f g o, and c_prev (N, H) to (h, c, cache).

        i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)    c = f * c_prev + i * g    h = o * tanh(c)

    sigmoid(a) = (1 + tanh(a / 2)) / 2 cannot overflow.
    """
    xp = array_module(a=a, c=c_prev)
    H = c_prev.shape[1]
    s = 0.5 * (1 + xp.tanh(0.5 * a))
    i = s[:, :H]
    f = s[:, H:2 * H]
    g = xp.tanh(a[:, 2 * H:3 * H])
    o = s[:, 3 * H:]
    c = f * c_prev + i * g
    tanh_c = xp.tanh(c)
    return o * tanh_c, c, (c_prev, i, f, g, o, tanh_c)


def gates_backward(dh: Array, dc: Array, cache: Any) -> tuple[Array, Array]:
    """(da (N, 4H), dc_prev (N, H)) from dh and dc (N, H): the gradients that reach h and c from above and
    from t + 1.

    h = o tanh(c) sends dh o (1 - tanh(c)^2) on to c; then every gate gets dc (or dh, for o) times its partner
    times its own derivative: s' = s (1 - s) for a sigmoid, 1 - g^2 for tanh.
    """
    c_prev, i, f, g, o, tanh_c = cache
    dc = dc + dh * o * (1 - tanh_c**2)
    da = array_module(dh).concatenate([dc * g * i * (1 - i),                  # da_i
                                       dc * c_prev * f * (1 - f),             # da_f
                                       dc * i * (1 - g**2),                   # da_g
                                       dh * tanh_c * o * (1 - o)], axis=1)    # da_o
    return da, dc * f


class LSTMCell(Layer):
    """One LSTM step (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

        a = x @ W_ih + h_prev @ W_hh + b,   then `gates`

    Shapes: x (N, D), h and c (N, H), W_ih (D, 4H), W_hh (H, 4H), b (4H,); gate order i f g o.
    W_ih is drawn from N(0, 1/D), so that inputs of variance 1 open no gate far; each gate's part of W_hh is a
    random orthogonal matrix (Saxe et al. 2014); b is 0 but for the forget gate's part, `forget_bias`
    (Jozefowicz et al. 2015 recommend 1: the cell remembers before it has learnt to).

    Backward: with da from `gates_backward`, dx = da @ W_ih.T, dh_prev = da @ W_hh.T, dW_ih = x.T @ da,
    dW_hh = h_prev.T @ da, db = da summed over N.
    """

    shown = ("D", "H")

    def __init__(self, D: int, H: int, forget_bias: float = 1.0,
                 rng: np.random.Generator | None = None) -> None:
        rng = rng or generator()
        self.D, self.H = D, H
        self.W_ih = Parameter((rng.standard_normal((D, 4 * H)) * D**-0.5).astype(np.float32))
        rotations = [np.linalg.qr(rng.standard_normal((H, H)))[0] for _ in range(4)]
        self.W_hh = Parameter(np.concatenate(rotations, axis=1).astype(np.float32))
        self.b = Parameter(np.zeros(4 * H, np.float32))
        self.b.value[H:2 * H] = forget_bias

    def forward(self, x: Array, h_prev: Array, c_prev: Array) -> tuple[tuple[Array, Array], Any]:
        """((h, c), cache)"""
        array_module(x=x, W_ih=self.W_ih.value)
        check_last_axis(self, x, self.D, ndim=2)
        h, c, cache = gates(x @ self.W_ih.value + h_prev @ self.W_hh.value + self.b.value, c_prev)
        return (h, c), (x, h_prev, cache)

    def backward(self, dh: Array, dc: Array, cache: Any) -> tuple[Array, Array, Array]:
        """(dx, dh_prev, dc_prev); adds to the gradients of W_ih, W_hh and b."""
        x, h_prev, gate_cache = cache
        da, dc_prev = gates_backward(dh, dc, gate_cache)
        self.W_ih.grad += x.T @ da
        self.W_hh.grad += h_prev.T @ da
        self.b.grad += da.sum(axis=0)
        return da @ self.W_ih.value.T, da @ self.W_hh.value.T, dc_prev


@definition
class LSTM(Layer):
    """`num_layers` LSTM layers over a batch of sequences of different lengths.

    Shapes: x (T, N, D), lengths (N,) integers in 0..T (array or list) or None for T everywhere, initial a
    pair (h, c) of (L, N, H) or None for zeros; y (T, N, H), final a pair (h, c) of (L, N, H).

        (y, final), cache = lstm.forward(x, lengths, initial)
        dx, dinitial = lstm.backward(dy, dfinal, cache)          # dy or dfinal None: no gradient from there

    A layer, for t = 1 ... T, with h_0 and c_0 from `initial`:

        a_t = x_t @ W_ih + h_t-1 @ W_hh + b        h_t, c_t = gates(a_t, c_t-1)        y_t = h_t

    The products with W_ih wait for nothing and are one for all steps; only h_t-1 @ W_hh waits for the step
    before.

    Backpropagation through time, for t = T ... 1. Let dh_t and dc_t be the gradients that reach h_t and c_t:
    from above, dy_t, and `dfinal` where t is the sequence's end; and, through a_t+1 and c_t+1, from the step
    behind:

        da_t, dc = gates_backward(dh_t, dc_t)
        dh_t-1 = da_t @ W_hh.T + dy_t-1            dc_t-1 = dc

    and dinitial is dh_0, dc_0. The weights are used in every step, so their gradients are sums over t:

        dW_ih = sum x_t.T @ da_t    dW_hh = sum h_t-1.T @ da_t    db = sum da_t    dx_t = da_t @ W_ih.T

    A sequence ends at its length: behind it y is 0, x is never read and dx is 0, so padding changes nothing,
    and `final` is each sequence's state after its own last step. The recurrence itself runs on behind the
    end, on zeros; no gradient enters there, so nothing of that is seen. A sequence run in chunks, each
    started from the final state of the one before, equals the whole.

    truncate: None, or the number of steps after which backward forgets (truncated BPTT, Williams & Peng
    1990): the gradient that would flow from step k * truncate to the step before is dropped. Forward is the
    same.
    """

    def __init__(self, D: int, H: int, num_layers: int = 1, forget_bias: float = 1.0,
                 truncate: int | None = None, rng: np.random.Generator | None = None) -> None:
        if truncate is not None and truncate < 1:
            raise ValueError(f"LSTM(truncate) must be None or at least 1 step, got {truncate}")
        self.D, self.H = D, H
        self.truncate = truncate
        self.cells = [LSTMCell(D if l == 0 else H, H, forget_bias, rng) for l in range(num_layers)]

    def __repr__(self) -> str:
        return f"LSTM(D={self.D}, H={self.H}, num_layers={len(self.cells)})"

    def forward(self, x: Array, lengths: Any = None,
                initial: tuple[Array, Array] | None = None) -> tuple[Any, Any]:
        """((y, (h, c)), cache)"""
        xp = array_module(x=x, W_ih=self.cells[0].W_ih.value, initial=None if initial is None else initial[0])
        check_last_axis(self, x, self.D, ndim=3)
        T, N, _ = x.shape
        shape = len(self.cells), N, self.H
        if initial is None:
            initial = xp.zeros(shape, x.dtype), xp.zeros(shape, x.dtype)
        if initial[0].shape != shape or initial[1].shape != shape:
            raise ValueError(f"{self!r} got an initial state of shapes {initial[0].shape} and "
                             f"{initial[1].shape}: expected twice {shape}")
        ends = self.ends(lengths, x)
        x = mask(x, ends)                                                # padding may hold anything, even NaN
        last = xp.full(N, T) if ends is None else ends, xp.arange(N)
        final, caches = [], []
        for l, cell in enumerate(self.cells):
            h, c, cache = self._layer_forward(cell, x, initial[0][l], initial[1][l])
            caches.append(cache)
            final.append((h[last], c[last]))
            x = mask(h[1:].copy(), ends)                                      # h itself is in the cache
        return (x, tuple(xp.stack(states) for states in zip(*final, strict=True))), (caches, ends, last)

    def backward(self, dy: Array | None, dfinal: tuple[Array, Array] | None, cache: Any) -> tuple[Any, Any]:
        """(dx, (dh, dc) of the initial state); adds to the gradients of every cell."""
        caches, ends, last = cache
        _, h, _ = caches[0]
        xp = array_module(h)
        dx = None if dy is None else mask(dy, ends)
        initial: list[tuple[Array, Array]] = []
        for l in reversed(range(len(caches))):
            dh, dc = xp.zeros_like(h), xp.zeros_like(h)                       # (T + 1, N, H), from outside
            if dx is not None:
                dh[1:] = dx
            if dfinal is not None:
                dh[last] += dfinal[0][l]                                      # at each sequence's own end
                dc[last] += dfinal[1][l]
            dx, dh_0, dc_0 = self._layer_backward(self.cells[l], dh, dc, caches[l])
            initial.insert(0, (dh_0, dc_0))
        return dx, tuple(xp.stack(states) for states in zip(*initial, strict=True))

    def _layer_forward(self, cell: LSTMCell, x: Array, h_0: Array, c_0: Array) -> tuple[Array, Array, Any]:
        """x (T, N, D), states (N, H) -> h and c (T + 1, N, H), the state before the first step first; and
        cache.
        """
        T, N, D = x.shape
        xp = array_module(x)
        a = (x.reshape(T * N, D) @ cell.W_ih.value + cell.b.value).reshape(T, N, 4 * self.H)
        h = xp.empty((T + 1, N, self.H), x.dtype)
        c = xp.empty_like(h)
        h[0], c[0] = h_0, c_0
        steps = []
        for t in range(T):
            h[t + 1], c[t + 1], step = gates(a[t] + h[t] @ cell.W_hh.value, c[t])
            steps.append(step)
        return h, c, (x, h, steps)

    def _layer_backward(self, cell: LSTMCell, dh_in: Array, dc_in: Array,
                        cache: Any) -> tuple[Array, Array, Array]:
        """dh_in and dc_in (T + 1, N, H), what reaches h_t and c_t from outside -> dx (T, N, D), dh_0, dc_0.
        """
        x, h, steps = cache
        T, N, D = x.shape
        da = array_module(x).empty((T, N, 4 * self.H), x.dtype)
        for start, stop in self._segments(T):
            dh, dc = dh_in[stop], dc_in[stop]
            for t in reversed(range(start, stop)):
                da[t], dc = gates_backward(dh, dc, steps[t])
                dh = da[t] @ cell.W_hh.value.T + dh_in[t]
                dc = dc + dc_in[t]
        da = da.reshape(T * N, 4 * self.H)
        cell.W_ih.grad += x.reshape(T * N, D).T @ da
        cell.W_hh.grad += h[:T].reshape(T * N, self.H).T @ da
        cell.b.grad += da.sum(axis=0)
        return (da @ cell.W_ih.value.T).reshape(T, N, D), dh, dc

    def _segments(self, T: int) -> list[tuple[int, int]]:
        """(start, stop) of the stretches of steps, last first, between which backward forgets."""
        size = self.truncate or max(T, 1)
        return [(start, min(start + size, T)) for start in range(0, max(T, 1), size)][::-1]

    def ends(self, lengths: Any, x: Array) -> Array | None:
        """lengths (N,) on the device of x (T, N, D), None where nothing is padded; ValueError where they do
        not fit.
        """
        if lengths is None:
            return None
        lengths = to_device(lengths, "cpu")
        T, N, _ = x.shape
        if (lengths.shape != (N,) or lengths.dtype.kind not in "iu" or (lengths < 0).any()
                or (lengths > T).any()):
            raise ValueError(f"{self!r} got lengths {lengths} for x of shape {x.shape}: "
                             f"expected {N} integers in 0..{T}")
        return None if (lengths == T).all() else to_device(lengths, device_of(x))

    def flops(self, y: Any) -> int:
        T, N, H = y[0].shape
        return sum(2 * T * N * (cell.D + H) * 4 * H for cell in self.cells)


def mask(a: Array, ends: Array | None) -> Array:
    """a (T, N, .) with 0 behind the end of each sequence; a itself where ends is None."""
    xp = array_module(a)
    return a if ends is None else xp.where(xp.arange(len(a))[:, None, None] < ends[None, :, None], a, 0)
