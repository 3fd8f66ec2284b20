"""is10.py, pitch.py, functionals.py: sounds whose descriptors are known, definitions by other means, and openSMILE."""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from emonet_scratch.data.sound import is10, pitch
from emonet_scratch.data.sound.functionals import NAMES, VOICED_NAMES, functionals, voiced_functionals
from emonet_scratch.data.sound.is10 import FEATURE_NAMES, delta, descriptors, features

COLUMN = {name: i for i, name in enumerate((*is10.DESCRIPTORS, *is10.VOICED_DESCRIPTORS))}


def noise(seconds, seed=0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(int(16000 * seconds))


def vowel(f0=140.0, seconds=1.0, level=0.3):
    """Pulses through two resonances."""
    n = int(16000 * seconds)
    x = np.diff(np.floor(np.arange(n + 1) * f0 / 16000))
    for hz, width in ((700, 90), (1200, 120)):
        r = np.exp(-np.pi * width / 16000)
        x = lfilter([1], [1, -2 * r * np.cos(2 * np.pi * hz / 16000), r * r], x)
    return level * x / np.abs(x).max()


def named(sound, **options):
    return dict(zip(FEATURE_NAMES, features(sound, **options), strict=True))


def test_names_and_their_order():
    assert len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == 1582
    assert FEATURE_NAMES[0] == "pcm_loudness_sma_maxPos" and FEATURE_NAMES[21] == "mfcc_sma[0]_maxPos"
    assert FEATURE_NAMES[34 * 21] == "pcm_loudness_sma_de_maxPos"
    assert FEATURE_NAMES[68 * 21] == "F0final_sma_maxPos" and FEATURE_NAMES[68 * 21 + 76] == "F0final_sma_de_maxPos"
    assert FEATURE_NAMES[35] == "mfcc_sma[0]_iqr2-3"
    assert FEATURE_NAMES[-2:] == ("F0final__Turn_numOnsets", "F0final__Turn_duration")


@given(n=st.integers(2, 300), columns=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_functionals_are_what_numpy_and_scipy_call_so(n, columns, seed):
    x = np.random.default_rng(seed).gamma(2.0, 3.0, (n, columns)) - 4
    f = functionals(x)
    assert f.shape == (columns, 21) and len(NAMES) == 21
    for row, v in zip(f, x.T, strict=True):
        got = dict(zip(NAMES, row, strict=True))
        line = scipy.stats.linregress(np.arange(n), v)
        error = v - line.intercept - line.slope * np.arange(n)
        q1, q2, q3, p1, p99 = np.percentile(v, [25, 50, 75, 1, 99])
        expected = {"maxPos": v.argmax(), "minPos": v.argmin(), "amean": v.mean(), "linregc1": line.slope,
                    "linregc2": line.intercept, "linregerrA": np.abs(error).mean(), "linregerrQ": (error**2).mean(),
                    "stddev": v.std(), "skewness": scipy.stats.skew(v), "kurtosis": scipy.stats.kurtosis(v, fisher=False),
                    "quartile1": q1, "quartile2": q2, "quartile3": q3, "iqr1-2": q2 - q1, "iqr2-3": q3 - q2,
                    "iqr1-3": q3 - q1, "percentile1.0": p1, "percentile99.0": p99, "pctlrange0-1": p99 - p1,
                    "upleveltime75": np.mean((v - v.min()) / np.ptp(v) > 0.75),
                    "upleveltime90": np.mean((v - v.min()) / np.ptp(v) > 0.9)}
        assert got == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_voiced_functionals_see_only_what_is_not_zero(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n) * (rng.uniform(size=n) < 0.5)
    got = voiced_functionals(x[:, None])[0]
    if x.any():
        full = dict(zip(NAMES, functionals(x[x != 0][:, None])[0], strict=True))
        assert got.tolist() == [full[name] for name in VOICED_NAMES]
    else:
        assert not got.any()
    assert np.isfinite(functionals(x[:, None])).all()


def test_functionals_of_a_constant_and_of_one_frame():
    for n in (1, 5, 1000):
        got = dict(zip(NAMES, functionals(np.full((n, 1), 0.1))[0], strict=True))
        assert got["skewness"] == got["kurtosis"] == 0 and got["amean"] == pytest.approx(0.1)
        assert got["upleveltime75"] == 0 and abs(got["linregc1"]) < 1e-12


@pytest.mark.parametrize("hz", [150, 220, 333, 480, 600])
def test_a_tone_has_its_pitch(hz):
    f0, voicing = pitch.candidates(0.3 * np.sin(2 * np.pi * hz * np.arange(8000) / 16000))
    assert f0 == pytest.approx(np.full(len(f0), hz), rel=2e-3) and (voicing > 0.75).all()


@pytest.mark.parametrize("hz", [110, 160, 240, 400])
def test_a_vowel_has_the_pitch_of_its_pulses_and_noise_has_none(hz):
    f0 = descriptors(vowel(hz))[0][:, COLUMN["F0final_sma"]]
    assert np.median(f0) == pytest.approx(hz, rel=0.02)
    assert descriptors(noise(1.0))[0][:, COLUMN["F0final_sma"]].max() == 0


def test_a_peak_below_the_range_or_for_one_frame_only_is_no_pitch():
    f0, envelope = pitch.contour(np.array([100, 0, 200, 0, 100, 200.0, 0]), np.array([0.9, 0, 0.9, 0, 0.9, 0.9, 0]))
    assert f0.tolist() == [0, 0, 0, 0, 100, 200, 0]
    assert envelope.tolist() == [0, 0, 0, 0, 100, 125, 125]


@pytest.mark.parametrize("tones, expected", [
    ([200, 400, 201], [200, 201, 201]), ([400, 200, 399], [400, 399, 399]), ([350, 233, 350], [350, 350, 350]),
    ([200, 400, 402], [200, 400, 402]), ([200, 400, 370], [200, 400, 370]), ([200, 230, 200], [200, 230, 200]),
    ([270, 536, 269, 545], [270, 269, 545, 545])])                            # each by its neighbours as they were
def test_a_pitch_that_jumps_for_a_single_frame_is_that_of_the_next(tones, expected):
    f0, _ = pitch.contour(np.array([0, tones[0], *tones, tones[-1], 0.0]), np.full(len(tones) + 4, 0.9))
    assert f0.tolist() == [0, tones[0], *expected, tones[-1], 0]
    f0, _ = pitch.contour(np.array([0, 200, 200, 400, 0.0, 0]), np.full(6, 0.9))
    assert f0.tolist() == [0, 200, 200, 400, 0, 0]                            # nothing to jump back to


@given(seed=st.integers(0, 2**32 - 1))
def test_lsp_are_the_angles_of_the_roots(seed):
    """Reflection coefficients below 1 make a stable filter; P and Q by their definition, roots by NumPy."""
    a = np.ones(1)
    for k in np.random.default_rng(seed).uniform(-0.95, 0.95, 8):
        a = np.append(a, 0) + k * np.append(a, 0)[::-1]
    p, q = (np.append(a, 0) + s * np.append(a, 0)[::-1] for s in (1, -1))
    angles = np.sort(np.angle(np.concatenate([np.roots(p), np.roots(q)])))
    expected = angles[(angles > 1e-6) & (angles < np.pi - 1e-6)]
    assert is10.lsp(a[None])[0] == pytest.approx(expected, abs=1e-5)


def test_linear_prediction_finds_the_resonance_of_a_vowel():
    """Two resonances of 700 and 1200 Hz: LSP pairs come close together around 2 pi f / 11000."""
    x = np.zeros(400)
    x[0] = 1
    for hz in (700, 1200):
        r = np.exp(-np.pi * 40 / 16000)
        x = lfilter([1], [1, -2 * r * np.cos(2 * np.pi * hz / 16000), r * r], x)
    a = is10.linear_prediction(np.fft.rfft(x * np.hanning(800)[400:], 512)[None])
    response = np.abs(np.fft.rfft(a[0], 2048))
    peak = np.flatnonzero((response[1:-1] < response[:-2]) & (response[1:-1] < response[2:]))[:2] + 1
    assert peak * 11000 / 2048 == pytest.approx([700, 1200], abs=40)


def best_lag(x, low, high):
    """The same by the definition alone, at every lag."""
    r = np.full(high + 1, np.nan)
    for lag in range(low, high + 1):
        padded = np.zeros((2, high))                            # sums over as many numbers, so that they round alike
        padded[:, :lag] = x[:lag], x[lag:2 * lag]
        padded[:, :lag] -= padded.sum(axis=1, keepdims=True) / lag
        a, b = padded
        with np.errstate(invalid="ignore"):
            r[lag] = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    peaks = [k for k in range(low + 1, high - 1) if r[k - 1] < r[k] > r[k + 1]]
    if not peaks:
        return 0, 0.0, 0.0
    lag = max(peaks, key=lambda k: r[k])
    offset = 0.5 * (r[lag - 1] - r[lag + 1]) / (r[lag - 1] - 2 * r[lag] + r[lag + 1])
    return lag, lag + offset, r[lag] - 0.25 * (r[lag - 1] - r[lag + 1]) * offset


@given(period=st.floats(26, 300), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["voice", "noise", "cut", "dc"]))
def test_a_period_is_that_of_the_definition_to_the_last_bit(period, seed, kind):
    """The peak is looked for by running sums; what is told of it must not show that."""
    rng = np.random.default_rng(seed)
    low, high = int(0.75 * period), int(np.ceil(1.25 * period))
    t = np.arange(2 * high)
    x = sum(rng.standard_normal() * np.sin(2 * np.pi * k * t / period + k) for k in range(1, 5)) * (kind != "noise")
    x = x + rng.uniform(0, 0.3) * rng.standard_normal(len(t))
    x[rng.integers(low, 2 * high):] *= kind != "cut"                          # silence behind: no correlation at some lags
    x += 0.4 * (kind == "dc")
    with np.errstate(all="raise"):
        got = pitch._best_lag(x, low, high)
    assert got == best_lag(x, low, high)


def test_silence_and_a_constant_have_no_period():
    for level in (0.0, 0.3):
        assert pitch._best_lag(np.full(300, level), 112, 150) == (0, 0.0, 0.0)


def test_mel_filters_are_triangles():
    w = is10.mel_filters(26, 20, 8000)
    assert w.shape == (257, 26) and w.max() <= 1 and not w[:2].any()
    assert (np.diff(w.argmax(axis=0)) > 0).all()
    between = slice(w[:, 0].argmax(), w[:, -1].argmax() + 1)
    assert w[between].sum(axis=1) == pytest.approx(1)             # neighbours share a bin


@given(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_delta_is_the_slope_over_five_frames(n, seed):
    x = np.random.default_rng(seed).standard_normal((n, 2))
    padded = np.pad(x, ((2, 2), (0, 0)), mode="edge")
    expected = [np.polyfit(np.arange(5), padded[t:t + 5], 1)[0] for t in range(n)]
    assert delta(x) == pytest.approx(np.array(expected), abs=1e-9)


def test_what_gain_changes_and_what_it_does_not():
    x = vowel(170, level=0.2) + noise(1.0, level=1e-3)
    one, two = descriptors(x)[0], descriptors(2 * x)[0]
    change = two - one
    loud = [COLUMN["pcm_loudness_sma"]]
    bands = [COLUMN[f"logMelFreqBand_sma[{i}]"] for i in range(8)]
    same = [i for name, i in COLUMN.items() if name not in ("pcm_loudness_sma", "mfcc_sma[0]") and "logMel" not in name]
    assert two[:, loud] == pytest.approx(one[:, loud] * 4**0.3)
    assert change[:, bands] == pytest.approx(np.full((len(one), 8), np.log(4)))
    assert change[:, COLUMN["mfcc_sma[0]"]] == pytest.approx(np.sqrt(26 * 2) * np.log(4))
    assert np.abs(change[:, same]).max() < 1e-6


def test_a_sound_that_begins_a_frame_later_has_the_same_descriptors_a_frame_later():
    x = vowel(130, 1.5) + noise(1.5, level=1e-3)
    one, two = descriptors(x)[0], descriptors(x[160:])[0]
    kept = [i for name, i in COLUMN.items() if not any(s in name for s in ("F0", "voicing", "jitter", "shimmer"))]
    np.testing.assert_allclose(two[1:, kept], one[2:, kept], atol=1e-9)


def test_blocks_of_frames_change_nothing(monkeypatch):
    x = vowel(150) + noise(1.0, level=0.01)
    whole = features(x)
    monkeypatch.setattr(is10, "BLOCK", 7)
    np.testing.assert_allclose(features(x), whole, rtol=1e-7, atol=1e-9)


def pulses(periods, heights, n=24000):
    x, t, i = np.zeros(n), 500, 0
    k = np.arange(-20, 21)
    while t < n - 30:
        x[t - 20:t + 21] += heights[i % len(heights)] * np.exp(-(k / 4)**2 / 2) * np.cos(k / 5)
        t, i = t + periods[i % len(periods)], i + 1
    return x


def test_jitter_and_shimmer_of_pulses_that_are_known():
    def middle(x):
        d = descriptors(x)[0][40:100]
        return [d[:, COLUMN[f"{name}_sma"]].mean() for name in ("jitterLocal", "jitterDDP", "shimmerLocal")]
    assert middle(pulses([100], [0.5])) == pytest.approx([0, 0, 0], abs=1e-3)
    assert middle(pulses([100, 104], [0.5])) == pytest.approx([4 / 102, 0, 0], abs=1e-3)       # all changes are alike
    assert middle(pulses([100], [0.5, 0.45])) == pytest.approx([0, 0, 0.05 / 0.475], abs=1e-3)
    local, ddp, _ = middle(pulses([100, 103, 106], [0.5]))                                      # 3, 3, 6, 3, 3, 6 ...
    assert local == pytest.approx(4 / 103, rel=0.05) and ddp == pytest.approx(2 / 103, rel=0.15)


def best_lag_by_definition(x, low, high):
    r = [np.corrcoef(x[:lag], x[lag:2 * lag])[0, 1] for lag in range(low, high + 1)]
    peaks = [k for k in range(1, len(r) - 2) if r[k - 1] < r[k] > r[k + 1]]
    if not peaks:
        return 0, 0.0, 0.0
    k = max(peaks, key=lambda k: r[k])
    a, b, c = np.polyfit([-1, 0, 1], r[k - 1:k + 2], 2)
    return low + k, low + k - b / (2 * a), c - b * b / (4 * a)


@given(seed=st.integers(0, 2**32 - 1), period=st.integers(26, 120))
def test_the_length_of_a_period_by_definition(seed, period):
    x = np.random.default_rng(seed).standard_normal(5 * period).cumsum()[-2 * int(1.25 * period) - 2:]
    low, high = int(0.75 * period), len(x) // 2
    assert pitch._best_lag(x, low, high) == pytest.approx(best_lag_by_definition(x, low, high), abs=1e-6)


def test_which_periods_count(monkeypatch):
    """Those whose correlation is above the lowest of the frame, rounded to single precision: .9 goes down, .8 and 1/3 up."""
    assert [float(np.float32(r)) < r for r in (0.9, 0.8, 1 / 3)] == [True, False, False]
    said = iter([(50, 50.0, 0.9), (50, 51.0, 0.8), (50, 52.0, 0.85), (0, 0.0, 0.0), (50, 53.0, 1 / 3), (50, 54.0, 0.3334)])
    monkeypatch.setattr(pitch, "_best_lag", lambda x, low, high: next(said))
    found, go_on = pitch._periods(np.zeros(1000), 0, 420, 50.0)
    assert [length for length, _, _ in found] == [50, 52, 54] and go_on == 300
    assert next(said, None) is None


def test_a_frame_in_which_no_period_counts_holds_the_values_before(monkeypatch):
    frames = iter([[(100.0, 1.0, 1.0), (104.0, 1.0, 0.5)], [], [(104.0, 2.0, 2.0)], [(110.0, 0.0, 0.0)]])
    monkeypatch.setattr(pitch, "_periods", lambda *_: (next(frames), 0))
    out = pitch.perturbation(np.zeros(4000), np.array([0, 160.0, 160, 160, 160, 0]))
    first = [4 / 102, 0, 0.5 / 1.75]
    expected = [[0, 0, 0], first, first, [0, 4 / 104, 0], [6 / 110, 0, 0], [0, 0, 0]]          # a change of 0 has no DDP
    assert out == pytest.approx(np.array(expected))


@pytest.mark.parametrize("sound", [np.zeros(0), np.zeros(800), np.zeros(16000), np.ones(8000), np.full(4000, 1e-30),
                                   noise(0.05), vowel(200, 0.05), np.sign(vowel(150) + 1e-9),
                                   np.clip(50 * vowel(150), -1, 1)],
                         ids=["nothing", "50 ms of silence", "silence", "constant", "denormal", "50 ms of noise",
                              "50 ms of a vowel", "square", "clipped"])
@pytest.mark.parametrize("loudness", ["opensmile", "energy"])
def test_every_sound_has_a_finite_vector(sound, loudness):
    vector = features(sound, loudness=loudness)
    assert vector.shape == (1582,) and vector.dtype == np.float64 and np.isfinite(vector).all()


def test_silence_has_the_documented_values():
    v = named(np.zeros(16000))
    assert v["pcm_loudness_sma_amean"] == v["F0finEnv_sma_amean"] == v["voicingFinalUnclipped_sma_amean"] == 0
    assert v["logMelFreqBand_sma[3]_amean"] == pytest.approx(np.log(1e-12))
    assert v["mfcc_sma[0]_amean"] == pytest.approx(np.sqrt(26 * 2) * np.log(1e-8))
    assert [v[f"lspFreq_sma[{k}]_amean"] for k in range(8)] == pytest.approx(np.arange(1, 9) * np.pi / 9)
    assert not any(v[name] for name in FEATURE_NAMES[68 * 21:-1])


def test_loudness_by_definition_reads_all_samples():
    x = noise(1.0, 3)
    read, all_ = named(x), named(x, loudness="energy")
    assert read["pcm_loudness_sma_stddev"] > 1.2 * all_["pcm_loudness_sma_stddev"]
    assert all_["pcm_loudness_sma_amean"] == pytest.approx((0.01 / 1e-6) ** 0.3, rel=0.02)
    assert {n for n in read if read[n] != all_[n]} <= {n for n in read if n.startswith("pcm_loudness")}


def test_integers_and_floats_are_the_same_sound():
    x = np.rint(vowel(150) * 32768).astype(np.int16)
    np.testing.assert_array_equal(features(x), features(x / np.float32(32768)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floats_of_every_width_are_the_same_sound(dtype):
    """What is computed from samples, and how exactly, does not follow from the type that they come in."""
    x = vowel(150).astype(dtype)
    one, two = features(x), features(x.astype(np.float64))
    assert one.dtype == two.dtype == np.float64
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("sound, options, word", [
    (np.zeros((5, 2)), {}, "shape"), (np.zeros(5), {"rate": 8000}, "8000"), (np.zeros(5, np.int32), {}, "int32"),
    (np.array([np.nan] * 5), {}, "NaN"), (np.zeros(5), {"loudness": "loud"}, "'loud'")])
def test_what_is_no_sound_is_named(sound, options, word):
    with pytest.raises(ValueError, match=word):
        features(sound, **options)


def test_openSMILE_says_the_same_of_speech():
    """The table of docs/audio.md has the figures of 480 utterances; these are the bounds on 6 of them."""
    opensmile = pytest.importorskip("opensmile", reason="the oracle: pip install opensmile (for research only)")
    root = Path(os.environ.get("EMONET_TEST_DATA", "/nowhere"), "ravdess")
    if not root.is_dir():
        pytest.skip("EMONET_TEST_DATA names no folder with ravdess/")
    from emonet_scratch.data.video import read_sound
    config = Path(opensmile.__file__).parent / "core/config/is09-13/IS10_paraling_compat.conf"
    oracle = opensmile.Smile(feature_set=str(config), feature_level="func")
    sounds = [read_sound(path) for path in sorted(root.glob("*/*.flac"))[::80]]
    theirs = np.array([oracle.process_signal(x, 16000).to_numpy()[0] for x in sounds], float)
    ours = np.array([features(x) for x in sounds])
    assert tuple(oracle.feature_names) == FEATURE_NAMES
    exact = [i for i, name in enumerate(FEATURE_NAMES) if name.startswith(("mfcc", "logMel", "pcm_loudness"))]
    assert len(exact) == 966 + 42
    scale = np.abs(theirs[:, exact]).max(axis=0)
    assert (np.abs(ours - theirs)[:, exact].max(axis=0) / scale).max() < 1e-3
    same = [i for i, name in enumerate(FEATURE_NAMES) if name.startswith(("F0fin", "jitter", "shimmer"))
            and not name.endswith("de_amean")]                                # 0 but for rounding
    assert len(same) == 42 + 8 * 19 + 2 - 5
    scale = np.maximum(np.abs(theirs[:, same]).max(axis=0), 1e-12)
    assert (np.abs(ours - theirs)[:, same].max(axis=0) / scale).max() < 1e-3
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True) if np.ptp(b) > 0]
    assert np.sum(np.array(r) > 0.99) > 1560
