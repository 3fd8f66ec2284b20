"""Every layer: gradients over drawn shapes, the contract of forward and backward, state, errors."""

import copy
import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from emonet_scratch import backend, dispatch, layers
from emonet_scratch.layers.input import IMAGENET_MEAN, IMAGENET_STD
from emonet_scratch.testing import contract
from emonet_scratch.watch import trace
from tests import test_lstm
from tests.device import DeviceArray, cupy
from tests.strategies import CHECKED, check, seeds, sizes, values

odd = st.sampled_from([1, 3, 5])


def rng(seed):
    return np.random.default_rng(seed)


@given(sizes, sizes, sizes, seeds)
def test_dense(N, D, M, seed):
    check(layers.Dense(D, M, rng(seed)), values(seed, N, D), seed=seed)
    check(layers.Dense(D, M, rng(seed)), values(seed, 2, N, D), seed=seed)


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), odd,
       st.integers(1, 3), st.integers(0, 2), st.booleans(), seeds)
def test_conv2d(N, H, W, C, F, K, stride, padding, bias, seed):
    padding = max(padding, (K - min(H, W) + 1) // 2)
    check(layers.Conv2d(C, F, K, stride, padding, bias, rng(seed)), values(seed, N, H, W, C), seed=seed)


@given(sizes, st.integers(3, 6), st.integers(1, 3), odd, st.integers(1, 3), seeds)
def test_conv2d_is_the_sum_in_its_docstring(N, H, C, K, stride, seed):
    layer = layers.Conv2d(C, 2, K, stride, K // 2, True, rng(seed)).astype(np.float64)
    layer.b.value[:] = [1, -2]
    x = values(seed, N, H, H + 1, C)
    y, _ = layer.forward(x)
    P, W = K // 2, layer.W.value
    for n, i, j, f in itertools.product(*map(range, y.shape)):
        terms = [x[n, i * stride + p - P, j * stride + q - P] @ W[p, q, :, f]
                 for p in range(K) for q in range(K)
                 if 0 <= i * stride + p - P < x.shape[1] and 0 <= j * stride + q - P < x.shape[2]]
        assert y[n, i, j, f] == pytest.approx(layer.b.value[f] + sum(terms), abs=1e-12)


@pytest.mark.parametrize("K, stride, padding", [(3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 3, 2)])
def test_conv2d_of_a_large_image_is_scipys(K, stride, padding, monkeypatch):
    """Sums over many pixels, in the definition: forward, and both gradients as correlations of their own."""
    monkeypatch.setattr(dispatch, "enabled", False)
    C, F = 3, 4
    layer, x = layers.Conv2d(C, F, K, stride, padding, True, rng(0)).astype(np.float64), values(1, 2, 97, 70, C)
    layer.b.value[...] = values(2, F)
    y, cache = layer.forward(x)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    W = layer.W.value
    whole = np.stack([sum(signal.correlate(padded[..., c], W[None, :, :, c, f], "valid") for c in range(C))
                      for f in range(F)], -1)
    assert np.allclose(y, whole[:, ::stride, ::stride] + layer.b.value, atol=1e-10)
    dy = values(3, *y.shape)
    dx = layer.backward(dy, cache)
    spread = np.zeros(whole.shape)
    spread[:, ::stride, ::stride] = dy                                        # the gradient of `whole`
    dpadded = np.stack([sum(signal.convolve(spread[..., f], W[None, :, :, c, f]) for f in range(F)) for c in range(C)], -1)
    P, (_, H, B, _) = padding, x.shape
    assert np.allclose(dx, dpadded[:, P:P + H, P:P + B], atol=1e-10)
    for c, f in itertools.product(range(C), range(F)):
        want = signal.correlate(padded[..., c], spread[..., f], "valid")[0]
        assert np.allclose(layer.W.grad[:, :, c, f], want, atol=1e-9)
    assert np.allclose(layer.b.grad, dy.sum((0, 1, 2)))


@given(st.sampled_from([(1,), (4,), (2, 3), (2, 3, 3)]), sizes, st.booleans(), seeds)
def test_batch_norm(shape, C, training, seed):
    layer = layers.BatchNorm(C).train(training)
    layer.running_mean += values(seed, C).astype(np.float32)
    layer.running_var *= 1 + rng(seed).random(C).astype(np.float32)
    check(layer, values(seed, *shape, C), seed=seed)


@given(st.integers(2, 9), sizes, seeds)
def test_batch_norm_statistics(N, C, seed):
    """Training output has mean 0 and variance 1; the running statistics converge to those of the data."""
    layer = layers.BatchNorm(C, momentum=0.5).astype(np.float64)
    x = 3 + 2 * values(seed, N, C)
    y, _ = layer.forward(x)
    assert np.allclose(y.mean(0), 0, atol=1e-9)
    assert np.allclose(y.var(0), x.var(0) / (x.var(0) + layer.eps))
    assert np.allclose(layer.running_mean, x.mean(0) / 2) and np.allclose(layer.running_var, (1 + x.var(0, ddof=1)) / 2)
    for _ in range(60):
        layer.forward(x)
    layer.eval()
    expected = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + layer.eps)
    assert np.allclose(layer.forward(x)[0], expected)


def test_batch_norm_has_the_momentum_and_eps_of_pytorch():
    """torch.nn.BatchNorm1d(2) in float64, defaults, on these values; the second channel is narrow, so that eps shows."""
    x = np.array([[1.0, 0.0], [3.0, 0.002], [8.0, 0.007]])
    layer = layers.BatchNorm(2).astype(np.float64)
    y, cache = layer.forward(x)
    assert np.allclose(y, [[-1.0190487428175694, -0.6943650748294136], [-0.3396829142725232, -0.2314550249431379],
                           [1.3587316570900927, 0.9258200997725513]], rtol=1e-12)
    assert np.allclose(layer.running_mean, [0.4, 0.0003], rtol=1e-12)
    assert np.allclose(layer.running_var, [2.2, 0.9000013], rtol=1e-12)
    assert np.allclose(layer.eval().forward(x)[0], [[0.4045189981176306, -0.0003162257808278896], [1.7529156585097327,
                       0.0017919460913580407], [5.123907309489987, 0.007062375771822866]], rtol=1e-12)
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and not installed")
    for shape in [(5, 4), (1, 4), (3, 2, 2, 4)]:
        ours, theirs, x = layers.BatchNorm(4).astype(np.float64), torch.nn.BatchNorm1d(4).double(), 0.01 * values(1, *shape)
        flat = torch.tensor(x.reshape(-1, 4).copy(), requires_grad=True)
        for training in (True, False) if len(flat) > 1 else (False,):         # a single value: they refuse it
            y, cache = ours.train(training).forward(x)
            t = theirs.train(training)(flat)
            flat.grad = None
            t.backward(torch.tensor(2 * y.reshape(-1, 4) + 1))
            assert np.allclose(y.reshape(-1, 4), t.detach().numpy(), rtol=1e-12, atol=1e-14)
            assert np.allclose(ours.backward(2 * y + 1, cache).reshape(-1, 4), flat.grad.numpy(), rtol=1e-9, atol=1e-10)
            assert np.allclose(ours.running_mean, theirs.running_mean.numpy(), rtol=1e-12, atol=1e-15)
            assert np.allclose(ours.running_var, theirs.running_var.numpy(), rtol=1e-12)


def test_the_variance_of_a_single_value_is_0():
    layer = layers.BatchNorm(2, momentum=0.5).astype(np.float64)
    layer.beta.value[...] = [3, 4]
    y, cache = layer.forward(np.array([[5.0, 7.0]]))
    assert y.tolist() == [[3, 4]] and layer.running_mean.tolist() == [2.5, 3.5] and layer.running_var.tolist() == [0.5, 0.5]
    assert not layer.backward(np.ones((1, 2)), cache).any()


def test_batch_norm_adds_up_large_images_without_losing_digits():
    """A channel's sum of 2^18 float32 values: one after the other is off by ten times as much as in two steps."""
    dy = rng(0).standard_normal((4, 256, 256, 3)).astype(np.float32) + np.float32(4)
    layer = layers.BatchNorm(3).eval()
    _, cache = layer.forward(dy)
    layer.backward(dy, cache)
    assert np.abs(layer.beta.grad / dy.astype(np.float64).sum((0, 1, 2)) - 1).max() < 3e-6


@given(sizes, sizes, sizes, seeds)
def test_relu(a, b, c, seed):
    check(layers.ReLU(), values(seed, a, b, c, away_from=0.0), seed=seed)


@given(st.floats(0, 0.9), sizes, sizes, st.booleans(), seeds)
def test_dropout(rate, N, D, training, seed):
    check(layers.Dropout(rate, seed).train(training), values(seed, N, D), seed=seed)


@pytest.mark.parametrize("kernels", [True, False])
def test_the_mask_of_dropout_is_the_generator_s(kernels, monkeypatch):
    """Call k of a seed: 1 / (1 - rate) where u >= rate, u from Philox of the key (seed, k); the rate itself is kept."""
    monkeypatch.setattr(dispatch, "enabled", kernels)
    u = [np.random.Generator(np.random.Philox(key=np.array([9, k], np.uint64))).random(40, np.float32) for k in range(3)]
    for rate in (float(u[0][7]), float(u[1][30]), 0.25):
        layer = layers.Dropout(rate, seed=9)
        for k in range(3):
            x = np.arange(1, 41, dtype=np.float32).reshape(5, 8)
            y, cache = layer.forward(x)
            want = x * ((u[k] >= rate) / (1 - rate)).reshape(5, 8)
            assert np.allclose(y, want, rtol=1e-6) and np.array_equal(y == 0, want == 0)
            assert np.array_equal(layer.backward(x, cache), y)
        assert layer.counter.tolist() == [9, 3]


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    x = np.ones((400, 400), np.float32)
    layer = layers.Dropout(0.3, seed=7)
    y, _ = layer.forward(x)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01) and y.mean() == pytest.approx(1, abs=0.01)
    assert np.unique(y).size == 2 and y.dtype == np.float32
    assert layer.eval().forward(x)[0] is x


def test_dropout_without_a_rate_is_the_identity_and_without_a_seed_draws_one():
    x, layer = np.ones((2, 3)), layers.Dropout(0.0, seed=3)
    assert layer.forward(x)[0] is x and layer.backward(x, None) is x and layer.counter.tolist() == [3, 0]
    backend.seed(5)
    drawn = [int(layers.Dropout(0.5).counter[0]) for _ in range(4)]
    generator = np.random.default_rng(5)
    assert drawn == [int(generator.integers(2**63)) for _ in range(4)]


def test_dropout_has_its_own_generator_that_state_dict_saves():
    a, b, other = layers.Dropout(0.5, seed=1), layers.Dropout(0.5, seed=2), layers.Dropout(0.5, seed=1)
    x = np.ones((8, 8))
    first, second = a.forward(x)[0], a.forward(x)[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(first, other.forward(x)[0]) and not np.array_equal(first, b.forward(x)[0])
    b.load_state_dict(a.state_dict())
    assert np.array_equal(a.forward(x)[0], b.forward(x)[0])


@given(sizes, sizes, sizes, sizes, seeds)
def test_pooling_and_flatten(N, H, W, C, seed):
    check(layers.GlobalAveragePool(), values(seed, N, H, W, C), seed=seed)
    check(layers.Flatten(), values(seed, N, H, W, C), seed=seed)


@given(sizes, sizes, sizes, st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), seeds)
def test_pad_shortcut(N, H, W, C, more, stride, seed):
    check(layers.PadShortcut(C, C + more, stride), values(seed, N, H, W, C), seed=seed)


@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),
       st.sampled_from(["pad", "projection"]), st.booleans(), seeds)
def test_residual_block(N, H, C, more, stride, shortcut, training, seed):
    layer = layers.ResidualBlock(C, C + more, stride, shortcut, rng(seed)).train(training)
    # Short steps seldom cross a kink of the two inner ReLUs; where one does, shorter ones are taken.
    check(layer, values(seed, N + 1, H, H + 1, C), seed=seed, eps=2.0**-20, rtol=1e-7)


@given(sizes, sizes, sizes, seeds)
def test_sequential(N, D, M, seed):
    check(layers.Sequential(layers.Dense(D, M, rng(seed)), layers.Dropout(0.5, seed), last=layers.Dense(M, 2)),
          values(seed, N, D), seed=seed)
    check(layers.Sequential(), values(seed, N, D), seed=seed)


@given(sizes, sizes, seeds)
def test_normalize(N, H, seed):
    check(layers.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), 255 * values(seed, N, H, H, 3), seed=seed)
    y, _ = layers.Normalize((0.5,), (0.25,)).forward(np.array([[0], [255]], np.uint8))
    assert np.allclose(y, [[-2], [2]]) and y.dtype == np.float32
    pixels = layers.Chunked(layers.Normalize((0.5,), (0.25,)), 1)             # integers have no gradient
    y, cache = pixels.forward(np.array([[0], [255]], np.uint8))
    assert pixels.backward(y, cache) is None


def test_normalize_takes_every_type_and_gives_its_own():
    layer = layers.Normalize(IMAGENET_MEAN, IMAGENET_STD)                     # torchvision's constants, red first
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for dtype in (np.uint8, np.int64, np.float32, np.float64):
        y, cache = layer.forward(np.array([[0, 51, 255]], dtype))
        assert y.dtype == np.float32 and np.allclose(y, [[-0.485 / 0.229, (0.2 - 0.456) / 0.224, 0.594 / 0.225]], rtol=1e-5)
        dx = layer.backward(np.ones_like(y), cache)
        assert dx is None if np.dtype(dtype).kind in "iu" else np.allclose(dx * 255, [[1 / s for s in IMAGENET_STD]])
        assert layer.backward(None, cache) is None


@pytest.mark.parametrize("shape, lengths", [((3, 2), [1, 1]), ((3, 2), [2, 2]), ((3,), [3]), ((3, 2, 2), [3]),
                                            ((3, 2), [[1, 2]]), ((3, 2), 3)])
def test_pad_sequences_names_rows_that_are_not_the_lengths(shape, lengths):
    with pytest.raises(ValueError, match=r"PadSequences\(\) got x of shape .* lengths .*: expected \(sum\(lengths\), D\)"):
        layers.PadSequences().forward(np.zeros(shape), lengths)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), sizes, seeds)
def test_pad_sequences(lengths, D, seed):
    x, layer = values(seed, sum(lengths), D), layers.PadSequences()
    check(layer, x, np.array(lengths), seed=seed)
    y, cache = layer.forward(x, lengths)
    assert np.array_equal(np.concatenate([y[:k, n] for n, k in enumerate(lengths)]), x)
    assert np.array_equal(layer.backward(y, cache), x) and np.count_nonzero(y) == np.count_nonzero(x)


@given(st.integers(1, 7), st.integers(1, 8), st.booleans(), st.booleans(), seeds)
def test_chunked(N, size, training, frozen, seed):
    """Gradients of the chunked run, with dropout masks and batch statistics that the recomputation must repeat."""
    inner = layers.Sequential(conv=layers.Conv2d(2, 3, 3, padding=1, rng=rng(seed)), bn=layers.BatchNorm(3),
                              drop=layers.Dropout(0.5, seed))
    chunked = layers.Chunked(inner, size).train(training)
    inner.bn.train(training and not frozen)                                   # a part of it that does not train
    check(chunked, values(seed, N, 3, 2, 2), seed=seed)


class Recorder(layers.Layer):
    """The identity, which knows how many rows it saw at a time."""

    def __init__(self):
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return x, None

    def backward(self, dy, cache):
        return dy


@given(st.integers(0, 40), st.integers(1, 9))
def test_the_chunks_are_the_fewest_that_are_small_enough_and_alike(N, size):
    chunked, x = layers.Chunked(Recorder(), size), np.arange(2.0 * N).reshape(N, 2)
    y, cache = chunked.forward(x)
    rows = chunked.layer.rows.copy()
    assert np.array_equal(y, x) and np.array_equal(chunked.backward(y, cache), x)
    assert sum(rows) == N and max(rows) <= size and max(rows) - min(rows) <= 1 and len(rows) == max(1, -(-N // size))
    assert chunked.layer.rows == 2 * rows                                     # once forward, once again for backward


def test_a_chunked_run_in_evaluation_keeps_its_input_and_nothing_else():
    def held(tree):
        return [a for part in tree for a in held(part)] if isinstance(tree, (tuple, list)) else [tree]
    for training in (False, True):
        chunked, x = layers.Chunked(layers.BatchNorm(3), 2).train(training), values(1, 5, 3)
        kept = held(chunked.forward(x)[1])
        assert all(np.shares_memory(a, x) for a in kept) == (not training) and sum(np.shares_memory(a, x) for a in kept) == 3


@given(st.integers(1, 7), st.integers(1, 8), seeds)
def test_chunked_equals_whole(N, size, seed):
    inner = layers.Sequential(layers.ResidualBlock(2, 4, 2, rng=rng(seed)), layers.Flatten()).astype(np.float64).eval()
    whole, chunked = copy.deepcopy(inner), layers.Chunked(inner, size)
    x = values(seed, N, 4, 4, 2)
    (a, cache_a), (b, cache_b) = whole.forward(x), chunked.forward(x)
    dy = values(seed + 1, *a.shape)
    assert np.allclose(a, b, atol=1e-12)
    assert np.allclose(whole.backward(dy, cache_a), chunked.backward(dy, cache_b), atol=1e-12)
    for p, q in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert np.allclose(p.grad, q.grad, atol=1e-12)


def test_chunked_counts_running_statistics_once():
    x = values(4, 6, 5)
    inner = layers.BatchNorm(5).astype(np.float64)
    plain, chunked = copy.deepcopy(inner), layers.Chunked(inner, 3)
    for part in (x[:3], x[3:]):
        plain.forward(part)
    y, cache = chunked.forward(x)
    chunked.backward(y, cache)
    assert all(np.array_equal(a, b) for a, b in zip(plain.save_buffers(), inner.save_buffers(), strict=True))


GRADIENT_TESTS = {
    layers.Dense: test_dense, layers.Conv2d: test_conv2d, layers.BatchNorm: test_batch_norm, layers.ReLU: test_relu,
    layers.Dropout: test_dropout, layers.GlobalAveragePool: test_pooling_and_flatten,
    layers.Flatten: test_pooling_and_flatten, layers.PadShortcut: test_pad_shortcut,
    layers.ResidualBlock: test_residual_block, layers.Sequential: test_sequential, layers.Normalize: test_normalize,
    layers.PadSequences: test_pad_sequences, layers.Chunked: test_chunked, layers.LSTM: test_lstm.test_gradients,
    layers.LSTMCell: test_lstm.test_cell_gradients,
}


def test_every_public_layer_has_a_gradient_test():
    """A layer without a row fails, and so does a row whose test never checks the layer."""
    public = {c for c in vars(layers).values() if inspect.isclass(c) and issubclass(c, layers.Layer)} - {layers.Layer}
    assert public == GRADIENT_TESTS.keys()
    for layer, test in GRADIENT_TESTS.items():
        if layer not in CHECKED:                                              # this test runs alone
            test()
        assert layer in CHECKED, f"{test.__name__} does not check {layer.__name__}"


# The contract, on a layer of each kind: the layer, then its inputs; (4, 3) is an array of that shape, [4, 1] those lengths.
EXAMPLES = {
    "Dense": (lambda: layers.Dense(3, 2), (4, 3)),
    "Conv2d": (lambda: layers.Conv2d(2, 3, 3, 2, 1, True), (2, 5, 4, 2)),
    "BatchNorm": (lambda: layers.BatchNorm(3), (4, 3)),
    "ReLU": (lambda: layers.ReLU(), (4, 3)),
    "Dropout": (lambda: layers.Dropout(0.5), (4, 3)),
    "GlobalAveragePool": (lambda: layers.GlobalAveragePool(), (2, 3, 3, 2)),
    "Flatten": (lambda: layers.Flatten(), (2, 3, 3, 2)),
    "PadShortcut": (lambda: layers.PadShortcut(2, 5, 2), (2, 5, 4, 2)),
    "ResidualBlock": (lambda: layers.ResidualBlock(2, 4, 2), (2, 5, 4, 2)),
    "Sequential": (lambda: layers.Sequential(layers.Dense(3, 2), last=layers.Dense(2, 2)), (5, 3)),
    "Chunked": (lambda: layers.Chunked(layers.Dense(3, 2), 2), (5, 3)),
    "LSTM": (lambda: layers.LSTM(3, 2, 2), (4, 3, 3), [4, 1, 3], ((2, 3, 2), (2, 3, 2))),
    "LSTMCell": (lambda: layers.LSTMCell(3, 2), (4, 3), (4, 2), (4, 2)),
    "Normalize": (lambda: layers.Normalize((0.1, 0.2), (0.3, 0.4)), (3, 4, 2)),
    "PadSequences": (lambda: layers.PadSequences(), (6, 2), [1, 3, 2]),
}


def test_every_public_layer_has_an_example():
    assert EXAMPLES.keys() == {layer.__name__ for layer in GRADIENT_TESTS}


def inputs(shapes, dtype=np.float64, seed=2):
    return tuple(np.array(s) if isinstance(s, list) else inputs(s, dtype, seed + k) if isinstance(s[0], tuple)
                 else values(seed + k, *s).astype(dtype) for k, s in enumerate(shapes))


def arrays(tree):
    return [a for part in tree for a in arrays(part)] if isinstance(tree, tuple) else [tree]


def like(tree):
    """Other values in the shapes of a tree of arrays."""
    def shape(tree):
        return tuple(map(shape, tree)) if isinstance(tree, tuple) else tree.shape
    return inputs(shape(tree), arrays(tree)[0].dtype, seed=9)


def run(layer, *x):
    """(outputs, backward), backward taking a gradient for each output, in their structure."""
    y, cache = layer.forward(*x)
    return y if isinstance(y, tuple) else (y,), lambda dy: layer.backward(*dy, cache)


@pytest.mark.parametrize("name", EXAMPLES)
def test_outputs_are_the_callers(name):
    """What is written into them after forward does not reach backward: they are in no cache."""
    make, *shapes = EXAMPLES[name]
    layer = make().astype(np.float64)
    y, backward = run(layer, *inputs(shapes))
    dy = like(y)
    before = backward(dy)
    for a in arrays(y):
        a[...] = 7
    assert all(map(np.array_equal, arrays(backward(dy)), arrays(before)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_state_is_a_copy(name):
    """What is done to it afterwards is done neither to the layer that gave it nor to the one that took it."""
    make, *_ = EXAMPLES[name]
    one, two = make(), make()
    state = one.state_dict()
    two.load_state_dict(state)
    before = copy.deepcopy(state)
    for a in state.values():
        a[...] = 7
    for layer in (one, two):
        assert all(np.array_equal(a, before[key]) for key, a in layer.state_dict().items())
    saved = one.save_buffers()
    for a in saved:
        a[...] = 7
    assert all(np.array_equal(a, before[key]) for key, a in one.state_dict().items())
    one.restore_buffers(saved)
    assert all((a == 7).all() for a in one.save_buffers())


@pytest.mark.parametrize("name", [name for name, (make, *_) in EXAMPLES.items() if make().state_dict().keys() - {"counter"}])
def test_arrays_of_two_devices_are_refused(name, monkeypatch):
    """Inputs on a GPU, parameters or constants on the host: one line that names both."""
    monkeypatch.setattr(backend, "import_cupy", lambda: cupy)
    make, *shapes = EXAMPLES[name]
    x = on_device(inputs(shapes, np.float32))
    with pytest.raises(backend.DeviceError, match=r"(x|a|array 0) is on cuda:0.* is on cpu.*: call to_device"):
        make().forward(*x)


def on_device(tree):
    return tuple(map(on_device, tree)) if isinstance(tree, tuple) else cupy.asarray(tree) if tree.dtype.kind == "f" else tree


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EXAMPLES)
def test_device_arrays_go_through_as_host_arrays_do(name, training, monkeypatch):
    """Under CuPy's rules, by the same definitions: the same outputs, gradients and statistics, all of them there."""
    monkeypatch.setattr(backend, "import_cupy", lambda: cupy)
    monkeypatch.setattr(dispatch, "enabled", False)
    make, *shapes = EXAMPLES[name]
    host = make().train(training)
    device = copy.deepcopy(host).to_device("cuda:0")
    x = inputs(shapes, np.float32)
    (y, backward), (there, backward_there) = run(host, *x), run(device, *on_device(x))
    dy = like(y)
    for a, b in zip(arrays((y, backward(dy))), arrays((there, backward_there(on_device(dy)))), strict=True):
        assert isinstance(b, DeviceArray) and np.array_equal(a, b.get())
    for p, q in zip(host.parameters(), device.parameters(), strict=True):
        assert isinstance(q.grad, DeviceArray) and np.array_equal(p.grad, q.grad.get())
    assert all(np.array_equal(a, device.state_dict()[key]) for key, a in host.state_dict().items())


@pytest.mark.parametrize("layer, shape, operations", [
    (layers.Dense(3, 5), (7, 3), 2 * 7 * 3 * 5), (layers.Dense(3, 5), (2, 7, 3), 2 * 14 * 3 * 5),
    (layers.Conv2d(3, 5, 3, 2, 1), (2, 9, 7, 3), 2 * (2 * 5 * 4) * 5 * (9 * 3)), (layers.ReLU(), (4, 3), 0),
    (layers.LSTM(3, 5, 2), (7, 2, 3), 2 * 7 * 2 * 4 * 5 * (3 + 5 + 5 + 5)), (layers.BatchNorm(3), (4, 3), 0)], ids=repr)
def test_flops_are_two_a_product(layer, shape, operations):
    assert layer.flops(layer.forward(np.zeros(shape, np.float32))[0]) == operations


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EXAMPLES)
def test_contract(name, training):
    make, *shapes = EXAMPLES[name]
    layer = make().train(training)
    contract(layer, *inputs(shapes))
    y, backward = run(layer.astype(np.float64), *inputs(shapes))
    backward(like(y))
    assert all(p.grad.any() for p in layer.parameters())
    layer.zero_grad()
    assert not any(p.grad.any() for p in layer.parameters())


def test_foreign_states_are_refused_whole():
    layer = layers.Dense(3, 2)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=r"another model: 1 arrays are missing \['b'\]"):
        layer.load_state_dict({"W": before["W"] + 1})
    with pytest.raises(ValueError, match=r"another model: 0 arrays are missing \[\], 1 are not known here \['c'\]"):
        layer.load_state_dict(before | {"c": before["b"]})
    with pytest.raises(ValueError, match=r"W has shape \(4, 2\), this model has \(3, 2\)"):
        layer.load_state_dict(layers.Dense(4, 2).state_dict())
    assert all(np.array_equal(a, before[k]) for k, a in layer.state_dict().items())


@pytest.mark.parametrize("make, shape, message", [
    (lambda: layers.Dense(128, 10), (32, 64), r"Dense\(D=128, M=10\) got x of shape \(32, 64\)"),
    (lambda: layers.Conv2d(3, 4, 3), (2, 8, 8, 4), "expected 4 axes and a last axis of 3"),
    (lambda: layers.Conv2d(3, 4, 5), (2, 4, 8, 3), "padded, it is smaller than the kernel"),
    (lambda: layers.BatchNorm(3), (4, 5), "a last axis of 3"),
    (lambda: layers.GlobalAveragePool(), (4, 5), r"expected \(N, H, W, C\)"),
    (lambda: layers.Conv2d(3, 4, 3), (8, 8, 3), "expected 4 axes and a last axis of 3"),
    (lambda: layers.Normalize((0.5, 0.5), (1, 1)), (4, 3), r"Normalize\(C=2\) got x of shape \(4, 3\): .* last axis of 2"),
    (lambda: layers.Dense(3, 4), (), "a last axis of 3"),
])
def test_wrong_shapes_get_one_line(make, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        make().forward(np.zeros(shape, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda: layers.Dense(0, 1), lambda: layers.Dense(1, 0), lambda: layers.Conv2d(0, 1, 3),
                                  lambda: layers.Conv2d(1, 0, 3), lambda: layers.Conv2d(1, 1, -1),
                                  lambda: layers.Conv2d(1, 1, 2), lambda: layers.Conv2d(1, 1, 3, 0),
                                  lambda: layers.Dropout(1.0), lambda: layers.PadShortcut(4, 2, 1),
                                  lambda: layers.ResidualBlock(1, 1, shortcut="none"),
                                  lambda: layers.Chunked(layers.ReLU(), 0), lambda: layers.LSTM(1, 1, truncate=0)])
def test_wrong_arguments_are_refused(make):
    with pytest.raises(ValueError, match=r"got|cannot"):
        make()


def test_parameters_are_named_by_their_path():
    net = layers.Sequential(conv=layers.Conv2d(3, 4, 3), stage=layers.Sequential(layers.ResidualBlock(4, 4)))
    assert [p.name for p in net.parameters()][:3] == ["conv.W", "stage.0.body.conv1.W", "stage.0.body.bn1.gamma"]
    assert net.train(False).training is False and all(not layer.training for _, layer in net.walk())
    assert net.train() is net and all(layer.training for _, layer in net.walk()) and not net.eval().training
    assert [path for path, _ in net.walk()][:5] == ["", "conv", "stage", "stage.0", "stage.0.body"]


def test_trace_reports_inner_layers_first_and_leaves_no_trace():
    net = layers.Sequential(layers.Dense(3, 3), layers.Sequential(layers.ReLU()))
    forward, backward = [], []
    with trace(net, lambda path, *_: forward.append(path), lambda path, *_: backward.append(path)):
        y, cache = net.forward(np.ones((2, 3), np.float32))
        net.backward(y, cache)
    assert forward == ["0", "1.0", "1", ""] and backward == ["1.0", "1", "0", ""]
    assert not any({"forward", "backward"} & vars(layer).keys() for _, layer in net.walk())


def test_trace_runs_the_definitions(monkeypatch):
    """A kernel of a composition would hide what it is composed of."""
    kernel = dispatch.Kernel(lambda layer, x: True, lambda layer, x: (x, None), lambda layer, dy, cache: dy)
    monkeypatch.setattr(dispatch, "find", lambda name, *inputs: kernel if name == "Sequential" else None)
    net, paths = layers.Sequential(layers.Sequential(layers.ReLU())), []
    x = -np.ones((2, 3), np.float32)
    assert net.forward(x)[0] is x
    with trace(net, lambda path, *_: paths.append(path), lambda path, *_: paths.append(path)):
        y, cache = net.forward(x)
        assert not y.any() and not net.backward(x, cache).any()
    assert paths == ["0.0", "0", "", "0.0", "0", ""]
    with trace(net, backward=lambda path, *_: paths.append(path)):
        y, cache = net.forward(x)
        net.backward(x, cache)
    assert paths[6:] == ["0.0", "0", ""]


@pytest.mark.parametrize("make", [
    lambda: layers.Sequential(layers.Dense(3, 2), layers.ReLU), lambda: layers.Sequential(np.tanh),
    lambda: layers.Sequential(None), lambda: layers.Sequential([layers.ReLU()]), lambda: layers.Sequential(relu=layers.ReLU),
    lambda: layers.Sequential(layers.ReLU(), **{"0": layers.ReLU()}), lambda: layers.Sequential(forward=layers.ReLU()),
    lambda: layers.Sequential(training=layers.ReLU())])
def test_what_is_no_layer_is_not_dropped(make):
    with pytest.raises(TypeError, match=r"Sequential takes layers under names that are free, got \w+=") as error:
        make()
    assert "\n" not in str(error.value)
