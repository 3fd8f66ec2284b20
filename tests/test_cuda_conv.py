"""kernels/cuda/{conv,conv_grad,norm}.cu, run on the CPU by tests/cuda/shim.h, against the definitions in float64."""

import copy
import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import dispatch, layers, models
from emonet_scratch.kernels.cuda import convolution, launch
from emonet_scratch.kernels.rounding import LARGEST_ERROR, rounded
from tests.cuda.shim import ShimError
from tests.strategies import seeds
from tests.test_kernels import by_taps, randomise, smooth

drawn = settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS = 2.0**-24                                                                # half a unit of float32
precisions = st.sampled_from(dispatch.PRECISIONS)


def test_bounds_of_rounding():
    x = np.random.default_rng(0).standard_normal(10000).astype(np.float32)
    for precision, u in LARGEST_ERROR.items():
        error = np.abs(rounded(x, precision) - x.astype(np.float64)) / np.abs(x)
        assert error.max() <= u and error.max() >= 0.95 * u


def round_products(layer, precision):
    """Make every convolution of a float64 reference round the factors of all its products."""
    for _, part in layer.walk():
        if isinstance(part, layers.Conv2d):
            def call(method, x, *rest, part=part):
                W, part.W.value = part.W.value, rounded(part.W.value, precision)
                result = method(rounded(x, precision), *rest)
                part.W.value = W
                return result
            part.forward, part.backward = (functools.partial(call, m) for m in (part.forward, part.backward))
    return layer


def pair(make, seed, training=True):
    """(a layer on the device, the same in float64 on the host)"""
    layer = make()
    randomise(layer, seed)
    layer.train(training)
    reference = copy.deepcopy(layer).astype(np.float64)
    return layer.to_device("cuda:0"), reference


def within(got, want, limit, name):
    got = got.get()
    assert got.shape == want.shape and got.dtype == np.float32 and np.isfinite(got).all(), name
    excess = (np.abs(got - want) - limit).max(initial=-1)
    assert excess <= 0, f"{name}: off by {excess:.3g} more than allowed, {np.max(limit):.3g} at most"


# ---- the convolution ----

def conv_agrees(shim, size, C, F, stride, precision, seed):
    """Each number within what rounding its terms and adding them up can do: (2 u + u^2 + terms eps) sum |terms|."""
    dispatch.precision = precision
    rng = np.random.default_rng(seed)
    layer, reference = pair(lambda: layers.Conv2d(C, F, 3, stride, 1), seed)
    x = rng.standard_normal((C, *size)).astype(np.float32).transpose(1, 2, 3, 0)                 # not contiguous
    y, cache = layer.forward(shim.asarray(x.T).T)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    want, want_cache = reference.forward(x.astype(np.float64))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    start = rng.standard_normal(reference.W.value.shape).astype(np.float32)
    layer.W.grad[...], reference.W.grad[...] = shim.asarray(start), start
    dx, want_dx = layer.backward(shim.asarray(dy), cache), reference.backward(dy.astype(np.float64), want_cache)

    u, bound, terms = LARGEST_ERROR[precision], copy.deepcopy(reference), 9 * max(C, F) + 4
    pixels = want.size // F + 4
    bound.W.value, bound.W.grad[...] = np.abs(bound.W.value), 0
    all_y, all_cache = bound.forward(np.abs(x).astype(np.float64))
    all_dx = bound.backward(np.abs(dy).astype(np.float64), all_cache)
    within(y, want, (2 * u + u * u + terms * EPS) * all_y, "y")
    within(dx, want_dx, (2 * u + u * u + terms * EPS) * all_dx, "dx")
    within(layer.W.grad, reference.W.grad, (2 * u + u * u + pixels * EPS) * (bound.W.grad + np.abs(start)), "dW")
    once = layer.W.grad.get().astype(np.float64) - start
    again = layer.backward(shim.asarray(dy), cache)
    assert again.get().tobytes() == dx.get().tobytes()
    assert np.abs(layer.W.grad.get() - start - 2 * once).max() <= 8 * EPS * np.abs(layer.W.grad.get()).max()


@pytest.fixture(autouse=True)
def keep_precision(monkeypatch):
    monkeypatch.setattr(dispatch, "precision", "fp32")


@pytest.fixture(params=["small tiles", "large tiles, few blocks"])
def tiles(request, monkeypatch):
    """Images of the size of a test always make few blocks; here half of the tests run as if they made many."""
    if request.param != "small tiles":
        monkeypatch.setattr(convolution, "ENOUGH_BLOCKS", 0)
        monkeypatch.setattr(convolution, "MOST_BLOCKS", 2)                           # so each block has several tiles
        monkeypatch.setattr(convolution, "GRADIENT_BLOCKS", 2)


@drawn
@given(st.tuples(st.integers(1, 2), st.integers(1, 11), st.integers(1, 19)), st.sampled_from([3, 16, 48]),
       st.sampled_from([16, 32, 48]), st.sampled_from([1, 2]), precisions, seeds)
def test_cuda_kernel_Conv2d(shim, tiles, size, C, F, stride, precision, seed):
    conv_agrees(shim, size, C, F, stride, precision, seed)


@pytest.mark.parametrize("precision", dispatch.PRECISIONS)
@pytest.mark.parametrize("size, C, F, stride", [((1, 1, 1), 16, 16, 1), ((2, 1, 1), 3, 16, 2), ((1, 9, 18), 16, 32, 2),
                                                ((1, 5, 17), 64, 64, 1)])
def test_chosen_sizes(shim, size, C, F, stride, precision):
    conv_agrees(shim, size, C, F, stride, precision, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_many_channels_go_through_shared_memory_in_turns(shim, stride):
    conv_agrees(shim, (1, 3, 5), 96, 128, stride, "tf32", 0)


@pytest.mark.parametrize("precision", dispatch.PRECISIONS)
def test_more_tiles_than_blocks(shim, tiles, precision):
    conv_agrees(shim, (2, 11, 19), 16, 16, 1, precision, 0)
    conv_agrees(shim, (1, 19, 37), 3, 16, 1, precision, 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("C", [3, 16])
def test_nan_and_inf_reach_what_they_should(shim, C, stride):
    """To the outputs whose sums they are a term of, and to no others: zeros beside them are not multiplied."""
    layer = layers.Conv2d(C, 16, 3, stride, 1)
    W, x = layer.W.value, np.ones((1, 9, 18, C), np.float32)
    x[0, 4, 4, 1], x[0, 8, 17, 2] = np.nan, np.inf
    want, layer = by_taps(x, W, stride), layer.to_device("cuda:0")
    for precision in dispatch.PRECISIONS:
        dispatch.precision = precision
        y = layer.forward(shim.asarray(x))[0].get()
        assert np.array_equal(np.isfinite(y), np.isfinite(want)) and np.array_equal(np.isnan(y), np.isnan(want))


# ---- blocks and rows ----

def part_agrees(shim, make, size, C, precision, training, seed, depth):
    """Against the definition in float64 with the same rounding of factors, if there is any.

    The sums before a factor is rounded differ in the last bits of float32, which now and then rounds it to a neighbour, 2 u
    away: that changes single terms of the sums behind it. Allowed are 8 u of the largest number for each of `depth`
    convolutions in a row, and for float32 itself what tests/test_kernels.py allows.
    """
    dispatch.precision = precision
    rng = np.random.default_rng(seed)
    layer, reference = pair(make, seed, training)
    round_products(reference, precision)
    x = rng.standard_normal((*size, C)).astype(np.float32)
    y, cache = layer.forward(shim.asarray(x))
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    want, want_cache = reference.forward(x.astype(np.float64))
    dy = rng.standard_normal(want.shape[::-1]).astype(np.float32).T
    dy[np.abs(want) < 0.1] = 0                                                # which side of a kink is a matter of rounding
    dx, want_dx = layer.backward(shim.asarray(dy.T).T, cache), reference.backward(dy.astype(np.float64), want_cache)

    def near(got, want, terms, factor, name):
        limit = depth * (8 * LARGEST_ERROR[precision] + factor * 32 * EPS * np.sqrt(terms)) * np.abs(want).max(initial=1e-30)
        within(got, want, limit, name)
    pixels, terms = x.size // C, 9 * y.shape[-1]
    near(y, want, terms, 4, "y")
    near(dx, want_dx, terms, 16, "dx")
    grads = [p.grad.get() for p in layer.parameters()]
    for p, q in zip(layer.parameters(), reference.parameters(), strict=True):
        near(p.grad, q.grad, max(pixels, terms), 16, p.name)
    for name, value in reference.state_dict().items():
        near(shim.asarray(layer.state_dict()[name]), value, terms, 4, name)
    layer.backward(shim.asarray(dy), cache)
    for p, once in zip(layer.parameters(), grads, strict=True):
        assert np.abs(p.grad.get() - 2 * once).max() <= 16 * EPS * np.abs(once).max(initial=1e-30)
    if not training:
        assert layer.forward(shim.asarray(x))[0].get().tobytes() == y.get().tobytes()


sizes = st.tuples(st.integers(1, 2), st.integers(5, 9), st.integers(5, 19))


@drawn
@given(sizes, st.sampled_from([(16, 16, 1), (16, 32, 2), (32, 48, 1), (16, 16, 2)]), precisions, st.booleans(), seeds)
def test_cuda_kernel_ResidualBlock(shim, tiles, size, widths, precision, training, seed):
    make = functools.partial(smooth, lambda: layers.ResidualBlock(*widths))
    part_agrees(shim, make, size, widths[0], precision, training, seed, 2)


@drawn
@given(sizes, precisions, st.booleans(), st.booleans(), seeds)
def test_cuda_kernel_Sequential(shim, tiles, size, precision, training, with_blocks, seed):
    blocks = [layers.Sequential(layers.ResidualBlock(16, 32, 2))] if with_blocks else []
    make = functools.partial(smooth, lambda: layers.Sequential(
        layers.Conv2d(3, 16, 3, 1, 1), layers.BatchNorm(16), layers.ReLU(), *blocks))
    part_agrees(shim, make, size, 3, precision, training, seed, 3)


def test_size_1_in_training(shim):
    """One value has no variance: y = max(beta + shortcut, 0), dx of the norm is 0."""
    layer, reference = pair(lambda: layers.ResidualBlock(16, 16), 0)
    x = np.ones((1, 1, 1, 16), np.float32)
    y, cache = layer.forward(shim.asarray(x))
    want, want_cache = reference.forward(x.astype(np.float64))
    within(y, want, 1e-5, "y")
    within(layer.backward(y, cache), reference.backward(want, want_cache), 1e-4, "dx")


def test_backward_of_a_forward_in_evaluation_stays_in_evaluation(shim):
    row = models.ResNet(8, rng=np.random.default_rng(0)).features
    randomise(row, 0)
    row.to_device("cuda:0")
    x = shim.asarray(np.random.default_rng(0).standard_normal((1, 8, 8, 3)).astype(np.float32))
    y, cache = row.eval().forward(x)
    expected, before = row.backward(y, cache).get(), row.save_buffers()
    y, cache = row.forward(x)
    assert row.train().backward(y, cache).get().tobytes() == expected.tobytes()
    assert all(np.array_equal(a.get(), b.get()) for a, b in zip(before, row.save_buffers(), strict=True))


def test_nan_in_a_gradient_is_not_masked_away(shim):
    for layer in (layers.ResidualBlock(16, 16), layers.Sequential(layers.Conv2d(16, 16, 3, 1, 1), layers.BatchNorm(16),
                                                                  layers.ReLU())):
        layer.to_device("cuda:0")
        y, cache = layer.forward(shim.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 16)).astype(np.float32)))
        dy = np.where(y.get() == 0, np.nan, 1).astype(np.float32)
        assert np.isnan(dy).any() and np.isnan(layer.backward(shim.asarray(dy), cache).get()).any()


# ---- launches ----

@pytest.fixture
def launches(monkeypatch):
    names, call = [], launch.Kernel.__call__

    def noted(self, *args, **kwargs):
        names.append(self.name.removeprefix("emonet_"))
        return call(self, *args, **kwargs)
    monkeypatch.setattr(launch.Kernel, "__call__", noted)
    return names


def test_few_launches(shim, launches):
    block, x = layers.ResidualBlock(16, 16).to_device("cuda:0"), shim.asarray(np.ones((1, 3, 3, 16), np.float32))
    y, cache = block.forward(x)
    assert launches == ["pack", "conv", "norm_forward", "conv", "norm_forward", "finish"]
    launches.clear()
    block.backward(y, cache)
    assert len(launches) == 10 and launches.count("conv") == 2
    launches.clear()
    models.ResNet(8).eval().to_device("cuda:0").features.forward(x[..., :3])
    assert launches == ["pack"] + ["conv"] * 7


@pytest.mark.parametrize("change", [
    lambda b: setattr(b.body.conv2, "b", layers.Parameter(np.ones(16, np.float32))), lambda b: b.astype(np.float64),
    lambda b: setattr(b, "relu", layers.Sequential()), lambda b: setattr(b.shortcut, "extra", layers.ReLU()),
    lambda b: setattr(b.body, "bn1", layers.BatchNorm(8)), lambda b: setattr(b.body.conv1, "stride", 3)])
def test_what_the_kernels_do_not_know_is_left_alone(shim, launches, change):
    block = layers.ResidualBlock(16, 16)
    change(block)
    block.to_device("cuda:0")
    assert dispatch.find("ResidualBlock", block, shim.asarray(np.ones((1, 3, 3, 16), np.float32))) is None
    for C, F in ((8, 16), (16, 8), (5, 16), (3, 3), (144, 16)):
        odd, x = layers.Conv2d(C, F, 3, 1, 1).to_device("cuda:0"), shim.asarray(np.ones((1, 3, 3, C), np.float32))
        assert dispatch.find("Conv2d", odd, x) is None
    good, x = layers.Conv2d(16, 16, 3, 1, 1).to_device("cuda:0"), np.ones((1, 3, 3, 16), np.float32)
    assert dispatch.find("Conv2d", good, shim.asarray(x)) is not None
    for other in (x, shim.asarray(x.astype(np.float64)), shim.asarray(x[0]), shim.asarray(x[:0])):
        assert dispatch.find("Conv2d", good, other) is None
    assert launches == []


def test_gradients_of_another_shape_and_replaced_parameters_are_refused(shim):
    for layer in (layers.Conv2d(16, 16, 3, 1, 1), layers.ResidualBlock(16, 16)):
        y, cache = layer.to_device("cuda:0").forward(shim.asarray(np.ones((2, 3, 3, 16), np.float32)))
        with pytest.raises(ValueError, match=r"got dy of shape \(1, 3, 3, 16\), expected \(2, 3, 3, 16\): that of y"):
            layer.backward(y[:1], cache)
        W = layer.parameters()[0]
        W.value = W.value.transpose(1, 0, 2, 3)
        with pytest.raises(ValueError, match="were replaced after its forward"):
            layer.backward(y, cache)


def test_parameters_may_change_in_place_and_move(shim):
    """The table of addresses is kept; what it points to is read anew, and another address is noticed."""
    layer, x = layers.Conv2d(16, 16, 3, 1, 1).to_device("cuda:0"), shim.asarray(np.ones((1, 3, 3, 16), np.float32))
    y = layer.forward(x)[0].get()
    layer.W.value *= 2
    assert np.array_equal(layer.forward(x)[0].get(), 2 * y)
    layer.W.value = layer.W.value * 2
    assert np.array_equal(layer.forward(x)[0].get(), 4 * y)


def test_an_array_that_is_not_aligned_is_copied(shim):
    layer = layers.Conv2d(16, 16, 3, 1, 1).to_device("cuda:0")
    room = shim.asarray(np.arange(145, dtype=np.float32))
    y = layer.forward(room[1:].reshape(1, 3, 3, 16))[0]
    assert np.array_equal(y.get(), layer.forward((room[:-1] + 1).reshape(1, 3, 3, 16))[0].get())


# ---- planted bugs ----

# module, what stands there, what the bug makes of it, the convolution or the block that meets it, what must be said
BUGS = {
    "no barrier behind the load": ("conv", "                    __syncthreads();\n                }", "                }",
                                   (16, 16, 1), "depends on the order of threads"),
    "no barrier in front of the next load": ("conv", "__syncthreads();\n#if C == 3", "\n#if C == 3", (16, 16, 1),
                                             "depends on the order of threads"),
    "a row is read before the warp has staged it": ("conv", "    __syncwarp();\n}", "}", (16, 16, 1), "order of threads"),
    "the halo starts a row late": ("conv", "STRIDE * i0 - 1,", "STRIDE * i0,", (16, 16, 1), "y: off by"),
    "the last column is not read": ("conv", "j < W) load_source", "j < W - 1) load_source", (16, 16, 1), "y: off by"),
    "a column behind the image is read": ("conv", "j < W) load_source", "j <= W) load_source", (16, 16, 1), "^y"),
    "H and W exchanged": ("conv", "* H + i) * W + j) * C + c, k", "* W + i) * H + j) * C + c, k", (16, 16, 1), "^y"),
    "rows without the stride": ("conv", "(UP ? 1 : STRIDE) * PW * WORDS;", "PW * WORDS;", (16, 16, 2), "y: off by"),
    "odd columns a pixel early": ("conv", "(j & 1) * (TW + 1)", "(j & 1) * TW", (16, 16, 2), "y: off by|order of threads"),
    "stride 1 where 2 is meant, 3 channels": ("conv", "g * STRIDE) * 3, f", "g) * 3, f", (3, 16, 2), "y: off by"),
    "a pixel outside is stored": ("conv", "q < cols; q += 32 / quads) {\n        i6", "q < 16; q += 32 / quads) {\n i6",
                                  (16, 16, 1), "wrote behind out|order of threads|y: off by"),
    "filters not turned": ("norm", "8 - tap", "tap", (16, 16, 1), "dx: off by"),
    "two taps of stride 2 exchanged": ("norm", "0x026817354", "0x026817534", (16, 16, 2), "dx: off by"),
    "a row of pixels twice in dW": ("conv_grad", "r += SHARES", "r += 1", (16, 16, 1), "dW: off by"),
    "dW without its stride": ("conv_grad", "r * STRIDE * PW", "r * PW", (16, 16, 2), "dW: off by"),
    "no barrier between tiles of dW": ("conv_grad", "__syncthreads();\n        load_input", "load_input", (16, 16, 1),
                                       "order of threads"),
    "dW instead of added": ("norm", "out[i] += sum", "out[i] = sum", (16, 16, 1), "dW: off by"),
    "a mean that forgets earlier pixels": ("conv", "cols / (before + cols)", "1.0f", None, "y: off by"),
    "squared deviations without the distance of means": ("norm", "p[0] * d * d", "0", None, "y: off by"),
    "a gradient that is not centred": ("norm", "(float)(-scale * sum / pixels)", "0.0f", None, "dx: off by"),
    "the shortcut without its gradient": ("conv", "o[e] += masked(cut[e], sign[e])", "o[e] += 0", None, "dx: off by"),
    "the running variance is the biased one": ("norm", "pixels - 1 : 1", "pixels : 1", None, "running_var: off by"),
}


@pytest.mark.parametrize("name, there, bug, shape, message", BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_caught(shim, monkeypatch, name, there, bug, shape, message):
    compile_text = launch.compiler
    assert launch.source(name).count(there) == 1
    monkeypatch.setattr(launch, "compiler", lambda text, *rest: compile_text(text.replace(there, bug), *rest))
    monkeypatch.setattr(convolution, "ENOUGH_BLOCKS", 0)                             # large tiles, several a block
    monkeypatch.setattr(convolution, "MOST_BLOCKS", 2)
    monkeypatch.setattr(convolution, "GRADIENT_BLOCKS", 2)
    with pytest.raises((AssertionError, ShimError), match=message):
        if shape:
            conv_agrees(shim, (1, 13, 19) if shape[2] == 1 else (1, 19, 37), *shape, "tf32", 0)
        else:
            make = functools.partial(smooth, lambda: layers.ResidualBlock(16, 16))
            part_agrees(shim, make, (1, 5, 19), 16, "fp32", True, 0, 2)
