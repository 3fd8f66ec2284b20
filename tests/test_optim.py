"""Optimizer steps against their formulas, schedules against theirs, memory."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import dispatch, optim
from emonet_scratch.layers import Parameter
from emonet_scratch.layers.base import NamedParameter
from tests.strategies import seeds, sizes, values

rates = st.floats(1e-4, 1)


def parameters(seed, *shapes):
    params = [Parameter(values(seed + k, *shape).copy()) for k, shape in enumerate(shapes)]
    for k, p in enumerate(params):
        p.name = f"p{k}"
    return params


def set_gradients(params, seed):
    for k, p in enumerate(params):
        p.grad[...] = values(seed + k, *p.grad.shape)


@given(sizes, sizes, rates, st.sampled_from([(0, False), (0.9, False), (0.9, True)]), st.floats(0, 0.1), seeds)
def test_sgd(N, M, lr, kind, decay, seed):
    momentum, nesterov = kind
    params = parameters(seed, (N, M), (M,))
    opt = optim.SGD(params, lr, momentum, nesterov, decay)
    x, m = [p.value.copy() for p in params], [np.zeros_like(p.value) for p in params]
    for step in range(3):
        set_gradients(params, seed + step)
        opt.step()
        for k, p in enumerate(params):
            d = p.grad + decay * x[k]
            m[k] = momentum * m[k] + d
            x[k] = x[k] - lr * (d + momentum * m[k] if nesterov else m[k])
            assert np.allclose(p.value, x[k], rtol=1e-12, atol=1e-14)


@given(sizes, sizes, rates, st.floats(0, 0.99), st.floats(0, 0.1), seeds)
def test_rmsprop(N, M, lr, rho, decay, seed):
    params = parameters(seed, (N, M), (M,))
    opt = optim.RMSprop(params, lr, rho, 1e-6, decay)
    x, v = [p.value.copy() for p in params], [np.zeros_like(p.value) for p in params]
    for step in range(3):
        set_gradients(params, seed + step)
        opt.step()
        for k, p in enumerate(params):
            d = p.grad + decay * x[k]
            v[k] = rho * v[k] + (1 - rho) * d * d
            x[k] = x[k] - lr * d / (np.sqrt(v[k]) + 1e-6)
            assert np.allclose(p.value, x[k], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="rho in"):
        optim.RMSprop(params, lr, 1.0)


OPTIMIZERS = {
    "RMSprop": lambda p, lr: optim.RMSprop(p, lr, weight_decay=0.01),
    "SGD": lambda p, lr: optim.SGD(p, lr, 0.9, weight_decay=0.01),
    "Adam": lambda p, lr: optim.Adam(p, lr, weight_decay=0.01),
    "AdamW": lambda p, lr: optim.Adam(p, lr, weight_decay=0.01, decoupled=True)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])              # the definitions, and the kernels where they are
@given(st.floats(0.01, 4), rates, seeds)
def test_a_factor_on_the_rate_of_a_parameter(make, dtype, factor, lr, seed):
    """Parameters with factors, in one optimizer, move as in one optimizer for each rate."""
    together, alone = (parameters(seed, (3,), (2, 2), (4,)) for _ in "ab")
    for p in (*together, *alone):
        p.value, p.grad = p.value.astype(dtype), p.grad.astype(dtype)
    together[1].lr_factor = factor
    one, others = make(together, 1.0), [make([p], 1.0) for p in alone]
    for step in range(3):
        set_gradients(together, seed + step)
        set_gradients(alone, seed + step)
        one.lr = lr / (1 + step)
        one.step()
        for other, of in zip(others, (1, factor, 1), strict=True):
            other.lr = one.lr * of
            other.step()
    for p, q in zip(together, alone, strict=True):
        assert np.allclose(p.value, q.value, rtol=1e-6 if dtype is np.float32 else 1e-14)
    assert one.state_dict().keys() == {f"{slot}.p{k}" for slot in one.slots for k in range(3)} | {"t"}


@given(sizes, sizes, rates, st.floats(0, 0.99), st.floats(0, 0.999), st.floats(0, 0.1), st.booleans(), seeds)
def test_adam(N, M, lr, beta1, beta2, decay, decoupled, seed):
    params = parameters(seed, (N, M), (M,))
    opt = optim.Adam(params, lr, beta1, beta2, 1e-8, decay, decoupled)
    x = [p.value.copy() for p in params]
    m, v = ([np.zeros_like(p.value) for p in params] for _ in "mv")
    for t in (1, 2, 3):
        set_gradients(params, seed + t)
        opt.step()
        for k, p in enumerate(params):
            d = p.grad if decoupled else p.grad + decay * x[k]
            m[k], v[k] = beta1 * m[k] + (1 - beta1) * d, beta2 * v[k] + (1 - beta2) * d**2
            shrunk = x[k] * (1 - lr * decay) if decoupled else x[k]
            x[k] = shrunk - lr * (m[k] / (1 - beta1**t)) / (np.sqrt(v[k] / (1 - beta2**t)) + 1e-8)
            assert np.allclose(p.value, x[k], rtol=1e-11, atol=1e-13)


def test_agreement_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and not installed")
    makers = [(lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01),
               lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01)),
              (lambda p: optim.Adam(p, 0.1, weight_decay=0.01), lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01)),
              (lambda p: optim.Adam(p, 0.1, weight_decay=0.01, decoupled=True),
               lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.01))]
    for make, peer in makers:
        ours, = parameters(1, (4, 3))
        theirs = torch.tensor(ours.value.copy(), requires_grad=True)
        opt, topt = make([ours]), peer([theirs])
        for step in range(5):
            set_gradients([ours], step)
            theirs.grad = torch.tensor(ours.grad.copy())
            opt.step()
            topt.step()
        assert np.allclose(ours.value, theirs.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01), lambda p: optim.Adam(p, 0.1)])
def test_a_step_moves_in_place_and_its_kernel_allocates_nothing(make):
    params = [Parameter(np.ones((500, 500), np.float32)) for _ in range(2)]
    arrays = [p.value for p in params]
    opt = make(params)
    opt.step()
    tracemalloc.start()
    opt.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    allowed = 20_000 if dispatch.loaded("cpu") else 7 * arrays[0].nbytes      # the definition: temporaries of one parameter
    assert peak < allowed, f"a step over 1 MB arrays allocated {peak} bytes"
    assert all(p.value is a for p, a in zip(params, arrays, strict=True))


@pytest.mark.parametrize("make, arrays", [(lambda p: optim.SGD(p, 0.1), 0), (lambda p: optim.SGD(p, 0.1, 0.9), 2),
                                          (lambda p: optim.Adam(p, 0.1), 4)])
def test_an_optimizer_holds_its_slots_and_nothing_else(make, arrays):
    """Of two parameters, with 0, 1 or 2 slots each."""
    params = [Parameter(np.ones((500, 500), np.float32)) for _ in range(2)]
    tracemalloc.start()
    opt = make(params)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held == pytest.approx(arrays * params[0].value.nbytes, rel=0.02, abs=20_000)
    opt.step()


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9), lambda p: optim.Adam(p, 0.1)])
def test_state_goes_round(make):
    (one, two), seed = (parameters(1, (3, 2), (2,)), parameters(1, (3, 2), (2,))), 3
    a, b = make(one), make(two)
    set_gradients(one, seed)
    a.step()
    for p, q in zip(one, two, strict=True):
        q.value[...] = p.value
    b.load_state_dict(a.state_dict())
    for params, opt in ((one, a), (two, b)):
        set_gradients(params, seed + 1)
        opt.step()
    assert all(np.array_equal(p.value, q.value) for p, q in zip(one, two, strict=True))
    with pytest.raises(ValueError, match="another model or optimizer"):
        b.load_state_dict({"t": np.array(1)})


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9), lambda p: optim.Adam(p, 0.1)])
def test_a_state_is_a_copy(make):
    """Of what was there when it was taken, and in its receiver."""
    params = parameters(1, (3, 2))
    opt = make(params)
    set_gradients(params, 3)
    opt.step()
    state = opt.state_dict()
    before = {name: a.copy() for name, a in state.items()}
    opt.step()
    assert all(np.array_equal(a, before[name]) for name, a in state.items()) and opt.t == 2
    opt.load_state_dict(state)
    for a in state.values():
        a[...] = 7
    assert all(np.array_equal(a, before[name]) for name, a in opt.state_dict().items())


def test_a_state_of_other_shapes_is_refused():
    one, two = (optim.Adam(parameters(1, shape)) for shape in ((3, 2), (2, 3)))
    with pytest.raises(ValueError, match=r"another model or optimizer: see '[mv]\.p0'"):
        one.load_state_dict(two.state_dict())


@given(sizes, sizes, st.floats(1e-3, 100), seeds)
def test_clipping(N, M, limit, seed):
    params = parameters(seed, (N, M), (M,))
    set_gradients(params, seed)
    before = np.concatenate([p.grad.ravel() for p in params])
    norm = optim.clip_gradient_norm(params, limit)
    after = np.concatenate([p.grad.ravel() for p in params])
    assert norm == pytest.approx(np.linalg.norm(before))
    assert np.allclose(after, before * min(1, limit / norm))
    assert optim.clip_gradient_norm(params, None) == pytest.approx(np.linalg.norm(after))


def test_clipping_leaves_gradients_that_are_not_finite():
    p, = parameters(1, (2,))
    p.grad[...] = [np.inf, 1]
    assert optim.clip_gradient_norm([p], 1.0) == math.inf and p.grad[1] == 1


SCHEDULES = {               # the docstring's formulas: u from 0 to 1 over what is left behind the warmup
    "constant": lambda u: 1,
    "step": lambda u: 1 if u < Fraction(1, 2) else 0.1 if u < Fraction(3, 4) else 0.01,
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    # "along a cosine from a to b": half of the way up or down where half of the time is over, flat at both ends
    "one_cycle": lambda u: 1 / 25 + (1 - 1 / 25) * math.sin(math.pi / 2 * u / 0.3)**2 if u < Fraction(3, 10)
    else 1e-4 + (1 - 1e-4) * math.cos(math.pi / 2 * (u - Fraction(3, 10)) / Fraction(7, 10))**2}


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.integers(1, 60), st.data(), st.floats(1e-6, 10))
def test_every_rate_of_a_schedule_is_that_of_its_formula(name, steps, data, lr):
    warmup = data.draw(st.integers(0, steps))
    rate = optim.schedule(name, lr, steps, warmup)
    assert [rate(t) for t in range(warmup)] == pytest.approx([lr * (t + 1) / warmup for t in range(warmup)])
    for t in range(warmup, steps):
        u = Fraction(t - warmup, max(1, steps - 1 - warmup))
        assert rate(t) == pytest.approx(lr * SCHEDULES[name](u), rel=1e-9, abs=1e-12 * lr), (t, u)
    if warmup < steps - 1:
        assert rate(steps) == rate(2 * steps) == rate(steps - 1)              # behind the last step: as there


@pytest.mark.parametrize("name, rates", [
    ("step", {49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 100: 0.01}), ("cosine", {0: 1, 25: 0.8535533905932737, 50: 0.5, 100: 0}),
    ("one_cycle", {0: 0.04, 15: 0.52, 30: 1, 65: 0.50005, 100: 1e-4}), ("constant", {0: 1, 50: 1, 100: 1})])
def test_rates_that_can_be_read_off(name, rates):
    """Of 101 steps; and with a warmup of 10 before them each of these ten later."""
    for warmup in (0, 10):
        rate = optim.schedule(name, 2.0, 101 + warmup, warmup)
        assert {t: rate(t + warmup) for t in rates} == pytest.approx({t: 2 * r for t, r in rates.items()}, abs=1e-12)
    assert optim.schedule(name, 2.0, 111, 10)(4) == 1


def test_the_defaults_are_those_of_the_papers():
    """SGD without momentum and decay; Adam with 1e-3, .9, .999, 1e-8; no warmup."""
    plain, adam = parameters(1, (3,)), parameters(1, (3,))
    x, g = plain[0].value.copy(), np.array([1.0, 1e-8, -3.0])
    for params in (plain, adam):
        params[0].grad[...] = g
    optim.SGD(plain, 0.5).step()
    assert np.allclose(plain[0].value, x - 0.5 * g, rtol=1e-15)
    opt, m, v = optim.Adam(adam), 0.0, 0.0
    for t in range(1, 5):
        opt.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert np.allclose(adam[0].value, x, rtol=1e-13)
    coupled, = parameters(1, (3,))
    coupled.grad[...], before = g, coupled.value.copy()
    optim.Adam([coupled], 0.1, weight_decay=0.5).step()                       # of a first step: d / (|d| + eps)
    d = g + 0.5 * before
    assert np.allclose(coupled.value, before - 0.1 * d / (np.abs(d) + 1e-8), rtol=1e-12)
    assert optim.schedule("one_cycle", 3, 10)(0) == pytest.approx(3 / 25)


@pytest.mark.parametrize("call", [lambda: optim.schedule("linear", 1, 2), lambda: optim.schedule("cosine", 1, 0),
                                  lambda: optim.schedule("cosine", 1, 2, 3), lambda: optim.SGD([], -1),
                                  lambda: optim.SGD([], 1, 0, True), lambda: optim.Adam([], 1, beta1=1),
                                  lambda: optim.clip_gradient_norm([], 0), lambda: optim.clip_gradient_norm([], -1),
                                  lambda: optim.schedule("cosine", 1, 2, -1), lambda: optim.schedule("cosine", 1, -1),
                                  lambda: optim.SGD([], 1, weight_decay=-1), lambda: optim.Adam([], np.nan),
                                  lambda: optim.SGD([], 1, 1.0), lambda: optim.SGD([], 1, -0.1),
                                  lambda: optim.Adam([], 1, beta1=-0.1), lambda: optim.Adam([], 1, beta2=1),
                                  lambda: optim.Adam([], 1, beta2=-0.1), lambda: optim.Adam([], 1, eps=0)])
def test_wrong_arguments_get_one_line(call):
    with pytest.raises(ValueError, match="got"):
        call()


def test_the_smallest_arguments_are_taken():
    optim.SGD([], 0, 0.0, False, 0), optim.Adam([], 0, 0, 0, 1e-300, 0), optim.schedule("step", 0, 1, 1)
    assert optim.clip_gradient_norm([], 1e-300) == 0 and optim.clip_gradient_norm([], None) == 0


def test_an_update_is_what_an_optimizer_must_define():
    opt = optim.Optimizer(parameters(1, (2,)), 0.1, 0, "m")
    with pytest.raises(TypeError, match="Optimizer defines no update"):
        opt.step()


def test_all_finite():
    params = [Parameter(np.zeros(shape)) for shape in [(0,), (2, 3), ()]]
    assert optim.all_finite(params) and optim.all_finite([])
    for value in (np.nan, np.inf, -np.inf):
        params[1].value[1, 2] = value
        assert not optim.all_finite(params)


def named(seed, *names):
    """A layer's parameters are NamedParameters; those without a name are Parameters."""
    params = [Parameter(values(seed + k, 2).copy()) for k in range(len(names))]
    return [NamedParameter(name, p) if name else p for name, p in zip(names, params, strict=True)]


@pytest.mark.parametrize("names, keys", [
    (["W", "b"], ["W", "b"]), (["", ""], ["#0", "#1"]), (["W", "b", "W", "b", "c"], ["W#0", "b#1", "W#2", "b#3", "c"]),
    (["0.W", "", "0.W"], ["0.W#0", "#1", "0.W#2"])])
def test_parameters_without_a_name_of_their_own_do_not_collide(names, keys):
    params = named(1, *names)
    opt, other = optim.SGD(params, 0.1, 0.9), optim.SGD(named(1, *names), 0.1, 0.9)
    set_gradients(params, 5)
    opt.step()
    state = opt.state_dict()
    assert list(state) == [*(f"m.{key}" for key in keys), "t"]
    assert all(np.array_equal(state[f"m.{key}"], p.grad) for key, p in zip(keys, params, strict=True))
    other.load_state_dict(state)
    assert all(map(np.array_equal, other.slots["m"], opt.slots["m"])) and other.t == 1


def test_a_parameter_that_is_there_twice_is_refused():
    """Under one name, under two, and with and without: a step would move it twice."""
    p, = parameters(1, (2,))
    for params in ([p, p], [NamedParameter("a", p), NamedParameter("b", p)], [p, NamedParameter("a", p)]):
        with pytest.raises(ValueError, match="the optimizer got a parameter twice"):
            optim.SGD(params, 0.1)
