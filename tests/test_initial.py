"""What a new layer is: the spread of its first values, float32 throughout, and a run in float32 that stays so."""

import copy
import itertools

import numpy as np
import pytest

from emonet_scratch import backend, dispatch, layers, losses, models, optim
from tests.test_layers import EXAMPLES, inputs, like, run

SIGMAS = 5                          # of the estimate's own standard deviation; with the seeds below the worst is 3


def rng():
    return np.random.default_rng(7)


def normal(values, variance):
    """Whether these are draws of N(0, variance): mean, variance and kurtosis, each within what so many draws scatter."""
    z, n = values.ravel().astype(np.float64) / variance**0.5, values.size
    assert abs(z.mean()) < SIGMAS * (1 / n)**0.5
    assert abs((z**2).mean() - 1) < SIGMAS * (2 / n)**0.5
    assert abs((z**4).mean() - 3) < SIGMAS * (96 / n)**0.5
    assert np.unique(values).size > 0.9 * n                                   # no value stands for many


@pytest.mark.parametrize("D, M", [(20, 900), (900, 20), (1, 5000)])
def test_dense_is_drawn_from_two_over_its_inputs(D, M):
    layer = layers.Dense(D, M, rng())
    assert layer.W.value.shape == (D, M)
    normal(layer.W.value, 2 / D)
    assert np.array_equal(layer.b.value, np.zeros(M))


@pytest.mark.parametrize("C, F, K", [(3, 700, 3), (64, 16, 5), (400, 40, 1)])
def test_conv2d_is_drawn_from_two_over_its_inputs(C, F, K):
    layer = layers.Conv2d(C, F, K, bias=True, rng=rng())
    assert layer.W.value.shape == (K, K, C, F)
    normal(layer.W.value, 2 / (K * K * C))
    assert np.array_equal(layer.b.value, np.zeros(F)) and layers.Conv2d(C, F, K).b is None


@pytest.mark.parametrize("D, H", [(10, 150), (150, 10), (1, 1000)])
def test_an_lstm_is_drawn_from_one_over_its_inputs_and_turns_its_state(D, H):
    lstm = layers.LSTM(D, H, 2, rng=rng())
    assert [(cell.D, cell.H) for cell in lstm.cells] == [(D, H), (H, H)]
    for cell in lstm.cells:
        assert cell.W_ih.value.shape == (cell.D, 4 * H) and cell.W_hh.value.shape == (H, 4 * H)
        normal(cell.W_ih.value, 1 / cell.D)
        parts = np.split(cell.W_hh.value.astype(np.float64), 4, axis=1)
        assert all(np.allclose(part.T @ part, np.eye(H), atol=1e-5) for part in parts)
        if H > 1:
            assert not any(np.allclose(a, b) for a, b in itertools.pairwise(parts))
    assert not np.allclose(lstm.cells[0].W_hh.value, lstm.cells[1].W_hh.value)


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.5])
def test_the_bias_of_an_lstm_is_that_of_its_forget_gates(bias):
    for cell in layers.LSTM(2, 3, 2, forget_bias=bias).cells:
        assert cell.b.value.tolist() == [0] * 3 + [bias] * 3 + [0] * 6
    assert layers.LSTM(2, 3).cells[0].b.value[3:6].tolist() == layers.LSTMCell(2, 3).b.value[3:6].tolist() == [1] * 3


def test_a_batch_norm_begins_as_the_identity_in_evaluation():
    layer = layers.BatchNorm(4)
    assert all(np.array_equal(a, np.ones(4)) for a in (layer.gamma.value, layer.running_var))
    assert all(np.array_equal(a, np.zeros(4)) for a in (layer.beta.value, layer.running_mean))
    x = np.random.default_rng(0).standard_normal((5, 4))
    assert np.allclose(layer.astype(np.float64).eval().forward(x)[0], x / np.sqrt(1 + 1e-5), rtol=1e-12)


def test_normalize_is_made_of_its_mean_and_std():
    layer = layers.Normalize((0.5, 0.25), (0.25, 0.125))
    assert np.allclose(layer.scale * 255, [4, 8], rtol=1e-6) and layer.shift.tolist() == [-2, -2]


@pytest.mark.parametrize("depth, shortcut", [(8, "pad"), (14, "projection")])
def test_every_part_of_a_resnet_is_drawn_for_itself(depth, shortcut):
    net = models.ResNet(depth, 300, 12, shortcut, rng())
    filters = [layer for _, layer in net.walk() if isinstance(layer, layers.Conv2d)]
    for layer in filters:
        normal(layer.W.value, 2 / (layer.K**2 * layer.C))
    normal(net.dense.W.value, 2 / 48)
    assert len({layer.W.value.ravel()[:5].tobytes() for layer in filters}) == len(filters)


CONFIG = models.EmoNetConfig.preset("default").replace(
    trunk="random", trunk_width=8, trunk_depth=8, frame_size=8, lstm_size=40, audio_layers=(50, 60, 70),
    fusion_layers=(80, 90))


@pytest.mark.parametrize("changes, last", [({"audio_shortcut": False}, 1 / 90), ({"audio_shortcut": True}, 0.01 / 90),
                                           ({"audio_shortcut": False, "relu_on_logits": True}, 2 / 90)], ids=str)
def test_every_part_of_an_emonet_is_drawn_for_what_stands_behind_it(changes, last):
    """A ReLU takes half of the variance; the last layer has none behind it; beside a shortcut it begins at a tenth."""
    net = models.EmoNet(CONFIG.replace(**changes), 30, rng())
    fused = 40 * CONFIG.lstm_layers + 70
    for layer, D in ((net.audio.dense1, 30), (net.audio.dense2, 50), (net.audio.dense3, 60), (net.fusion.dense1, fused),
                     (net.fusion.dense2, 80)):
        assert layer.D == D
        normal(layer.W.value, 2 / D)
    normal(net.fusion.dense3.W.value, last)
    assert (net.shortcut is None) == (not changes["audio_shortcut"])
    assert net.shortcut is None or not (net.shortcut.W.value.any() or net.shortcut.b.value.any())
    for cell in net.lstm.cells:
        normal(cell.W_ih.value, 1 / cell.D)
    keys = [layer.counter[0] for _, layer in net.walk() if isinstance(layer, layers.Dropout)]
    assert len(set(keys)) == len(keys) >= 5                                  # no two drop the same units


def test_who_gives_a_generator_leaves_the_common_one_alone():
    """And the same generator gives the same layer."""
    makers = {"Dense": lambda r: layers.Dense(2, 3, r), "Conv2d": lambda r: layers.Conv2d(2, 3, 3, rng=r),
              "LSTM": lambda r: layers.LSTM(2, 3, 2, rng=r), "LSTMCell": lambda r: layers.LSTMCell(2, 3, rng=r),
              "ResidualBlock": lambda r: layers.ResidualBlock(2, 4, 2, "projection", r)}
    for name, make in makers.items():
        backend.seed(3)
        before = copy.deepcopy(backend.generator().bit_generator.state)
        one, two = make(rng()).state_dict(), make(rng()).state_dict()
        assert backend.generator().bit_generator.state == before, name
        assert all(np.array_equal(a, two[key]) for key, a in one.items()), name
        common = make(None).state_dict()
        assert backend.generator().bit_generator.state != before, name
        assert any(not np.array_equal(a, one[key]) for key, a in common.items()), name


# ---- float32 ----

NETS = {name: lambda make=make: make() for name, (make, *_) in EXAMPLES.items()} | {
    "ResNet": lambda: models.ResNet(8, width=2, shortcut="projection"), "EmoNet": lambda: models.EmoNet(CONFIG, 5)}


def all_float32(layer):
    """Whether every parameter, gradient and floating-point buffer is; the rest are counters."""
    buffers = [getattr(part, name) for _, part in layer.walk() for name in part.buffers]
    assert all(a.dtype == np.float32 or a.dtype == np.uint64 for a in buffers)
    return all(p.value.dtype == p.grad.dtype == np.float32 for p in layer.parameters())


@pytest.mark.parametrize("name", NETS)
def test_everything_of_a_new_layer_is_float32(name):
    layer = NETS[name]()
    assert all_float32(layer)
    for p in layer.parameters():
        assert p.grad.shape == p.value.shape and not p.grad.any() and p.lr_factor == 1 and p.grad is not p.value


def floats(tree):
    """Every floating-point array in nested tuples, lists and dictionaries, such as caches."""
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    own = [tree] if isinstance(tree, np.ndarray) and tree.dtype.kind == "f" else []
    return own + [a for part in parts for a in floats(part)]


@pytest.fixture(params=[True, False], ids=["kernels", "definitions"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(dispatch, "enabled", request.param)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_in_float32_stays_so(name, training, kernels):
    """Outputs, what is kept for backward, gradients of inputs and parameters, statistics."""
    make, *shapes = EXAMPLES[name]
    layer = make().train(training)
    y, cache = layer.forward(*inputs(shapes, np.float32))
    assert {a.dtype for a in floats((y, cache))} <= {np.dtype(np.float32)} and floats(y)
    dy = like(y if isinstance(y, tuple) else (y,))
    assert {a.dtype for a in floats(layer.backward(*dy, cache))} == {np.dtype(np.float32)}
    assert all_float32(layer)


@pytest.mark.parametrize("lengths", [None, [4, 1, 3], [0, 0, 0]])
def test_the_final_state_of_an_lstm_is_float32(lengths, kernels):
    """Also where no initial state was given, and nothing but zeros comes out."""
    lstm = layers.LSTM(3, 2, 2)
    (y, final), cache = lstm.forward(*inputs([(4, 3, 3)], np.float32), lengths)
    assert {a.dtype for a in (y, *final)} == {np.dtype(np.float32)} and [a.shape for a in final] == [(2, 3, 2)] * 2
    for dy, dfinal in ((y, None), (None, final), (y, final)):
        dx, dinitial = lstm.backward(dy, dfinal, cache)
        assert {a.dtype for a in (dx, *dinitial)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01), lambda p: optim.Adam(p, weight_decay=0.01),
                                  lambda p: optim.Adam(p, weight_decay=0.01, decoupled=True)])
def test_a_training_in_float32_stays_so(make, kernels):
    """The whole network, its loss with float64 class weights, clipping, and what the optimizer keeps."""
    net = models.EmoNet(CONFIG.replace(dropout=0.5, frames_per_chunk=2, trunk_norm="batch"), 5, rng())
    frames = rng().integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    optimizer = make(net.parameters())
    for _ in range(2):
        net.zero_grad()
        logits, cache = net.forward(frames, np.array([2, 3]), rng().standard_normal((2, 5)).astype(np.float32))
        loss, dlogits = losses.softmax_cross_entropy(logits, np.array([1, 6]), 0.1, np.linspace(1, 2, 7))
        dframes, daudio = net.backward(dlogits, cache)
        norm = optim.clip_gradient_norm(optimizer.params, 1e-3)
        optimizer.step()
    assert type(loss) is type(norm) is float and dframes is None
    assert logits.dtype == dlogits.dtype == daudio.dtype == losses.softmax(logits).dtype == np.float32
    assert all_float32(net)
    assert {a.dtype for arrays in optimizer.slots.values() for a in arrays} == {np.dtype(np.float32)}
    assert {a.dtype for name, a in optimizer.state_dict().items() if name != "t"} == {np.dtype(np.float32)}


def test_conversion_goes_all_the_way_and_back():
    net = models.EmoNet(CONFIG, 5).astype(np.float64)
    arrays = [a for p in net.parameters() for a in (p.value, p.grad)] + net.save_buffers()
    assert {a.dtype for a in arrays} == {np.dtype(np.float64), np.dtype(np.uint64)}
    assert all_float32(net.astype(np.float32))


# ---- nothing to do ----

NOTHING = {
    "LSTM": ((4, 0, 3), np.zeros(0, int), ((2, 0, 2), (2, 0, 2))), "LSTMCell": ((0, 3), (0, 2), (0, 2)),
    "PadSequences": ((0, 2), np.zeros(0, int))}


def empty(shape):
    return shape if isinstance(shape, np.ndarray) else tuple(map(empty, shape)) if isinstance(shape[0], tuple) else np.zeros(
        shape, np.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", EXAMPLES)
def test_no_rows_give_no_rows_and_change_nothing(name, training):
    """Forward and backward over a batch of none: nothing is divided by 0, no statistics move, no gradient comes."""
    make, first, *_ = EXAMPLES[name]
    layer = make().train(training)
    before = layer.state_dict()
    x = [empty(shape) for shape in NOTHING.get(name, [(0, *first[1:])])]
    y, backward = run(layer, *x)
    dx = backward(like(y))
    assert (dx[0] if isinstance(dx, tuple) else dx).shape == x[0].shape and y[0].dtype == np.float32
    assert not y[0].size and not any(p.grad.any() for p in layer.parameters())
    for key, a in layer.state_dict().items():
        assert np.array_equal(a, before[key]) or key == "counter"


def test_sequences_of_no_steps():
    """Beside others, and alone: the state stays what it was, and no gradient passes but to that state."""
    x, initial = np.full((3, 2, 3), np.nan), (np.full((1, 2, 2), 0.5), np.full((1, 2, 2), 0.25))
    lstm = layers.LSTM(3, 2).astype(np.float64)
    for steps in (x, x[:0]):
        (y, final), cache = lstm.forward(steps, [0, 0], initial)
        dx, dinitial = lstm.backward(np.ones_like(y), (2 * initial[0], 3 * initial[1]), cache)
        assert all(map(np.array_equal, final, initial)) and not y.any() and not dx.any() and dx.shape == steps.shape
        assert np.array_equal(dinitial[0], 2 * initial[0]) and np.array_equal(dinitial[1], 3 * initial[1])
    assert not any(p.grad.any() for p in lstm.parameters())
    y, cache = layers.PadSequences().forward(np.ones((3, 2)), [0, 2, 0, 1])
    assert y.shape == (2, 4, 2) and y[:, :, 0].tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]
    assert layers.PadSequences().forward(np.ones((0, 2)), [0, 0])[0].shape == (0, 2, 2)


@pytest.mark.parametrize("changes", [{}, {"frames_per_chunk": 2}, {"freeze_trunk": True}, {"trunk_pooling": "flatten"}],
                         ids=str)
def test_clips_without_a_frame_are_judged_by_their_sound(changes):
    net = models.EmoNet(CONFIG.replace(**changes), 5, rng())
    before = net.state_dict()
    logits, cache = net.forward(np.zeros((0, 8, 8, 3), np.uint8), np.array([0, 0]), np.ones((2, 5), np.float32))
    net.backward(np.ones_like(logits), cache)
    assert logits.shape == (2, 7) and np.isfinite(logits).all() and net.audio.dense1.W.grad.any()
    assert all(np.array_equal(a, before[key]) for key, a in net.state_dict().items() if not key.endswith("counter"))
    assert all(np.isfinite(p.grad).all() for p in net.parameters())
