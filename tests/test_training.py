"""The trainer: it learns, it resumes bit for bit, it loses nothing, it says where a value stopped being finite."""

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch import backend, dispatch, files, layers, models
from emonet_scratch.data.batches import Split
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError
from emonet_scratch.training import (
    CheckpointError,
    NonFiniteError,
    Trainer,
    load_model,
    read_checkpoint,
    write_checkpoint,
)
from emonet_scratch.training import trainer as trainer_module
from emonet_scratch.training.projection import AudioProjection
from tests.device import cupy

TINY = models.EmoNetConfig.preset("small").replace(
    frame_size=8, frames=3, trunk_width=2, lstm_size=4, lstm_layers=2, audio_layers=(6, 6, 6), fusion_layers=(8, 8),
    batch_size=5, epochs=3, lr=0.01)


def split(seed, n=14, frames=4):
    """Clips whose label is in the colour of the picture, three bits of it, and in the audio vector."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 7
    clips = [(rng.integers(0, 60, (frames, 8, 8, 3)) + 180 * (k >> np.arange(3) & 1)).astype(np.uint8) for k in labels]
    audio = rng.standard_normal((n, 9)) + 8 * np.eye(9)[labels]
    return Split([str(i) for i in range(n)], labels, clips, audio, [f"{seed} {i}" for i in range(n)])


def make(folder, config=TINY, n=21, **options):
    train = split(0, n)
    projection = AudioProjection().fit(train.audio, train.labels) if "audio" in config.modalities else None
    return Trainer(config, train, split(1), folder, projection=projection, log=lambda line: None, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def states(folder):
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in ("last", "best")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make(folder, seed=3).fit()
    return folder


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


class Died(BaseException):
    """Stands for the end of the process at one moment."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_death_at_any_write_and_resume_ends_with_the_same_bytes(tmp_path, monkeypatch, uninterrupted, moment):
    """The process ends just before or just after the k-th rename, for every k; no file is cleaned up behind it."""
    replace = os.replace
    for k in range(100):
        folder, calls = tmp_path / str(k), iter(range(k + 1))

        def dying(source, target, calls=calls, k=k):
            call = next(calls)
            if call < k or moment == "after":
                replace(source, target)
            if call == k:
                raise Died
        monkeypatch.setattr(files.os, "replace", dying)
        try:
            make(folder, seed=3, save_every=2).fit()
        except Died:
            monkeypatch.setattr(files.os, "replace", replace)
            make(folder, seed=3, save_every=2).fit(resume=True)
            assert states(folder) == states(uninterrupted), f"death at write {k}"
            assert [r["epoch"] for r in rows(folder)] == [1, 1, 2, 2, 3, 3]
        else:
            break
    assert k > 8


SCRIPT = """
import sys; from pathlib import Path; from tests.test_training import make
make(Path(sys.argv[1]), seed=3, save_every=1).fit(resume=True)
"""


def test_sigkill_and_resume_ends_with_the_same_bytes(tmp_path, uninterrupted):
    """Real processes, killed at random moments until one reaches the end."""
    rng, killed = random.Random(5), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=Path(__file__).parents[1])
        while process.poll() is None and not (tmp_path / "last.safetensors").exists():
            time.sleep(0.01)
        if killed < 4:
            time.sleep(rng.random() * (0.3 if killed == 0 else 1.5))
            process.send_signal(signal.SIGKILL)
        status = process.wait()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
    assert killed >= 1 and states(tmp_path) == states(uninterrupted)


def test_a_torn_line_of_metrics_is_cut(tmp_path, uninterrupted):
    config = TINY.replace(epochs=3)
    make(tmp_path, config, seed=3).fit()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "spl')
    make(tmp_path, config, seed=3).fit(resume=True)
    assert len(rows(tmp_path)) == 6


@pytest.mark.parametrize("harm", [lambda text: text[:text.index("\n") + 1], lambda text: "x" + text,
                                  lambda text: text.rstrip("\n")[:-9], lambda text: ""])
def test_metrics_that_are_gone_are_missed(tmp_path, harm):
    make(tmp_path, TINY.replace(epochs=2)).fit()
    file = tmp_path / "metrics.jsonl"
    file.write_text(harm(file.read_text()))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl' does not hold the lines of the 2 epochs"):
        make(tmp_path, TINY.replace(epochs=2)).fit(resume=True)


def test_metrics_reach_the_disk_before_the_checkpoint_that_counts_them(tmp_path, monkeypatch):
    synced, fsync, saved = [], os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))

    def saving(path, groups, meta):
        saved.append(meta["progress"]["epoch"])
        if saved[-1]:
            assert len(rows(tmp_path)) == 2 * saved[-1] and (tmp_path / "metrics.jsonl").stat().st_ino in synced
        write_checkpoint(path, groups, meta)
    monkeypatch.setattr(trainer_module, "write_checkpoint", saving)
    make(tmp_path, TINY.replace(epochs=2)).fit()
    assert set(saved) == {0, 1, 2}


def test_seconds_of_an_epoch_include_those_before_an_interruption(tmp_path, monkeypatch):
    clock = [0.0]

    def stop(self, batch, step=Trainer.step):
        clock[0] += 10
        if clock[0] == 40:
            raise Died
        return step(self, batch)
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Trainer, "step", stop)
    with pytest.raises(Died):
        make(tmp_path, TINY.replace(epochs=1), save_every=1).fit()
    clock[0] = 1000
    make(tmp_path, TINY.replace(epochs=1), save_every=1).fit(resume=True)
    assert rows(tmp_path)[0]["seconds"] == 50                                 # 5 batches: 3 before, 2 after


def change_labels(train):
    train.labels = np.roll(train.labels, 1)


def change_audio(train):
    train.audio[0, 0] += 1e-9


def change_frames(train):
    train.keys = None
    train.frames[3][0, 0, 0, 0] ^= 1


@pytest.mark.parametrize("change, message", [
    (lambda train: train.ids.__setitem__(0, "x"), "the train split has other names"),
    (change_labels, "the train split has other labels"), (change_audio, "the train split has other audio vectors"),
    (lambda train: train.keys.__setitem__(0, "x"), "the train split has other clips"),
    (change_frames, "the train split has other clips")])
def test_other_data_are_refused_on_resume(tmp_path, change, message):
    make(tmp_path, TINY.replace(epochs=1)).fit()
    train = split(0, 21)
    projection = AudioProjection().fit(train.audio, train.labels)
    change(train)
    trainer = Trainer(TINY.replace(epochs=1), train, split(1), tmp_path, projection=projection)
    with pytest.raises(CheckpointError, match=f"was trained on other data: {message}: restore the data") as error:
        trainer.fit(resume=True)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="the train split has 28 clips, had 21"):
        make(tmp_path, TINY.replace(epochs=1), n=28).fit(resume=True)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    trainer = make(tmp_path, save_every=1)
    calls, fsync = iter(range(100)), os.fsync

    def full(handle):
        if next(calls) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.safetensors"):
        trainer.fit()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors"]
    make(tmp_path, save_every=1).fit(resume=True)
    make(tmp_path / "whole").fit()
    assert states(tmp_path) == states(tmp_path / "whole")


@given(st.floats(0, 0.999))
def test_a_checkpoint_cut_short_is_named(uninterrupted, part):
    whole = (uninterrupted / "last.safetensors").read_bytes()
    path = uninterrupted / "cut.safetensors"
    path.write_bytes(whole[:int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"checkpoint '.*cut\.safetensors' is damaged") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_foreign_checkpoints_are_refused(tmp_path, uninterrupted):
    from safetensors.numpy import save_file
    save_file({"x": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not of emonet_scratch"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "none.safetensors")
    write_checkpoint(tmp_path / "new.safetensors", {}, {})
    text = (tmp_path / "new.safetensors").read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9')
    (tmp_path / "new.safetensors").write_bytes(text)
    with pytest.raises(CheckpointError, match="format 9, this version reads 1"):
        read_checkpoint(tmp_path / "new.safetensors")
    save_file({"x": np.zeros(2)}, tmp_path / "list.safetensors", {"emonet": "[1]"})
    with pytest.raises(CheckpointError, match="not of emonet_scratch"):
        read_checkpoint(tmp_path / "list.safetensors")
    for other in (dict(seed=4), dict(seed=3, config=TINY.replace(lr=0.02))):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "last.safetensors").write_bytes((uninterrupted / "last.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match="another configuration or seed"):
            make(tmp_path / "run", **other).fit(resume=True)


@pytest.mark.parametrize("gone", ["projection", "model", "facts", "config"])
def test_a_checkpoint_that_lacks_something_is_named(tmp_path, uninterrupted, gone):
    groups, meta = read_checkpoint(uninterrupted / "best.safetensors")
    meta |= {"facts": {"feature_names": ["x"] * 9, "extractor": "files", "classes": list(CLASSES)}}
    write_checkpoint(tmp_path / "x.safetensors", groups, meta)
    assert load_model(tmp_path / "x.safetensors").feature_names == ("x",) * 9
    for damaged in ({}, {gone: []}, {gone: 3}) if gone in meta else ({},):
        write_checkpoint(tmp_path / "x.safetensors", {k: v for k, v in groups.items() if k != gone},
                         {k: v for k, v in meta.items() if k != gone} | damaged)
        with pytest.raises(CheckpointError, match=r"x\.safetensors' does not hold a network of this version") as error:
            load_model(tmp_path / "x.safetensors")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("damaged", [{"progress": {}}, {"progress": [1]}, {"data": None}, {"data": {}}, {"seed": None},
                                     {"config": {"lr": "x"}}])
def test_a_checkpoint_without_a_whole_training_state_is_named(tmp_path, uninterrupted, damaged):
    groups, meta = read_checkpoint(uninterrupted / "last.safetensors")
    write_checkpoint(tmp_path / "last.safetensors", groups, meta | damaged)
    with pytest.raises(CheckpointError, match=r"last\.safetensors'"):
        make(tmp_path, seed=3).fit(resume=True)


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_checkpoints_go_round(tmp_path_factory, arrays, seed):
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("c") / "x.safetensors"
    group = {f"a.{k}": rng.standard_normal((k, 2)).astype(np.float32).T for k in range(arrays)}
    write_checkpoint(path, {"g": group, "h": {"n": np.array(3)}}, {"seed": seed, "x": 0.1 + 0.2})
    groups, meta = read_checkpoint(path)
    assert meta["seed"] == seed and meta["x"] == 0.1 + 0.2 and groups["h"]["n"] == 3
    assert all(np.array_equal(groups["g"][k], a) and groups["g"][k].dtype == a.dtype for k, a in group.items())


class Poisoned(layers.Layer):
    """Passes x through until the n-th backward or forward, then gives NaN."""

    def __init__(self, kind, n):
        self.kind, self.n, self.calls = kind, n, 0

    def _pass(self, x, kind):
        if kind != self.kind or not self.training:
            return x
        self.calls += 1
        return x * np.nan if self.calls >= self.n else x

    def forward(self, x):
        return self._pass(x, "forward"), None

    def backward(self, dy, cache):
        return self._pass(dy, "backward")


@pytest.mark.parametrize("kind, what, evidence", [("forward", "loss", "in the output of audio.poison, "),
                                                  ("backward", "gradient", "in the input gradient of audio.poison, ")])
def test_a_value_that_is_not_finite_is_traced_to_its_layer(tmp_path, kind, what, evidence):
    trainer = make(tmp_path, save_every=1)
    trainer.model.audio.poison = Poisoned(kind, 4)
    with pytest.raises(NonFiniteError) as error:
        trainer.fit()
    assert f"the {what} is not finite in epoch 1, step 4: it appeared first {evidence}" in str(error.value)
    assert "\n" not in str(error.value)
    groups, meta = read_checkpoint(tmp_path / "last.safetensors")
    assert meta["progress"]["batch"] == 3 and all(np.isfinite(a).all() for g in groups.values() for a in g.values())


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path):
    trainer = make(tmp_path)
    trainer.val.audio[3, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"validation loss is not finite .*in the output of audio\.dense1, "):
        trainer.fit()
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors"]


def test_a_parameter_that_is_not_finite_is_named(tmp_path):
    trainer = make(tmp_path)
    trainer.model.lstm.cells[1].W_hh.value[0, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"in the parameter lstm\.cells\.1\.W_hh"):
        trainer.fit()


@pytest.mark.parametrize("decay, remedy", [(0.0, "a smaller lr than 1e"),
                                           (0.1, r"lower lr \(1e\+20\) or weight_decay \(0\.1\)")])
def test_a_learning_rate_that_is_too_high_is_the_suspect(tmp_path, decay, remedy):
    with pytest.raises(NonFiniteError, match=remedy), np.errstate(all="ignore"):
        make(tmp_path, TINY.replace(optimizer="sgd", lr=1e20, weight_decay=decay, clip_norm=None, epochs=30)).fit()


def test_parameters_that_are_not_finite_never_reach_a_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"is not finite after step 1: "):
        make(tmp_path, TINY.replace(lr=1e300, schedule="constant"), save_every=1).fit()
    groups, _ = read_checkpoint(tmp_path / "last.safetensors")
    assert all(np.isfinite(a).all() for a in groups["model"].values())


def test_early_stop(tmp_path):
    make(tmp_path, TINY.replace(epochs=30, patience=2, lr=0.3)).fit()
    losses = [r["loss"] for r in rows(tmp_path) if r["split"] == "val"]
    assert len(losses) < 30 and len(losses) - 1 - int(np.argmin(losses)) == 2


def test_a_frozen_trunk_is_computed_once(tmp_path, monkeypatch):
    config = TINY.replace(freeze_trunk=True, trunk_norm="running", augment=False, frames=None)
    ran, features = [], models.EmoNet.trunk_features
    monkeypatch.setattr(models.EmoNet, "trunk_features", lambda self, frames: (ran.append(0), features(self, frames))[1])
    times = []
    for folder, cache in (("a", "cache"), ("b", "cache"), ("c", None)):      # without a cache: the same numbers
        ran.clear()
        make(tmp_path / folder, config, cache=cache and tmp_path / cache).fit()
        times.append(len(ran))
        assert states(tmp_path / folder) == states(tmp_path / "a")
    assert times[0] == times[2] == times[1] + 21 + 14                         # b ran it to calibrate it only


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
    assert np.allclose(trainer.class_weights, 1)
    assert make(tmp_path, TINY.replace(class_weights=False)).class_weights is None


def test_the_projection_is_fitted_once_and_goes_round():
    train = split(0, 21)
    train.audio[:, 4] = 7.0                                                   # a constant column
    p = AudioProjection(n_components=3).fit(train.audio, train.labels)
    q = AudioProjection.from_state(p.state_dict())
    z = p.transform(train.audio)
    assert np.array_equal(z, q.transform(train.audio)) and z.dtype == np.float32 and z.shape == (21, 3)
    with pytest.raises(DataError, match=r"LDA of the training split's audio vectors.*\(--set lda_shrinkage=0\.1\)$"):
        AudioProjection(shrinkage=None).fit(train.audio[:5], train.labels[:5])


def test_the_whole_configuration_is_in_the_checkpoint(uninterrupted):
    _, meta = read_checkpoint(uninterrupted / "best.safetensors")
    assert models.EmoNetConfig().replace(**meta["config"]) == TINY and meta["seed"] == 3
    assert json.loads(json.dumps(dataclasses.asdict(TINY))) == meta["config"]


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
