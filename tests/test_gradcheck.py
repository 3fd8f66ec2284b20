"""The checker is checked: every planted bug must be caught, and what is right must pass."""

import numpy as np
import pytest

from emonet_scratch import GradientError, gradcheck, layers, losses
from emonet_scratch.layers import lstm
from tests.strategies import values


class ForgetsBias(layers.Dense):
    def backward(self, dy, cache):
        self.W.grad += cache.T @ dy
        return dy @ self.W.value.T


class Overwrites(layers.Dense):
    def backward(self, dy, cache):
        dx = super().backward(dy, cache)
        self.b.grad = dy.sum(axis=0)
        return dx


class ForgetsTranspose(layers.Dense):
    def backward(self, dy, cache):
        super().backward(dy, cache)
        return dy @ self.W.value


class ChangesItsArgument(layers.Dense):
    def backward(self, dy, cache):
        dx = super().backward(dy, cache)
        dy *= 2
        return dx


class ForgetsTheMean(layers.BatchNorm):
    """Right at first sight: with gamma = 1 and dy = 1 the missing term is 0."""

    def backward(self, dy, cache):
        x_hat, inv_std, _ = cache
        self.beta.grad += dy.sum(axis=0)
        self.gamma.grad += (dy * x_hat).sum(axis=0)
        return self.gamma.value * inv_std * (dy - x_hat * (dy * x_hat).mean(axis=0))


class ForgetsGamma(layers.BatchNorm):
    """Invisible at gamma = 1."""

    def backward(self, dy, cache):
        return super().backward(dy, cache) / self.gamma.value


class OffByOne(layers.Conv2d):
    def backward(self, dy, cache):
        dx = super().backward(dy, cache)
        return np.roll(dx, 1, axis=1)


class NaNs(layers.ReLU):
    def backward(self, dy, cache):
        return dy * np.nan


BUGS = [(ForgetsBias(3, 2), (4, 3), "parameter b"), (Overwrites(3, 2), (4, 3), "parameter b"),
        (ForgetsTranspose(3, 3), (4, 3), "input 0"), (ForgetsTranspose(3, 2), (2, 2, 3), "."),
        (ChangesItsArgument(3, 2), (4, 3), "changed an argument"),
        (ForgetsTheMean(3), (5, 3), "input 0"), (ForgetsGamma(3), (5, 3), "input 0"),
        (OffByOne(2, 3, 3, padding=1), (1, 4, 4, 2), "input 0"), (NaNs(), (3, 3), "nan")]


@pytest.mark.parametrize("layer, shape, evidence", BUGS, ids=[type(b[0]).__name__ for b in BUGS])
def test_planted_bugs_in_layers_are_caught(layer, shape, evidence):
    with pytest.raises((GradientError, ValueError), match=evidence):
        gradcheck(layer, values(2, *shape))


@pytest.mark.parametrize("bug", ["gate swapped", "no tanh derivative", "forget path cut", "c_prev for c"])
def test_planted_bugs_in_the_lstm_are_caught(monkeypatch, bug):
    right = lstm.gates_backward

    def wrong(dh, dc, cache):
        _, i, f, g, o, tanh_c = cache
        da, dc_prev = right(dh, dc, cache)
        H = dh.shape[1]
        if bug == "gate swapped":
            da = np.concatenate([da[:, H:2 * H], da[:, :H], da[:, 2 * H:]], axis=1)
        elif bug == "no tanh derivative":
            da[:, 2 * H:3 * H] /= 1 - g**2
        elif bug == "forget path cut":
            dc_prev = dc_prev * 0
        else:
            da, dc_prev = right(dh, dc, (tanh_c, i, f, g, o, tanh_c))
        return da, dc_prev
    monkeypatch.setattr(lstm, "gates_backward", wrong)
    with pytest.raises(GradientError):
        gradcheck(layers.LSTM(2, 3, 2), values(1, 4, 2, 2))


def test_planted_bugs_in_losses_are_caught():
    labels = np.array([0, 2, 1])

    def unnormalised(z, labels):
        loss, d = losses.softmax_cross_entropy(z, labels)
        return loss, d * len(z)

    def swapped(z, labels):
        loss, d = losses.softmax_cross_entropy(z, labels)
        return loss, d[::-1]
    gradcheck(losses.softmax_cross_entropy, values(1, 3, 4), labels)
    for wrong in (unnormalised, swapped):
        with pytest.raises(GradientError):
            gradcheck(wrong, values(1, 3, 4), labels)


def test_function_pairs_and_several_inputs():
    product = (lambda a, b: (a * b, (a, b)), lambda dy, cache: (dy * cache[1], dy * cache[0]))
    gradcheck(product, values(1, 3), values(2, 3))
    swapped = (product[0], lambda dy, cache: (dy * cache[0], dy * cache[1]))
    with pytest.raises(GradientError, match="input 0"):
        gradcheck(swapped, values(1, 3), values(2, 3))
    with pytest.raises(GradientError, match="1 gradients for 2"):
        gradcheck((product[0], lambda dy, cache: dy * cache[1]), values(1, 3), values(2, 3))


def test_a_single_wrong_element_is_caught():
    """One element of 1000, wrong by 1 %, is seen by a dense random direction."""
    def backward(dy, cache):
        dx = 2 * dy * cache
        dx[7, 13] *= 1.01
        return dx
    with pytest.raises(GradientError):
        gradcheck((lambda x: (x**2, x), backward), values(1, 25, 40))


def test_the_message_holds_the_evidence():
    with pytest.raises(GradientError) as error:
        gradcheck((lambda x: (x**2, x), lambda dy, x: dy * x), np.ones((2, 3)))
    for part in ("input 0, shape (2, 3)", "backward gives", "central differences give", "step 0.000488281", "direction [",
                 "difference"):
        assert part in str(error.value)


def test_nothing_of_the_callers_changes():
    layer, x = layers.Dropout(0.5), values(1, 3, 3)
    dense = layers.Dense(3, 2)
    before, state = x.copy(), dense.state_dict()
    gradcheck(layer, x)
    gradcheck(dense, x)
    assert np.array_equal(x, before) and not dense.W.grad.any() and layer.counter[1] == 0
    assert all(np.array_equal(a, state[k]) for k, a in dense.state_dict().items())


