"""Sounds as others would have taken them: what is drawn stays within what is said, and what is said is heard."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.sound import vary as module
from emonet_scratch.data.sound.vary import vary
from tests.strategies import seeds

RATE = 16000


def tone(hertz=440.0, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@given(st.integers(1, 3000), st.sampled_from([0.0, 1e-6, 1.0]), seeds)
def test_any_sound_stays_finite_and_within_full_scale(n, size, seed):
    x = size * np.random.default_rng(seed).uniform(-1, 1, n)
    before = x.copy()
    y = vary(x, np.random.default_rng(seed))
    assert np.isfinite(y).all() and np.abs(y).max() <= 1 + 1e-9 and np.array_equal(x, before)
    assert len(y) >= 16 and (n < 20 or abs(np.log(len(y) / n)) < 0.2)


def test_the_seed_decides():
    a, b, c = (vary(tone(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and (len(a) != len(c) or not np.array_equal(a, c))


def test_silence_stays_silent():
    assert not vary(np.zeros(4000), np.random.default_rng(0)).any()


def test_speed_moves_pitch_by_up_to_fifteen_hundredths():
    found = []
    for seed in range(60):
        y = vary(tone(seconds=1.0), np.random.default_rng(seed))
        power = np.abs(np.fft.rfft(y * np.hanning(len(y)))) ** 2
        band = slice(round(300 * len(y) / RATE), round(600 * len(y) / RATE))
        found.append(np.log((band.start + power[band].argmax()) * RATE / len(y) / 440))
    assert -0.152 < min(found) < -0.12 and 0.12 < max(found) < 0.152


def test_a_room_rings_for_as_long_as_it_says():
    """The energy that is still to come falls by 60 dB in the time that was drawn, .1 to .7 s."""
    lengths = []
    for seed in range(40):
        h = module._room(np.random.default_rng(seed), RATE)
        lengths.append(len(h) / RATE)
        tail = h[len(h) // 8:] ** 2
        first, last = tail[:len(tail) // 10].mean(), tail[-len(tail) // 10:].mean()
        assert h[0] == 1 and 40 < 10 * np.log10(first / last) < 60
    assert 0.1 <= min(lengths) < 0.15 and 0.65 < max(lengths) <= 0.7


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_as_far_below_as_is_said(seed):
    x = np.random.default_rng(99).standard_normal(8000)
    noise = module._noise(x, np.random.default_rng(seed))
    assert 5 - 1e-6 <= 10 * np.log10((x**2).mean() / (noise**2).mean()) <= 45 + 1e-6


def test_a_microphone_changes_gains_within_its_bounds_and_cuts_the_ends():
    x = np.random.default_rng(0).standard_normal(RATE)
    for seed in range(20):
        gain = 20 * np.log10(np.abs(np.fft.rfft(module._microphone(x, np.random.default_rng(seed), RATE)) / np.fft.rfft(x)))
        assert np.abs(gain[310:3390]).max() <= 8 + 1e-6 and gain[20] <= 8 - 24 + 1e-6


def test_a_telephone_has_eight_bits():
    coded = module._telephone(np.linspace(-1, 1, 100_001))
    assert len(np.unique(coded)) == 255 and np.abs(coded - np.linspace(-1, 1, 100_001)).max() < 0.03
