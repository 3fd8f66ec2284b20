"""Devices: choosing one, moving to one, and the rule that nothing mixes two."""

import copy

import numpy as np
import pytest

from emonet_scratch import backend, dispatch, layers, losses, models, optim
from tests.device import DeviceArray, cupy
from tests.strategies import values


@pytest.fixture
def fake_gpu(monkeypatch):
    monkeypatch.setattr(backend, "import_cupy", lambda: cupy)


def test_auto_falls_back_to_the_cpu_and_says_why(monkeypatch):
    monkeypatch.setattr(backend, "probe_cuda", lambda index=0: "no driver")
    assert backend.choose_device("auto") == ("cpu", "device: cpu (no usable GPU: no driver)")
    with pytest.raises(backend.DeviceError, match="cuda cannot be used: no driver"):
        backend.choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu:0"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(backend.DeviceError, match="must be auto, cpu, cuda"):
        backend.choose_device(name)


def test_a_working_gpu_is_taken(monkeypatch, fake_gpu):
    monkeypatch.setattr(backend, "probe_cuda", lambda index=0: None)
    assert backend.choose_device("auto")[0] == "cuda:0"
    assert backend.choose_device("cuda:1")[0] == "cuda:1"


def test_the_probe_gives_a_reason_on_one_line(monkeypatch):
    backend.probe_cuda.cache_clear()
    monkeypatch.setattr(backend, "import_cupy", lambda: (_ for _ in ()).throw(ImportError("no module\nsecond line")))
    assert backend.probe_cuda() == "no module"
    backend.probe_cuda.cache_clear()


def test_mixed_devices_raise_with_both_names(fake_gpu):
    layer = layers.Dense(3, 2)
    with pytest.raises(backend.DeviceError, match=r"x is on cuda:0, W is on cpu: call to_device"):
        layer.forward(cupy.asarray(np.ones((2, 3), np.float32)))


def test_arrays_that_mix_are_named_wherever_they_meet(fake_gpu):
    """In the loss, in a recurrence, in an optimizer: not only in layers with weights."""
    host, device = np.ones((2, 3), np.float32), cupy.asarray(np.ones((2, 3), np.float32))
    labels, weights = np.array([0, 1]), cupy.asarray(np.ones(3, np.float32))
    with pytest.raises(backend.DeviceError, match=r"logits is on cpu, class_weights is on cuda:0: call to_device"):
        losses.softmax_cross_entropy(host, labels, 0, weights)
    lstm = layers.LSTM(3, 2)
    with pytest.raises(backend.DeviceError, match=r"x is on cpu, W_ih is on cpu, initial is on cuda:0: call to_device"):
        lstm.forward(host[None], None, (cupy.asarray(np.zeros((1, 2, 2), np.float32)),) * 2)
    with pytest.raises(backend.DeviceError, match=r"x is on cpu, W_ih is on cpu, initial is on cuda:0: call to_device"):
        lstm.forward(host[None], None, (cupy.asarray(np.zeros((1, 2, 2), np.float32)), np.zeros((1, 2, 2), np.float32)))
    cell = layers.LSTMCell(3, 3)
    with pytest.raises(backend.DeviceError, match=r"a is on cpu, c is on cuda:0: call to_device"):
        cell.forward(host, host, device)
    with pytest.raises(backend.DeviceError, match=r"x is on cuda:0, scale is on cpu: call to_device"):
        layers.Normalize((0.5,) * 3, (1,) * 3).forward(device)
    conv = layers.Conv2d(3, 2, 1)
    _, cache = conv.forward(host[None, None])
    with pytest.raises(backend.DeviceError, match=r"dy is on cuda:0, x is on cpu: call to_device"):
        conv.backward(cupy.asarray(np.ones((1, 1, 2, 2), np.float32)), cache)
    for make in (optim.SGD, optim.Adam):
        p = layers.Parameter(host.copy())
        p.grad = device
        with pytest.raises(backend.DeviceError, match=r"value is on cpu, grad is on cuda:0: call to_device"):
            make([p], 0.1).step()


def test_the_stand_in_keeps_cupys_rules():
    x = cupy.asarray(np.ones(3))
    for bad in (lambda: x + np.ones(3), lambda: np.asarray(x), lambda: x[np.array([0])], lambda: cupy.exp(np.ones(3))):
        with pytest.raises(TypeError):
            bad()
    assert isinstance(x + 1, DeviceArray) and isinstance(cupy.exp(x), DeviceArray)


@pytest.mark.parametrize("optimizer", [lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01),
                                       lambda p: optim.Adam(p, 0.1, weight_decay=0.01, decoupled=True)])
def test_emonet_trains_on_device_arrays_as_on_host_arrays(fake_gpu, optimizer, monkeypatch):
    """Forward, loss, backward, clipping and two optimizer steps of the whole network, under CuPy's rules."""
    monkeypatch.setattr(dispatch, "enabled", False)                     # the same definitions on both sides
    backend.seed(1)
    config = models.EmoNetConfig.preset("small").replace(frame_size=8, trunk_width=2, lstm_size=3, frames_per_chunk=4,
                                                         audio_layers=(4, 4, 4), fusion_layers=(5, 4))
    host = models.EmoNet(config, 5)
    device = copy.deepcopy(host).to_device("cuda:0")
    frames = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
    lengths, audio, labels = np.array([4, 2, 3]), values(2, 3, 5).astype(np.float32), np.array([1, 6, 0])
    weights = np.linspace(1, 2, 7).astype(np.float32)

    def train(model, place):
        opt = optimizer(model.parameters())
        for _ in range(2):
            model.zero_grad()
            logits, cache = model.forward(place(frames), lengths, place(audio))
            loss, dlogits = losses.softmax_cross_entropy(logits, labels, 0.1, place(weights))
            model.backward(dlogits, cache)
            norm = optim.clip_gradient_norm(opt.params, 0.5)
            opt.step()
        return loss, norm, model.state_dict(), opt.state_dict()

    a, b = train(host, np.asarray), train(device, cupy.asarray)
    assert all(isinstance(p.value, DeviceArray) and isinstance(p.grad, DeviceArray) for p in device.parameters())
    assert a[0] == b[0] and a[1] == pytest.approx(b[1])
    for x, y in ((a[2], b[2]), (a[3], b[3])):
        assert all(np.array_equal(x[name], y[name]) for name in x)


def test_the_seed_decides_the_parameters():
    draws = []
    for seed in (3, 3, 4):
        backend.seed(seed)
        draws.append(layers.Dense(3, 2).W.value)
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
