"""The recurrence: gates, backpropagation through time, padding, chunks, truncation."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import layers
from tests.strategies import check, seeds, sizes, values

lengths_of = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def make(D, H, L, seed, **options):
    return layers.LSTM(D, H, L, rng=np.random.default_rng(seed), **options)


def state(seed, *shape):
    return values(seed, *shape), values(seed + 1, *shape)


@given(sizes, sizes, sizes, seeds)
def test_cell_gradients(N, D, H, seed):
    check(layers.LSTMCell(D, H, rng=np.random.default_rng(seed)), values(seed, N, D), *state(seed, N, H), seed=seed)


@given(st.integers(1, 6), sizes, sizes, sizes, st.integers(1, 3), seeds)
def test_gradients(T, N, D, H, L, seed):
    check(make(D, H, L, seed), values(seed, T, N, D), None, state(seed, L, N, H), seed=seed)


@given(lengths_of, sizes, sizes, st.integers(1, 3), seeds)
def test_gradients_with_lengths(lengths, D, H, L, seed):
    x = values(seed, max(max(lengths), 1), len(lengths), D)
    check(make(D, H, L, seed), x, np.array(lengths), state(seed, L, len(lengths), H), seed=seed)


@given(st.integers(1, 6), sizes, sizes, seeds)
def test_a_layer_is_its_cell_step_by_step(T, N, D, seed):
    lstm = make(D, 3, 1, seed).astype(np.float64)
    x, (h, c) = values(seed, T, N, D), state(seed, N, 3)
    (y, final), _ = lstm.forward(x, None, (h[None], c[None]))
    for t in range(T):
        (h, c), _ = lstm.cells[0].forward(x[t], h, c)
        assert np.allclose(y[t], h, atol=1e-14)
    assert np.allclose(final[0][0], h) and np.allclose(final[1][0], c)


def test_gate_order_is_i_f_g_o():
    """Each gate forced open or shut through its own part of b gives what the equations say."""
    cell = layers.LSTMCell(1, 1).astype(np.float64)
    cell.W_ih.value[:], cell.W_hh.value[:] = 0, 0
    x, h, c = np.zeros((1, 1)), np.zeros((1, 1)), np.full((1, 1), 5.0)
    for b, expected in [((-99, 99, 0, 99), (np.tanh(5), 5)), ((99, -99, 99, 99), (np.tanh(1), 1)),
                        ((99, 99, -99, -99), (0, 4)), ((-99, -99, 99, 99), (0, 0))]:
        cell.b.value[:] = b
        assert np.allclose(cell.forward(x, h, c)[0], np.reshape(expected, (2, 1, 1)))


@given(lengths_of, sizes, st.integers(1, 3), st.integers(0, 3), st.floats(-1e30, 1e30) | st.just(np.nan),
       st.none() | st.integers(1, 4), seeds)
def test_padding_changes_nothing(lengths, D, L, more, junk, truncate, seed):
    """Each sequence alone, at its own length, gives the outputs and the gradients of the padded batch, bit by bit
    where sums have one order and to rounding in the parameter gradients."""
    T, N, H = max(max(lengths), 1) + more, len(lengths), 3
    batch = make(D, H, L, seed, truncate=truncate).astype(np.float64)
    alone = copy.deepcopy(batch)
    x, initial = values(seed, T, N, D).copy(), state(seed, L, N, H)
    for n, k in enumerate(lengths):
        x[k:, n] = junk
    (y, final), cache = batch.forward(x, np.array(lengths), initial)
    dy, dfinal = values(seed + 3, T, N, H), state(seed + 5, L, N, H)
    dx, dinitial = batch.backward(dy, dfinal, cache)
    for n, k in enumerate(lengths):
        one = np.s_[:, n:n + 1]
        (y1, final1), cache1 = alone.forward(x[:k, n:n + 1], None, (initial[0][one], initial[1][one]))
        dx1, dinitial1 = alone.backward(dy[:k, n:n + 1], (dfinal[0][one], dfinal[1][one]), cache1)
        for whole, part in [(y[:k, n:n + 1], y1), (dx[:k, n:n + 1], dx1), (final[0][one], final1[0]),
                            (final[1][one], final1[1]), (dinitial[0][one], dinitial1[0]),
                            (dinitial[1][one], dinitial1[1])]:
            assert np.allclose(whole, part, rtol=1e-12, atol=1e-13)
        assert not y[k:, n].any() and not dx[k:, n].any()
    for p, q in zip(batch.parameters(), alone.parameters(), strict=True):
        assert np.allclose(p.grad, q.grad, rtol=1e-11, atol=1e-12)


@given(st.integers(2, 7), st.data(), sizes, st.integers(1, 3), seeds)
def test_a_run_in_chunks_equals_the_whole(T, data, N, L, seed):
    cut = data.draw(st.integers(1, T - 1))
    whole = make(2, 3, L, seed).astype(np.float64)
    chunks = copy.deepcopy(whole)
    x, initial, dy, dfinal = values(seed, T, N, 2), state(seed, L, N, 3), values(seed + 3, T, N, 3), state(seed, L, N, 3)
    (y, final), cache = whole.forward(x, None, initial)
    dx, dinitial = whole.backward(dy, dfinal, cache)
    (y1, middle), cache1 = chunks.forward(x[:cut], None, initial)
    (y2, final2), cache2 = chunks.forward(x[cut:], None, middle)
    dx2, dmiddle = chunks.backward(dy[cut:], dfinal, cache2)
    dx1, dinitial1 = chunks.backward(dy[:cut], dmiddle, cache1)
    pairs = [(y, np.concatenate([y1, y2])), (dx, np.concatenate([dx1, dx2])), *zip(final, final2, strict=True),
             *zip(dinitial, dinitial1, strict=True),
             *((p.grad, q.grad) for p, q in zip(whole.parameters(), chunks.parameters(), strict=True))]
    assert all(np.allclose(a, b, rtol=1e-11, atol=1e-12) for a, b in pairs)


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), seeds)
def test_truncation_equals_chunks_that_hand_no_gradient_back(T, k, L, seed):
    truncated = make(2, 3, L, seed, truncate=k).astype(np.float64)
    chunks = copy.deepcopy(truncated)
    x, dy = values(seed, T, 2, 2), values(seed + 1, T, 2, 3)
    (y, _), cache = truncated.forward(x)
    dx, _ = truncated.backward(dy, None, cache)
    at, ys, dxs = None, [], []
    for t in range(0, T, k):
        (part, at), cache = chunks.forward(x[t:t + k], None, at)
        ys.append(part)
        dxs.append(chunks.backward(dy[t:t + k], None, cache)[0])
    assert np.allclose(y, np.concatenate(ys)) and np.allclose(dx, np.concatenate(dxs), atol=1e-13)
    for p, q in zip(truncated.parameters(), chunks.parameters(), strict=True):
        assert np.allclose(p.grad, q.grad, atol=1e-12)


def test_forget_bias_is_in_the_second_quarter():
    assert layers.LSTM(2, 3, forget_bias=1).cells[0].b.value.tolist() == [0] * 3 + [1] * 3 + [0] * 6


@pytest.mark.parametrize("lengths", [[1, 2, 3], [5, 1], [-1, 2], [1.0, 2.0]])
def test_wrong_lengths_get_one_line(lengths):
    with pytest.raises(ValueError, match=r"expected 2 integers in 0\.\.4"):
        layers.LSTM(3, 2).forward(np.zeros((4, 2, 3), np.float32), lengths)


def test_wrong_shapes_get_one_line():
    lstm = layers.LSTM(3, 2)
    with pytest.raises(ValueError, match="expected 3 axes and a last axis of 3"):
        lstm.forward(np.zeros((4, 2, 5), np.float32))
    right, wrong = np.zeros((1, 2, 2), np.float32), np.zeros((1, 1, 2), np.float32)
    for initial in ((wrong, wrong), (right, wrong), (wrong, right)):
        with pytest.raises(ValueError, match=r"expected twice \(1, 2, 2\)"):
            lstm.forward(np.zeros((4, 2, 3), np.float32), None, initial)


def test_lengths_that_leave_nothing_padded_are_none():
    lstm, x = layers.LSTM(3, 2), np.zeros((4, 2, 3))
    assert lstm.ends(None, x) is lstm.ends([4, 4], x) is None
    assert lstm.ends([4, 3], x).tolist() == [4, 3]


@pytest.mark.parametrize("shape", [(4, 5), (4, 2), (2, 4, 3), (3,)])
def test_a_cell_names_the_wrong_shape_of_its_input(shape):
    with pytest.raises(ValueError, match=r"LSTMCell\(D=3, H=2\) got x of shape .*: expected 2 axes and a last axis of 3"):
        layers.LSTMCell(3, 2).forward(np.zeros(shape, np.float32), *np.zeros((2, 4, 2), np.float32))


def test_agreement_with_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here, and not installed")
    T, N, D, H, L = 5, 3, 4, 6, 3
    ours = make(D, H, L, 0).astype(np.float64)
    theirs = torch.nn.LSTM(D, H, L).double()
    with torch.no_grad():
        for l, cell in enumerate(ours.cells):
            getattr(theirs, f"weight_ih_l{l}").copy_(torch.tensor(cell.W_ih.value.T))
            getattr(theirs, f"weight_hh_l{l}").copy_(torch.tensor(cell.W_hh.value.T))
            getattr(theirs, f"bias_ih_l{l}").copy_(torch.tensor(cell.b.value))
            getattr(theirs, f"bias_hh_l{l}").zero_()
    x, dy = values(2, T, N, D).copy(), values(4, T, N, H).copy()
    (y, _), cache = ours.forward(x)
    dx, _ = ours.backward(dy, None, cache)
    tx = torch.tensor(x, requires_grad=True)
    ty, _ = theirs(tx)
    ty.backward(torch.tensor(dy))
    assert np.allclose(y, ty.detach().numpy(), atol=1e-12) and np.allclose(dx, tx.grad.numpy(), atol=1e-12)
    for l, cell in enumerate(ours.cells):
        assert np.allclose(cell.W_hh.grad, getattr(theirs, f"weight_hh_l{l}").grad.numpy().T, atol=1e-12)
