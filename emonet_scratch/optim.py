"""Optimizers, gradient clipping, learning-rate schedules.

An optimizer's state is in `state_dict()`: arrays named "m.NAME" for the parameter NAME, and the number of
steps "t". Parameters and state are changed in place; the kernels of a step do it in one pass over memory.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from .backend import Array, array_module, device_of, to_device
from .dispatch import definition
from .layers.base import NamedParameter


class Optimizer:
    """Base: holds parameters, the learning rate `lr` (set it before a step to follow a schedule) and slot
    arrays.

    params: what `Layer.parameters()` gives, of one layer or of several. A parameter p moves at the rate lr *
    p.lr_factor. In `state_dict()` one without a name, or with that of another, has its position for a name.
    """

    def __init__(self, params: Iterable[NamedParameter], lr: float, weight_decay: float, slots: str) -> None:
        if not (lr >= 0 and weight_decay >= 0):
            raise ValueError(f"lr and weight_decay must not be negative, got {lr} and {weight_decay}")
        self.params = list(params)
        if len({id(getattr(p, "parameter", p)) for p in self.params}) < len(self.params):
            raise ValueError("the optimizer got a parameter twice: a step would move it twice")
        self.lr, self.weight_decay = lr, weight_decay
        self.t = 0
        self.slots = {slot: [array_module(p.value).zeros_like(p.value) for p in self.params]
                      for slot in slots.split()}

    @definition
    def step(self) -> None:
        """Change every parameter by its gradient, in place."""
        self.t += 1
        for k, p in enumerate(self.params):
            array_module(value=p.value, grad=p.grad)                      # complains where they are apart
            self._update(p, {s: arrays[k] for s, arrays in self.slots.items()}, self.lr * p.lr_factor)

    def _update(self, p: NamedParameter, slots: dict[str, Array], lr: float) -> None:
        """Change one parameter and its slots, at the rate lr."""
        raise TypeError(f"{type(self).__name__} defines no update")

    def _named_slots(self) -> dict[str, Array]:
        names = [getattr(p, "name", "") for p in self.params]
        keys = [name if name and names.count(name) == 1 else f"{name}#{k}" for k, name in enumerate(names)]
        return {f"{s}.{key}": a for s, arrays in self.slots.items()
                for key, a in zip(keys, arrays, strict=True)}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Host copies of the slots and the step count."""
        return {name: np.array(to_device(a, "cpu"))
                for name, a in (self._named_slots() | {"t": np.array(self.t)}).items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy `state`, as `state_dict()` gave it, into this optimizer."""
        mine = self._named_slots()
        wrong = (mine.keys() | {"t"}) ^ state.keys()
        wrong = wrong or {name for name, a in mine.items() if a.shape != state[name].shape}
        if wrong:
            raise ValueError(f"the optimizer's state is of another model or optimizer: see {min(wrong)!r}")
        for name, array in mine.items():
            array[...] = to_device(np.asarray(state[name]), device_of(array))
        self.t = int(state["t"])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964; Nesterov's as in Sutskever et al. 2013).

        d = grad + weight_decay * value        m <- momentum * m + d
        value <- value - lr * m                             or, with nesterov, - lr * (d + momentum * m)
    """

    def __init__(self, params: Iterable[NamedParameter], lr: float, momentum: float = 0,
                 nesterov: bool = False, weight_decay: float = 0) -> None:
        if not 0 <= momentum < 1 or (nesterov and not momentum):
            raise ValueError(f"momentum must be in [0, 1), and positive for nesterov, got {momentum}")
        super().__init__(params, lr, weight_decay, "m" if momentum else "")
        self.momentum, self.nesterov = momentum, nesterov

    def _update(self, p: NamedParameter, slots: dict[str, Array], lr: float) -> None:
        d = p.grad + self.weight_decay * p.value
        if self.momentum:
            m = slots["m"]
            m[...] = self.momentum * m + d
            d = d + self.momentum * m if self.nesterov else m
        p.value -= lr * d


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1); with decoupled=True, AdamW (Loshchilov & Hutter 2019, algorithm
    2).

        d = grad + weight_decay * value    decoupled: d = grad, and value <- value - lr * weight_decay * value
        m <- beta1 m + (1 - beta1) d        v <- beta2 v + (1 - beta2) d^2
        value <- value - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """

    def __init__(self, params: Iterable[NamedParameter], lr: float = 1e-3, beta1: float = 0.9,
                 beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0,
                 decoupled: bool = False) -> None:
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and eps > 0):
            raise ValueError(f"Adam wants beta1 and beta2 in [0, 1) and eps > 0, got {beta1}, {beta2}, {eps}")
        super().__init__(params, lr, weight_decay, "m v")
        self.beta1, self.beta2 = beta1, beta2
        self.eps, self.decoupled = eps, decoupled

    def _update(self, p: NamedParameter, slots: dict[str, Array], lr: float) -> None:
        m, v = slots["m"], slots["v"]
        d = p.grad
        if self.decoupled:
            p.value *= 1 - lr * self.weight_decay
        else:
            d = d + self.weight_decay * p.value
        m[...] = self.beta1 * m + (1 - self.beta1) * d
        v[...] = self.beta2 * v + (1 - self.beta2) * d**2
        m_hat, v_hat = m / (1 - self.beta1**self.t), v / (1 - self.beta2**self.t)
        p.value -= lr * m_hat / (v_hat**0.5 + self.eps)


class RMSprop(Optimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5): each number has a rate by its own recent gradients.

        d = grad + weight_decay * value        v <- rho v + (1 - rho) d^2
        value <- value - lr * d / (sqrt(v) + eps)

    v starts at 0 and is, other than in Adam, not corrected for it: the first step is lr / sqrt(1 - rho) for
    each number.
    """

    def __init__(self, params: Iterable[NamedParameter], lr: float = 1e-3, rho: float = 0.9,
                 eps: float = 1e-8, weight_decay: float = 0) -> None:
        if not (0 <= rho < 1 and eps > 0):
            raise ValueError(f"RMSprop wants rho in [0, 1) and eps > 0, got {rho}, {eps}")
        super().__init__(params, lr, weight_decay, "v")
        self.rho, self.eps = rho, eps

    def _update(self, p: NamedParameter, slots: dict[str, Array], lr: float) -> None:
        d, v = p.grad + self.weight_decay * p.value, slots["v"]
        v[...] = self.rho * v + (1 - self.rho) * d**2
        p.value -= lr * d / (v**0.5 + self.eps)


@definition
def clip_gradient_norm(params: Iterable[NamedParameter], limit: float | None) -> float:
    """Scale all gradients in place so that their joint Euclidean norm is at most `limit`; return the norm
    before.

    (Pascanu et al. 2013, algorithm 1.) With limit None the norm is only measured. A norm that is not finite
    is returned and nothing is scaled.
    """
    params = list(params)
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be positive or None, got {limit}")
    norm = math.sqrt(float(sum(array_module(p.grad).vdot(p.grad, p.grad) for p in params)))
    if limit is not None and math.isfinite(norm) and norm > limit:
        for p in params:
            p.grad *= limit / norm
    return norm


@definition
def all_finite(params: Iterable[NamedParameter]) -> bool:
    """Whether every value of every parameter is a finite number."""
    return all(bool(array_module(p.value).isfinite(p.value).all()) for p in params)


def schedule(name: str, lr: float, steps: int, warmup: int = 0) -> Callable[[int], float]:
    """The learning rate of step 0, 1, ... as a function of the step; nothing to save but the step.

    Over `steps` steps, of which the first `warmup` rise linearly to lr (Goyal et al. 2017, section 2.2), then

        constant    lr
        step        lr, a tenth of it from half of the rest on, a hundredth from three quarters
                    (He et al. 2016, 4.2)
        cosine      lr (1 + cos(pi u)) / 2, u from 0 to 1 over the rest (Loshchilov & Hutter 2017, eq. 5)
        one_cycle   up along a cosine from lr / 25 to lr over the first 30 %, then down to lr / 1e4
                    (Smith 2018)

    >>> [round(schedule("cosine", 1.0, 5, warmup=1)(t), 3) for t in range(5)]
    [1.0, 1.0, 0.75, 0.25, 0.0]
    """
    def cosine(u: float, start: float, end: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * u)) / 2

    def one_cycle(u: float) -> float:
        return cosine(u / 0.3, lr / 25, lr) if u < 0.3 else cosine((u - 0.3) / 0.7, lr, lr / 1e4)

    shapes = {"constant": lambda u: lr,
              "step": lambda u: lr * (1 if u < 0.5 else 0.1 if u < 0.75 else 0.01),
              "cosine": lambda u: cosine(u, lr, 0.0),
              "one_cycle": one_cycle}
    if name not in shapes:
        raise ValueError(f"schedule must be one of {', '.join(shapes)}, got {name!r}")
    if not (steps >= 1 and 0 <= warmup <= steps):
        raise ValueError(f"schedule wants steps >= 1 and 0 <= warmup <= steps, got {steps} and {warmup}")

    def rate(t: int) -> float:
        if t < warmup:
            return lr * (t + 1) / warmup
        return shapes[name](min(1.0, (t - warmup) / max(1, steps - 1 - warmup)))
    return rate
