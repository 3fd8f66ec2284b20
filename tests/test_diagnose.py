"""Every cause that the verdict can name is planted and found; a training that is well is called well."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from emonet_scratch import layers
from emonet_scratch.cli import main
from emonet_scratch.studies import diagnose
from emonet_scratch.training.projection import AudioProjection
from tests.test_cli import data  # noqa: F401
from tests.tiny import TINY, split

WELL = TINY.replace(lr=0.01, trunk_width=4, lstm_size=8, audio_layers=[16, 16, 16], fusion_layers=[16, 16], batch_size=7,
                    dropout=0.0)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(diagnose, "MOST_STEPS", 50)


def causes(config=WELL, change=lambda train: None, n_components=None, shrinkage=0.1, n=35, change_val=lambda val: None):
    train, val = split(0, n), split(1)
    change(train)
    change_val(val)
    projection = None
    if "audio" in config.modalities:
        projection = AudioProjection(n_components, shrinkage, folds=config.lda_cross_fit).fit(train.audio, train.labels)
    found = diagnose.measure(config, train, val, projection, seconds=5.0, log=lambda line: None)
    json.dumps(found)
    text = diagnose.report(found, diagnose.verdict(config, found))
    return [c.name for c in diagnose.verdict(config, found)], text


@pytest.mark.parametrize("modalities", [["audio"], ["video"], ["audio", "video"]])
def test_nothing_is_wrong_with_what_is_well(modalities):
    names, text = causes(WELL.replace(modalities=modalities))
    assert names == [] and text.endswith("nothing wrong found")


def test_a_rate_thousands_of_times_too_small():
    names, text = causes(WELL.replace(lr=1e-7, optimizer="sgd"))
    assert names[0] == "lr too small"
    assert 1e-4 < float(re.search(r"suggests lr=([0-9.e-]+)", text).group(1)) < 3
    assert "lr too small" in causes(WELL.replace(lr=1e-8))[0]


def test_a_rate_too_large():
    assert causes(WELL.replace(lr=300.0, optimizer="sgd", clip_norm=None))[0][0] == "lr too large"


def test_relu_on_the_logits():
    assert "ReLU on the logits" in causes(WELL.replace(relu_on_logits=True))[0]


def test_weights_that_are_too_large(monkeypatch):
    init = layers.Dense.__init__
    monkeypatch.setattr(layers.Dense, "__init__",
                        lambda self, *args: (init(self, *args), self.W.value.__imul__(np.float32(20)))[0])
    assert {"large initial loss", "exploding gradients"} <= set(causes(WELL.replace(clip_norm=None))[0])
    assert "exploding gradients" not in causes(WELL.replace(clip_norm=1.0))[0]


def test_dead_relus(monkeypatch):
    init = layers.Dense.__init__

    def shifted(self, D, M, *args):
        init(self, D, M, *args)
        if M == 16:
            self.b.value[...] = -100
    monkeypatch.setattr(layers.Dense, "__init__", shifted)
    names, text = causes(WELL.replace(modalities=["audio"]))
    assert {"dead ReLUs", "cannot learn one batch"} <= set(names) or {"dead ReLUs", "lr too small"} <= set(names)
    assert "audio.relu1" in text


def test_features_that_are_constant():
    def flat(train):
        train.audio[:, 3:] = 5.0
    assert "constant audio features" in causes(change=flat)[0]


def test_frames_without_a_picture():
    def blank(train):
        train.frames = [np.full_like(clip, 90) for clip in train.frames]
    names, _ = causes(WELL.replace(modalities=["video"]), blank)
    assert {"blank frames", "cannot learn one batch"} <= set(names)


def test_labels_that_nothing_tells():
    """The same clip with every label."""
    def same(train):
        train.audio[:] = train.audio[:1] + 1e-3 * np.arange(9)
        train.audio[0] += 1
    assert "cannot learn one batch" in causes(WELL.replace(modalities=["audio"]), same)[0]


def test_more_components_of_lda_than_there_are():
    with pytest.warns(UserWarning, match="only 6 non-zero"):
        assert "LDA asked for too much" in causes(n_components=9)[0]


def test_lda_that_learns_by_heart():
    (train, val), rng = (split(0, 35), split(1)), np.random.default_rng(0)
    for part in (train, val):
        part.audio = rng.standard_normal((len(part), 200))
    projection = AudioProjection(shrinkage=0.01).fit(train.audio, train.labels)
    config = WELL.replace(modalities=["audio"])
    found = diagnose.measure(config, train, val, projection, seconds=3.0, log=lambda line: None)
    assert "LDA learns by heart" in [c.name for c in diagnose.verdict(config, found)]


def test_forget_gates_that_start_half_shut():
    assert "forget gates half shut" in causes(WELL.replace(forget_bias=0.0, frames=20))[0]
    assert "forget gates half shut" not in causes(WELL.replace(forget_bias=0.0, frames=4))[0]


def test_classes_out_of_balance():
    def rare(train):
        train.labels[10:] = 3
    names, _ = causes(WELL.replace(class_weights=False), rare, n=42)
    assert "classes out of balance" in names
    assert "classes out of balance" not in causes(WELL.replace(class_weights=True), rare, n=42)[0]


def test_a_validation_split_of_one_class():
    def one(val):
        val.labels[:] = [-1] + [3] * (len(val) - 1)
    names, text = causes(change_val=one)
    assert "validation split of one class" in names and "are of Happy alone" in text
    assert "of no class alone" in causes(change_val=lambda val: val.labels.fill(-1))[1]


def in_force(config, text):
    """The settings that a text advises and that the configuration has."""
    return [(name, value) for name, value in re.findall(r"--set (\w+)=([\w.]+)", text)
            if str(getattr(config, name)).lower() in (value, {"null": "none"}.get(value))]


@pytest.mark.parametrize(("settings", "advice"), [
    ({}, "--set lda_shrinkage=cv --set lda_cross_fit=5, or more clips"),
    ({"lda_shrinkage": "cv", "lda_cross_fit": 0}, "clean; --set lda_cross_fit=5"),
    ({"lda_shrinkage": 0.3, "lda_cross_fit": 10}, "clean; --set lda_shrinkage=cv, or"),
    ({"lda_shrinkage": "cv", "lda_cross_fit": 5}, "set already: more clips help, first of Sad (2)")])
def test_nothing_is_advised_that_is_in_force(settings, advice):
    """Every cause at once, in its words, under settings that leave less and less to advise."""
    config = WELL.replace(lda_components=9, **({"lda_shrinkage": 0.01, "lda_cross_fit": 0} | settings))
    run = {"start": 2.0, "end": 1.9, "steps": 10}
    found = {"classes": {"Angry": 9, "Sad": 2}, "validation classes": [], "clips in a batch": 8, "lr": 0.01, "inputs": {},
             "LDA": {"components": 9, "rank": 1, "train score": 1.0, "val score": 0.2}, "initial loss": 9.0, "chance": 1.9,
             "layers": [], "gradient norm": 1e3, "suggested lr": 0.01, "one batch": run, "one batch, suggested lr": run}
    for change in ({}, {"lda_components": None}):
        text = " ".join(cause.words for cause in diagnose.verdict(config.replace(**change), found))
        assert advice in text and in_force(config.replace(**change), text) == []
        assert ("--set lda_components=null" in text) == (not change) and "suggests lr=0.01" not in text
        assert "the range test found no better rate" in text
    found["layers"] = [{"layer": "x", "update / value": 0.1}]
    assert "lr=0.01 does not learn 8 clips" in " ".join(cause.words for cause in diagnose.verdict(config, found))


def test_suggestions_by_hand():
    rates = np.geomspace(1e-8, 1, 41)
    bowl = [[float(r), float(2 + abs(np.log10(r) + 2))] for r in rates]
    assert 2e-3 < diagnose.suggest(bowl) < 6e-3
    assert diagnose.suggest([[float(r), 1.9459] for r in rates]) == diagnose.suggest(bowl[:2]) == 1e-3


def test_every_cause_has_a_test():
    named = {cause.name for cause in diagnose.CAUSES}
    tests = Path(__file__).read_text(encoding="utf-8").split("def test_every_cause")[0]
    assert len(named) >= 11 and all(f'"{name}"' in tests for name in named)


def test_the_command(data, tmp_path, capsys):  # noqa: F811
    call = ["diagnose", "--data", str(data), "--preset", "small", "--modalities", "audio", "--seconds", "1"]
    call += ["--device", "cpu", "--runs", str(tmp_path), "--set", "lr=1e-9"]
    assert main(call) == 0
    out = capsys.readouterr().out
    assert "1. lr too small" in out and "ln 7 = 1.946" in out
    folder = tmp_path / "diagnosis"
    assert (folder / "diagnosis.png").read_bytes().startswith(b"\x89PNG") and (folder / "diagnosis.txt").exists()
    assert json.loads((folder / "diagnosis.json").read_text())["causes"][0]["name"] == "lr too small"
