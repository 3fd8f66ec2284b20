"""Exported graphs, run by ONNX Runtime, against the networks that they came from; what is wrong with them, in one line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from emonet_scratch import models  # noqa: E402
from emonet_scratch.cli import main as emonet  # noqa: E402
from emonet_scratch.data.batches import Split  # noqa: E402
from emonet_scratch.errors import DataError, WeightsError  # noqa: E402
from emonet_scratch.export import onnx as export  # noqa: E402
from emonet_scratch.layers import BatchNorm  # noqa: E402
from emonet_scratch.training.answer import SHIPPED  # noqa: E402
from emonet_scratch.training.inference import Model, load_model  # noqa: E402
from emonet_scratch.training.projection import AudioProjection  # noqa: E402
from emonet_scratch.training.trunk import statistics  # noqa: E402
from tests.strategies import seeds  # noqa: E402

CLASSES = ("Angry", "Happy", "Sad")


def projection(rng, D):
    X = rng.standard_normal((30, D)) * rng.uniform(0.1, 1e4, D) + rng.uniform(-1e4, 1e4, D)
    return AudioProjection(clip=float(rng.choice([2.0, 6.0])), seed=0).fit(X, np.arange(30) % 3, classes=CLASSES)


def network(config, rng, D=9):
    """A network of drawn weights and statistics, as if it were trained, with what stands before and behind it."""
    heard = projection(rng, D) if "audio" in config.modalities else None
    looks = projection(rng, 2 * 4 * 4 * config.trunk_width) if config.trunk_statistics else None
    K = sum(len(part.scale) for part in (heard, looks) if part)
    net = models.EmoNet(config, K, rng, False, len(CLASSES)).eval()
    for _, layer in net.walk():
        if isinstance(layer, BatchNorm):
            for shift, scale in ((layer.running_mean, layer.running_var), (layer.beta.value, layer.gamma.value)):
                shift[...], scale[...] = 0.2 * rng.standard_normal(layer.C), rng.uniform(0.5, 2, layer.C)
    if net.shortcut is not None:
        net.shortcut.W.value[...] = rng.standard_normal(net.shortcut.W.value.shape)
    names = tuple(f"f{k}" for k in range(D)) if heard else ()
    return Model(net, heard, names, "drawn" if heard else "", None, CLASSES, float(rng.choice([1.0, 0.7, 2.0])), looks)


def clip(model, rng, T):
    """(frames (T, H, W, 3), features (D,))"""
    size = model.config.frame_size
    X = model.projection
    return (rng.integers(0, 256, (T, size, size, 3)).astype(np.uint8),
            None if X is None else X.mean + X.spread * rng.standard_normal(len(X.mean)))


def ours(model, frames, features, seen=True, heard=True):
    video = "video" in model.config.modalities
    audio = None if features is None else (features if heard else np.full_like(features, np.nan))[None]
    split = Split(["clip"], np.array([-1]), [frames if seen else frames[:0]] if video else None, audio)
    return model.probabilities(split)[1][0]


def theirs(session, frames, features, seen=True, heard=True):
    given = {"frames": frames, "has_frames": np.array(seen), "features": features, "has_sound": np.array(heard)}
    return session.run(None, {one.name: given[one.name] for one in session.get_inputs()})[0]


def session_of(model, fold=False):
    return runtime.InferenceSession(export.graph_of(model, fold).SerializeToString(), providers=["CPUExecutionProvider"])


SMALL = {"frame_size": 9, "trunk": "random", "trunk_depth": 8, "trunk_width": 2, "lstm_size": 5, "audio_layers": (4, 4),
         "fusion_layers": (6,), "frames_per_chunk": 4}
CONFIGS = st.fixed_dictionaries({
    "preset": st.sampled_from(["paper", "default", "small"]),
    "modalities": st.sampled_from([("audio",), ("video",), ("audio", "video")]),
    "frame_size": st.integers(1, 13), "trunk_pooling": st.sampled_from(["average", "flatten"]),
    "feature_norm": st.booleans(), "lstm_layers": st.integers(1, 3), "lstm_output": st.sampled_from(["all", "top"]),
    "audio_shortcut": st.booleans(), "relu_on_logits": st.booleans(), "frames": st.sampled_from([None, 1, 4, 7]),
    "test_windows": st.integers(1, 3), "trunk_statistics": st.booleans(), "trunk_depth": st.sampled_from([8, 14])})


def config_of(drawn):
    fields = dict(drawn)
    if fields["trunk_statistics"]:
        fields["trunk_statistics"] = "video" in fields["modalities"] and fields["trunk_pooling"] == "average"
    fields["freeze_trunk"] = fields["trunk_statistics"]
    return models.EmoNetConfig.preset(fields.pop("preset")).replace(**(SMALL | fields))


@settings(max_examples=40)
@given(CONFIGS, st.integers(1, 60), st.booleans(), seeds)
def test_any_configuration_says_the_same(drawn, T, fold, seed):
    rng = np.random.default_rng(seed)
    model = network(config_of(drawn), rng)
    session = session_of(model, fold)
    for length in (T, 1):
        frames, features = clip(model, rng, length)
        for seen, heard in ((True, True), (False, True), (True, False)):
            found = theirs(session, frames, features, seen, heard)
            assert found.shape == (3,) and found.dtype == np.float32
            assert np.allclose(found, ours(model, frames, features, seen, heard), atol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "default", "small"])
def test_the_presets_as_they_are(preset):
    """In their own sizes, but for the paper's 256 pixels, whose flattened map has 262,144 numbers for the LSTM."""
    rng = np.random.default_rng(0)
    config = models.EmoNetConfig.preset(preset).replace(trunk="random", **({"frame_size": 32} if preset != "small" else {}))
    model = network(config, rng)
    session = session_of(model)
    for T in (1, 3, 60):
        frames, features = clip(model, rng, T)
        assert np.allclose(theirs(session, frames, features), ours(model, frames, features), atol=1e-5)


@pytest.mark.parametrize("name", ["fused", "voices"])
def test_the_weights_that_come_along(name, tmp_path):
    model, rng = load_model(SHIPPED[name]), np.random.default_rng(0)
    assert emonet(["export", name, "--out", str(tmp_path / "m.onnx")]) == 0
    graph = onnx.load(tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for T in (1, 2, 50, 51, 120):
        frames, features = clip(model, rng, T)
        assert np.allclose(theirs(session, frames, features), ours(model, frames, features), atol=1e-5)
    told = {one.key: one.value for one in graph.metadata_props}
    assert json.loads(told["classes"]) == list(model.classes) and told["extractor"] == model.extractor
    assert json.loads(told["feature_names"]) == list(model.feature_names) and "must not be used" in graph.doc_string


def test_a_wrong_gate_order_would_be_seen(monkeypatch):
    monkeypatch.setattr(export, "GATES", (0, 1, 2, 3))
    model = network(models.EmoNetConfig.preset("small").replace(**SMALL, modalities=("video",)), np.random.default_rng(0))
    frames, _ = clip(model, np.random.default_rng(1), 5)
    assert not np.allclose(theirs(session_of(model), frames, None), ours(model, frames, None), atol=1e-3)


@given(st.integers(1, 40), st.integers(1, 5), seeds)
@settings(max_examples=15)
def test_statistics_over_time(T, D, seed):
    x = np.random.default_rng(seed).standard_normal((T, D))
    g = export.Graph(False)
    length = g("Gather", g("Shape", "x"), export.i64(0)[0])
    g("Identity", export.statistics(g, "x", length), name="y")
    make = onnx.helper
    graph = make.make_graph(g.nodes, "g", [make.make_tensor_value_info("x", 11, ["T", D])],
                            [make.make_tensor_value_info("y", 11, None)],
                            [onnx.numpy_helper.from_array(a, name) for name, a in g.constants.items()])
    built = make.make_model(graph, opset_imports=[make.make_opsetid("", export.OPSET)], ir_version=9)
    session = runtime.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"x": x})[0][0], statistics(x), rtol=1e-12, atol=1e-12)


def test_a_trunk_is_read_back(tmp_path, capsys):
    model = network(models.EmoNetConfig.preset("small").replace(**SMALL), np.random.default_rng(0))
    export.export(model, tmp_path / "m.onnx")
    assert emonet(["import-weights", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "t.safetensors")]) == 0
    state = models.ResNet.from_torch(tmp_path / "t.safetensors").features.state_dict()
    for name, a in model.net.trunk.layer.resnet.state_dict().items():
        assert np.array_equal(a, state[name]), name
    export.export(model, tmp_path / "folded.onnx", fold=True)
    (tmp_path / "broken.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:-500])
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("folded", "broken", "text"):
        with pytest.raises(WeightsError, match="holds no trunk"):
            export.read_trunk(tmp_path / f"{name}.onnx")


def test_wrong_input_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "there.onnx").write_text("mine")
    for arguments, line in ((["faces", "--out", "x.onnx"], "single pictures"), (["nowhere", "--out", "x.onnx"], "nowhere"),
                            (["voices", "--out", str(tmp_path / "there.onnx")], "exists")):
        assert emonet(["export", *arguments]) == 1
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1
    assert (tmp_path / "there.onnx").read_text() == "mine"
    real = export.importlib.import_module

    def without(name):
        if name == "onnx":
            raise ImportError("No module named 'onnx'")
        return real(name)
    monkeypatch.setattr(export.importlib, "import_module", without)
    with pytest.raises(DataError, match=r"pip install 'emonet_scratch\[onnx\]'"):
        export.Graph(False)
