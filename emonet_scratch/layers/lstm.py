"""Long short-term memory: one step, and backpropagation through time over a padded batch of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array, array_module, device_of, generator, to_device
from ..dispatch import twin
from .base import Layer, Parameter, check_last_axis


def gates(a: Array, c_prev: Array) -> tuple[Array, Array, Any]:
    """From the pre-activations a (N, 4H), in the order i f g o, and c_prev (N, H) to (h, c, cache).

        i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)    c = f * c_prev + i * g    h = o * tanh(c)

    sigmoid(a) = (1 + tanh(a / 2)) / 2 cannot overflow.
    """
    xp = array_module(a=a, c=c_prev)
    H = c_prev.shape[1]
    s = 0.5 * (1 + xp.tanh(0.5 * a))
    i, f, o = s[:, :H], s[:, H:2 * H], s[:, 3 * H:]
    g = xp.tanh(a[:, 2 * H:3 * H])
    c = f * c_prev + i * g
    tanh_c = xp.tanh(c)
    return o * tanh_c, c, (c_prev, i, f, g, o, tanh_c)


def gates_backward(dh: Array, dc: Array, cache: Any) -> tuple[Array, Array]:
    """(da (N, 4H), dc_prev (N, H)) from dh and dc (N, H): the gradients that reach h and c from above and from t + 1.

    h = o tanh(c) sends dh o (1 - tanh(c)^2) on to c; then every gate gets dc (or dh, for o) times its partner times
    its own derivative: s' = s (1 - s) for a sigmoid, 1 - g^2 for tanh.
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
    W_ih is drawn from N(0, 1/D), so that inputs of variance 1 open no gate far; each gate's part of W_hh is a random
    orthogonal matrix (Saxe et al. 2014); b is 0 but for the forget gate's part, `forget_bias` (Jozefowicz et al. 2015
    recommend 1: the cell remembers before it has learnt to).

    Backward: with da from `gates_backward`, dx = da @ W_ih.T, dh_prev = da @ W_hh.T, dW_ih = x.T @ da,
    dW_hh = h_prev.T @ da, db = da summed over N.
    """

    def __init__(self, D: int, H: int, forget_bias: float = 1.0, rng: np.random.Generator | None = None) -> None:
        rng = rng or generator()
        self.D, self.H = D, H
        self.W_ih = Parameter((rng.standard_normal((D, 4 * H)) * D**-0.5).astype(np.float32))
        rotations = [np.linalg.qr(rng.standard_normal((H, H)))[0] for _ in range(4)]
        self.W_hh = Parameter(np.concatenate(rotations, axis=1).astype(np.float32))
        self.b = Parameter(np.zeros(4 * H, np.float32))
        self.b.value[H:2 * H] = forget_bias

    def __repr__(self) -> str:
        return f"LSTMCell(D={self.D}, H={self.H})"

    def forward(self, x: Array, h_prev: Array, c_prev: Array) -> tuple[tuple[Array, Array], Any]:
        """((h, c), cache)"""
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


@twin
class LSTM(Layer):
    """`num_layers` LSTM layers over a batch of sequences of different lengths.

    Shapes: x (T, N, D), lengths (N,) integers in 0..T (array or list) or None for T everywhere, initial a pair
    (h, c) of (L, N, H) or None for zeros; y (T, N, H), final a pair (h, c) of (L, N, H).

        (y, final), cache = lstm.forward(x, lengths, initial)
        dx, dinitial = lstm.backward(dy, dfinal, cache)          # dy or dfinal None: no gradient from there

    A sequence ends at its length: behind it the state is carried on unchanged, y is 0, x is never read and dx is 0,
    so padding changes nothing, and `final` is each sequence's state after its own last step. A sequence run in
    chunks, each started from the final state of the one before, equals the whole.

    Of a layer, only the product with W_hh has to wait for the step before; the products with W_ih and the gradients
    of the weights are one matrix product each for all T steps.

    truncate: None, or the number of steps after which backward forgets (truncated BPTT, Williams & Peng 1990): the
    gradient that would flow from step k * truncate to the step before is dropped. Forward is the same.
    """

    def __init__(self, D: int, H: int, num_layers: int = 1, forget_bias: float = 1.0, truncate: int | None = None,
                 rng: np.random.Generator | None = None) -> None:
        if truncate is not None and truncate < 1:
            raise ValueError(f"LSTM(truncate) must be None or at least 1 step, got {truncate}")
        self.D, self.H, self.truncate = D, H, truncate
        self.cells = [LSTMCell(D if l == 0 else H, H, forget_bias, rng) for l in range(num_layers)]

    def __repr__(self) -> str:
        return f"LSTM(D={self.D}, H={self.H}, num_layers={len(self.cells)})"

    def forward(self, x: Array, lengths: Any = None, initial: tuple[Array, Array] | None = None) -> tuple[Any, Any]:
        """((y, (h, c)), cache)"""
        xp = array_module(x=x, W_ih=self.cells[0].W_ih.value, initial=None if initial is None else initial[0])
        check_last_axis(self, x, self.D, ndim=3)
        (T, N, _), L = x.shape, len(self.cells)
        valid = self._valid(lengths, T, N, x)
        if initial is None:
            initial = (xp.zeros((L, N, self.H), x.dtype), xp.zeros((L, N, self.H), x.dtype))
        if initial[0].shape != (L, N, self.H) or initial[1].shape != (L, N, self.H):
            raise ValueError(f"{self!r} got an initial state of shapes {initial[0].shape} and {initial[1].shape}: "
                             f"expected twice {(L, N, self.H)}")
        if valid is not None:
            x = xp.where(valid, x, 0)                                         # padding may hold anything, even NaN
        final_h, final_c, caches = xp.empty_like(initial[0]), xp.empty_like(initial[1]), []
        for l, cell in enumerate(self.cells):
            x, final_h[l], final_c[l], cache = self._layer_forward(cell, x, valid, initial[0][l], initial[1][l])
            caches.append(cache)
        return (x, (final_h, final_c)), (caches, valid)

    def backward(self, dy: Array | None, dfinal: tuple[Array, Array] | None, cache: Any) -> tuple[Array, Any]:
        """(dx, (dh, dc) of the initial state); adds to the gradients of every cell."""
        caches, valid = cache
        x, _h, *_ = caches[0]
        T, N, _ = x.shape
        xp = array_module(x)
        dy = xp.zeros((T, N, self.H), x.dtype) if dy is None else dy
        dh0, dc0 = (xp.zeros((len(caches), N, self.H), x.dtype) for _ in "hc")
        for l in reversed(range(len(caches))):
            dfinal_l = None if dfinal is None else (dfinal[0][l], dfinal[1][l])
            dy, dh0[l], dc0[l] = self._layer_backward(self.cells[l], dy, dfinal_l, caches[l], valid)
        return dy, (dh0, dc0)

    def _layer_forward(self, cell: LSTMCell, x: Array, valid: Array | None, h: Array, c: Array) -> tuple:
        """One layer: x (T, N, D), state (N, H) -> y (T, N, H), final h, final c, cache."""
        T, N, D = x.shape
        xp = array_module(x)
        a = (x.reshape(T * N, D) @ cell.W_ih.value + cell.b.value).reshape(T, N, 4 * self.H)
        y, h_prev, steps = xp.zeros((T, N, self.H), x.dtype), xp.empty((T, N, self.H), x.dtype), []
        for t in range(T):
            h_prev[t] = h
            h_new, c_new, step = gates(a[t] + h @ cell.W_hh.value, c)
            if valid is None:
                h, c, y[t] = h_new, c_new, h_new
            else:
                h, c, y[t] = xp.where(valid[t], h_new, h), xp.where(valid[t], c_new, c), xp.where(valid[t], h_new, 0)
            steps.append(step)
        return y, h, c, (x, h_prev, steps)

    def _layer_backward(self, cell: LSTMCell, dy: Array, dfinal: Any, cache: Any, valid: Array | None) -> tuple:
        """One layer: dy (T, N, H), dfinal a pair of (N, H) or None -> dx (T, N, D), dh and dc of its initial state."""
        x, h_prev, steps = cache
        T, N, D = x.shape
        xp = array_module(x, dy)
        dh, dc = (xp.zeros((N, self.H), x.dtype) for _ in "hc") if dfinal is None else dfinal
        da = xp.empty((T, N, 4 * self.H), x.dtype)
        for t in reversed(range(T)):
            if valid is None:
                da[t], dc = gates_backward(dh + dy[t], dc, steps[t])
                dh = da[t] @ cell.W_hh.value.T
            else:                                                             # an ended sequence hands dh, dc through
                da_t, dc_prev = gates_backward(dh + dy[t], dc, steps[t])
                da[t] = xp.where(valid[t], da_t, 0)
                dh, dc = xp.where(valid[t], da_t @ cell.W_hh.value.T, dh), xp.where(valid[t], dc_prev, dc)
            if self.truncate and t and t % self.truncate == 0:
                dh, dc = xp.zeros_like(dh), xp.zeros_like(dc)
        flat = da.reshape(T * N, 4 * self.H)
        cell.W_ih.grad += x.reshape(T * N, D).T @ flat
        cell.W_hh.grad += h_prev.reshape(T * N, self.H).T @ flat
        cell.b.grad += flat.sum(axis=0)
        return (flat @ cell.W_ih.value.T).reshape(T, N, D), dh, dc

    def _valid(self, lengths: Any, T: int, N: int, x: Array) -> Array | None:
        """(T, N, 1) booleans, True where step t is inside sequence n; None when nothing is padded."""
        if lengths is None:
            return None
        lengths = to_device(lengths, "cpu")
        if lengths.shape != (N,) or lengths.dtype.kind not in "iu" or (lengths < 0).any() or (lengths > T).any():
            raise ValueError(f"{self!r} got lengths {lengths} for x of shape {x.shape}: "
                             f"expected {N} integers in 0..{T}")
        if (lengths == T).all():
            return None
        return to_device(np.arange(T)[:, None, None] < lengths[None, :, None], device_of(x))

    def flops(self, y: Any) -> int:
        T, N, H = y[0].shape
        return sum(2 * T * N * (cell.D + H) * 4 * H for cell in self.cells)
