"""The trainer: it learns, its seed decides everything, it starts where it should, it goes the same on a device."""

from pathlib import Path

import numpy as np
import pytest

from emonet_scratch import backend, dispatch, layers
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.errors import DataError
from emonet_scratch.training import NonFiniteError, Settings, read_checkpoint, run, trunk
from emonet_scratch.training import trainer as trainer_module
from emonet_scratch.training.projection import AudioProjection
from tests.device import cupy
from tests.test_non_finite import Poisoned
from tests.test_resume import Died
from tests.tiny import TINY, make, rows, split, states


@pytest.mark.parametrize("modalities", [("audio",), ("video",), ("audio", "video")])
def test_it_learns_what_is_there_to_learn(tmp_path, modalities):
    config = TINY.replace(modalities=modalities, epochs=30, dropout=0.0, augment=False, trunk_width=4,
                          lstm_size=16, lstm_layers=1, fusion_layers=(32, 32), lr=0.005)
    trainer = make(tmp_path, config, n=70)
    trainer.fit()
    assert rows(tmp_path)[-2]["accuracy"] >= 0.9
    loss, probabilities = trainer.evaluate(trainer.val)
    assert (probabilities.argmax(1) == trainer.val.labels).mean() >= 0.8 and loss == rows(tmp_path)[-1]["loss"]
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)


def test_the_first_loss_is_about_ln_7(tmp_path):
    trainer = make(tmp_path)
    assert trainer.evaluate(trainer.val)[0] == pytest.approx(np.log(7), abs=0.5)


def test_metrics_have_a_line_for_each_epoch_and_split(uninterrupted):
    lines = rows(uninterrupted)
    assert [(r["epoch"], r["split"]) for r in lines] == [(e, s) for e in (1, 2, 3) for s in ("train", "val")]
    assert all(r.keys() == {"epoch", "split", "loss", "accuracy", "lr", "grad_norm", "seconds"} for r in lines)
    best = read_checkpoint(uninterrupted / "best.safetensors")[1]["progress"]["best_epoch"]
    losses = [r["loss"] for r in lines if r["split"] == "val"]
    assert best == 1 + losses.index(min(losses))


def test_the_seed_decides_everything(tmp_path, uninterrupted):
    make(tmp_path / "same", seed=3).fit()
    make(tmp_path / "other", seed=4).fit()
    assert states(tmp_path / "same") == states(uninterrupted)
    assert states(tmp_path / "other") != states(uninterrupted)


def test_saving_inside_epochs_changes_nothing(tmp_path, uninterrupted):
    make(tmp_path, seed=3, save_every=1).fit()
    assert states(tmp_path) == states(uninterrupted)


def test_early_stop(tmp_path):
    make(tmp_path, TINY.replace(epochs=30, patience=2, lr=0.3)).fit()
    losses = [r["loss"] for r in rows(tmp_path) if r["split"] == "val"]
    assert len(losses) < 30 and len(losses) - 1 - int(np.argmin(losses)) == 2


def test_a_frozen_trunk_is_computed_once(tmp_path, monkeypatch):
    config = TINY.replace(freeze_trunk=True, trunk_norm="running", augment=False, frames=None)
    ran, times = [], []

    class Counted(layers.Sequential):
        def forward(self, x):
            ran.append(0)
            return super().forward(x)
    monkeypatch.setattr(trunk, "Sequential", Counted)
    for folder, cache in (("a", "cache"), ("b", "cache"), ("c", None)):      # without a cache: the same numbers
        ran.clear()
        make(tmp_path / folder, config, cache=cache and tmp_path / cache).fit()
        times.append(len(ran))
        assert states(tmp_path / folder) == states(tmp_path / "a")
    assert times == [21 + 14, 0, 21 + 14]


def test_features_of_a_frozen_trunk_are_those_of_the_frames(tmp_path):
    """Other frames of clips with the same name, size and content key are other features; keys are not needed."""
    config = TINY.replace(freeze_trunk=True, epochs=1)
    one = make(tmp_path / "a", config, cache=tmp_path / "cache")
    one.fit()
    for pooling, chunk, frames in (("flatten", None, 255), ("average", None, 0), ("flatten", 2, 0)):
        model = make(tmp_path / "b", config.replace(trunk_pooling=pooling, frames_per_chunk=chunk, feature_norm=False)).model
        raw = split(0, 21)
        raw.frames, raw.keys = [frames - clip if frames else clip for clip in raw.frames], None
        expected = [model.eval().trunk_features(clip) for clip in raw.frames]
        found = trainer_module.with_trunk_features(raw, model, "cpu", tmp_path / "cache").frames
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_untrained_trunk_with_fixed_statistics_is_calibrated(tmp_path):
    trainer = make(tmp_path, TINY.replace(trunk_norm="running", epochs=1))
    trainer.start()
    y, _ = trainer.model.trunk.layer.resnet.conv.forward(
        trainer.model.trunk.layer.normalize.forward(np.concatenate(trainer.train.frames))[0])
    norm = trainer.model.trunk.layer.resnet.bn
    assert np.allclose(norm.running_mean, y.mean((0, 1, 2)), atol=0.1 * y.std())
    assert norm.momentum == 0.1 and not norm.training


def test_class_weights_are_balanced(tmp_path):
    trainer = make(tmp_path, TINY.replace(class_weights=True))
    assert np.allclose(trainer.gradients.class_weights, 1)
    assert make(tmp_path, TINY.replace(class_weights=False)).gradients.class_weights is None


def test_the_projection_is_fitted_once_and_goes_round():
    train = split(0, 21)
    train.audio[:, 4] = 7.0                                                   # a constant column
    p = AudioProjection(n_components=3).fit(train.audio, train.labels)
    q = AudioProjection.from_state(p.state_dict())
    z = p.transform(train.audio)
    assert np.array_equal(z, q.transform(train.audio)) and z.dtype == np.float32 and z.shape == (21, 3)
    with pytest.raises(DataError, match=r"LDA of the training split's audio vectors.*\(--set lda_shrinkage=0\.1\)$"):
        AudioProjection(shrinkage=None).fit(train.audio[:5], train.labels[:5])


@pytest.fixture
def gpu(monkeypatch):
    """The stand-in for CuPy as device cuda:0, and the same definitions on both sides."""
    monkeypatch.setattr(backend, "import_cupy", lambda: cupy)
    monkeypatch.setattr(dispatch, "enabled", False)
    return "cuda:0"


@pytest.mark.parametrize("changes", [
    dict(), dict(trunk_norm="running"), dict(freeze_trunk=True), dict(trunk_pooling="average", frames_per_chunk=2),
    dict(trunk_norm="running", frames_per_chunk=2, label_smoothing=0.1), dict(optimizer="sgd", schedule="one_cycle"),
    dict(modalities=("audio",), class_weights=False), dict(modalities=("video",), clip_norm=None),
    dict(audio_shortcut=True)], ids=str)
def test_training_on_a_device_is_training_on_the_host(tmp_path, gpu, changes):
    """Whole runs on the stand-in for CuPy, one of them stopped and resumed: no array meets one of the other side."""
    config = TINY.replace(epochs=2, **changes)
    make(tmp_path / "host", config).fit()
    make(tmp_path / "device", config, device=gpu, cache=tmp_path / "cache").fit()
    assert states(tmp_path / "device") == states(tmp_path / "host")
    stopped = make(tmp_path / "resumed", config, device=gpu, save_every=1)
    step, steps = stopped.step, iter(range(7))
    stopped.step = lambda batch: step(batch) if next(steps) < 6 else (_ for _ in ()).throw(Died)
    with pytest.raises(Died):
        stopped.fit()
    make(tmp_path / "resumed", config, device=gpu, save_every=1).fit(resume=True)
    assert states(tmp_path / "resumed") == states(tmp_path / "device")


def test_a_value_that_is_not_finite_on_a_device_is_traced(tmp_path, gpu):
    trainer = make(tmp_path, device=gpu)
    trainer.model.audio.poison = Poisoned("forward", 1)
    with pytest.raises(NonFiniteError, match=r"in the output of audio\.poison"):
        trainer.fit()


def test_a_run_on_shared_groups_says_so_in_its_results(tmp_path):
    """Whoever reads the table later has not seen the option. And a class that no training clip has is told at once."""
    rows = [f"{name}/{k}.wav,{name},{('train', 'val')[k // 6]},ann,{name}{k}.arff" for name in ("a", "b") for k in range(8)]
    rows.append("c/0.wav,c,val,ann,c0.arff")
    for k, row in enumerate(rows):
        path, label, *_, features = row.split(",")
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(bytes([k]) * 9)
        write_arff(tmp_path / features, "r", ["f"], [(Path(path).stem, None, np.array([k % 3 + 5 * (label == "a")]))])
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,split,group,features", *rows]))
    settings = Settings((str(tmp_path / "clips.csv"),), TINY.replace(epochs=1, lda_cross_fit=0), ("audio",),
                        device="cpu", allow_shared_groups=True)
    lines = []
    results = run(settings, tmp_path / "run", log=lines.append)
    assert "warning: the training split has no clip of c: no clip will be rightly called that" in lines
    assert "'ann' is in train and val" in results["audio"]["warnings"][0]
    assert "warning: the group 'ann'" in (tmp_path / "run" / "results.txt").read_text()
