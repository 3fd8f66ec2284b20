"""The kernels of kernels/cuda/pointwise.cu, run on the CPU by tests/cuda/shim.h, against the definitions in float64."""

import copy
import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import dispatch, layers, losses, optim
from emonet_scratch.kernels.cuda import launch, pointwise
from emonet_scratch.layers import Parameter
from tests.strategies import seeds
from tests.test_losses import EDGES

drawn = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS = np.finfo(np.float32).eps


def near(got, want, terms, name, scale=None):
    """Within 16 eps sqrt(terms) of the largest number: what rounding does to a sum of so many terms."""
    got = got.get()
    assert got.shape == want.shape and got.dtype == np.float32 and np.isfinite(got).all(), name
    limit = 16 * EPS * math.sqrt(terms) * (np.abs(want).max(initial=1e-30) if scale is None else scale)
    worst = np.abs(got - want).max(initial=0)
    assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:.3g}"


@drawn
@given(st.lists(st.integers(1, 20), min_size=0, max_size=3), st.integers(1, 16), seeds)
def test_cuda_kernel_Normalize(shim, shape, C, seed):
    rng = np.random.default_rng(seed)
    layer = layers.Normalize(rng.random(C), rng.random(C) + 0.1)
    x = rng.integers(0, 256, (*shape, 2 * C)).astype(np.uint8)
    want = x[..., ::2] * layer.scale.astype(np.float64) + layer.shift
    layer.to_device("cuda:0")
    y, cache = layer.forward(shim.asarray(x)[..., ::2])
    assert isinstance(cache, dispatch.KernelCache) and layer.backward(y, cache) is None
    near(y, want, 1, "y", np.abs(layer.shift.get()).max() + 255 * layer.scale.get().max())


# ---- dropout ----

def philox(counter, key):
    """Philox4x64-10 in the words of the paper: ten rounds of two multiplications."""
    a, b, c, d, (k, l), mask = *counter, key, 2**64 - 1
    for _ in range(10):
        p, q = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (q >> 64) ^ b ^ k, q & mask, (p >> 64) ^ d ^ l, p & mask
        k, l = (k + 0x9E3779B97F4A7C15) & mask, (l + 0xBB67AE8584CAA73B) & mask
    return [a, b, c, d]


ONES = 2**64 - 1
KNOWN = [   # kat_vectors of Random123: counter, key, what comes out
    ([0] * 4, [0, 0], [0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b]),
    ([ONES] * 4, [ONES] * 2, [0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0]),
    ([0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89],
     [0x452821e638d01377, 0xbe5466cf34e90c6c],
     [0xa528f45403e61d95, 0x38c72dbd566e9788, 0xa5a1610e72fd18b5, 0x57bd43b5e52b7fe6])]

PROBE = '''
extern "C" __global__ void emonet_probe(u64* counter, const u64* key) { philox(counter, key[0], key[1]); }'''


@pytest.mark.parametrize("counter, key, want", KNOWN)
def test_philox_gives_its_published_numbers(shim, counter, key, want, monkeypatch):
    """The kernel's own function, and the formula that the next test goes by."""
    assert philox(counter, key) == want
    text = launch.source("pointwise") + PROBE
    monkeypatch.setattr(launch, "source", lambda name: text)
    words = shim.asarray(np.array(counter, np.uint64))
    launch.Module("probe", {}, False, launch.compiler).kernel("emonet_probe")(
        (1,), (1,), (words, shim.asarray(np.array(key, np.uint64))))
    assert words.get().tolist() == want


def test_the_definition_of_dropout_draws_what_its_docstring_says():
    seed, k, n, rate = 2**63 + 12345, 7, 83, 0.3
    layer = layers.Dropout(rate, 0)
    layer.counter[...] = seed, k
    words = [w for j in range(1, -(-n // 8) + 1) for w in philox([j, 0, 0, 0], [seed, k])]
    halves = [half for w in words for half in (w & 0xffffffff, w >> 32)][:n]
    kept = np.array([np.float32(h >> 8) * np.float32(2**-24) >= np.float32(rate) for h in halves])
    y, _ = layer.forward(np.ones(n, np.float32))
    assert np.array_equal(y != 0, kept) and 0.4 < kept.mean() < 0.95 and layer.counter.tolist() == [seed, k + 1]


@drawn
@given(st.lists(st.integers(1, 15), min_size=1, max_size=3), st.floats(0.01, 0.99), st.integers(0, 2**63), seeds)
def test_cuda_kernel_Dropout(shim, shape, rate, key, seed):
    """The same bits as on the CPU, call after call; a mask is drawn again for backward, also twice.

    A GPU has bits of its own for NaN, and 0 of the same sign for a denormal, since CuPy compiles with -ftz=true.
    """
    def bits(a):
        if os.environ.get("EMONET_TEST_DEVICE") != "cuda":
            return a.tobytes()
        a = np.where(np.abs(a) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), a), a)
        return np.where(np.isnan(a), np.float32(np.nan), a).tobytes()
    rng = np.random.default_rng(seed)
    one, two = layers.Dropout(rate, key), layers.Dropout(rate, key).to_device("cuda:0")
    caches = []
    for _ in range(3):
        x, dy = rng.standard_normal((2, *shape, 2)).astype(np.float32)
        x[..., :1] *= rng.choice([1, np.nan, np.inf, -0.0, 1e-40], shape)[..., None].astype(np.float32)
        with np.errstate(invalid="ignore"):
            want, want_cache = one.forward(x)
        y, cache = two.forward(shim.asarray(x.T).T)
        assert isinstance(cache, dispatch.KernelCache) and bits(y.get()) == bits(want)
        caches.append((dy, cache, one.backward(dy, want_cache)))
    assert np.array_equal(one.counter, two.state_dict()["counter"])
    for dy, cache, want in caches[::-1] * 2:
        assert np.array_equal(two.backward(shim.asarray(dy), cache).get(), want)
    with pytest.raises(ValueError, match=r"expected .*: that of y"):
        two.backward(shim.asarray(dy[:, :0]), cache)


def test_a_number_that_equals_the_rate_is_kept(shim):
    rate = float(np.random.Generator(np.random.Philox(key=np.array([3, 0], np.uint64))).random(40, np.float32)[17])
    y, want = (layers.Dropout(rate, 3).to_device(d).forward(x)[0] for d, x in (
        ("cuda:0", shim.asarray(np.ones(40, np.float32))), ("cpu", np.ones(40, np.float32))))
    assert np.array_equal(y.get(), want) and want[17] > 0


def test_dropout_on_the_gpu_resumes_and_moves_to_the_cpu_and_back(shim):
    x = np.ones((5, 9), np.float32)
    whole, part = layers.Dropout(0.4, 3).to_device("cuda:0"), layers.Dropout(0.4, 3).to_device("cuda:0")
    want = [whole.forward(shim.asarray(x))[0].get() for _ in range(3)]
    saved = part.save_buffers()
    assert np.array_equal(part.forward(shim.asarray(x))[0].get(), want[0])
    part.restore_buffers(saved)
    assert np.array_equal(part.forward(shim.asarray(x))[0].get(), want[0])
    other = layers.Dropout(0.4, 99)
    other.load_state_dict(part.state_dict())
    assert np.array_equal(other.forward(x)[0], want[1])
    assert np.array_equal(other.to_device("cuda:0").forward(shim.asarray(x))[0].get(), want[2])
    assert other.eval().forward(shim.asarray(x))[1] is None


# ---- loss ----

@drawn
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([0.0, 0.1]), st.booleans(), st.booleans(),
       st.sampled_from([1, 50, 1e4]), seeds)
def test_cuda_kernel_softmax_cross_entropy(shim, N, K, smoothing, weighted, votes, size, seed):
    rng = np.random.default_rng(seed)
    logits = (size * rng.standard_normal((N, 2 * K))).astype(np.float32)
    labels = rng.integers(0, K, N).astype(rng.choice(["int64", "int32", "uint8"]))
    labels = rng.dirichlet(np.ones(K), N).astype(np.float32, order=rng.choice(["C", "F"])) if votes else labels
    weights = (rng.random(K) + 0.1).astype(np.float32) if weighted else None
    loss, dlogits = losses.softmax_cross_entropy(shim.asarray(logits)[:, ::2], shim.asarray(labels) if seed % 2 else labels,
                                                 smoothing, shim.asarray(weights) if weighted else None)
    want, want_d = losses.softmax_cross_entropy.__wrapped__(
        logits[:, ::2].astype(np.float64), labels, smoothing, weights.astype(np.float64) if weighted else None)
    assert isinstance(loss, float) and abs(loss - want) <= 16 * EPS * max(1, abs(want))
    near(dlogits, want_d, K, "dlogits", 1 / N if weights is None else weights.max() / weights.min() / N)


def test_a_loss_over_more_rows_than_a_grid_has_warps(shim, monkeypatch):
    monkeypatch.setattr(pointwise, "LOSS_BLOCKS", 3)
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((100, 7)).astype(np.float32), rng.integers(0, 7, 100)
    loss, dlogits = losses.softmax_cross_entropy(shim.asarray(logits), labels)
    want, want_d = losses.softmax_cross_entropy.__wrapped__(logits.astype(np.float64), labels)
    assert math.isclose(loss, want, rel_tol=16 * EPS)
    near(dlogits, want_d, 7, "dlogits")


@pytest.mark.parametrize("logits, labels, smoothing, weights, loss, dlogits", EDGES)
def test_edges_of_the_loss(shim, logits, labels, smoothing, weights, loss, dlogits):
    found, d = losses.softmax_cross_entropy(shim.asarray(np.array(logits, np.float32)), np.array(labels), smoothing,
                                            None if weights is None else shim.asarray(np.array(weights, np.float32)))
    assert found == pytest.approx(loss, rel=1e-6, nan_ok=True)
    assert np.allclose(d.get(), dlogits, atol=2e-7, equal_nan=True)


def test_a_logit_that_is_not_a_number_shows_in_the_loss(shim):
    logits = np.zeros((3, 40), np.float32)
    logits[1, 38] = np.nan
    loss, dlogits = losses.softmax_cross_entropy(shim.asarray(logits), np.array([0, 1, 2]))
    assert math.isnan(loss) and np.isnan(dlogits.get()[1]).all() and np.isfinite(dlogits.get()[[0, 2]]).all()


@pytest.mark.parametrize("labels, smoothing", [([0, 3], 0.0), ([-1, 0], 0.0), ([0.0, 1.0], 0.0), ([0], 0.0), ([0, 1], 1.0),
                                               ([[0.5, 0.5, 0.1]] * 2, 0.0)])
def test_wrong_arguments_of_the_loss_get_the_definition_s_line(shim, labels, smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be in|N integers in 0\.\.K-1"):
        losses.softmax_cross_entropy(shim.asarray(np.zeros((2, 3), np.float32)), np.array(labels), smoothing)


# ---- optimizers ----

def parameters(rng, dtype):
    shapes = [(1,), (3, 5), (16,), (7, 33), (70, 61), (0,), (1,), (pointwise.CHUNK,)]
    params = [Parameter(rng.standard_normal(s).astype(np.float32).astype(dtype)) for s in shapes]
    for k, p in enumerate(params):
        p.name = f"p{k}"
    return params


def on_device(shim, params):
    for p in params:
        p.value, p.grad = shim.asarray(p.value), shim.asarray(p.grad)
    return params


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1), "momentum": lambda p: optim.SGD(p, 0.1, 0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01), "Adam": lambda p: optim.Adam(p, 0.01),
    "Adam, decay": lambda p: optim.Adam(p, 0.01, 0.8, 0.99, 0.5, 0.1),
    "AdamW": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, decoupled=True)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_cuda_kernel_Optimizer_step(shim, make, monkeypatch):
    """Several steps, a schedule, and a state saved and loaded between them."""
    launches = []
    run = pointwise._launch
    monkeypatch.setattr(pointwise, "_launch", lambda name, *args: launches.append(name) or run(name, *args))
    params, exact = (parameters(np.random.default_rng(0), dtype) for dtype in (np.float32, np.float64))
    params = on_device(shim, params)
    one, two = make(params), make(exact)
    rng = np.random.default_rng(1)
    for step in range(4):
        for p, q in zip(params, exact, strict=True):
            q.grad[...] = rng.standard_normal(q.grad.shape).astype(np.float32)
            p.grad[...] = shim.asarray(q.grad.astype(np.float32))
        one.lr = two.lr = 0.01 / (1 + step)
        assert one.step() is None
        two.step()
        if step == 2:
            one, state = make(params), one.state_dict()
            one.load_state_dict(state)
    assert launches == ["emonet_sgd" if isinstance(one, optim.SGD) else "emonet_adam"] * 4      # one for all parameters
    state, want = one.state_dict(), two.state_dict()
    assert state.keys() == want.keys() and state["t"] == 4
    for name in state.keys() - {"t"}:
        near(shim.asarray(state[name]), want[name], 6, name)
    for p, q in zip(params, exact, strict=True):
        near(p.value, q.value, 6, p.name)


def test_a_step_follows_replaced_arrays_and_leaves_float64_to_the_definition(shim):
    params = on_device(shim, parameters(np.random.default_rng(0), np.float32))
    opt = optim.Adam(params, 0.1)
    for p in params:
        p.grad[...] = 1
    opt.step()
    other = copy.deepcopy(opt)                                        # its arrays are elsewhere
    params[0].value, before = shim.asarray(np.full(1, 5, np.float32)), params[0].value
    old = before.get()
    opt.step()
    assert before.get() == old and params[0].value.get() < 5
    mine = [p.value.get() for p in params]
    other.step()
    assert all(np.array_equal(p.value.get(), a) for p, a in zip(params, mine, strict=True)) and other.t == 2
    params[0].value = params[0].value.astype(np.float64)
    assert dispatch.find("Optimizer.step", opt) is None
    opt.step()
    assert opt.t == 3


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_special_gradients_do_what_they_do_on_the_host(shim, make):
    """Two steps with zeros, numbers too small and too large to be squared, infinities and NaN."""
    grad = np.array([0, -0.0, 1e-42, -1e-30, 1e30, np.inf, -np.inf, np.nan, 1], np.float32)
    host, device = (Parameter(np.linspace(-1, 1, 9, dtype=np.float32)) for _ in range(2))
    on_device(shim, [device])
    host.grad[...], device.grad[...] = grad, shim.asarray(grad)
    one, two = make([host]), make([device])
    with np.errstate(all="ignore"):
        for _ in range(2):
            optim.Optimizer.step.__wrapped__(one)
            two.step()
    assert np.allclose(device.value.get(), host.value, rtol=8 * EPS, atol=8 * EPS, equal_nan=True)


def test_what_is_not_contiguous_is_left_to_the_definition(shim):
    params = on_device(shim, [Parameter(np.ones((3, 4), np.float32))])
    params[0].grad = params[0].grad.reshape(4, 3).T
    params[0].grad[...] = 2
    assert dispatch.find("clip_gradient_norm", params, None) is None
    assert optim.clip_gradient_norm(params, None) == pytest.approx(48**0.5)


@pytest.mark.parametrize("limit", [None, 1e-3, 1e6, math.inf])
def test_cuda_kernel_clip_gradient_norm(shim, limit):
    rng = np.random.default_rng(0)
    params, exact = on_device(shim, parameters(rng, np.float32)), parameters(rng, np.float64)
    for p, q in zip(params, exact, strict=True):
        q.grad[...] = rng.standard_normal(q.grad.shape).astype(np.float32)
        p.grad[...] = shim.asarray(q.grad.astype(np.float32))
    assert dispatch.find("clip_gradient_norm", params, None) is not None
    norm, want = optim.clip_gradient_norm(params, limit), optim.clip_gradient_norm(exact, limit)
    assert isinstance(norm, float) and math.isclose(norm, want, rel_tol=1e-12)
    for p, q in zip(params, exact, strict=True):
        near(p.grad, q.grad, 1, p.name)
    params[3].grad[3] = np.nan
    kept = [p.grad.get() for p in params]
    assert math.isnan(optim.clip_gradient_norm(params, 1e-3))
    params[3].grad[3] = np.inf
    assert math.isinf(optim.clip_gradient_norm(params, 1e-3))
    kept[3][3] = np.inf
    assert all(np.array_equal(p.grad.get(), k) for p, k in zip(params, kept, strict=True))


def test_cuda_kernel_all_finite(shim):
    """One number that is none among all; the largest of float32 is one. Gradients do not matter."""
    params = on_device(shim, parameters(np.random.default_rng(0), np.float32))
    params[0].grad[...] = np.nan
    params[2].value.reshape(-1)[:1] = np.float32(3.4e38)
    assert optim.all_finite(params) is True and dispatch.find("all_finite", params).run is pointwise.all_finite
    assert dispatch.find("all_finite", iter(params)) is None
    for value in (np.nan, np.inf, -np.inf):
        params[3].value.reshape(-1)[-1:] = np.float32(value)
        assert pointwise.all_finite(params) is False and optim.all_finite.__wrapped__(params) is False
        params[3].value.reshape(-1)[-1:] = np.float32(0)
    assert optim.all_finite(params)
