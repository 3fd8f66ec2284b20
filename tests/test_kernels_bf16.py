"""The CPU's kernels in bf16, in tiles and in registers, against the definitions in float64 with the factors rounded."""

import copy
import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import dispatch, layers, models
from emonet_scratch.kernels import rounding
from emonet_scratch.kernels.cpu import library as cpu_library
from emonet_scratch.layers import conv2d, lstm
from tests.strategies import seeds
from tests.test_kernels import by_taps, randomise, smooth

LIBRARY = cpu_library.find()[0] if dispatch.loaded("cpu") else None
CAN = LIBRARY._dll.emonet_rounds(1) if LIBRARY is not None and LIBRARY.can_round else 0
needs_bf16 = pytest.mark.skipif(CAN == 0, reason="this processor, or its kernels, cannot multiply bf16")
WAYS = [f"{way}-{threads}" for way in ("registers", "tiles")[:CAN] for threads in (1, 2)]
drawn = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS, U = 2.0**-24, rounding.LARGEST_ERROR["bf16"]


class Rounded(np.ndarray):
    """An array whose every `@` rounds both factors."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [x.view(np.ndarray) if isinstance(x, Rounded) else x for x in inputs]
        if ufunc is np.matmul:
            plain = [rounding.rounded(x, "bf16") for x in plain]
        if out is not None:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
        result = getattr(ufunc, method)(*plain, **kwargs)
        return out[0] if out is not None else result.view(Rounded) if isinstance(result, np.ndarray) else result


class RoundingNumpy:
    """NumPy for a definition: what it makes are arrays of that kind."""

    def __getattr__(self, name):
        def call(*args, **kwargs):
            result = getattr(np, name)(*args, **kwargs)
            return result.view(Rounded) if isinstance(result, np.ndarray) and result.dtype.kind == "f" else result
        return call


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Products in bf16, of convolutions, too, in tiles or in registers, with so many threads."""
    name, threads = request.param.split("-")
    chosen = cpu_library.Library(LIBRARY.path, None)
    monkeypatch.setattr(cpu_library, "current", lambda: chosen)
    monkeypatch.setattr(dispatch, "precision", "bf16")
    for module in (conv2d, lstm):
        monkeypatch.setattr(module, "array_module", lambda *args, **kwargs: RoundingNumpy())
    chosen.of_products()                                                      # the first to ask decides where
    chosen.use_tiles(name == "tiles")
    chosen.round_convolutions = True
    chosen.set_threads(int(threads))
    yield chosen
    LIBRARY._dll.emonet_use_tiles(int(LIBRARY.round_convolutions))
    LIBRARY.set_threads(LIBRARY.threads)


def pair(make, seed, training=True):
    """(a layer, the same in float64, whose definitions round)"""
    layer = make()
    randomise(layer, seed)
    layer.train(training)
    return layer, copy.deepcopy(layer).astype(np.float64)


def double(x):
    return None if x is None else tuple(map(double, x)) if isinstance(x, tuple) else x.astype(np.float64).view(Rounded)


def within(got, want, limit, name):
    assert got.shape == want.shape and got.dtype == np.float32 and np.isfinite(got).all(), name
    excess = (np.abs(got - want.view(np.ndarray)) - limit).max(initial=-1)
    assert excess <= 0, f"{name}: off by {excess:.3g} more than allowed, {np.max(limit):.3g} at most"


# ---- the factors ----

@needs_bf16
def test_factors_are_rounded_to_nearest_halves_to_even(way):
    """By a filter that is 1 in the middle, so that a pixel is multiplied by 1 and added to zeros."""
    layer = layers.Conv2d(16, 16, 3, 1, 1)
    layer.W.value[...] = 0
    layer.W.value[1, 1] = np.eye(16)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 8, 8, 16)) * 10.0 ** rng.integers(-30, 30, (1, 8, 8, 16))).astype(np.float32)
    x[0, 0, 0, :8] = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3.3e38, -0.0, 1, 2**-126]
    y = layer.forward(x)[0]
    assert np.array_equal(y, rounding.rounded(x, "bf16"))
    assert list(y[0, 0, 0, :4]) == [1, 1 + 2**-6, 1 + 2**-7, -1]
    x[...] = 2.0**-130
    assert not layer.forward(x)[0].any()                                      # denormal factors count as zero
    worst = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)
    worst[:2].view(np.uint32)[...] = 0x7fffffff, 0xffffffff
    assert np.array_equal(rounding.rounded(worst, "bf16"), worst, equal_nan=True)


# ---- convolutions ----

def conv_agrees(size, C, F, stride, seed):
    """Each number within what adding up its rounded terms in float32 can do: terms eps sum |terms|."""
    rng = np.random.default_rng(seed)
    layer, reference = pair(lambda: layers.Conv2d(C, F, 3, stride, 1), seed)
    x = rng.standard_normal((C, *size)).astype(np.float32).transpose(1, 2, 3, 0)                 # not contiguous
    y, cache = layer.forward(x)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    want, want_cache = reference.forward(double(x))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    start = rng.standard_normal(layer.W.value.shape).astype(np.float32)
    layer.W.grad[...], reference.W.grad[...] = start, start
    dx, want_dx = layer.backward(dy, cache), reference.backward(double(dy), want_cache)
    bound = copy.deepcopy(reference)
    bound.W.value, bound.W.grad[...] = np.abs(bound.W.value), 0
    all_y, all_cache = bound.forward(double(np.abs(x)))
    all_dx = bound.backward(double(np.abs(dy)), all_cache)
    terms, pixels = 9 * max(C, F) + 4, want.size // F + 36
    within(y, want, terms * EPS * all_y, "y")
    within(dx, want_dx, terms * EPS * all_dx, "dx")
    within(layer.W.grad, reference.W.grad, pixels * EPS * (bound.W.grad + np.abs(start)), "dW")


@needs_bf16
@drawn
@given(st.tuples(st.integers(1, 5), st.integers(1, 13), st.integers(1, 35)), st.sampled_from([1, 3, 8, 16, 20, 32, 64]),
       st.sampled_from([1, 8, 16, 20, 32, 48, 64]), st.sampled_from([1, 2]), seeds)
def test_bf16_Conv2d(way, size, C, F, stride, seed):
    conv_agrees(size, C, F, stride, seed)


@needs_bf16
@pytest.mark.parametrize("size, C, F, stride", [((1, 1, 1), 16, 16, 1), ((1, 1, 1), 3, 16, 2), ((40, 8, 8), 64, 64, 1),
                                                ((1, 70, 66), 16, 16, 1), ((1, 70, 66), 16, 32, 2)])
def test_chosen_sizes(way, size, C, F, stride):
    """One pixel; many small images in a band; an image in several bands."""
    conv_agrees(size, C, F, stride, 1)


@needs_bf16
def test_a_planted_bug_is_caught(way, monkeypatch):
    """The comparison itself: a definition that cuts factors off where it should round them."""
    conv_agrees((1, 9, 9), 16, 16, 1, 0)
    monkeypatch.setattr(rounding, "rounded", lambda x, precision: (
        np.asarray(x, np.float32).view(np.uint32) & np.uint32(0xffff0000)).view(np.float32).astype(np.float64))
    with pytest.raises(AssertionError, match="y: off by"):
        conv_agrees((1, 9, 9), 16, 16, 1, 0)


@needs_bf16
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("C", [3, 16])
def test_nan_and_inf_reach_what_they_should(way, C, stride):
    """To the outputs whose sums they are a term of, and to no others: zeros beside them are not multiplied."""
    layer = layers.Conv2d(C, 16, 3, stride, 1)
    W, x = layer.W.value, np.ones((1, 9, 18, C), np.float32)
    x[0, 4, 4, 1], x[0, 8, 17, 2] = np.nan, np.inf
    want, y = by_taps(x, W, stride), layer.forward(x)[0]
    assert np.array_equal(np.isfinite(y), np.isfinite(want)) and np.array_equal(np.isnan(y), np.isnan(want))


# ---- blocks, rows, trunks ----

def part_agrees(make, size, C, training, seed, depth):
    """The sums before a factor is rounded differ in the last bits of float32, which now and then rounds it to a neighbour,
    2 u away. Allowed are 8 u of the largest number for each of `depth` convolutions in a row."""
    rng = np.random.default_rng(seed)
    layer, reference = pair(functools.partial(smooth, make), seed, training)
    x = rng.standard_normal((*size, C)).astype(np.float32)
    y, cache = layer.forward(x)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    want, want_cache = reference.forward(double(x))
    dy = rng.standard_normal(want.shape).astype(np.float32)
    dy[np.abs(want) < 0.1] = 0                                                # which side of a kink is a matter of rounding
    dx, want_dx = layer.backward(dy, cache), reference.backward(double(dy), want_cache)

    def near(got, want, name):
        within(got, want, depth * 8 * U * np.abs(want).max(initial=1e-30), name)
    near(y, want, "y")
    near(dx, want_dx, "dx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "precision", "fp32")
        plain = copy.deepcopy(layer).forward(x)[0]
    assert not y.any() or np.abs(y - plain).max() > 1e-5 * np.abs(y).max(), "nothing was rounded"
    for p, q in zip(layer.parameters(), reference.parameters(), strict=True):
        near(p.grad, q.grad, p.name)
    for name, value in reference.state_dict().items():
        near(layer.state_dict()[name], value, name)


sizes = st.tuples(st.integers(1, 3), st.integers(5, 9), st.integers(5, 19))


@needs_bf16
@drawn
@given(sizes, st.sampled_from([(16, 16, 1), (16, 32, 2), (20, 24, 1), (64, 64, 1), (16, 16, 2)]), st.booleans(), seeds)
def test_bf16_ResidualBlock(way, size, widths, training, seed):
    part_agrees(lambda: layers.ResidualBlock(*widths), size, widths[0], training, seed, 2)


@needs_bf16
@drawn
@given(sizes, st.booleans(), st.booleans(), seeds)
def test_bf16_Sequential(way, size, training, with_blocks, seed):
    blocks = [layers.Sequential(layers.ResidualBlock(16, 32, 2))] if with_blocks else []
    part_agrees(lambda: layers.Sequential(layers.Conv2d(3, 16, 3, 1, 1), layers.BatchNorm(16), layers.ReLU(), *blocks),
                size, 3, training, seed, 3)


@needs_bf16
@pytest.mark.parametrize("size", [(3, 20, 16), (1, 104, 24), (1, 131, 33), (5, 9, 7)])
def test_evaluation_of_a_trunk_is_that_of_its_layers_and_repeats(way, size):
    """Norms are folded into the filters before these are rounded, not behind: near, and the same bits every time. One image
    in several bands, which threads share; odd sizes; borders of the copies between layers, filled with junk before."""
    net = models.ResNet(8, rng=np.random.default_rng(0))
    randomise(net, 0)
    net.eval()
    x = np.random.default_rng(1).standard_normal((*size, 3)).astype(np.float32)
    net.forward(np.full((2, 140, 40, 3), 1e4, np.float32))
    y, trunk = net.forward(x)[0], net.features.forward(x)[0]
    dispatch.precision = "fp32"                                               # the fixture puts it back
    want, exact = net.forward(x)[0], net.features.forward(x)[0]
    assert 1e-5 < np.abs(y - want).max() / np.abs(want).max() < 0.05
    assert np.abs(trunk - exact).max() < 0.06 * np.abs(exact).max()
    dispatch.precision = "bf16"
    assert net.forward(x)[0].tobytes() == y.tobytes()


@needs_bf16
@pytest.mark.parametrize("F", [8, 16, 20])
def test_backward_is_of_the_forward_whatever_the_precision_is_then(way, F):
    """Kernels of other vectors lay out what is kept of a norm in other ways."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 9, 8, F)).astype(np.float32), rng.standard_normal((2, 9, 8, F)).astype(np.float32)
    for first, then in (("fp32", "bf16"), ("bf16", "fp32")):
        gradients = []
        for precision in (first, then):
            block = layers.ResidualBlock(F, F, rng=np.random.default_rng(1))
            dispatch.precision = first
            _, cache = block.forward(x)
            dispatch.precision = precision
            gradients.append([block.backward(dy, cache), *(p.grad for p in block.parameters())])
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*gradients, strict=True))


# ---- sequences ----

widths = st.sampled_from([1, 2, 5, 15, 16, 17, 31, 32, 33, 48, 65])


@needs_bf16
@drawn
@given(st.integers(1, 6), st.integers(1, 35), widths, widths, st.integers(1, 2), st.sampled_from([None, 1, 2]),
       st.tuples(st.booleans(), st.booleans(), st.booleans()), seeds)
def test_bf16_LSTM(way, T, N, D, H, L, truncate, options, seed):
    """h and da are rounded behind sums in float32, which now and then rounds one to a neighbour: 8 u for each step of each
    layer of the largest number, whatever the length of a sum."""
    with_lengths, with_initial, with_final = options
    rng = np.random.default_rng(seed)
    layer, reference = pair(lambda: layers.LSTM(D, H, L, truncate=truncate, rng=rng), seed)
    x, dy = (rng.standard_normal((T, N, width)).astype(np.float32) for width in (D, H))
    lengths = np.maximum(rng.integers(0, T + 1, N), np.arange(N) == 0) if with_lengths else None
    if with_lengths:
        x[np.arange(T)[:, None] >= lengths] = np.nan
    initial, dfinal = (tuple(rng.standard_normal((2, L, N, H)).astype(np.float32)) if given else None
                       for given in (with_initial, with_final))
    (y, final), cache = layer.forward(x, lengths, initial)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    (want_y, want_final), want_cache = reference.forward(double(x), lengths, double(initial))
    dx, dinitial = layer.backward(dy, dfinal, cache)
    want_dx, want_dinitial = reference.backward(double(dy), double(dfinal), want_cache)
    pairs = [("y", y, want_y), ("h", final[0], want_final[0]), ("c", final[1], want_final[1]), ("dx", dx, want_dx),
             ("dh", dinitial[0], want_dinitial[0]), ("dc", dinitial[1], want_dinitial[1])]
    pairs += [(p.name, p.grad, q.grad) for p, q in zip(layer.parameters(), reference.parameters(), strict=True)]
    for name, got, want in pairs:
        within(got, want, T * L * 8 * U * max(np.abs(want).max(initial=0), 1e-2), name)


@needs_bf16
@pytest.mark.parametrize("D, H, N", [(64, 256, 16), (33, 17, 40), (1100, 33, 530), (300, 16, 33), (40, 250, 7)])
def test_one_step_is_exact_but_for_sums_and_second_roundings(way, D, H, N):
    """What is made of given factors is off by sums in float32 only: y. What is made of da, which itself differs in its last
    bits and may be rounded to a neighbour, is off by 2 u for few terms of a sum. Sums of more terms than a block has."""
    layer, reference = pair(lambda: layers.LSTM(D, H), 0)
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((1, N, width)).astype(np.float32) for width in (D, H))
    initial = tuple(rng.standard_normal((2, 1, N, H)).astype(np.float32))
    (y, _), cache = layer.forward(x, None, initial)
    (want, _), want_cache = reference.forward(double(x), None, double(initial))
    within(y, want, 64 * EPS * np.sqrt(D + H), "y")
    dx, dinitial = layer.backward(dy, None, cache)
    want_dx, want_dinitial = reference.backward(double(dy), None, want_cache)
    pairs = [("dx", dx, want_dx), ("dh", dinitial[0], want_dinitial[0]), ("dc", dinitial[1], want_dinitial[1])]
    pairs += [(p.name, p.grad, q.grad) for p, q in zip(layer.parameters(), reference.parameters(), strict=True)]
    for name, got, want in pairs:
        off = np.linalg.norm(got - want.view(np.ndarray)) / np.linalg.norm(want)
        assert off < U / 16, f"{name}: off by {off:.2g}, allowed {U / 16:.2g}"
    dispatch.precision = "fp32"                                               # the fixture puts it back
    plain = layer.forward(x, None, initial)[0][0]
    assert np.abs(plain - y).max() > 1e-4


@needs_bf16
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("D, H, N, T", [(300, 16, 40, 5), (64, 250, 33, 5), (600, 33, 9, 4)])
def test_threads_that_share_units_get_what_one_gets(way, threads, D, H, N, T):
    """Large enough for several threads, of which some may have no units; sequences end one after the other."""
    layer = layers.LSTM(D, H, 2, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((T, N, width)).astype(np.float32) for width in (D, H))
    lengths, found = np.sort(rng.integers(0, T + 1, N))[::-1].copy(), []
    lengths[0] = T
    for count in (1, threads):
        way.set_threads(count)
        layer.zero_grad()
        (y, final), cache = layer.forward(x, lengths)
        dx, dinitial = layer.backward(dy, final, cache)
        found.append([y, *final, dx, *dinitial, *(p.grad.copy() for p in layer.parameters())])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*found, strict=True))


@needs_bf16
def test_the_same_bits_every_time(way):
    layer = layers.LSTM(40, 48, 2, rng=np.random.default_rng(0))
    block = layers.ResidualBlock(16, 16, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((7, 18, 40)).astype(np.float32)
    images = np.random.default_rng(2).standard_normal((5, 20, 17, 16)).astype(np.float32)

    def once():
        layer.zero_grad(), block.zero_grad()
        (y, _), cache = layer.forward(x, [7, 1] * 8 + [0, 3])
        dx, _ = layer.backward(y, None, cache)
        z, cache = block.forward(images)
        return [y, dx, z, block.backward(z, cache), *(p.grad.copy() for part in (layer, block) for p in part.parameters())]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(once(), once(), strict=True))


# ---- which precision runs ----

CLEAN = {k: v for k, v in os.environ.items() if k not in ("EMONET_PRECISION", "EMONET_TILES", "EMONET_KERNELS")}


def says(code, **environment):
    """What a process of its own prints."""
    run = subprocess.run([sys.executable, "-c", code], env=CLEAN | environment, capture_output=True, text=True,
                         check=False)
    return (run.stdout + run.stderr).strip()


USE = """
from emonet_scratch import dispatch
try: print(dispatch.use_precision({!r}, "cpu"))
except dispatch.KernelError as error: print(error)
"""


@pytest.mark.parametrize("kernels", ["off", "plain"])
def test_a_processor_without_it_refuses_in_one_line(kernels):
    line = says(USE.format("bf16"), EMONET_KERNELS=kernels)
    assert line.startswith("precision bf16 cannot be had on cpu, only fp32: ") and "AVX512-BF16" in line and "\n" not in line
    assert says(USE.format(None), EMONET_KERNELS=kernels, EMONET_PRECISION="bf16") == "fp32"


def test_tf32_is_for_gpus():
    assert says(USE.format("tf32")).startswith("precision tf32 cannot be had on cpu, only fp32")


@needs_bf16
def test_a_processor_with_it_takes_it():
    assert says(USE.format("bf16")) == "bf16" == says(USE.format(None), EMONET_PRECISION="bf16")
    assert says(USE.format(None)) == "fp32"


@needs_bf16
def test_convolutions_are_rounded_in_tiles_only(monkeypatch):
    chosen = cpu_library.Library(LIBRARY.path, None)
    monkeypatch.setattr(cpu_library, "current", lambda: chosen)
    conv, x = layers.Conv2d(16, 16, 3, 1, 1), np.random.default_rng(0).standard_normal((1, 8, 8, 16)).astype(np.float32)
    monkeypatch.setattr(dispatch, "precision", "fp32")
    before = conv.forward(x)[0].tobytes()
    monkeypatch.setattr(dispatch, "precision", "bf16")
    try:
        for environment, rounds in (("0", False), ("1", CAN == 2)):
            monkeypatch.setenv("EMONET_TILES", environment)
            chosen._rounding = None                                           # as in a process that has not asked
            assert (conv.forward(x)[0].tobytes() != before) == rounds
        monkeypatch.setattr(dispatch, "precision", "fp32")
        assert conv.forward(x)[0].tobytes() == before
    finally:
        LIBRARY._dll.emonet_use_tiles(int(LIBRARY.round_convolutions))
