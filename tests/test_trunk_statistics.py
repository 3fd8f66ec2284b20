"""What a frozen trunk sees over time, through LDA, beside the voice: the statistics, the training, the checkpoint."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.models import EmoNet, EmoNetConfig
from emonet_scratch.training import load_model
from emonet_scratch.training.trunk import look, quarters, statistics
from tests.strategies import seeds
from tests.tiny import TINY, make, split

CONFIG = TINY.replace(trunk_pooling="average", freeze_trunk=True, trunk_statistics=True, trunk_norm="running",
                      audio_shortcut=True)


@given(st.integers(0, 6), st.integers(1, 7), seeds)
def test_mean_and_range_over_time(T, D, seed):
    clip = np.random.default_rng(seed).standard_normal((T, D))
    want = np.full(2 * D, np.nan)
    if T:
        want = np.concatenate([clip.mean(axis=0), np.quantile(clip, 0.9, axis=0) - np.quantile(clip, 0.1, axis=0)])
    assert np.allclose(statistics(clip), want, equal_nan=True)


@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), seeds)
def test_quarters_are_in_their_order_and_share_an_odd_middle(T, H, W, C, seed):
    maps = np.random.default_rng(seed).standard_normal((T, H, W, C))
    q = quarters(maps).reshape(T, 2, 2, C)
    top, left = int(np.ceil(H / 2)), int(np.ceil(W / 2))
    assert np.allclose(q[:, 0, 0], maps[:, :top, :left].mean((1, 2)))
    assert np.allclose(q[:, 1, 1], maps[:, H - top:, W - left:].mean((1, 2)))
    assert np.allclose(quarters(maps[:, ::-1]).reshape(T, 2, 2, C), q[:, ::-1])
    assert np.allclose(quarters(maps[:, :, ::-1]).reshape(T, 2, 2, C), q[:, :, ::-1])
    if H % 2 == W % 2 == 0:
        assert np.allclose(q.mean(axis=(1, 2)), maps.mean(axis=(1, 2)))


def without_frames(part, which):
    return dataclasses.replace(part, frames=[f[:0] if i in which else f for i, f in enumerate(part.frames)])


@pytest.mark.parametrize("modalities", [("audio", "video"), ("video",)])
def test_a_network_reads_looks_and_comes_back_from_its_checkpoint(tmp_path, modalities):
    facts = {"feature_names": [f"f{k}" for k in range(9)] if "audio" in modalities else [], "extractor": "files"}
    trainer = make(tmp_path, CONFIG.replace(modalities=modalities, epochs=4), n=42, facts=facts)
    inputs = sum(len(part.scale) for part in (trainer.projection, trainer.looks) if part)
    assert trainer.model.audio_features == inputs == trainer.train.audio.shape[1]
    trainer.fit()
    raw = split(1)
    if modalities == ("video",):
        raw.audio = None
    _, p = load_model(tmp_path / "last.safetensors").probabilities(raw)
    _, want = trainer.evaluate(trainer.val)
    assert p.argmax(axis=1).tolist() == want.argmax(axis=1).tolist() and (p.argmax(axis=1) == raw.labels).mean() > 0.7


def test_the_rules_of_voice_and_face_add_up_with_the_prior_once(tmp_path):
    trainer = make(tmp_path, CONFIG, n=42)
    trainer.start()
    z = trainer.train.audio
    first = len(trainer.projection.scale)
    parts = [part.rule(z[:, a:b], trainer.train.labels) for part, a, b in
             ((trainer.projection, 0, first), (trainer.looks, first, None))]
    want = sum(z[:, a:b] @ W + c for (W, c), a, b in zip(parts, (0, first), (first, None), strict=True))
    want -= np.log(trainer.looks.lda.priors_)
    logits, _ = trainer.model.shortcut.forward(z)
    assert np.allclose(logits, want, atol=1e-4)


def test_clips_without_a_face_are_in_the_middle_and_in_no_fit(tmp_path):
    train, val = without_frames(split(0, 42), {0, 5}), split(1)
    seen, _, projection = look(CONFIG.replace(modalities=("video",)), train, val, 0, "cpu", None)
    assert np.isnan(seen.looks[[0, 5]]).all() and not projection.transform(seen.looks)[[0, 5]].any()
    kept = [i for i in range(42) if i not in (0, 5)]
    _, _, alone = look(CONFIG.replace(modalities=("video",)), train.take(kept), val, 0, "cpu", None)
    assert np.allclose(projection.mean, alone.mean) and np.allclose(projection.lda.scalings_, alone.lda.scalings_)


def test_nobody_has_a_face():
    _, _, projection = look(CONFIG, without_frames(split(0), set(range(14))), split(1), 0, "cpu", None)
    assert projection is None


def test_a_trunk_that_learns_has_no_statistics_that_stay():
    with pytest.raises(ValueError, match="freeze_trunk"):
        EmoNetConfig().replace(trunk_statistics=True)


def test_a_network_for_sounds_does_not_look():
    assert EmoNet(CONFIG.replace(modalities=("audio",)), 6).audio_features == 6
    assert EmoNet(CONFIG.replace(modalities=("video",), trunk_statistics=False), 6).audio_features == 0
