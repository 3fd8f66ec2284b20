"""The kernels of LSTM, Normalize, softmax cross-entropy and the optimizers against their definitions in float64."""

import copy
import gc
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import dispatch, gradcheck, layers, losses, optim
from emonet_scratch.kernels.cpu import library as cpu_library
from emonet_scratch.kernels.cpu import pointwise
from emonet_scratch.layers import Parameter
from tests.strategies import seeds

LIBRARY = cpu_library.find()[0] if dispatch.loaded("cpu") else None
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=dispatch.why())
VARIANTS = [] if LIBRARY is None else dispatch.VARIANTS[:1 + LIBRARY._dll.emonet_supports()]
drawn = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS = np.finfo(np.float32).eps


def chosen(variant, threads, monkeypatch):
    library = cpu_library.Library(LIBRARY.path, variant)
    library.set_threads(threads)
    monkeypatch.setattr(cpu_library, "current", lambda: library)
    return library


@pytest.fixture(params=[(v, t) for v in VARIANTS for t in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}")
def library(request, monkeypatch):
    """The kernels of one instruction set, with so many threads, as all kernels see them."""
    yield chosen(*request.param, monkeypatch)
    LIBRARY.set_threads(LIBRARY.threads)


def near(got, want, terms, name, scale=None):
    """Within 16 eps sqrt(terms) of the largest number: what rounding does to a sum of so many terms."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype == np.float32 and np.isfinite(got).all(), name
    limit = 16 * EPS * math.sqrt(terms) * (np.abs(want).max(initial=1e-30) if scale is None else scale)
    worst = np.abs(got - want).max(initial=0)
    assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:.3g}"


def draw(rng, *shape):
    """Normal float32 values, not contiguous half of the time."""
    x = rng.standard_normal((shape[0] * 2, *shape[1:])).astype(np.float32)
    return x[::2] if rng.integers(2) else x[:shape[0]].copy()


def double(x):
    return None if x is None else tuple(map(double, x)) if isinstance(x, tuple) else x.astype(np.float64)


def lstm_pair(D, H, L, seed, **options):
    layer = layers.LSTM(D, H, L, rng=np.random.default_rng(seed), **options)
    for cell in layer.cells:
        cell.b.value[...] = np.random.default_rng(seed).standard_normal(4 * H)
    return layer, copy.deepcopy(layer).astype(np.float64)


def same_lstm(layer, reference, x, lengths, initial, dy, dfinal):
    """Forward, backward and again backward of the kernel and of the definition: everything that they give."""
    (y, final), cache = layer.forward(x, lengths, initial)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    (want_y, want_final), want_cache = reference.forward(double(x), lengths, double(initial))
    layer.backward(dy, dfinal, cache)
    dx, dinitial = layer.backward(dy, dfinal, cache)
    want_dx, want_dinitial = reference.backward(double(dy), double(dfinal), want_cache)
    T, N, D = x.shape
    steps, H, L = max(D, 4 * layer.H) * T, layer.H, len(layer.cells)
    scale = max(np.abs(want_dx).max(), *(np.abs(d).max() for d in want_dinitial), 1e-30)
    for name, got, want, size in [("y", y, want_y, 1), ("h", final[0], want_final[0], 1),
                                  ("c", final[1], want_final[1], None),
                                  ("dx", dx, want_dx, scale), ("dh", dinitial[0], want_dinitial[0], scale),
                                  ("dc", dinitial[1], want_dinitial[1], scale)]:
        near(got, want, steps * L, name, size)
    for p, q in zip(layer.parameters(), reference.parameters(), strict=True):
        near(p.grad, 2 * q.grad, T * N + H, p.name, max(np.abs(q.grad).max(), scale))
    return y, final, dx, dinitial, [p.grad.copy() for p in layer.parameters()]


widths = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65])


@drawn
@given(st.integers(1, 9), st.integers(1, 35), widths, widths, st.integers(1, 3), st.sampled_from([None, 1, 2, 3]),
       st.tuples(st.booleans(), st.booleans(), st.sampled_from(["dy", "dfinal", "both"])), seeds)
def test_kernel_LSTM(library, T, N, D, H, L, truncate, options, seed):
    with_lengths, with_initial, gradients = options
    rng = np.random.default_rng(seed)
    layer, reference = lstm_pair(D, H, L, seed, truncate=truncate)
    x, dy = draw(rng, T, N, D), draw(rng, T, N, H)
    lengths = rng.integers(0, T + 1, N) if with_lengths else None
    if with_lengths:
        lengths[0] = max(1, lengths[0])
        for n, k in enumerate(lengths):
            x[k:, n], dy[k:, n] = np.nan, np.nan
    initial = (draw(rng, L, N, H), draw(rng, L, N, H)) if with_initial else None
    dfinal = None if gradients == "dy" else (draw(rng, L, N, H), draw(rng, L, N, H))
    inputs = [a for a in (x, dy, *(initial or ()), *(dfinal or ()))]
    before = [a.copy() for a in inputs]
    got = same_lstm(layer, reference, x, lengths, initial, None if gradients == "dfinal" else dy, dfinal)
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b)
    if with_lengths:
        for n, k in enumerate(lengths):
            assert not got[0][k:, n].any() and not got[2][k:, n].any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("T, N, D, H", [(25, 16, 64, 256), (3, 16, 500, 130), (30, 1, 20, 40), (5, 3, 2048, 9),
                                           (2, 70, 433, 33)])
def test_sizes_that_fill_the_blocks_and_the_same_bits_from_any_number_of_threads(variant, T, N, D, H, monkeypatch):
    rng = np.random.default_rng(T)
    x, dy, lengths = draw(rng, T, N, D), draw(rng, T, N, H), rng.integers(1, T + 1, N)
    results = []
    for threads in (1, 2, 2):
        chosen(variant, threads, monkeypatch)
        layer, reference = lstm_pair(D, H, 2, T)
        results.append(same_lstm(layer, reference, x, lengths, None, dy, None))
    LIBRARY.set_threads(LIBRARY.threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            for u, v in zip(a, b, strict=True) if isinstance(a, (tuple, list)) else [(a, b)]:
                assert u.tobytes() == v.tobytes()


def test_gates_far_open_and_far_shut_and_not_numbers(library):
    """Saturated gates are exactly 0 and 1; what is not a number stays so, and only in its own sequence."""
    layer = layers.LSTM(1, 16)
    cell = layer.cells[0]
    cell.W_ih.value[:], cell.W_hh.value[:] = 1, 0
    cell.b.value[:] = 0
    x = np.array([0, 1e-40, -1e-20, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32).reshape(1, 10, 1)
    (y, (_, c)), cache = layer.forward(x)
    assert isinstance(cache, dispatch.KernelCache)
    with np.errstate(all="ignore"):
        a = x.astype(np.float64)[0, :, 0]
        s = 0.5 * (1 + np.tanh(0.5 * a))
        want_c = s * np.tanh(a)
        want = s * np.tanh(want_c)
    assert np.isnan(y[0, 9]).all() and np.isnan(c[0, 9]).all()
    for got, expected in [(y[0, :9], want), (c[0, :9], want_c)]:
        np.testing.assert_allclose(got, np.broadcast_to(expected[:9, None], got.shape), rtol=6 * EPS, atol=1e-8)


def test_a_chain_of_chunks_in_the_kernel(library):
    rng = np.random.default_rng(3)
    layer, _ = lstm_pair(5, 20, 2, 3)
    x = draw(rng, 8, 3, 5)
    (y, final), _ = layer.forward(x)
    (y1, middle), _ = layer.forward(x[:3])
    (y2, last), _ = layer.forward(x[3:], None, middle)
    assert np.array_equal(y, np.concatenate([y1, y2])) and np.array_equal(final, last)


@pytest.mark.parametrize("arguments", [
    ((np.zeros((4, 2, 5), np.float32),), "a last axis of 3"),
    ((np.zeros((4, 2, 3), np.float32), [1, 2, 3]), r"expected 2 integers in 0\.\.4"),
    ((np.zeros((4, 2, 3), np.float32), [5, 1]), r"expected 2 integers in 0\.\.4"),
    ((np.zeros((4, 2, 3), np.float32), [-1, 2]), r"expected 2 integers in 0\.\.4"),
    ((np.zeros((4, 2, 3), np.float32), None, (np.zeros((1, 1, 2), np.float32),) * 2), r"expected twice \(1, 2, 2\)")])
def test_wrong_arguments_of_LSTM_get_the_definition_s_line(arguments):
    given_, message = arguments
    with pytest.raises(ValueError, match=message):
        layers.LSTM(3, 2).forward(*given_)


def test_what_the_kernel_of_LSTM_leaves_to_the_definition():
    layer = layers.LSTM(3, 2)
    nothing = layer.forward(np.zeros((4, 2, 3), np.float32), [0, 0])
    assert not isinstance(nothing[1], dispatch.KernelCache) and not nothing[0][0].any()
    assert not isinstance(layer.forward(np.zeros((4, 2, 3)))[1], dispatch.KernelCache)
    _, cache = layer.forward(np.zeros((4, 2, 3), np.float32))
    with pytest.raises(ValueError, match=r"got dy of shape \(4, 1, 2\)"):
        layer.backward(np.zeros((4, 1, 2), np.float32), None, cache)


def test_gradcheck_sees_the_definition():
    gradcheck(layers.LSTM(2, 3), np.ones((2, 1, 2)), None, (np.zeros((1, 1, 3)), np.zeros((1, 1, 3))))


@drawn
@given(st.lists(st.integers(1, 40), min_size=0, max_size=3), st.integers(1, 16), seeds)
def test_kernel_Normalize(library, shape, C, seed):
    rng = np.random.default_rng(seed)
    layer = layers.Normalize(rng.random(C), rng.random(C) + 0.1)
    x = rng.integers(0, 256, (*shape, 2 * C)).astype(np.uint8)[..., ::2]
    y, cache = layer.forward(x)
    assert isinstance(cache, dispatch.KernelCache) and layer.backward(y, cache) is None
    near(y, x * layer.scale.astype(np.float64) + layer.shift, 1, "y", np.abs(layer.shift).max() + 255 * layer.scale.max())


@drawn
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([0.0, 0.1]), st.booleans(), st.booleans(),
       st.sampled_from([1, 50, 1e4]), seeds)
def test_kernel_softmax_cross_entropy(library, N, K, smoothing, weighted, votes, size, seed):
    rng = np.random.default_rng(seed)
    logits, labels = size * draw(rng, N, K), rng.integers(0, K, N).astype(rng.choice(["int64", "int32", "uint8"]))
    labels = rng.dirichlet(np.ones(K), N).astype(np.float32, order=rng.choice(["C", "F"])) if votes else labels
    weights = (rng.random(K) + 0.1).astype(np.float32) if weighted else None
    definition = losses.softmax_cross_entropy.__wrapped__
    loss, dlogits = losses.softmax_cross_entropy(logits, labels, smoothing, weights)
    want, want_d = definition(double(logits), labels, smoothing, double(weights))
    assert isinstance(loss, float) and abs(loss - want) <= 16 * EPS * max(1, abs(want))
    near(dlogits, want_d, K, "dlogits", 1 / N if weights is None else weights.max() / weights.min() / N)


@pytest.mark.parametrize("arguments", [
    (np.zeros((2, 3), np.float32), np.array([0, 3])), (np.zeros((2, 3), np.float32), np.array([-1, 0])),
    (np.zeros((2, 3), np.float32), np.array([0.0, 1.0])), (np.zeros((0, 3), np.float32), np.array([], int)),
    (np.zeros((2, 3), np.float32), np.full((2, 3), 0.3)), (np.zeros((2, 3), np.float32), np.full((2, 2), 0.5)),
    (np.zeros((2, 3), np.float32), np.array([0, 1]), 1.0), (np.zeros((2, 3), np.float32), np.array([0, 1]), -0.1),
    (np.zeros((2, 3), np.float32), np.array([0, 1]), 0.0, np.ones(2, np.float32))])
def test_wrong_arguments_of_the_loss_get_the_definition_s_line(arguments):
    messages = []
    for function in (losses.softmax_cross_entropy, losses.softmax_cross_entropy.__wrapped__):
        with pytest.raises(ValueError) as caught:
            function(*arguments)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_logit_that_is_not_a_number_shows_in_the_loss(library):
    logits = np.zeros((3, 20), np.float32)
    logits[1, 18] = np.nan
    loss, dlogits = losses.softmax_cross_entropy(logits, np.array([0, 1, 2]))
    assert math.isnan(loss) and np.isnan(dlogits[1]).all() and np.isfinite(dlogits[[0, 2]]).all()


def parameters(rng, dtype):
    shapes = [(1,), (3, 5), (16,), (7, 33), (200, 301), (1,), (64, 64)]
    params = [Parameter(rng.standard_normal(s).astype(np.float32).astype(dtype)) for s in shapes]
    for k, p in enumerate(params):
        p.name = f"p{k}"
    return params


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1), "momentum": lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01), "Adam": lambda p: optim.Adam(p, 0.01),
    "Adam, decay": lambda p: optim.Adam(p, 0.01, 0.8, 0.99, 1e-6, 0.1),
    "AdamW": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, decoupled=True)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_kernel_Optimizer_step(library, make):
    """Several steps, a schedule, and a state saved and loaded between them."""
    params, exact = (parameters(np.random.default_rng(0), dtype) for dtype in (np.float32, np.float64))
    one, two = make(params), make(exact)
    rng = np.random.default_rng(1)
    for step in range(6):
        for p, q in zip(params, exact, strict=True):
            p.grad[...] = rng.standard_normal(p.grad.shape)
            q.grad[...] = p.grad
        one.lr = two.lr = 0.01 / (1 + step)
        assert one.step() is None
        two.step()
        if step == 3:
            one, state = make(params), one.state_dict()
            one.load_state_dict(state)
    state, want = one.state_dict(), two.state_dict()
    assert state.keys() == want.keys() and state["t"] == 6
    for name in state.keys() - {"t"}:
        near(state[name], want[name], 6, name)
    for p, q in zip(params, exact, strict=True):
        near(p.value, q.value, 6, p.name)


def test_the_kernel_of_a_step_really_runs_and_follows_replaced_arrays(monkeypatch):
    calls = []
    monkeypatch.setattr(optim.Adam, "_update", lambda *a: calls.append(a))
    params = parameters(np.random.default_rng(0), np.float32)
    opt = optim.Adam(params, 0.1)
    for p in params:
        p.grad[...] = 1
    opt.step()
    other = copy.deepcopy(opt)                                        # its arrays are elsewhere
    params[0].value, before = np.full(1, 5, np.float32), params[0].value
    old = before.copy()
    opt.step()
    assert before == old and params[0].value < 5
    mine = [p.value.copy() for p in params]
    other.step()
    assert all(np.array_equal(p.value, a) for p, a in zip(params, mine, strict=True)) and other.t == 2 and not calls
    params[0].value = params[0].value.astype(np.float64)              # no longer all float32: the definition
    opt.step()
    assert len(calls) == len(params) and opt.t == 3


def test_the_table_of_a_dead_optimizer_is_forgotten():
    known = pointwise._tables.known
    opt = optim.SGD(parameters(np.random.default_rng(0), np.float32), 0.1)
    opt.step()
    assert opt in known
    before = len(known)
    del opt
    gc.collect()
    assert len(known) < before


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6])
def test_kernel_clip_gradient_norm(library, limit):
    rng = np.random.default_rng(0)
    params, exact = parameters(rng, np.float32), parameters(rng, np.float64)
    for p, q in zip(params, exact, strict=True):
        p.grad[...] = rng.standard_normal(p.grad.shape)
        q.grad[...] = p.grad
    norm, want = optim.clip_gradient_norm(params, limit), optim.clip_gradient_norm(exact, limit)
    assert math.isclose(norm, want, rel_tol=4 * EPS)
    for p, q in zip(params, exact, strict=True):
        near(p.grad, q.grad, 1, p.name)
    params[2].grad[3] = np.nan
    kept = [p.grad.copy() for p in params]
    assert math.isnan(optim.clip_gradient_norm(params, 1e-3))
    assert all(np.array_equal(p.grad, k, equal_nan=True) for p, k in zip(params, kept, strict=True))


def test_clipping_takes_an_iterator_and_refuses_a_limit_of_zero():
    params = parameters(np.random.default_rng(0), np.float32)
    params[0].grad[...] = 3
    assert optim.clip_gradient_norm(iter(params), 1.0) == 3 and params[0].grad[0] == 1
    with pytest.raises(ValueError, match="limit must be positive or None, got 0"):
        optim.clip_gradient_norm(params, 0)
