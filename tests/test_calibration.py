"""Probabilities that can be believed: what is planted is found and mended, and no answer changes."""

import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from emonet_scratch.training import calibration as module
from emonet_scratch.training import inference, report
from emonet_scratch.training.calibration import BINS, COLDEST, HOTTEST, calibration, fit_temperature, temper
from emonet_scratch.training.checkpoint import read_checkpoint
from tests.strategies import seeds
from tests.tiny import TINY, make, split


def answers(seed, N, C, spread=2.0):
    """Logits, and labels that are as probable as these say."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.standard_normal((N, C))
    return logits, (softmax(logits, axis=1).cumsum(axis=1) > rng.random((N, 1))).argmax(axis=1)


@given(st.integers(1, 20), st.integers(2, 9), st.floats(0.2, 20), st.sampled_from([np.float32, np.float64]), seeds)
@example(1, 2, 1.0, np.float32, 0)
def test_a_temperature_divides_logits_and_changes_no_answer(N, C, T, dtype, seed):
    logits = 4 * np.random.default_rng(seed).standard_normal((N, C))
    p = softmax(logits, axis=1).astype(dtype)
    tempered = temper(p, T)
    assert tempered.dtype == np.float64 and np.allclose(tempered, softmax(logits / T, axis=1), atol=1e-5)
    assert np.array_equal(tempered.argmax(axis=1), p.argmax(axis=1)) and np.allclose(tempered.sum(axis=1), 1, atol=1e-6)


def test_zeros_stay_finite():
    assert np.isfinite(temper(np.array([[1.0, 0.0]], np.float32), 20.0)).all()


@pytest.mark.parametrize("planted", [0.4, 1.0, 2.0, 5.0])
def test_planted_overconfidence_is_found_and_mended(planted):
    """Logits that are `planted` times too large; the temperature of one half mends the other."""
    logits, labels = answers(0, 8000, 7)
    p = softmax(planted * logits, axis=1)
    T = fit_temperature(p[:4000], labels[:4000])
    assert T == pytest.approx(planted, rel=0.06)
    before, after = (calibration(q, labels[4000:]) for q in (p[4000:], temper(p[4000:], T)))
    assert after["ece"] < 0.02
    if planted != 1:
        assert before["ece"] > 4 * after["ece"] and before["brier"] > after["brier"] + 0.005


@pytest.mark.parametrize("N", [1, 5, 40])
def test_few_clips_that_are_all_right_make_nobody_sure_of_everything(N):
    """By maximum likelihood alone the temperature would be as low as may be, and every answer certain."""
    p = np.tile(np.array([[0.5, 0.25, 0.25]]), (N, 1))
    T = fit_temperature(p, np.zeros(N, int))
    assert 0.5 <= temper(p, T).max() < (N + 1) / (N + 2) + 0.01 and (T < 1) == (N > 1)


@given(st.integers(2, 30), st.integers(2, 5), seeds)
def test_clips_without_a_label_say_nothing(N, C, seed):
    logits, labels = answers(seed, N, C)
    p = softmax(logits, axis=1)
    more = np.concatenate([p, np.roll(p, 1)]), np.concatenate([labels, np.full(N, -1)])
    assert fit_temperature(*more) == fit_temperature(p, labels) and calibration(*more) == calibration(p, labels)
    assert COLDEST <= fit_temperature(p, labels) <= HOTTEST


@given(st.integers(1, 60), st.integers(2, 5), seeds)
def test_the_figures_are_their_definitions(N, C, seed):
    logits, labels = answers(seed, N, C)
    p, found = softmax(logits, axis=1), None
    found = calibration(p, labels)
    brier = sum((p[i, c] - (labels[i] == c)) ** 2 for i in range(N) for c in range(C)) / N
    assert found["brier"] == pytest.approx(brier)
    if C == 2:
        assert found["brier"] == pytest.approx(2 * brier_score_loss(labels, p[:, 1], labels=[0, 1]))
    error, bins = 0.0, []
    for b in range(BINS):
        inside = [i for i in range(N) if b / BINS <= p[i].max() < (b + 1) / BINS or (b == BINS - 1 and p[i].max() == 1)]
        right = [p[i].argmax() == labels[i] for i in inside]
        bins.append(len(inside))
        error += abs(sum(right) - sum(p[i].max() for i in inside)) / N
    assert found["ece"] == pytest.approx(error) and [n for n, _, _ in found["bins"]] == bins


def test_what_is_always_sure_and_half_right():
    found = calibration(np.tile([[1.0, 0.0]], (10, 1)), np.arange(10) % 2)
    assert (found["ece"], found["brier"], found["bins"][-1]) == (0.5, 1.0, [10, 1.0, 0.5])


@pytest.mark.parametrize("meta", [{"temperature": value} for value in (0.0, -1.0, math.nan, math.inf, 1, "1", None, 1e9)])
def test_a_checkpoint_without_a_sensible_temperature_is_refused(meta):
    with pytest.raises(ValueError, match="temperature"):
        module.restored_temperature(meta)


def test_a_checkpoint_of_old_has_none():
    assert module.restored_temperature({}) == 1.0


def test_a_training_keeps_its_temperature_and_predictions_are_tempered_by_it(tmp_path):
    """It is that of the validation split at the epoch that is kept; of what else is asked nothing goes into it."""
    trainer = make(tmp_path, TINY.replace(epochs=4))
    trainer.fit()
    meta = read_checkpoint(tmp_path / "best.safetensors")[1]
    trainer.facts |= {"feature_names": [f"f{k}" for k in range(9)], "extractor": "files"}
    trainer._save("best")
    model = inference.load_model(tmp_path / "best.safetensors")
    val, other = split(1), split(2)
    for clips in (val, other):
        _, raw = inference.evaluate(model.net, inference.project(clips, model.projection))
        loss, said = model.probabilities(clips)
        assert np.array_equal(said, temper(raw, model.temperature)) and np.array_equal(said.argmax(1), raw.argmax(1))
        assert loss == pytest.approx(-np.log(said[np.arange(len(clips)), clips.labels]).mean(), rel=1e-5)
    trainer._load()
    assert trainer.temperature == model.temperature == read_checkpoint(tmp_path / "best.safetensors")[1]["temperature"]
    assert meta["temperature"] != 1.0


def test_a_diagram_has_a_dot_for_every_bin_that_has_clips(tmp_path):
    logits, labels = answers(3, 200, 4)
    p = softmax(logits, axis=1)
    results = {"audio": {"temperature": 1.5, "calibration": calibration(p, labels)}}
    from matplotlib.figure import Figure
    dots = report.reliability_figure(Figure, results).axes[0].collections[0].get_offsets()
    assert len(dots) == sum(n > 0 for n, _, _ in results["audio"]["calibration"]["bins"])
    json.dumps(results)


def test_neighbours_in_float32_keep_their_order():
    p = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1))]], np.float32)
    assert all(temper(p, T).argmax() == 1 for T in (1.5, 3.0, 20.0))
