"""compact.py: sounds whose pitch, loudness, rhythm and roughness are known must give these numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data.sound import compact
from emonet_scratch.data.sound.compact import FEATURE_NAMES, features

RATE = 16000


def measure(sound, rate=RATE):
    """The vector as a dictionary."""
    return dict(zip(FEATURE_NAMES, features(sound, rate), strict=True))


def tone(f0, seconds=1.0, rate=RATE, harmonics=(1.0,)):
    """A sound of this pitch in Hz, a number or a contour (S,), with these amplitudes of harmonics."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0, round(seconds * rate))) / rate
    return 0.2 * sum(a * np.sin(k * phase) for k, a in enumerate(harmonics, 1))


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def semitones(f0):
    return 12 * np.log2(f0 / 100)


def test_names_are_many_and_different():
    assert 60 <= len(FEATURE_NAMES) <= 120 and len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    vector = features(noise())
    assert vector.shape == (len(FEATURE_NAMES),) and vector.dtype == np.float64


@given(f0=st.floats(75, 480), rate=st.sampled_from([8000, 16000, 22050, 44100]), rich=st.booleans())
def test_pitch_of_a_tone(f0, rate, rich):
    v = measure(tone(f0, 0.4, rate, (1.0, 0.7, 0.5, 0.3) if rich else (1.0,)), rate)
    assert abs(v["pitch_mean"] - semitones(f0)) < 0.1 and v["pitch_std"] < 0.1
    assert v["voicing_mean"] > 0.95 and v["voiced_share"] == 1
    assert v["jitter"] < 0.1 and v["shimmer"] < 1


def test_pitch_where_the_fundamental_is_missing():
    v = measure(tone(120.0, harmonics=(0, 1, 1, 1, 1)))
    assert abs(v["pitch_mean"] - semitones(120)) < 0.1


@given(octaves=st.floats(0.2, 1.2), seconds=st.floats(0.6, 2.0), up=st.booleans())
def test_slope_of_a_gliding_tone(octaves, seconds, up):
    n = round(seconds * RATE)
    contour = 110 * 2 ** (octaves * np.linspace(0, 1, n))
    v = measure(tone(contour if up else contour[::-1], n / RATE, harmonics=(1, 0.5)))
    expected = (12 if up else -12) * octaves / seconds
    assert v["pitch_slope"] == pytest.approx(expected, rel=0.05)
    assert v["pitch_delta"] == pytest.approx(abs(expected), rel=0.1)
    assert v["pitch_p90"] - v["pitch_p10"] == pytest.approx(0.8 * 12 * octaves, rel=0.1)


def test_curve_of_an_arch_and_of_a_valley():
    u = np.linspace(-1, 1, RATE)
    assert measure(tone(200 * 2 ** (-u**2 / 2)))["pitch_curve"] < -1
    assert measure(tone(140 * 2 ** (u**2 / 2)))["pitch_curve"] > 1


@given(decibels=st.floats(-20, 10), seed=st.integers(0, 1000))
def test_gain_changes_energy_by_as_much_and_nothing_else(decibels, seed):
    sound = tone(150.0, 0.5, harmonics=(1, 0.8, 0.6)) + noise(0.5, seed)
    quiet, loud = measure(sound), measure(sound * 10 ** (decibels / 20))
    for name in FEATURE_NAMES:
        change = decibels if name in ("energy_mean", "energy_p10", "energy_p90") else 0
        assert loud[name] - quiet[name] == pytest.approx(change, abs=1e-3), name


def test_energy_is_the_level_in_decibels_below_full_scale():
    square = np.where(np.arange(RATE) % 100 < 50, 1.0, -1.0)
    assert measure(square)["energy_mean"] == pytest.approx(0, abs=0.01)
    assert measure(0.1 * square)["energy_mean"] == pytest.approx(-20, abs=0.01)
    assert measure(0.1 * square + 0.5)["energy_mean"] == pytest.approx(-20, abs=0.01)      # an offset is no sound


def test_energy_slope_is_decibels_a_second():
    fade = 10 ** (np.linspace(0, -20, 2 * RATE) / 20)
    assert measure(noise(2) * fade)["energy_slope"] == pytest.approx(-10, rel=0.05)


def test_noise_is_unvoiced_flat_and_crosses_zero_every_other_sample():
    v = measure(noise(2))
    assert v["voicing_mean"] < 0.5 and v["voiced_share"] < 0.1
    assert -3 < v["flatness_mean"] < 0 and v["zcr_mean"] == pytest.approx(0.5, abs=0.01)
    assert v["centroid_mean"] == pytest.approx(4, abs=0.1)
    assert measure(tone(200.0))["flatness_mean"] < -40
    assert measure(tone(300.0))["centroid_mean"] == pytest.approx(0.3, abs=0.02)
    assert measure(tone(300.0))["zcr_mean"] == pytest.approx(600 / RATE, rel=0.05)


def test_breath_lowers_voicing():
    values = [measure(tone(150.0, harmonics=(1, 1, 1)) + a * noise())["voicing_mean"] for a in (0, 0.3, 1, 3)]
    assert all(np.diff(values) < -0.01)


def test_uneven_periods_and_amplitudes_are_rough():
    rng = np.random.default_rng(0)
    steady = tone(120.0, harmonics=(1, 1, 1, 1))
    uneven = np.repeat(120 * (1 + 0.08 * rng.standard_normal(100)), RATE // 100)
    assert measure(tone(uneven, harmonics=(1, 1, 1, 1)))["jitter"] > 10 * measure(steady)["jitter"] + 0.1
    flutter = np.repeat(1 + 0.4 * rng.standard_normal(50), RATE // 50)
    assert measure(steady * flutter)["shimmer"] > 2 * measure(steady)["shimmer"]


@pytest.mark.parametrize("rate", [2.0, 3.25, 4.75, 6.25, 8.0])
def test_rhythm_of_syllables(rate):
    t = np.arange(2 * RATE) / RATE
    v = measure(tone(150.0, 2, harmonics=(1, 1)) * (0.55 - 0.45 * np.cos(2 * np.pi * rate * t)))
    assert v["syllable_rate"] == pytest.approx(rate, abs=1)     # peaks at the edges are none
    shares = {name: v[name] for name in FEATURE_NAMES if name.startswith("modulation_") and name[11].isdigit()}
    low, high = map(float, max(shares, key=shares.get).split("_")[1:])
    assert low <= rate < high and sum(shares.values()) == pytest.approx(1)


def test_pauses_count_as_pauses_only():
    word = tone(150.0, 0.5, harmonics=(1, 1)) + 0.01 * noise(0.5)
    pause = np.zeros(RATE // 2)
    alone, late = measure(word), measure(np.concatenate([pause, word, pause]))
    for name in ("pitch_mean", "energy_p90", "centroid_p10"):
        assert late[name] == pytest.approx(alone[name], abs=0.15), name
    assert alone["active_share"] == 1 and late["active_share"] == pytest.approx(1 / 3, abs=0.05)
    twice = measure(np.concatenate([word, 1e-4 * noise(0.5), word]))
    assert twice["pitch_delta"] < 3                   # a change is counted inside a word, not across its end
    assert (alone["voiced_runs"] * 0.47, twice["voiced_runs"] * 1.47) == (pytest.approx(1), pytest.approx(2))


def test_reversed_sound_has_the_same_pitch_and_the_opposite_slope():
    sound = tone(np.linspace(120, 240, RATE), harmonics=(1, 0.5)) + 0.1 * noise()
    v, w = measure(sound), measure(sound[::-1])
    assert w["pitch_mean"] == pytest.approx(v["pitch_mean"], abs=0.05)
    assert w["pitch_slope"] == pytest.approx(-v["pitch_slope"], rel=0.02)
    assert w["mfcc3_mean"] == pytest.approx(v["mfcc3_mean"], abs=0.05)


@pytest.mark.parametrize("n", [0, 1, 100, 800, 5000])
@pytest.mark.parametrize("value", [0, 0.7, 1])
def test_silence_has_the_documented_values(n, value):
    expected = [-100.0 if name in ("energy_mean", "energy_p10", "energy_p90") else 0.0 for name in FEATURE_NAMES]
    if n == 0 or n >= 640 or value == 0:              # the padding of a short constant would be a step, not silence
        np.testing.assert_allclose(features(np.full(n, value)), expected, atol=1e-9)


@given(n=st.integers(0, 3000), kind=st.sampled_from(["noise", "clipped", "impulse", "whisper", "step", "huge", "tone"]),
       seed=st.integers(0, 2**32 - 1), rate=st.sampled_from([2000, 8000, 16000, 48000]))
def test_every_sound_gives_finite_numbers(n, kind, seed, rate):
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal(n)
    if kind == "clipped":
        sound = np.clip(20 * sound, -1, 1)
    elif kind == "impulse":
        sound = np.where(np.arange(n) == n // 2, 1.0, 0.0)
    elif kind == "whisper":
        sound = 1e-6 * sound
    elif kind == "step":
        sound = np.where(np.arange(n) < n // 2, 0.9, -0.9)
    elif kind == "huge":
        sound = 1e9 * sound
    elif kind == "tone":
        sound = np.sin(rng.uniform(0, 3) * np.arange(n))
    before = sound.copy()
    assert np.isfinite(features(sound, rate)).all()
    np.testing.assert_array_equal(sound, before)


def test_integers_count_by_the_full_scale_of_their_type():
    sound = np.clip(tone(150.0) + noise(), -0.99, 0.99)
    expected = features(np.rint(sound * 32768) / 32768)
    for samples in (np.rint(sound * 2**15).astype(np.int16), (np.rint(sound * 2**15) * 2**16).astype(np.int32),
                    (np.rint(sound * 2**15) / 2**15).astype(np.float32)):
        np.testing.assert_allclose(features(samples), expected, rtol=1e-6, atol=1e-6)
    bytes_ = measure(np.rint(sound * 128 + 128).astype(np.uint8))
    assert bytes_["energy_mean"] == pytest.approx(measure(sound)["energy_mean"], abs=0.05)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floats_of_every_width_are_the_same_sound(dtype):
    """What is computed from samples, and how exactly, does not follow from the type that they come in."""
    x = (tone(150.0) + noise()).astype(dtype)
    one, two = features(x), features(x.astype(np.float64))
    assert one.dtype == two.dtype == np.float64
    np.testing.assert_array_equal(one, two)


def test_a_long_sound_is_described_in_blocks_without_seams(monkeypatch):
    sound = tone(np.linspace(100, 300, 2 * RATE), 2) + noise(2)
    whole = features(sound)
    monkeypatch.setattr(compact, "BLOCK", 7)
    np.testing.assert_allclose(features(sound), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sound", "rate", "message"), [
    (np.zeros((100, 2)), RATE, r"shape \(100, 2\).*average the channels"),
    (np.array([0.0, np.nan]), RATE, "NaN or infinite"),
    (np.array([0.0, np.inf]), RATE, "NaN or infinite"),
    (np.zeros(100), 1000, "rate is 1000"),
])
def test_what_is_no_sound_is_refused(sound, rate, message):
    with pytest.raises(ValueError, match=message):
        features(sound, rate)
