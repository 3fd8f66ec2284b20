"""The networks: counts, shapes, gradients of the whole, memory by chunks, presets."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import backend, gradcheck, layers, models
from tests.device import cupy
from tests.strategies import seeds, values

TINY = models.EmoNetConfig.preset("small").replace(
    frame_size=8, trunk_width=2, lstm_size=3, lstm_layers=2, audio_layers=(4, 3, 4), fusion_layers=(5, 4))


def build(config, seed=0, audio_features=5):
    net = models.EmoNet(config, audio_features, np.random.default_rng(seed))
    if net.shortcut is not None:                                            # which is 0 at first and would hide mistakes
        net.shortcut.W.value[...] = np.random.default_rng(seed).standard_normal(net.shortcut.W.value.shape)
    return net


def batch(seed, lengths=(2, 3), size=8, audio_features=5):
    frames = np.random.default_rng(seed).integers(0, 256, (sum(lengths), size, size, 3)).astype(np.float64)
    return frames, np.array(lengths), values(seed, len(lengths), audio_features)


def test_the_cifar_resnet_has_its_published_number_of_parameters():
    assert sum(p.value.size for p in models.ResNet().parameters()) == 269_722


@pytest.mark.parametrize("depth, size", [(8, 32), (14, 9), (20, 32)])
def test_resnet_shapes(depth, size):
    net = models.ResNet(depth, num_classes=10)
    x = np.zeros((2, size, size, 3), np.float32)
    assert net.forward(x)[0].shape == (2, 10)
    assert net.features.forward(x)[0].shape == (2, (size + 3) // 4, (size + 3) // 4, 64)
    assert sum(isinstance(layer, layers.Conv2d) for _, layer in net.walk()) == depth - 1
    with pytest.raises(ValueError, match="6n"):
        models.ResNet(depth + 1)


# The steps are short because the network is full of kinks: they seldom cross one.
SHORT = dict(eps=2.0**-20, rtol=1e-6)


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("training", [True, False])
def test_resnet_gradients(shortcut, training):
    net = models.ResNet(8, 3, 2, shortcut, np.random.default_rng(0)).train(training)
    gradcheck(net, values(4, 2, 8, 7, 3), **SHORT)


CHANGES = [{}, {"trunk_norm": "running"}, {"trunk_pooling": "flatten"}, {"relu_on_logits": True},
           {"frames_per_chunk": 2, "trunk_norm": "running"}, {"frames_per_chunk": 2}, {"modalities": ("audio",)},
           {"modalities": ("video",)}, {"dropout": 0.0}, {"truncate": 2}, {"lstm_output": "top"}, {"feature_norm": False},
           {"audio_shortcut": True}, {"audio_shortcut": True, "modalities": ("audio",)},
           {"audio_shortcut": True, "modalities": ("video",)}]


@pytest.mark.parametrize("change", CHANGES, ids=map(str, CHANGES))
def test_emonet_gradients(change):
    """The whole network, dropout and batch norm included. Truncation is meant to be no gradient: lengths below it."""
    frames, lengths, audio = batch(4, (2, 1, 2))
    config = TINY.replace(**change)
    inputs = [frames if "video" in config.modalities else None, lengths, audio if "audio" in config.modalities else None]
    report = gradcheck(build(config), *inputs, seed=4, **SHORT)
    assert np.mean([row.analytic != 0 for row in report]) > 0.9               # else a dead ReLU would hide what is behind


def test_emonet_with_a_frozen_trunk():
    net = build(TINY.replace(freeze_trunk=True, frames_per_chunk=2)).astype(np.float64)
    frames, lengths, audio = batch(3)
    features = net.trunk_features(frames)
    y, cache = net.forward(frames, lengths, audio)
    assert np.array_equal(y, _fresh(net).forward(features, lengths, audio)[0])
    dframes, _ = net.backward(y, cache)
    assert dframes.shape == features.shape
    assert not any(p.grad.any() for p in net.trunk.parameters()) and all(p.grad.any() for p in net.lstm.parameters())


def _fresh(net):
    """A copy whose dropout counters are at the start again."""
    other = copy.deepcopy(net)
    for _, layer in other.walk():
        if isinstance(layer, layers.Dropout):
            layer.counter[1] = 0
    return other


@given(st.integers(1, 9), seeds)
def test_frames_per_chunk_changes_no_gradient(size, seed):
    frames, lengths, audio = batch(seed, (4, 1, 3))
    whole = build(TINY.replace(trunk_norm="running"), seed).astype(np.float64)
    chunked = build(TINY.replace(trunk_norm="running", frames_per_chunk=size), seed).astype(np.float64)
    grads = []
    for net in (whole, chunked):
        logits, cache = net.forward(frames, lengths, audio)
        net.backward(values(seed + 1, *logits.shape), cache)
        grads.append([logits] + [p.grad for p in net.parameters()])
    assert all(np.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_other_clips_of_the_batch_change_nothing():
    net = build(TINY.replace(trunk_norm="running")).astype(np.float64).eval()
    frames, lengths, audio = batch(3, (2, 5))
    together = net.forward(frames, lengths, audio)[0]
    alone = net.forward(frames[:2], lengths[:1], audio[:1])[0]
    assert np.allclose(together[:1], alone, atol=1e-12)


def test_presets_differ_in_named_fields_only():
    paper, default = (dataclasses.asdict(models.EmoNetConfig.preset(n)) for n in ("paper", "default"))
    differ = {k for k in paper if paper[k] != default[k]}
    assert {"trunk_pooling", "lr", "forget_bias", "lda_components", "relu_on_logits", "clip_norm"} <= differ
    assert default == dataclasses.asdict(models.EmoNetConfig())
    for field in differ:                                                      # an ablation: one field at a time
        models.EmoNetConfig.preset("paper").replace(**{field: default[field]})


def test_the_papers_lstm_reads_262144_numbers_a_frame():
    """Counted without allocating: the trunk's map of a 256 x 256 frame is 64 x 64 x 64."""
    config = models.EmoNetConfig.preset("paper").replace(lstm_size=1, lstm_layers=1)
    assert build(config).lstm.D == 262_144
    assert build(models.EmoNetConfig.preset("default")).lstm.D == 64


def test_config_goes_through_json():
    for name in ("paper", "default", "small"):
        config = models.EmoNetConfig.preset(name)
        assert models.EmoNetConfig().replace(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("call, message", [
    (lambda: models.EmoNetConfig.preset("large"), "preset must be one of default, paper, small"),
    (lambda: TINY.replace(learning_rate=1), "no field 'learning_rate'; it has: audio_clip, audio_layers"),
    (lambda: TINY.replace(optimizer="lamb"), "optimizer must be one of adam, sgd"),
    (lambda: TINY.replace(modalities=("smell",)), "modalities must be"),
    (lambda: TINY.replace(modalities=[["audio"]]), r"modalities must be .*, got \(\['audio'\],\)"),
    (lambda: TINY.replace(modalities=["audio", "audio"]), "modalities must be .* at most once"),
    (lambda: TINY.replace(modalities=None), "modalities must be .*, got None"),
    (lambda: TINY.replace(frame_size=5000), "frame_size must be an integer from 1 to 4096, got 5000"),
    (lambda: TINY.replace(frame_size=0), "frame_size must be an integer from 1 to 4096, got 0"),
    (lambda: TINY.replace(epochs=0), "epochs must be a positive integer")])
def test_wrong_configurations_get_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_summary_counts_what_is_there(capsys):
    net = models.ResNet()
    net.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "activations", "FLOPs"]
    total = [int(n.replace(",", "")) for n in lines[-1].split()[1:]]
    convolutions = 2 * (32 * 32 * 16 * 27 + 6 * 32 * 32 * 16 * 144 + 16 * 16 * 32 * 144 + 5 * 16 * 16 * 32 * 288
                        + 8 * 8 * 64 * 288 + 5 * 8 * 8 * 64 * 576)
    assert total[0] == 269_722 and total[2] == convolutions + 2 * 64 * 10
    parts = [int(line.split()[-2].replace(",", "")) for line in lines[1:-1]]
    assert total[1] == sum(parts) and parts[0] == 34 * 34 * 3 * 4
    build(TINY).summary(clips=2, frames=3)
    text = capsys.readouterr().out
    assert "6x8x8x2" in text and "3x2x3" in text and "fusion.dense3" in text
    assert net.parameters()[0].name == "features.conv.W"


def table(capsys, net, **sizes):
    """{path: [kind, output, parameters, activations, FLOPs]} as summary() prints it."""
    net.summary(**sizes)
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: [*row[1:-3], *map(int, row[-3:])] for row in rows}


@pytest.mark.parametrize("change", [{"freeze_trunk": True}, {"frames_per_chunk": 4}, {"frames_per_chunk": 1}], ids=str)
def test_summary_of_a_chunked_run_is_that_of_the_whole_without_the_dropped_caches(change, capsys):
    net = build(TINY.replace(**change)).train()
    whole = table(capsys, build(TINY), clips=2, frames=5)
    rows = table(capsys, net, clips=2, frames=5)
    chunked = rows.pop("trunk", ["Chunked", "10x32", 0, 0, 0])
    assert chunked[:3] == ["Chunked", "10x32", 0] and rows.keys() == whole.keys()
    assert rows["total"][0] == sum(p.value.size for p in net.parameters())
    for path, row in rows.items():
        if path.startswith("trunk."):
            assert row == [*whole[path][:3], 0, whole[path][4]]
        elif path != "total":
            assert row == whole[path]
    states = -(-10 // change.get("frames_per_chunk", 10)) * sum(a.nbytes for a in net.trunk.layer.save_buffers())
    assert chunked[3] == (0 if "freeze_trunk" in change else 10 * 8 * 8 * 3 + states)


def test_summary_moves_no_buffers(capsys):
    net = build(TINY)
    before = net.state_dict()
    net.summary(frames=3)
    assert all(np.array_equal(a, before[name]) for name, a in net.state_dict().items())


def test_summary_runs_where_the_model_is(monkeypatch, capsys):
    nets = [build(TINY.replace(frames_per_chunk=2)), models.ResNet(8, width=2)]
    host = [table(capsys, net) for net in nets]
    monkeypatch.setattr(backend, "import_cupy", lambda: cupy)
    for net, expected in zip(nets, host, strict=True):
        rows = table(capsys, net.to_device("cuda:0"))
        assert rows.keys() == expected.keys()
        assert all(row[:-2] == expected[path][:-2] and row[-1] == expected[path][-1] for path, row in rows.items())
