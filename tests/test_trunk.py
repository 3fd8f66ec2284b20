"""A trunk that does not start at random: its weights, its learning rate, what of it is frozen; and windows of a clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emonet_scratch import layers, losses, models, optim
from emonet_scratch.cli import main
from emonet_scratch.data.batches import batches
from emonet_scratch.data.video import sample_frames
from emonet_scratch.emotions import CLASSES
from emonet_scratch.training import load_model, read_checkpoint, write_checkpoint
from emonet_scratch.training.inference import evaluate
from emonet_scratch.weights import WeightsError
from tests.strategies import seeds
from tests.tiny import TINY, make, rows, split, states


@pytest.fixture
def trunk(tmp_path):
    """A file of a ResNet-8 of width 2 with values of its own, and that ResNet."""
    resnet = models.ResNet(8, 3, 2, rng=np.random.default_rng(7))
    for _, layer in resnet.walk():
        if isinstance(layer, layers.BatchNorm):
            layer.running_mean[...], layer.gamma.value[...] = 0.3, 0.8
    write_checkpoint(tmp_path / "trunk.safetensors", {"weights": resnet.state_dict()}, {})
    return tmp_path / "trunk.safetensors", resnet


def test_a_network_starts_from_the_weights_of_a_file(trunk):
    path, resnet = trunk
    config = TINY.replace(trunk=str(path))
    found = models.EmoNet(config).trunk.layer.resnet.state_dict()
    assert all(np.array_equal(found[name], a) for name, a in resnet.features.state_dict().items())
    other = models.EmoNet(config, load_trunk=False).trunk.layer.resnet.state_dict()
    assert not np.array_equal(other["conv.W"], found["conv.W"])
    for changes in ({"trunk_depth": 14}, {"trunk_width": 4}, {"trunk": "pretrained"}):
        with pytest.raises(WeightsError, match="is no trunk for trunk_depth="):
            models.EmoNet(config.replace(**changes))
    assert models.EmoNet(config.replace(trunk_width=4, modalities=["audio"])).load_trunk() is None


def test_the_weights_of_the_package():
    resnet = models.ResNet.pretrained()
    assert (resnet.depth, resnet.num_features, resnet.dense.M, resnet.training) == (20, 64, 10, False)
    net = models.EmoNet(models.EmoNetConfig.preset("default").replace(modalities=["video"]))
    assert np.array_equal(net.trunk.layer.resnet.conv.W.value, resnet.features.conv.W.value)
    card = models.resnet.TRUNKS["pretrained"].with_suffix(".md").read_text(encoding="utf-8")
    _, meta = read_checkpoint(models.resnet.TRUNKS["pretrained"])
    assert f"{meta['test']['accuracy']:.4f}" in card and meta["command"] in card and "licence" in card


def test_the_weights_of_the_package_on_real_pictures(real_data):
    """Of 932 lossless test images; trained on lossy copies of the training images."""
    with np.load(real_data / "cifar10" / "cifar10_test_lossless_first.npz") as file:
        images, labels = file["images"], file["labels"]
    x, _ = layers.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).forward(images)
    logits, _ = models.ResNet.pretrained().forward(x)
    assert (logits.argmax(axis=1) == labels).mean() > 0.8


def test_a_run_records_its_trunk_and_goes_on_without_the_file(tmp_path, trunk):
    """Its statistics stay as they come; those of the features behind it are calibrated. Resumed: the same bytes."""
    path, _ = trunk
    config = TINY.replace(trunk=str(path), trunk_norm="running", trunk_pooling="average")
    make(tmp_path / "whole", config).fit()
    stopped = make(tmp_path / "stopped", config)
    step, steps = stopped.step, iter(range(4))
    stopped.step = lambda batch: step(batch) if next(steps) < 3 else (_ for _ in ()).throw(KeyboardInterrupt)
    stopped.save_every = 1
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    path.unlink()
    make(tmp_path / "stopped", config, save_every=1).fit(resume=True)
    assert rows(tmp_path / "stopped") != [] and states(tmp_path / "stopped") == states(tmp_path / "whole")
    groups, meta = read_checkpoint(tmp_path / "whole" / "last.safetensors")
    assert meta["facts"]["trunk"]["name"] == "trunk.safetensors" and len(meta["facts"]["trunk"]["sha256"]) == 64
    assert np.all(groups["model"]["trunk.layer.resnet.bn.running_mean"] == np.float32(0.3))
    assert np.any(groups["model"]["trunk.layer.norm.running_mean"] != 0)


def test_a_checkpoint_is_read_without_the_file_of_its_trunk(tmp_path, trunk):
    path, _ = trunk
    trainer = make(tmp_path / "run", TINY.replace(trunk=str(path), epochs=1))
    trainer.facts = {"feature_names": ["x"] * 9, "extractor": "", "classes": list(CLASSES)}
    trainer.fit()
    path.unlink()
    model = load_model(tmp_path / "run" / "last.safetensors")
    assert model.config.trunk == str(path)
    assert all(np.array_equal(a, trainer.model.state_dict()[name]) for name, a in model.net.state_dict().items())


def moved(before, after):
    return {name for name, a in before.items() if not np.array_equal(a, after[name])}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_trunk_learns_at_its_own_rate(tmp_path, trunk, optimizer):
    """With a factor of 0 it stays; a random one has no factor; another factor moves it, and the rest the same in step 1."""
    config = TINY.replace(trunk=str(trunk[0]), optimizer=optimizer, weight_decay=0.0, clip_norm=None)
    found = {}
    for factor in (0.0, 0.1, 1.0):
        trainer = make(tmp_path / f"{factor}", config.replace(trunk_lr=factor))
        trainer.model.load_trunk()
        before = {p.name: p.value.copy() for p in trainer.model.parameters()}
        trainer.step(next(batches(trainer.train, 5, 3)))
        found[factor] = {p.name: p.value - before[p.name] for p in trainer.model.parameters()}
    of_trunk = {name for name in before if name.startswith("trunk.layer.resnet.")}
    assert not any(found[0.0][name].any() for name in of_trunk) and all(found[1.0][name].any() for name in of_trunk)
    for name in before:
        if name in of_trunk:
            assert np.allclose(found[0.1][name], 0.1 * found[1.0][name], rtol=1e-3, atol=2e-7)
        else:
            assert np.array_equal(found[0.1][name], found[1.0][name])
    assert isinstance(make(tmp_path / "random", TINY.replace(trunk_lr=0.1)).optimizer, optim.Adam)


@pytest.mark.parametrize("stages", [0, 1, 2, 3])
def test_frozen_stages_keep_their_values(tmp_path, trunk, stages):
    trainer = make(tmp_path / "run", TINY.replace(trunk=str(trunk[0]), frozen_stages=stages, epochs=1))
    trainer.model.load_trunk()
    before = {p.name.removeprefix("trunk.layer.resnet."): p.value.copy() for p in trainer.model.parameters()}
    trainer.fit()
    after = {p.name.removeprefix("trunk.layer.resnet."): p.value for p in trainer.model.parameters()}
    still = [("conv.W", "bn."), ("stage1.",), ("stage2.",)][:stages]
    assert before.keys() - moved(before, after) == {
        name for name in before if name.startswith(tuple(start for stage in still for start in stage))}


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 5))
def test_windows_are_spread_over_the_clip(length, count, windows):
    found = [sample_frames(length, count, None, w, windows) for w in range(windows)]
    if length <= count:
        assert all(np.array_equal(f, np.arange(length)) for f in found)
        return
    assert all(len(f) == count and (np.diff(f) > 0).all() and f[0] >= 0 and f[-1] < length for f in found)
    every = np.sort(np.concatenate(found))
    assert np.array_equal(every, sample_frames(length, count * windows) if length > count * windows else every)
    assert np.diff(every, prepend=0).max(initial=0) <= length / (count * windows) + 1
    assert np.array_equal(sample_frames(length, count, None, 0, 1), sample_frames(length, count))


def test_a_window_that_is_not_there():
    with pytest.raises(ValueError, match="window < windows"):
        sample_frames(9, 3, None, 2, 2)


@settings(max_examples=5)
@given(seeds, st.integers(2, 4))
def test_the_probabilities_of_windows_are_averaged(seed, windows):
    """Of a clip that is no longer than what the network sees, there is one window; one window is as it was without any."""
    rng = np.random.default_rng(seed)
    clips = [rng.integers(0, 256, (T, 8, 8, 3)).astype(np.uint8) for T in (2, 3, 9, 7)]
    data = split(0, 4)
    data.frames = clips
    data.audio = rng.standard_normal((4, 6)).astype(np.float32)
    model = models.EmoNet(TINY.replace(test_windows=windows), rng=np.random.default_rng(seed))
    loss, probabilities = evaluate(model, data)
    each = []
    for w in range(windows):
        seen = [clip[sample_frames(len(clip), 3, None, w, windows)] for clip in clips]
        logits, _ = model.forward(np.concatenate(seen), np.array([len(s) for s in seen]), data.audio)
        each.append(losses.softmax(logits))
    assert np.allclose(probabilities, np.mean(each, axis=0), atol=1e-6)
    assert np.isclose(loss, -np.log(probabilities[np.arange(4), data.labels]).mean(), rtol=1e-5)
    assert np.allclose(probabilities[:2], each[0][:2], atol=1e-6)
    data.labels[1] = -1
    assert np.isclose(evaluate(model, data)[0],
                      -np.log(probabilities[[0, 2, 3], data.labels[[0, 2, 3]]]).mean(), rtol=1e-5)


def test_import_weights(tmp_path, trunk, capsys):
    target = tmp_path / "imported.safetensors"
    assert main(["import-weights", str(trunk[0]), "--out", str(target)]) == 0
    out = capsys.readouterr().out
    assert "ResNet(depth=8, num_classes=3), width 2" in out and "--set trunk_depth=8 --set trunk_width=2" in out
    found = models.ResNet.from_torch(target).state_dict()
    assert all(np.array_equal(found[name], a) for name, a in trunk[1].state_dict().items())
    assert main(["import-weights", str(trunk[0]), "--out", str(target)]) == 1
    assert "exists: give another name" in capsys.readouterr().err


def test_import_weights_runs_no_program(tmp_path, capsys):
    """A pickle that would make a folder."""
    evil = tmp_path / "evil.pt"
    evil.write_bytes(b"\x80\x02cos\nmkdir\nX" + (lambda s: len(s).to_bytes(4, "little") + s)(str(tmp_path / "made").encode())
                     + b"\x85R.")
    assert main(["import-weights", str(evil), "--out", str(tmp_path / "x.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("emonet: error: ") and error.count("\n") == 1 and "evil.pt" in error
    assert not (tmp_path / "made").exists() and not (tmp_path / "x.safetensors").exists()


def test_wrong_trunks_get_one_line_before_anything_is_read(tmp_path, capsys, trunk):
    for part in ("Train", "Val"):
        (tmp_path / "data" / part / "Angry").mkdir(parents=True)
        (tmp_path / "data" / part / "Angry" / "1.avi").write_bytes(b"not to be read")
    for value, message in ((tmp_path / "nowhere", "no such file"), (trunk[0], "is no trunk for")):
        assert main(["train", "--data", str(tmp_path / "data"), "--set", f"trunk={value}", "--preset", "default",
                     "--device", "cpu", "--runs", str(tmp_path / "runs")]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
