"""Every kernel against its definition in float64: drawn shapes, special values, every instruction set, 1 and 2 threads."""

import copy
import functools
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import backend, dispatch, layers, losses, models, optim
from emonet_scratch.errors import KernelError
from emonet_scratch.kernels.cpu import library as cpu_library
from emonet_scratch.kernels.cpu import memory
from tests.strategies import seeds

LIBRARY = cpu_library.find()[0] if dispatch.loaded("cpu") else None
pytestmark = pytest.mark.skipif(LIBRARY is None, reason=dispatch.why())
VARIANTS = [] if LIBRARY is None else dispatch.VARIANTS[:1 + LIBRARY._dll.emonet_supports()]
drawn = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS = np.finfo(np.float32).eps


@pytest.fixture(params=[(v, t) for v in VARIANTS for t in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}")
def library(request, monkeypatch):
    """The kernels of one instruction set, with so many threads, as all kernels see them."""
    variant, threads = request.param
    chosen = cpu_library.Library(LIBRARY.path, variant)
    chosen.set_threads(threads)
    monkeypatch.setattr(cpu_library, "current", lambda: chosen)
    yield chosen
    chosen.set_threads(LIBRARY.threads)


@pytest.fixture(params=[True, False], ids=["direct", "winograd"])
def exact(request, monkeypatch):
    monkeypatch.setattr(dispatch, "exact", request.param)
    return request.param


def randomise(layer, seed):
    """Parameters and running statistics at which no term of a gradient vanishes."""
    rng = np.random.default_rng(seed)
    for p in layer.parameters():
        p.value[...] += 0.2 * rng.standard_normal(p.value.shape)
    for _, part in layer.walk():
        if isinstance(part, layers.BatchNorm):
            part.running_mean[...] = rng.standard_normal(part.C)
            part.running_var[...] = 0.5 + rng.random(part.C)


def near(got, want, terms, name, factor=1.0):
    """Within `factor` 16 eps sqrt(terms) of the largest number: what rounding does to a sum of so many terms."""
    assert got.shape == want.shape and got.dtype == np.float32
    limit = factor * 16 * EPS * np.sqrt(terms) * np.abs(want).max(initial=1e-30)
    worst = np.abs(got - want).max(initial=0)
    assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:.3g}"


def agree(make, x, seed, training=True, factor=1.0):
    """One forward and two backwards of the kernel against the definition in float64: all outputs, gradients, buffers."""
    layer, reference = make(), make()
    randomise(layer, seed)
    reference.load_state_dict(layer.state_dict())
    reference.astype(np.float64)
    layer.train(training), reference.train(training)
    before = x.copy()
    y, cache = layer.forward(x)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    want, want_cache = reference.forward(x.astype(np.float64))
    dy = np.random.default_rng(seed + 1).standard_normal(y.shape[::-1]).astype(np.float32).T     # not contiguous
    # No gradient through a ReLU whose input is nearer to 0 than rounding: which side it is on is a matter of chance.
    dy[np.abs(want) < 1e-3] = 0
    dx = layer.backward(dy, cache)
    want_dx = reference.backward(dy.astype(np.float64), want_cache)
    np.testing.assert_array_equal(x, before)
    pixels, terms = x.size // x.shape[-1], 9 * max(x.shape[-1], y.shape[-1])
    near(y, want, terms, "y", factor)
    return layer, reference, dx, want_dx, pixels, terms


shapes = st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 21))
channels = st.sampled_from([3, 8, 16, 20, 32, 64])


def filters_agree(layer, reference, pixels, factor):
    for p, q in zip(layer.parameters(), reference.parameters(), strict=True):
        near(p.grad, q.grad, pixels, p.name, factor)


def conv_agrees(exact, size, C, F, stride, seed):
    factor = 1 if exact or stride == 2 else 10
    x = np.random.default_rng(seed).standard_normal((*size, C)).astype(np.float32)
    make = functools.partial(layers.Conv2d, C, F, 3, stride, 1)
    layer, reference, dx, want_dx, pixels, terms = agree(make, x, seed, factor=factor)
    near(dx, want_dx, terms, "dx", factor)
    filters_agree(layer, reference, pixels, factor)


@drawn
@given(shapes, channels, channels, st.sampled_from([1, 2]), seeds)
def test_kernel_Conv2d(library, exact, size, C, F, stride, seed):
    conv_agrees(exact, size, C, F, stride, seed)


def by_taps(x, W, stride):
    """A convolution with 3x3 filters W (3, 3, C, F) and padding 1 of x (N, H, W, C), tap by tap."""
    _, rows, columns, _ = x.shape
    padded, (OH, OW) = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), ((size - 1) // stride + 1 for size in (rows, columns))
    return sum(padded[:, p:p + rows:stride, q:q + columns:stride][:, :OH, :OW] @ W[p, q] for p in range(3) for q in range(3))


def smooth(make):
    """The same layer with every ReLU taken at inputs of one sign, where its derivative is not a matter of rounding."""
    layer = make()
    for _, part in layer.walk():
        if isinstance(part, layers.BatchNorm):
            part.beta.value[...] = np.where(np.arange(part.C) % 2, 6, -6)
            part.gamma.value[...] = 0.5
    return layer


def block_agrees(exact, size, widths, stride, training, seed):
    (C, F), factor = widths, 4 if exact else 40                   # two convolutions, two norms and their gradients
    if training and size[0] * size[1] * size[2] < 8:
        training = False                                          # the variance of a few values magnifies rounding
    x = np.random.default_rng(seed).standard_normal((*size, C)).astype(np.float32)
    layer, reference, dx, want_dx, pixels, terms = agree(lambda: smooth(lambda: layers.ResidualBlock(C, F, stride)), x, seed,
                                                         training, factor)
    near(dx, want_dx, terms, "dx", 4 * factor)
    filters_agree(layer, reference, max(pixels, terms), 4 * factor)
    for name, value in layer.state_dict().items():
        near(value, reference.state_dict()[name].astype(np.float32), terms, name, factor)


@drawn
@given(shapes, st.sampled_from([(3, 16), (8, 8), (16, 16), (16, 32), (20, 24), (64, 64)]), st.sampled_from([1, 2]),
       st.booleans(), seeds)
def test_kernel_ResidualBlock(library, exact, size, widths, stride, training, seed):
    block_agrees(exact, size, widths, stride, training, seed)


@pytest.mark.parametrize("stride", [1, 2])
def test_images_that_are_cut_into_bands(library, exact, stride):
    """Too large for the second-level cache: bands read rows of their neighbours."""
    conv_agrees(exact, (1, 70, 50), 32, 32, stride, 0)
    block_agrees(exact, (1, 99, 45), (16, 16 * stride), stride, True, 1)


def sequential_agrees(exact, size, width, training, with_blocks, seed):
    factor = 10 if exact else 100
    if training and size[0] * size[1] * size[2] < 64:
        training = False
    blocks = [layers.Sequential(layers.ResidualBlock(width, 2 * width, 2), layers.ResidualBlock(2 * width, 2 * width))]
    make = functools.partial(smooth, lambda: layers.Sequential(
        layers.Conv2d(3, width, 3, 1, 1), layers.BatchNorm(width), layers.ReLU(), *(blocks if with_blocks else [])))
    x = np.random.default_rng(seed).standard_normal((*size, 3)).astype(np.float32)
    layer, reference, dx, want_dx, pixels, terms = agree(lambda: copy.deepcopy(make()), x, seed, training, factor)
    near(dx, want_dx, terms, "dx", 4 * factor)
    filters_agree(layer, reference, max(pixels, terms), 4 * factor)


@drawn
@given(shapes, st.sampled_from([8, 16]), st.booleans(), st.booleans(), seeds)
def test_kernel_Sequential(library, exact, size, width, training, with_blocks, seed):
    sequential_agrees(exact, size, width, training, with_blocks, seed)


@pytest.mark.parametrize("size", [(1, 8, 16), (5, 16, 24), (1, 104, 24)])
def test_a_trunk_whose_images_keep_their_borders(library, exact, size):
    """Sizes that are multiples of 4 up to the last layer; one image for all threads, several for each, and in bands."""
    for width in (8, 16):
        sequential_agrees(exact, size, width, False, True, 0)


@pytest.mark.parametrize("size, width, borders", [
    ((2, 16, 8), 16, True), ((1, 104, 24), 16, True), ((2, 8, 24), 24, True), ((2, 12, 16), 16, False),
    ((2, 16, 12), 16, False), ((2, 4, 8), 16, False), ((2, 16, 9), 16, False), ((2, 16, 16), 20, False)])
def test_which_trunks_keep_their_borders(library, exact, size, width, borders, monkeypatch):
    """Where every layer behind the first reads whole tiles and whole vectors; both ways give the definition's numbers."""
    asked = []

    def watched(chosen):
        real, pads = chosen.trunk, getattr(chosen._dll, f"emonet_trunk_pads_{chosen.variant}")

        def trunk(count, folded, N, H, W, *rest):
            asked.append((count, pads(count, folded, H, W)))
            real(count, folded, N, H, W, *rest)
        monkeypatch.setattr(chosen, "trunk", trunk, raising=False)
    for chosen in {library, library._narrow}:
        watched(chosen)
    sequential_agrees(exact, size, width, False, True, 0)
    assert asked and set(asked) == {(5, int(borders))}


def test_every_kernel_is_tested():
    tested = "".join(p.read_text() for p in Path(__file__).parent.glob("test_kernels*.py"))
    names = dispatch.registered("cpu")
    assert names and [n for n in names if f"def test_kernel_{n.replace('.', '_')}(" not in tested] == []


def test_a_planted_bug_is_caught(library, monkeypatch):
    """The comparison itself: a kernel that forgets the last tap of the filters' gradient, one that adds a thousandth."""
    make, x = functools.partial(layers.Conv2d, 16, 16, 3, 1, 1), np.ones((1, 8, 8, 16), np.float32)
    good = dispatch.registered("cpu")["Conv2d"]

    def forgetful(layer, dy, cache):
        before = layer.W.grad[2, 2].copy()
        dx = good.backward(layer, dy, cache)
        layer.W.grad[2, 2] = before
        return dx
    monkeypatch.setitem(dispatch._kernels["cpu"], "Conv2d", good._replace(backward=forgetful))
    layer, reference, dx, want_dx, pixels, terms = agree(make, x, 0, factor=10)
    near(dx, want_dx, terms, "dx", 10)
    with pytest.raises(AssertionError, match="W: off by"):
        filters_agree(layer, reference, pixels, 10)

    def off(layer, x):
        y, cache = good.run(layer, x)
        return y * np.float32(1.001), cache
    monkeypatch.setitem(dispatch._kernels["cpu"], "Conv2d", good._replace(run=off))
    with pytest.raises(AssertionError, match="y: off by"):
        agree(make, x, 0, factor=10)


@pytest.mark.parametrize("special", [0.0, 1e-42, 1e30, np.nan, np.inf])
def test_special_values(library, exact, special):
    """Zeros give zeros, denormals and 1e30 stay accurate relative to the largest, NaN and inf reach what they should."""
    layer = layers.Conv2d(16, 16, 3, 1, 1, rng=np.random.default_rng(0))
    reference = layers.Conv2d(16, 16, 3, 1, 1, rng=np.random.default_rng(0)).astype(np.float64)
    x = np.full((1, 9, 9, 16), special, np.float32)
    if not np.isfinite(special):
        x[:] = 1
        x[0, 4, 4, 3] = special
    with np.errstate(invalid="ignore"):
        y, want = layer.forward(x)[0], reference.forward(x.astype(np.float64))[0]
    bad = ~np.isfinite(want)
    assert not np.isfinite(y[bad]).any(), "a NaN was swallowed"
    if exact or not bad.any():
        np.testing.assert_array_equal(np.isfinite(y), ~bad)
        np.testing.assert_allclose(y[~bad], want[~bad], rtol=0, atol=200 * EPS * max(np.abs(want[~bad]).max(), 1e-38))
    else:                                                         # Winograd spreads it over tiles of 4 x 4 outputs
        assert np.isfinite(y[0, 8]).all()


def test_nan_passes_through_a_block(library):
    block, x = layers.ResidualBlock(16, 16).eval(), np.ones((1, 8, 8, 16), np.float32)
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(block.forward(x)[0][0, 0, 0]).any()


def test_nan_in_a_gradient_is_not_masked_away(library):
    """dy * (y > 0) is NaN where dy is, also where y is 0; the trainer looks for that."""
    for layer in (layers.ResidualBlock(16, 16), layers.Sequential(layers.Conv2d(16, 16, 3, 1, 1), layers.BatchNorm(16),
                                                                  layers.ReLU())):
        x = np.random.default_rng(0).standard_normal((1, 8, 8, 16)).astype(np.float32)
        y, cache = layer.forward(x)
        dy = np.where(y == 0, np.nan, 1).astype(np.float32)
        assert np.isnan(dy).any() and np.isnan(layer.backward(dy, cache)).any()


@pytest.mark.parametrize("kernels", [True, False])
def test_without_input_gradient_the_parameters_get_theirs(kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(dispatch, "enabled", False)
    x = np.random.default_rng(0).standard_normal((2, 9, 9, 3)).astype(np.float32)
    for make in (lambda: layers.Conv2d(3, 16, 3, 1, 1, rng=np.random.default_rng(0)),
                 lambda: models.ResNet(8, rng=np.random.default_rng(0)).features):
        grads = []
        for wanted in (True, False):
            layer = make()
            getattr(layer, "conv", layer).input_gradient = wanted
            y, cache = layer.forward(x)
            assert isinstance(cache, dispatch.KernelCache) == kernels
            dx = layer.backward(np.ones_like(y), cache)
            assert (dx is not None) == wanted
            grads.append([p.grad for p in layer.parameters()])
        for a, b in zip(*grads, strict=True):
            np.testing.assert_array_equal(a, b)


def outcome(function, *args):
    try:
        return function(*args)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("change", [
    lambda row: setattr(row.block, "body", layers.ResidualBlock(16, 16, 3).body),
    lambda row: setattr(row, "block", layers.ResidualBlock(16, 16, 3)),
    lambda row: setattr(row, "block", layers.ResidualBlock(32, 32)),
    lambda row: setattr(row.block.body, "relu", layers.Sequential()),
    lambda row: setattr(row.block, "relu", layers.Sequential()),
    lambda row: setattr(row.block.shortcut, "extra", layers.ReLU()),
    lambda row: setattr(row.block.body.conv2, "b", layers.Parameter(np.ones(16, np.float32))),
    lambda row: setattr(row.block.body.conv1.W, "value", np.ones((3, 3, 16, 8), np.float32)),
    lambda row: setattr(row.block.body.bn1, "running_mean", np.ones(8, np.float32)),
    lambda row: setattr(row.conv.W, "value", np.ones((3, 3, 3, 8), np.float32)),
    lambda row: setattr(row.block.body.conv1, "W", layers.Parameter(np.ones((3, 3, 16, 16), np.float32).T)),
])
@pytest.mark.parametrize("training", [False, True])
def test_what_is_not_as_built_goes_as_by_definition(change, training, monkeypatch):
    """Other parts, strides, channels, biases, or arrays of other shapes: the same numbers, or the same kind of error."""
    def run():
        rng = np.random.default_rng(0)
        row = layers.Sequential(conv=layers.Conv2d(3, 16, 3, 1, 1, rng=rng), bn=layers.BatchNorm(16), relu=layers.ReLU(),
                                block=layers.ResidualBlock(16, 16, rng=rng))
        randomise(row, 0)
        backend.seed(0)
        change(row)
        row.train(training)
        return outcome(lambda: row.forward(rng.standard_normal((2, 9, 9, 3)).astype(np.float32))[0])
    fast = run()
    monkeypatch.setattr(dispatch, "enabled", False)
    slow = run()
    assert isinstance(fast, type) == isinstance(slow, type)
    np.testing.assert_allclose(fast, slow, rtol=1e-3, atol=1e-3) if not isinstance(fast, type) else None


@pytest.mark.parametrize("make, parameter", [
    (lambda: layers.Conv2d(16, 16, 3, 1, 1), lambda layer: layer.W),
    (lambda: layers.ResidualBlock(16, 16), lambda layer: layer.body.conv2.W),
    (lambda: layers.Sequential(layers.Conv2d(16, 16, 3, 1, 1), layers.BatchNorm(16), layers.ReLU()),
     lambda layer: next(layer.children())[1].W)])
def test_parameters_replaced_between_forward_and_backward_are_refused(make, parameter):
    layer = make()
    y, cache = layer.forward(np.ones((1, 5, 5, 16), np.float32))
    assert isinstance(cache, dispatch.KernelCache)
    parameter(layer).value = np.asfortranarray(parameter(layer).value)
    with pytest.raises(ValueError, match="were replaced after its forward"):
        layer.backward(y, cache)


def test_backward_of_a_forward_in_evaluation_stays_in_evaluation():
    row = models.ResNet(8, rng=np.random.default_rng(0)).features
    randomise(row, 0)
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    y, cache = row.eval().forward(x)
    expected, before = row.backward(np.ones_like(y), cache), row.save_buffers()
    y, cache = row.forward(x)
    got = row.train().backward(np.ones_like(y), cache)
    np.testing.assert_array_equal(got, expected)
    assert all(np.array_equal(a, b) for a, b in zip(before, row.save_buffers(), strict=True))
    assert all(part.training for _, part in row.walk())


def test_numbers_of_numpy_are_numbers_and_names_stay():
    conv, x = layers.Conv2d(np.int64(16), np.int64(16), 3, np.int64(1), 1), np.ones((1, 5, 5, 16), np.float32)
    row = layers.Sequential(first=conv)
    named = row.parameters()[0]
    assert isinstance(conv.forward(x)[1], dispatch.KernelCache)
    conv.W.grad[...] = 1
    assert optim.clip_gradient_norm([conv.W], np.float32(1)) == pytest.approx(48)
    assert named.name == "first.W"


def test_non_contiguous_arrays_are_copied_and_float64_goes_to_the_definition(library):
    layer, x = layers.Conv2d(16, 16, 3, 1, 1), np.random.default_rng(0).standard_normal((16, 9, 8, 4)).astype(np.float32)
    y, cache = layer.forward(x.transpose(3, 1, 2, 0))
    same, _ = layer.forward(np.ascontiguousarray(x.transpose(3, 1, 2, 0)))
    np.testing.assert_array_equal(y, same)
    dy = np.random.default_rng(1).standard_normal(y.shape[::-1]).astype(np.float32).T
    np.testing.assert_array_equal(layer.backward(dy, cache), layer.backward(np.ascontiguousarray(dy), cache))
    assert not isinstance(layer.astype(np.float64).forward(np.ones((1, 3, 3, 16)))[1], dispatch.KernelCache)
    transposed = layers.Conv2d(16, 16, 3, 1, 1)
    transposed.W.value = transposed.W.value.transpose(1, 0, 2, 3)
    assert not isinstance(transposed.forward(np.ones((1, 3, 3, 16), np.float32))[1], dispatch.KernelCache)
    with pytest.raises(ValueError, match="expected 4 axes and a last axis of 16"):
        layers.Conv2d(16, 16, 3, 1, 1).forward(np.ones((1, 3, 3, 8), np.float32))


@pytest.mark.parametrize("layer", [layers.Conv2d(16, 16, 3, 1, 1), layers.ResidualBlock(16, 16),
                                   layers.Sequential(layers.Conv2d(16, 16, 3, 1, 1), layers.BatchNorm(16), layers.ReLU())])
def test_a_gradient_of_another_shape_is_refused(layer):
    y, cache = layer.forward(np.ones((2, 5, 5, 16), np.float32))
    assert isinstance(cache, dispatch.KernelCache)
    with pytest.raises(ValueError, match=r"got dy of shape \(1, 5, 5, 16\), expected \(2, 5, 5, 16\): that of y"):
        layer.backward(y[:1], cache)


def test_same_bits_every_time(library):
    def once():
        model = models.ResNet(8, rng=np.random.default_rng(0))
        x = np.random.default_rng(1).standard_normal((5, 33, 31, 3)).astype(np.float32)
        y, cache = model.forward(x)
        model.backward(np.ones_like(y), cache)
        return [y, *[p.grad for p in model.parameters()], *model.save_buffers(), model.eval().forward(x)[0]]
    for a, b in zip(once(), once(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_with_kernels_goes_as_without(library, monkeypatch):
    def losses_of(steps=6):
        model = models.ResNet(8, rng=np.random.default_rng(0))
        optimizer = optim.SGD(model.parameters(), 0.05, momentum=0.9)
        rng, found = np.random.default_rng(1), []
        for _ in range(steps):
            x, labels = rng.standard_normal((8, 16, 16, 3)).astype(np.float32), rng.integers(0, 10, 8)
            y, cache = model.forward(x)
            loss, dy = losses.softmax_cross_entropy(y, labels)
            model.zero_grad()
            model.backward(dy, cache)
            optimizer.step()
            found.append(loss)
        return found
    fast = losses_of()
    monkeypatch.setattr(dispatch, "enabled", False)
    assert fast == pytest.approx(losses_of(), rel=2e-3)


def test_memory_is_given_back_and_never_while_a_view_lives():
    a = memory.empty(64, 1024)
    a[...] = 7
    address, view = a.ctypes.data, a[3:5]
    del a
    assert memory.empty(64, 1024).ctypes.data != address          # the view still needs it
    assert (view == 7).all()
    del view
    assert memory.empty(64, 1024).ctypes.data == address
    assert memory.empty(0, 5).shape == (0, 5)


def test_a_steady_step_allocates_no_large_array(monkeypatch):
    model, x = models.ResNet(8), np.ones((8, 32, 32, 3), np.float32)

    def step():
        y, cache = model.forward(x)
        model.backward(y, cache)
    step()
    def blocks():
        return {m.ctypes.data for free in memory.arena.blocks.values() for m in free}
    before = blocks()
    step()
    assert blocks() == before


def test_the_arena_drops_what_was_not_used_for_longest():
    arena = memory.Arena(keep_bytes=100)
    for size in (40, 30, 20):
        arena.give(np.empty(size, np.uint8))
    arena.give(arena.take(40))                                     # now 30 is the oldest
    arena.give(np.empty(25, np.uint8))
    assert list(arena.blocks) == [20, 40, 25] and arena.take(30).nbytes == 30
    arena.give(np.empty(101, np.uint8))
    assert not arena.blocks


def test_an_array_that_lives_to_the_end_of_the_process_says_nothing():
    code = "import sys; from emonet_scratch.kernels.cpu.memory import empty\n" \
           "kept = empty(64, 1024); sys.kept = empty(9, 9999)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""


def _in_child(queue):
    layer = layers.Conv2d(16, 16, 3, 1, 1, rng=np.random.default_rng(0))
    queue.put(float(layer.forward(np.ones((4, 64, 64, 16), np.float32))[0].sum()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_uses_the_kernels():
    layer = layers.Conv2d(16, 16, 3, 1, 1, rng=np.random.default_rng(0))
    here = float(layer.forward(np.ones((4, 64, 64, 16), np.float32))[0].sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == here
    child.join(60)
    assert child.exitcode == 0


FORK_WHILE_BUSY = """
import os, sys, threading, time
import numpy as np
from emonet_scratch import dispatch, layers
layer, x = layers.Conv2d(16, 16, 3, 1, 1), np.ones((2, 64, 64, 16), np.float32)
layer.forward(x)                 # imports are done: a fork in the middle of one hangs any Python
stop = []
def work():
    while not stop: layer.forward(x)
thread = threading.Thread(target=work); thread.start()
children = []
for _ in range(8):
    time.sleep(.01)
    if not (child := os.fork()):
        layer.forward(x)
        os._exit(0)
    children.append(child)
end = time.time() + 30
done = 0
while done < len(children) and time.time() < end:
    pid, status = os.waitpid(-1, os.WNOHANG)
    done += pid != 0
    time.sleep(.01)
stop.append(1); thread.join()
for child in children:
    try: os.kill(child, 9)
    except ProcessLookupError: pass
print(done)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_children_forked_while_another_thread_computes_do_not_hang(threads):
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK_WHILE_BUSY],
                         env=os.environ | {"EMONET_THREADS": threads}, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "8", run.stderr


@pytest.mark.parametrize("value, expected", [
    ("off", "CPU kernels: off"), ("plain", "CPU kernels: plain"), ("sse9", "EMONET_KERNELS must be on, off or one of")])
def test_the_environment_chooses(value, expected):
    code = "from emonet_scratch import dispatch\ntry: print(dispatch.why())\nexcept dispatch.KernelError as e: print(e)"
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | {"EMONET_KERNELS": value, "EMONET_THREADS": "1"},
                         capture_output=True, text=True, check=True)
    assert run.stdout.startswith(expected) and run.stdout.count("\n") == 1


def test_a_library_that_cannot_be_loaded_costs_speed_only(tmp_path):
    """Also what a package without the library says, and that importing it alone loads nothing."""
    package = tmp_path / "emonet_scratch"
    shutil.copytree(Path(dispatch.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = ("import sys, emonet_scratch\n"
            "assert not [m for m in sys.modules if m.endswith(('kernels.cpu', 'kernels.cuda', 'cupy'))]\n"
            "import numpy as np; from emonet_scratch import dispatch, layers\n"
            "layers.Conv2d(16, 16, 3, 1, 1).forward(np.ones((1, 4, 4, 16), np.float32)); print(dispatch.why())")
    for expected in ("not built", "cannot be loaded"):
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                             env={k: v for k, v in os.environ.items() if k != "EMONET_KERNELS"})
        assert run.stdout.startswith(f"CPU kernels: {expected}")
        (package / "kernels/cpu/_cpu.so").write_bytes(b"no library")


def test_a_library_built_from_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(cpu_library, "ABI", cpu_library.ABI + 1)
    with pytest.raises(OSError, match="built from other sources: install the package again"):
        cpu_library.Library(LIBRARY.path, None)


@pytest.mark.parametrize("mine, theirs, expected", [
    ("3", "2", 3), ("", "3", 3), ("", "2,1", 2), ("", "many", None), ("", "0", None), ("1000", "", 256)])
def test_threads_are_taken_from_the_environment(mine, theirs, expected, monkeypatch):
    monkeypatch.setenv("EMONET_THREADS", mine)
    monkeypatch.setenv("OMP_NUM_THREADS", theirs)
    threads = cpu_library.Library(LIBRARY.path, None).threads
    LIBRARY.set_threads(LIBRARY.threads)
    assert threads == (expected or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("value", ["many", "0", "²", "-1"])
def test_a_wrong_number_of_threads_is_one_clear_line(value, monkeypatch):
    monkeypatch.setenv("EMONET_THREADS", value)
    with pytest.raises(KernelError, match=f"EMONET_THREADS must be a positive integer, got '{value}'"):
        cpu_library.Library(LIBRARY.path, None)
