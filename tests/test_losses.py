"""Softmax cross-entropy against its formula, its limits and PyTorch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import gradcheck
from emonet_scratch.losses import softmax, softmax_cross_entropy
from tests.strategies import seeds, sizes, values


def draw(seed, N, K):
    rng = np.random.default_rng(seed)
    return 3 * values(seed, N, K), rng.integers(K, size=N), rng.random(K) + 0.1


def votes(seed, N, K):
    """What ten people say of each of N things."""
    return np.random.default_rng(seed).multinomial(10, np.full(K, 1 / K), N) / 10


@given(sizes, sizes, st.floats(0, 0.9), st.booleans(), st.booleans(), seeds)
def test_gradient(N, K, smoothing, weighted, shared, seed):
    logits, labels, weights = draw(seed, N, K)
    labels = votes(seed, N, K) if shared else labels
    gradcheck(lambda z: softmax_cross_entropy(z, labels, smoothing, weights if weighted else None), logits, seed=seed)


@given(sizes, sizes, seeds)
def test_value_and_gradient_by_the_textbook(N, K, seed):
    logits, labels, _ = draw(seed, N, K)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss, dlogits = softmax_cross_entropy(logits, labels)
    assert loss == pytest.approx(-np.log(p[np.arange(N), labels]).mean())
    assert np.allclose(dlogits, (p - np.eye(K)[labels]) / N) and np.allclose(softmax(logits), p)


@given(sizes, sizes, st.floats(0, 0.9), st.booleans(), seeds)
def test_labels_are_probabilities_that_leave_no_doubt(N, K, smoothing, weighted, seed):
    logits, labels, weights = draw(seed, N, K)
    a, b = (softmax_cross_entropy(logits, r, smoothing, weights if weighted else None) for r in (labels, np.eye(K)[labels]))
    assert a[0] == b[0] and np.array_equal(a[1], b[1])


@given(sizes, sizes, st.floats(0, 0.9), st.booleans(), seeds)
def test_votes_are_clips_that_are_there_as_often(N, K, smoothing, weighted, seed):
    """Ten people each with a copy of the clip and their own label: the mean over all of them."""
    logits, _, weights = draw(seed, N, K)
    r = votes(seed, N, K)
    copies = np.repeat(np.arange(N), 10)
    labels = np.concatenate([np.repeat(np.arange(K), np.round(10 * row).astype(int)) for row in r])
    loss, d = softmax_cross_entropy(logits, r, smoothing, weights if weighted else None)
    want, each = softmax_cross_entropy(logits[copies], labels, smoothing, weights if weighted else None)
    assert loss == pytest.approx(want) and np.allclose(d, each.reshape(N, 10, K).sum(axis=1))


@given(sizes, sizes, seeds)
def test_where_the_network_says_what_people_say_nothing_is_to_be_learnt(N, K, seed):
    r = np.random.default_rng(seed).dirichlet(np.ones(K), N)
    loss, d = softmax_cross_entropy(np.log(np.maximum(r, 1e-300)), r)
    assert np.allclose(d, 0, atol=1e-12) and loss == pytest.approx(-(r * np.log(np.maximum(r, 1e-300))).sum() / N)


@given(sizes, sizes, seeds)
def test_votes_agree_with_pytorch(N, K, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and not installed")
    logits, r = draw(seed, N, K)[0], votes(seed, N, K)
    t = torch.tensor(logits.copy(), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(t, torch.tensor(r), label_smoothing=0.2)
    expected.backward()
    loss, d = softmax_cross_entropy(logits, r, 0.2)
    assert loss == pytest.approx(expected.item()) and np.allclose(d, t.grad.numpy())


@given(sizes, sizes, st.floats(-1e4, 1e4), seeds)
def test_a_shift_of_all_logits_changes_nothing(N, K, shift, seed):
    logits, labels, weights = draw(seed, N, K)
    a, da = softmax_cross_entropy(logits, labels, 0.1, weights)
    b, db = softmax_cross_entropy(logits + shift, labels, 0.1, weights)
    assert a == pytest.approx(b, rel=1e-8, abs=1e-9) and np.allclose(da, db, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_1e4_are_stable(dtype):
    loss, d = softmax_cross_entropy(np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0]], dtype), np.array([0, 0]))
    assert loss == 1e4 and np.array_equal(d, [[0, 0, 0], [-0.5, 0.5, 0]]) and d.dtype == dtype


def test_weights_and_smoothing_agree_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and not installed")
    logits, labels, weights = draw(2, 5, 4)
    t = torch.tensor(logits.copy(), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(t, torch.tensor(labels), torch.tensor(weights), label_smoothing=0.2)
    expected.backward()
    loss, d = softmax_cross_entropy(logits, labels, 0.2, weights)
    assert loss == pytest.approx(expected.item()) and np.allclose(d, t.grad.numpy())


INF, NAN = np.inf, np.nan
#: logits, labels, label_smoothing, class_weights -> what PyTorch gives for loss and dlogits.
EDGES = [
    ([[0, -INF, 1]], [0], 0, None, 1.3132617, [[-0.7310586, 0, 0.7310586]]),                       # a masked class
    ([[0, -INF, 1]], [1], 0, None, INF, [[0.2689414, -1, 0.7310586]]),
    ([[0, -INF, 1]], [0], 0.1, None, INF, [[-0.6643919, -0.0333333, 0.6977252]]),
    ([[0, -INF, 1]], [1], 0.1, None, INF, [[0.2356081, -0.9333333, 0.6977252]]),
    ([[0, -INF, 1]], [0], 0, [1, 0, 1], 1.3132617, [[-0.7310586, 0, 0.7310586]]),
    ([[0, -INF, 1]], [0], 0.1, [1, 0, 1], NAN, [[-0.6733566, 0, 0.6733566]]),
    ([[0, -INF, 1], [1, 2, 3]], [1, 2], 0, [1, 0, 1], NAN, [[0, 0, 0], [0.0900306, 0.2447285, -0.3347590]]),
    ([[0, INF, 1], [0, 0, 0]], [0, 0], 0, None, NAN, [[NAN] * 3, [-1 / 3, 1 / 6, 1 / 6]]),
    ([[INF, INF, 1]], [1], 0, None, NAN, [[NAN] * 3]),
    ([[-INF] * 3, [0, 1, 2]], [1, 1], 0, None, NAN, [[NAN] * 3, [0.0450153, -0.3776358, 0.3326205]]),
    ([[0, 1, 2]] * 2, [0, 0], 0, [0, 1, 1], NAN, [[NAN] * 3] * 2),                                 # a mean of nothing
    ([[0, 1, 2]] * 2, [0, 0], 0.1, [0, 1, 1], NAN, [[NAN] * 3] * 2),
    ([[0, 1, 2]] * 2, [0, 1], 0.1, [0, 1, 1], 1.3878595,
     [[0.0060020, -0.0170181, 0.0110161], [0.0870296, -0.6967625, 0.6097329]]),
    ([[NAN, 1, 2], [0, 0, 0]], [1, 0], 0, None, NAN, [[NAN] * 3, [-1 / 3, 1 / 6, 1 / 6]])]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])                    # the definition, the kernel
@pytest.mark.parametrize("logits, labels, smoothing, weights, loss, dlogits", EDGES)
def test_edges(logits, labels, smoothing, weights, loss, dlogits, dtype):
    """Without a warning: pytest makes errors of them here."""
    found, d = softmax_cross_entropy(np.array(logits, dtype), np.array(labels), smoothing,
                                     None if weights is None else np.array(weights, dtype))
    assert isinstance(found, float) and found == pytest.approx(loss, rel=1e-6, nan_ok=True)
    assert d.dtype == dtype and np.allclose(d, dlogits, atol=2e-7, equal_nan=True)


@pytest.mark.parametrize("logits, labels, smoothing, weights, loss, dlogits", EDGES)
def test_the_edges_are_those_of_pytorch(logits, labels, smoothing, weights, loss, dlogits):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and not installed")
    z = torch.tensor(np.array(logits, np.float64), requires_grad=True)
    weights = None if weights is None else torch.tensor(np.array(weights, np.float64))
    theirs = torch.nn.functional.cross_entropy(z, torch.tensor(labels), weights, label_smoothing=smoothing)
    theirs.backward()
    assert theirs.item() == pytest.approx(loss, rel=1e-6, nan_ok=True)
    assert np.allclose(z.grad.numpy(), dlogits, atol=1e-7, equal_nan=True)


def test_softmax_at_the_edges():
    p = softmax(np.array([[-INF, 0, 0], [-INF] * 3, [INF, 0, 0], [1e4, -1e4, 1e4]]))
    assert np.array_equal(p, [[0, 0.5, 0.5], [NAN] * 3, [NAN] * 3, [0.5, 0, 0.5]], equal_nan=True)


@given(sizes, sizes, st.sampled_from([0, 0.1, 0.5]), seeds)
def test_a_masked_class_is_as_if_it_were_not_there(N, K, smoothing, seed):
    """But for label smoothing, which gives it a share."""
    logits, labels, weights = draw(seed, N, K)
    at = np.random.default_rng(seed).integers(K + 1)
    masked, wide = np.insert(logits, at, -INF, axis=1), np.insert(weights, at, 1)
    for dtype in (np.float64, np.float32):
        loss, d = softmax_cross_entropy(masked.astype(dtype), labels + (labels >= at), 0, wide.astype(dtype))
        want, want_d = softmax_cross_entropy(logits, labels, 0, weights)
        assert loss == pytest.approx(want, rel=1e-5, abs=1e-6) and not d[:, at].any()
        assert np.allclose(np.delete(d, at, axis=1), want_d, rtol=1e-5, atol=1e-6)
        loss, d = softmax_cross_entropy(masked.astype(dtype), labels + (labels >= at), smoothing, wide.astype(dtype))
        assert (loss == INF) == (smoothing > 0) and np.isfinite(d).all()


def test_class_weights_are_repeated_clips():
    """A class of weight 2 counts as if each of its clips were there twice."""
    logits, labels = values(1, 3, 3), np.array([0, 1, 1])
    twice = np.array([0, 1, 2, 1, 2])
    assert softmax_cross_entropy(logits, labels, 0, np.array([1.0, 2, 1]))[0] == pytest.approx(
        softmax_cross_entropy(logits[twice], labels[twice])[0])


@pytest.mark.parametrize("logits, labels, options, message", [
    (np.zeros((2, 3)), [0, 3], {}, "N integers in 0..K-1"), (np.zeros((2, 3)), [0, -1], {}, "N integers in 0..K-1"),
    (np.zeros((2, 3)), [0], {}, "labels of shape"), (np.zeros(3), [0], {}, r"expected \(N, K\)"),
    (np.zeros((0, 3)), [], {}, "N >= 1"), (np.zeros((2, 3)), [0.0, 1.0], {}, "float64"),
    *((np.zeros((2, 3)), [row] * 2, {}, "probabilities")
      for row in ([0.5, 0.5, 0.1], [1.5, -0.5, 0], [NAN, 0.5, 0.5], [0.5, 0.5], [1, 0, 0])),
    (np.zeros((2, 3)), [0, 1], {"label_smoothing": 1.0}, "label_smoothing must be"),
    (np.zeros((2, 3)), [0, 1], {"class_weights": np.ones(2)}, "one a class")])
def test_bad_arguments_get_one_line(logits, labels, options, message):
    with pytest.raises(ValueError, match=message) as error:
        softmax_cross_entropy(logits, labels, **options)
    assert "\n" not in str(error.value)


def test_integer_logits_are_refused():
    """Targets in their type would all be 0."""
    with pytest.raises(ValueError, match=r"expected \(N, K\) floats .* int64"):
        softmax_cross_entropy(np.array([[0, 1, 2, 3]]), np.array([2]))
