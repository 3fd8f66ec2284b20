"""The checker is checked: every planted bug must be caught, what is right must pass, and nothing passes uncompared."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import GradientError, backend, gradcheck, layers, losses
from emonet_scratch.differences import Comparison, Report, derivative, slope
from emonet_scratch.layers import Parameter, lstm
from emonet_scratch.watch.pair import unit
from tests.device import cupy
from tests.strategies import seeds, values


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
        (ChangesItsArgument(3, 2), (4, 3), "backward changed an argument"),
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




# ---- what is compared ----

def names(report):
    return [row.name for row in report]


def square(x):
    return x**2, x


def square_backward(dy, x):
    return 2 * dy * x


def test_a_report_says_what_was_compared_and_what_not():
    report = gradcheck(layers.LSTM(3, 2), values(1, 4, 2, 3), [4, 2], seed=3)
    assert names(report) == ["input 0", "parameter cells.0.W_ih", "parameter cells.0.W_hh", "parameter cells.0.b"]
    for row in report:
        assert abs(row.analytic - row.numeric) <= row.tolerance < 1e-7 * max(1, abs(row.analytic)) and row.step > 0
    assert report[0].shape == (4, 2, 3)
    assert report.skipped == ["an input of type list", "2 gradients of inputs that were left out"]
    assert str(report).splitlines() == [*map(str, report), *(f"not compared: {what}" for what in report.skipped)]
    row = Comparison("input 0", (2,), 1.5, 1.25, 0.125, 0.5)
    assert repr(Report([row], ["b"])) == (
        "input 0, shape (2,): backward gives 1.5, central differences give 1.25 (difference 0.25, tolerance 0.125) with "
        "step 0.5\nnot compared: b")


def test_every_direction_is_compared():
    report = gradcheck((square, square_backward), values(1, 5), directions=3)
    assert names(report) == ["input 0"] * 3 and len({row.numeric for row in report}) == 3


def test_tolerances_that_are_given_are_added():
    pair = square, lambda dy, x: 2.001 * dy * x
    with pytest.raises(GradientError):
        gradcheck(pair, values(1, 5))
    for options in ({"rtol": 1e-3}, {"atol": 1.0}):
        tight = gradcheck((square, square_backward), values(1, 5))[0]
        row, = gradcheck(pair, values(1, 5), **options)
        largest = max(abs(row.analytic), abs(row.numeric))
        assert row.tolerance == pytest.approx(options.get("atol", 0) + options.get("rtol", 1e-8) * largest, rel=1e-3)
        assert tight.tolerance < 2e-8 * largest


def test_eps_is_the_step():
    assert gradcheck((square, square_backward), np.ones(3), eps=0.25)[0].step in (0.25, 0.125)


def test_empty_arrays_are_named_and_the_rest_is_compared():
    report = gradcheck(layers.Dense(3, 2), np.ones((0, 3)))
    assert names(report) == ["parameter W", "parameter b"] and report.skipped == ["input 0, which is empty"]

    class Leaves(layers.Dense):
        def backward(self, dy, cache):
            self.b.grad += 1
            return super().backward(dy, cache)
    with pytest.raises(GradientError, match="parameter b"):
        gradcheck(Leaves(3, 2), np.ones((0, 3)))
    with pytest.raises(ValueError, match="nothing to compare"):
        gradcheck(layers.ReLU(), np.ones((0, 3)))


CONSTANTS = [np.array([1, 2, 3]), np.array([True]), None, 3, 0.5, "word", [1, 2], np.array(["a"]), np.array([1], np.uint8)]


@pytest.mark.parametrize("constant", CONSTANTS, ids=repr)
def test_constants_are_no_inputs_to_check(constant):
    pair = (lambda c, x: (x**2, x)), square_backward
    assert names(gradcheck(pair, constant, values(1, 3))) == ["input 0"]
    with pytest.raises(ValueError, match="nothing to compare"):
        gradcheck((lambda c: (np.ones(3), None), lambda dy, cache: None), constant)


@pytest.mark.parametrize("x", [[1.0, 2.0], [[1, 2.5]], np.array([1 + 1j]), np.array([1.0, 2.0], object), {"x": np.ones(2)},
                               [np.ones(2)], {1.0, 2.0}, np.complex64(1)], ids=lambda x: type(x).__name__)
def test_numbers_that_cannot_be_moved_are_refused(x):
    for inputs in ((x,), (np.ones(2), x), (np.ones(2), (1, (x,)))):
        with pytest.raises(TypeError, match="no gradient check can move"):
            gradcheck((lambda *a: (a[0], None), lambda dy, cache: dy), *inputs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_inputs_are_taken_in_float64(dtype):
    seen = []
    gradcheck((lambda x: (seen.append(x.dtype) or x**2, x), square_backward), np.ones((2, 2), dtype))
    gradcheck((square, square_backward), np.float64(3))                       # a number of NumPy's is an array without axes
    assert set(seen) == {np.dtype(np.float64)}


@pytest.mark.parametrize("directions", [0, -1])
def test_no_direction_is_nothing_to_compare(directions):
    with pytest.raises(ValueError, match="nothing to compare"):
        gradcheck((square, square_backward), np.ones(2), directions=directions)


@pytest.mark.parametrize("eps", [0.0, np.nan])
def test_a_step_that_is_none_is_an_error(eps):
    with pytest.raises(GradientError):
        gradcheck((square, square_backward), np.ones(2), eps=eps)


# ---- what a check takes ----

@pytest.mark.parametrize("f", [layers.ReLU, 3, (square,), (square, 3), (square, square_backward, square), (), layers.Dense])
def test_what_is_no_layer_pair_or_loss_is_refused(f):
    with pytest.raises(TypeError, match=r"a layer, a pair \(forward, backward\) or a loss, got"):
        gradcheck(f, np.ones(2))


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: (x, x), lambda x: (1.0, x, x), lambda x: [1.0, x], square])
def test_what_is_no_loss_is_refused(f):
    with pytest.raises(TypeError, match=r"is no loss, which returns \(number, gradients\)"):
        gradcheck(f, np.ones(2))


def test_losses_may_give_integers_and_several_gradients():
    assert names(gradcheck(lambda x: (0, 0 * x), np.ones(2))) == ["input 0"]
    report = gradcheck(lambda a, b: ((a * b).sum(), (b, a)), values(1, 3), values(2, 3))
    assert names(report) == ["input 0", "input 1"]
    with pytest.raises(GradientError, match="input 1"):
        gradcheck(lambda a, b: ((a * b).sum(), (b, b)), values(1, 3), values(2, 3))


def test_methods_of_a_layer_are_the_layer():
    for layer in (ForgetsBias(3, 2), Overwrites(3, 2)):
        with pytest.raises(GradientError, match="parameter b"):
            gradcheck((layer.forward, layer.backward), values(2, 4, 3))
    dense = layers.Dense(3, 2)
    report = gradcheck((dense.forward, dense.backward), values(2, 4, 3))
    assert names(report) == ["input 0", "parameter W", "parameter b"] and not dense.W.grad.any()
    for pair in ((dense.forward, layers.Dense(3, 2).backward), (dense.forward, square_backward), (square, dense.backward)):
        with pytest.raises(ValueError, match="expected two methods of one layer"):
            gradcheck(pair, values(2, 4, 3))


class Foreign:
    def __init__(self, **kept):
        vars(self).update(kept)

    def forward(self, x):
        return x**2, x

    def backward(self, dy, x):
        return 2 * dy * x


def test_methods_of_other_objects_are_checked_where_they_hold_no_weights():
    plain = Foreign(size=3, rate=0.5, scale=np.float64(2), index=np.arange(3))
    assert names(gradcheck((plain.forward, plain.backward), values(1, 3))) == ["input 0"]
    for kept in (np.ones(3), Parameter(np.ones(3)), [np.ones(3)], layers.Dense(2, 2), {"a": (np.ones(3),)}):
        other = Foreign(kept=kept)
        with pytest.raises(ValueError, match=r"Foreign holds (an array of shape|Parameter\().* no gradient check would see"):
            gradcheck((other.forward, other.backward), values(1, 3))


class Holds(layers.Layer):
    """y = x s, s the product of all Parameters in `weights` and of `array`."""

    def __init__(self, weights, array=None, wrong=1.0):
        self.weights, self.wrong = weights, wrong
        self.array = np.ones(2) if array is None else array

    def factors(self):
        return [p for _, p in layers.base._find(Parameter, "", self.weights)]

    def forward(self, x):
        s = np.prod([p.value for p in self.factors()], axis=0)
        return x * s, (x, s)

    def backward(self, dy, cache):
        x, s = cache
        for p in self.factors():
            p.grad += self.wrong * (dy * x).sum(0) * s / p.value
        return dy * s


def ones(n):
    return [Parameter(np.full(2, 1 + k, np.float32)) for k in range(n)]


@pytest.mark.parametrize("weights, found", [
    (lambda a, b: [a, b], ["0", "1"]), (lambda a, b: (a, b), ["0", "1"]), (lambda a, b: {"a": a, "b": b}, ["a", "b"]),
    (lambda a, b: [(a,), {"c": [b]}], ["0.0", "1.c.0"]), (lambda a, b: {1: a, 2: [b]}, ["1", "2.0"])])
def test_parameters_in_lists_tuples_and_dicts_are_found(weights, found):
    holds = Holds(weights(*ones(2)), array=3)
    assert [p.name for p in holds.parameters()] == [f"weights.{name}" for name in found]
    assert names(gradcheck(holds, values(1, 3, 2)))[1:] == [f"parameter weights.{name}" for name in found]
    holds.wrong = 1.001
    with pytest.raises(GradientError, match="parameter weights"):
        gradcheck(holds, values(1, 3, 2))


@pytest.mark.parametrize("children", [lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"a": a, "b": b},
                                      lambda a, b: [(a,), {"c": [b]}]])
def test_layers_in_lists_tuples_and_dicts_are_found(children):
    class Row(layers.Layer):
        def __init__(self, wrong):
            self.parts = children(layers.Dense(3, 3), (ForgetsBias if wrong else layers.Dense)(3, 3))

        def forward(self, x):
            caches = []
            for _, part in self.children():
                x, cache = part.forward(x)
                caches.append(cache)
            return x, caches

        def backward(self, dy, caches):
            for (_, part), cache in zip([*self.children()][::-1], caches[::-1], strict=True):
                dy = part.backward(dy, cache)
            return dy
    assert len(gradcheck(Row(False), values(1, 4, 3))) == 5 and len(Row(False).state_dict()) == 4
    assert all(not layer.training for _, layer in Row(False).eval().walk())
    with pytest.raises(GradientError, match=r"parameter parts\..*\.b"):
        gradcheck(Row(True), values(1, 4, 3))


@pytest.mark.parametrize("attributes", [{"lost": np.ones(2)}, {"lost": {Parameter(np.ones(2))}}, {"lost": [np.ones(2)]},
                                        {"lost": Foreign(p=Parameter(np.ones(2)))}], ids=str)
def test_weights_that_are_not_found_are_an_error(attributes):
    layer = layers.Dense(3, 2)
    vars(layer).update(attributes)
    with pytest.raises(ValueError, match=r"Dense holds .*\(?2,?.* that no gradient check would see"):
        gradcheck(layer, np.ones((4, 3)))
    layer = layers.Dense(3, 2)
    layer.lost, layer.buffers = np.ones(2), ("lost",)
    assert len(gradcheck(layer, np.ones((4, 3)))) == 3


def test_a_parameter_holds_floating_point_numbers():
    for value in (np.arange(3), [1.0], 3.0, np.ones(2, complex), None):
        with pytest.raises(TypeError, match="Parameter takes an array of floating-point numbers, got"):
            Parameter(value)


@pytest.mark.parametrize("tie", ["layer", "parameter"])
def test_what_is_in_two_places_is_found_once(tie):
    a, b = layers.Dense(3, 3), layers.Dense(3, 3)
    if tie == "layer":
        net = layers.Sequential(a, layers.ReLU(), a)
        found = ["0.W", "0.b"]
    else:
        b.W = a.W
        net = layers.Sequential(a, layers.ReLU(), b)
        found = ["0.W", "0.b", "2.b"]
    assert [p.name for p in net.parameters()] == found == list(net.state_dict())
    assert names(gradcheck(net, values(1, 4, 3))) == ["input 0", *(f"parameter {name}" for name in found)]
    assert len({id(layer) for _, layer in net.walk()}) == len([*net.walk()])
    net.load_state_dict(net.state_dict())
    net.me = net                                                              # a circle, such as a link to a parent
    assert [p.name for p in net.parameters()] == found


def test_buffers_in_two_places_are_kept_once():
    norm = layers.BatchNorm(3)
    net = layers.Sequential(norm, layers.Dense(3, 3), norm)
    assert list(net.named_buffers()) == ["0.running_mean", "0.running_var"] == list(net.state_dict())[-2:]
    assert norm.named_buffers().keys() == {"running_mean", "running_var"}
    gradcheck(net, values(1, 5, 3))


# ---- what forward and backward do ----

def test_what_forward_changes_is_an_error():
    def doubles(x):
        x *= 2
        return x**2, x.copy()

    class Decays(layers.Dense):
        def forward(self, x):
            self.W.value *= 0.5
            return super().forward(x)
    for f, x in (((doubles, square_backward), np.ones(2)), (Decays(3, 2), np.ones((4, 3)))):
        with pytest.raises(GradientError, match="forward changed an argument or a parameter"):
            gradcheck(f, x)
    lengths = [2, 1]
    with pytest.raises(GradientError, match="forward changed an argument"):
        gradcheck((lambda x, lengths: (lengths.sort(), square(x))[1], square_backward), np.ones(2), lengths)
    with pytest.raises(GradientError, match="forward changed an argument"):
        gradcheck((lambda x, n: (n.__iadd__(1), square(x))[1], square_backward), np.ones(2), np.arange(2))


@pytest.mark.parametrize("change", ["x", "dy", "W"])
def test_what_backward_changes_is_an_error(change):
    class Changes(layers.Dense):
        def backward(self, dy, cache):
            dx = super().backward(dy, cache)
            array = {"x": cache, "dy": dy, "W": self.W.value}[change]
            array *= 1.5
            return dx
    with pytest.raises(GradientError, match="backward changed an argument, a parameter, or an input of forward"):
        gradcheck(Changes(3, 2), values(2, 4, 3))


def test_a_forward_that_draws_or_remembers_is_an_error():
    rng, calls = np.random.default_rng(0), []

    def noisy(x):
        return x**2 + 1e-6 * rng.standard_normal(x.shape), x

    def counts(x):
        calls.append(x)
        return x**2 + len(calls), x

    class Draws(layers.Layer):
        def forward(self, x):
            mask = rng.random(x.shape) < 0.5
            return x * mask, mask

        def backward(self, dy, mask):
            return dy * mask
    for f in ((noisy, square_backward), (counts, square_backward), Draws()):
        with pytest.raises(GradientError, match="two results for one input"):
            gradcheck(f, values(1, 30))
    gradcheck(layers.Dropout(0.5), values(1, 30))


@pytest.mark.parametrize("output", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_an_error(output):
    with pytest.raises(GradientError, match="forward gives nan, inf, or less than float64"):
        gradcheck((lambda x: (x + np.array([0, output]), x), lambda dy, x: dy), np.ones(2))
    with pytest.raises(GradientError, match="forward gives nan"):
        gradcheck(lambda x: (output, x), np.ones(2))


def test_outputs_in_float32_are_an_error():
    for f in ((lambda x: (x.astype(np.float32), None), lambda dy, cache: dy), lambda x: (np.float32(1), x)):
        with pytest.raises(GradientError, match="less than float64"):
            gradcheck(f, np.ones(2))


def test_outputs_that_are_no_floats_get_no_gradient():
    def forward(x):
        return (x**2, x.argmax(), (None, 3 * x)), x

    def backward(dy, none, pair, x):
        assert none is None and pair[0] is None
        return 2 * dy * x + 3 * pair[1]
    gradcheck((forward, backward), values(1, 4))


@pytest.mark.parametrize("backward, message", [
    (lambda dy, x: None, "returned 0 gradients for 1"), (lambda dy, x: (dy, dy), "returned 2 gradients for 1"),
    (lambda dy, x: (None, None), "returned 0 gradients for 1"),
    (lambda dy, x: (2 * dy * x)[:1], r"input 0: the gradient has shape \(1,\)"),
    (lambda dy, x: (2 * dy * x).astype(np.float32), "type float32, the array has .* float64"),
    (lambda dy, x: 2 * dy * x + 0j, "type complex128"), (lambda dy, x: 1.0, "type float"),
    (lambda dy, x: [1.0, 2.0], "type list"), (lambda dy, x: 2 * dy * x * [1, np.nan], "backward gives nan or inf"),
    (lambda dy, x: 2 * dy * x * [1, np.inf], "backward gives nan or inf"), (lambda dy, x: 0 * dy, "backward gives 0,")])
def test_gradients_of_another_kind_are_an_error(backward, message):
    with pytest.raises(GradientError, match=message):
        gradcheck((square, backward), np.array([1.0, 2.0]))


def test_more_gradients_than_inputs_are_those_of_inputs_left_out():
    def forward(x, shift=None):
        return x**2 if shift is None else x**2 + shift, x

    def backward(dy, x):
        return 2 * dy * x, dy
    for inputs in ((), (None,)):
        report = gradcheck((forward, backward), np.ones(2), *inputs)
        assert report.skipped[-1] == "1 gradients of inputs that were left out"
    assert names(gradcheck((forward, backward), np.ones(2), np.ones(2))) == ["input 0", "input 1"]
    with pytest.raises(GradientError, match="returned 2 gradients for 1"):
        gradcheck((square, backward), np.ones(2))


def test_a_gradient_of_a_parameter_in_another_shape_or_type_is_an_error():
    class Reshapes(layers.Dense):
        def backward(self, dy, cache):
            dx = super().backward(dy, cache)
            self.b.grad = self.b.grad[:1] if self.M == 2 else self.b.grad.astype(np.float32)
            return dx
    for M in (2, 3):
        with pytest.raises((GradientError, ValueError)):
            gradcheck(Reshapes(3, M), np.ones((4, 3)))


# ---- differences and their tolerance ----

@pytest.mark.parametrize("at", [0.0, 1e-12, 1e-9])
def test_a_kink_at_the_input_is_named(at):
    x = values(1, 4) + 3
    x[2] = at
    with pytest.raises(GradientError, match=r"no step tells more; is there a kink, such as an exact 0 before a ReLU\?"):
        gradcheck(layers.ReLU(), x)


def test_a_kink_nearby_is_no_alarm_and_a_mistake_there_is_found():
    for distance in (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 1e-2, 0.1):
        x = values(1, 4) + 3
        x[2] = distance
        gradcheck(layers.ReLU(), x)
        with pytest.raises(GradientError):
            gradcheck((lambda x: (np.maximum(x, 0), x > 0), lambda dy, mask: 1.00001 * dy * mask), x)


def test_steps_that_leave_the_domain_are_left_out():
    x = np.array([1e-3, 1e-4, 2.0])                                           # the logarithm of less than 0 is nan
    gradcheck((lambda x: (np.log(x), x), lambda dy, x: dy / x), x)
    with pytest.raises(GradientError, match="input 0"):
        gradcheck((lambda x: (np.log(x), x), lambda dy, x: dy / x * (1 + 1e-5)), x)


def test_the_size_of_the_input_costs_nothing():
    """x + s v is exact: without that, rounding of 1e6 would hide this mistake."""
    x = 1e6 + values(1, 6)
    gradcheck((lambda x: (np.sin(x), x), lambda dy, x: dy * np.cos(x)), x)
    with pytest.raises(GradientError):
        gradcheck((lambda x: (np.sin(x), x), lambda dy, x: dy * np.cos(x) * (1 + 1e-7)), x)


def test_draws_are_of_another_stream_than_inputs_from_the_same_seed():
    seen = []

    def forward(x):
        return x.copy(), None

    def backward(dy, cache):
        seen.append(dy)
        return dy
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal(50)
        gradcheck((forward, backward), x, seed=seed)
        assert abs((unit(x) * seen[-1]).sum()) < 0.6 and np.linalg.norm(seen[-1]) == pytest.approx(1)
    assert len({dy[0] for dy in seen}) == 5


def test_weights_are_moved_from_where_they_start():
    """BatchNorm at gamma = 1 and beta = 0 hides mistakes."""
    seen = []

    class Watched(layers.BatchNorm):
        def forward(self, x):
            seen.append((self.gamma.value.copy(), self.beta.value.copy()))
            return super().forward(x)
    gradcheck(Watched(200), values(1, 3, 200))
    gamma, beta = seen[0]
    assert gamma.dtype == np.float64
    assert gamma.mean() == pytest.approx(1, abs=0.1) and beta.mean() == pytest.approx(0, abs=0.1)
    assert gamma.std() == pytest.approx(0.3, abs=0.05) and beta.std() == pytest.approx(0.3, abs=0.05)


SMOOTH = {"exp": (np.exp, 1), "sin": (np.sin, 1), "cubic": (lambda s: 2 * s + s**2 + 5 * s**3, 2),
          "line": (lambda s: 3 * s, 3),
          "root": (lambda s: np.sqrt(s + 1e-3), 0.5 / np.sqrt(1e-3)), "flat": (lambda s: s**2, 0)}


@pytest.mark.parametrize("name", SMOOTH)
def test_slopes_of_smooth_functions(name):
    f, want = SMOOTH[name]
    rounding = 2.0**-53 * abs(f(0.0) + 1)
    with np.errstate(invalid="ignore"):
        for first, count in ((2.0**-11, 3), (2.0, 24)):
            found = slope(lambda s: f(s) - f(0.0), first, count, rounding)
            assert abs(found.value - want) <= found.error
            assert found.error <= 1e-6 * max(1, want) or (name, count) == ("root", 3)
            assert found.error >= 5 * rounding / found.step and found.step <= first
            assert np.log2(first / found.step) % 1 == 0


def test_three_steps_leave_no_third_and_no_fifth_power():
    found = slope(lambda s: s + 2 * s**3 + 3 * s**5 + 7 * s**2, 0.5, 3, 0.0)
    assert found.value == pytest.approx(1, abs=1e-13) and found.step == 0.5 and found.error > 0


def test_the_error_of_a_slope_is_the_sum_of_both_of_its_parts():
    """By hand, of s + s^3 and an error in one phi: what is left of odd and even parts, and the differences of columns."""
    def phi(s):
        return s + s**3 + (1e-3 if s == 0.25 else 0)
    D = [(phi(s) - phi(-s)) / (2 * s) for s in (0.5, 0.25, 0.125)]
    R = [(4 * D[1] - D[0]) / 3, (4 * D[2] - D[1]) / 3]
    S = (16 * R[1] - R[0]) / 15
    noise = max(10 * 1e-3 / 27, 4 * 1e-3 / 8)
    errors = [abs(R[0] - D[1]) + 5 * noise / 0.25, abs(R[1] - D[2]) + 5 * noise / 0.125, abs(S - R[1]) + 5 * noise / 0.125]
    k = int(np.argmin(errors))
    found = slope(phi, 0.5, 3, 0.0)
    assert found.value == pytest.approx([*R, S][k], rel=1e-12) and found.error == pytest.approx(errors[k], rel=1e-12)
    assert found.step == [0.5, 0.25, 0.5][k]
    at_least = slope(lambda s: s, 0.5, 3, 1e-3)
    assert at_least.error == pytest.approx(5e-3 / 0.25, rel=1e-9) and at_least.step == 0.5


def test_noise_of_odd_and_of_even_parts_is_seen_and_of_smaller_steps_counts():
    rng = np.random.default_rng(0)
    for sign in (1, -1):                                                      # the same at s and -s; opposite
        kept = {}

        def phi(s, sign=sign, kept=kept):
            e = kept.setdefault(abs(s), 1e-10 * rng.standard_normal())
            return s + (e if s > 0 else sign * e)
        for first, count in ((2.0**-11, 3), (2.0, 24)):
            found = slope(phi, first, count, 1e-16)
            assert abs(found.value - 1) <= found.error
    quiet_above = slope(lambda s: s + (0 if s > 1e-3 else 1e-9 * np.sign(s) * (np.log2(abs(s)) % 3 - 1)), 2.0, 24, 1e-16)
    assert quiet_above.error > 1e-9                                          # though long steps show nothing of it


def test_long_and_short_steps_are_taken_where_the_three_are_not_enough():
    calls = []

    def counted(f):
        calls.clear()
        return lambda s: calls.append(abs(s)) or f(s)
    assert derivative(counted(np.sin), 2.0**-11, 1e-8, 1e-16) == slope(np.sin, 2.0**-11, 3, 1e-16) and len(calls) == 6
    small = derivative(counted(lambda s: 1e-9 * np.sin(s)), 2.0**-11, 1e-8, 1e-16)
    assert small.step > 2.0**-11 and abs(small.value - 1e-9) <= small.error < 1e-14 and len(calls) == 54
    assert max(calls) == 4096 * 2.0**-11 and min(calls) == 2.0**-22
    bent = derivative(counted(lambda s: np.tanh(1e5 * s)), 2.0**-11, 1e-8, 1e-16)
    assert bent.step < 2.0**-11 and abs(bent.value - 1e5) <= bent.error < 1
    still = derivative(counted(lambda s: 0.0), 2.0**-11, 1e-8, 1e-16)
    assert still.value == 0 and still.error == 5e-16 * 2**12 and len(calls) == 6
    none = derivative(lambda s: np.nan, 2.0**-11, 1e-8, 1e-16)
    assert np.isnan(none.value) and none.error == np.inf


# ---- false alarms, and how small a mistake is found: benchmarks/gradcheck_power.py in a small size ----

@pytest.fixture(scope="module")
def power():
    path = Path(__file__).parents[1] / "benchmarks" / "gradcheck_power.py"
    spec = importlib.util.spec_from_file_location("gradcheck_power", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name, count", [("BatchNorm, N = 2", 200), ("LayerNorm, 2 channels", 200), ("ResidualBlock", 10),
                                         ("Dense", 50), ("LSTM", 5), ("softmax_cross_entropy", 50)])
def test_right_layers_are_right_and_mistakes_of_1e_6_are_found(power, name, count):
    alarms, found = power.measure(power.draws()[name], count)
    *large, one, _, _ = found
    assert alarms == [] and large == [1.0] * 4 and one > 0.99


@given(st.sampled_from([1e-2, 1e-4, 1e-6]), st.sampled_from(["input 0", "parameter gamma", "parameter beta"]), seeds)
def test_a_planted_share_is_found(size, where, seed):
    class Wrong(layers.BatchNorm):
        def backward(self, dy, cache):
            before = {"gamma": self.gamma.grad.copy(), "beta": self.beta.grad.copy()}
            dx = super().backward(dy, cache)
            if where == "input 0":
                return dx * (1 + size)
            p = getattr(self, where.split()[1])
            p.grad += size * (p.grad - before[where.split()[1]])
            return dx
    with pytest.raises(GradientError, match=where):
        gradcheck(Wrong(3), values(seed, 7, 3), seed=seed)


def test_the_benchmark_prints_a_row_for_every_layer(power, capsys, monkeypatch):
    monkeypatch.setattr(power.dispatch, "enabled", True)
    assert power.main(["--draws", "1", "--hard", "2"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(power.draws()) and all(row.count("|") == 12 for row in rows)
    public = {c.__name__ for c in vars(layers).values() if isinstance(c, type) and issubclass(c, layers.Layer)}
    assert {name.split(",")[0] for name in power.draws()} >= public - {"Layer"}

    def wrong(rng):
        return (square, lambda dy, x: dy * x), rng.standard_normal(3)
    monkeypatch.setattr(power, "draws", lambda: {"wrong": wrong, "right": lambda rng: None})
    monkeypatch.setattr(power, "measure", lambda draw, count: (["seed 0: x"] * (draw is wrong), [1.0] * 7))
    assert power.main([]) == 1 and "wrong, seed 0: x" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_is_compared_whatever_the_draw(shape):
    """A random sign and the gradient's would cancel in half of the draws."""
    for seed in range(50):
        with pytest.raises(GradientError):
            gradcheck((lambda x: (x**2, x), lambda dy, x: 1.9 * dy * x), np.full(shape, 3.0), seed=seed)
        gradcheck((lambda x: (x**2, x), lambda dy, x: 2 * dy * x), np.full(shape, 3.0), seed=seed)


class Alias(layers.Dense):
    """W under a second name, which stays behind when W is taken in float64."""

    def __init__(self):
        super().__init__(3, 2)
        self.w = self.W.value


class OfTheClass(layers.ReLU):
    W = Parameter(np.ones(3, np.float32))


@pytest.mark.parametrize("layer, what", [(Alias(), "an array of shape"), (OfTheClass(), "Parameter")])
def test_what_would_be_left_behind_is_an_error(layer, what):
    with pytest.raises(ValueError, match=f"holds {what}"):
        gradcheck(layer, np.ones((4, 3)))


@pytest.mark.parametrize("y, kind", [(lambda x: {"a": 2 * x}, "dict"), (lambda x: [2 * x], "list"),
                                     (lambda x: x * 1j, "ndarray"), (lambda x: (2 * x, [3 * x]), "list"),
                                     (lambda x: float(x.sum()), "float"), (lambda x: (2 * x, 1.5), "float")])
def test_outputs_that_would_not_be_compared_are_an_error(y, kind):
    with pytest.raises(TypeError, match=f"forward gives a {kind}: expected a floating-point array"):
        gradcheck((lambda x: (y(x), x), lambda dy, x: dy), np.ones(3))


def test_an_output_without_a_number_of_floating_point_is_an_error():
    with pytest.raises(TypeError, match="no floating-point array"):
        gradcheck((lambda x: (x > 0, x), lambda dy, x: x), np.ones(3))


def test_a_loss_gives_a_gradient_for_each_of_its_inputs():
    right = lambda x, labels: ((x**2).sum(), 2 * x)                                     # noqa: E731
    gradcheck(right, values(1, 3), np.arange(3))
    with pytest.raises(GradientError, match="2 gradients for 1"):
        gradcheck(lambda x, labels: ((x**2).sum(), (2 * x, np.full(3, 9.0))), values(1, 3), np.arange(3))


def test_a_step_out_of_the_domain_is_no_error():
    """The logarithm of a determinant, of a matrix that is barely positive definite: long steps raise in forward."""
    def log_det(s):
        return 2 * np.log(np.diag(np.linalg.cholesky((s + s.T) / 2))).sum(), np.linalg.inv((s + s.T) / 2)
    a = np.random.default_rng(0).standard_normal((3, 3))
    gradcheck(log_det, a @ a.T * 1e-3 + np.eye(3) * 1e-4)
    with pytest.raises(GradientError):
        gradcheck(lambda s: (log_det(s)[0], 1.01 * log_det(s)[1]), a @ a.T * 1e-3 + np.eye(3) * 1e-4)


def test_a_number_of_numpy_is_a_parameter():
    class Scaled(layers.Layer):
        def __init__(self):
            self.s = Parameter(np.float32(2))

        def forward(self, x):
            return x * self.s.value, x

        def backward(self, dy, x):
            self.s.grad += (dy * x).sum()
            return dy * self.s.value
    assert [row.name for row in gradcheck(Scaled(), values(1, 3))] == ["input 0", "parameter s"]


def test_methods_under_another_name_are_found():
    def renamed(function):
        return lambda self, *arguments: function(self, *arguments)

    class Renamed(layers.Dense):
        forward, backward = renamed(layers.Dense.forward), renamed(layers.Dense.backward)
    assert len(gradcheck(Renamed(3, 2), np.ones((4, 3)))) == 3


def test_a_mistake_in_arrays_of_a_device_is_told(monkeypatch):
    monkeypatch.setattr(backend, "import_cupy", lambda: cupy)
    with pytest.raises(GradientError, match=r"along the direction \[.*\]"):
        gradcheck((lambda x: (x**2, x), lambda dy, x: dy * x), cupy.asarray(np.arange(1.0, 4)))


def test_rtol_is_a_share_of_the_larger_number():
    twice = (lambda x: (x**2, x), lambda dy, x: 4 * dy * x)
    gradcheck(twice, values(1, 3), rtol=0.6)
    with pytest.raises(GradientError):
        gradcheck(twice, values(1, 3), rtol=0.4)
