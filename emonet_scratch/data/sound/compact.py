"""One vector per sound: loudness, pitch, voice quality, spectrum and rhythm, from NumPy and SciPy alone.

Every 10 ms a 40 ms frame (Hann window) is described by

    energy     10 log10(mean square), dB below full scale, floor -100
    zcr        share of neighbouring samples that differ in sign
    centroid   mean frequency of the power spectrum, kHz
    flatness   geometric over arithmetic mean of the mel bands, dB: 0 for white noise, negative for a tone
    voicing    height of the autocorrelation's best peak, 0 (noise) to 1 (periodic)
    mfcc 1-12  cosine transform of the 26 log mel bands (Davis & Mermelstein 1980)
    pitch      semitones above 100 Hz, from the lag of that peak (Boersma 1993), voiced frames only

and functionals over the frames (`FEATURE_NAMES`) turn a clip of any length into a vector of fixed length.
"""

from itertools import pairwise

import numpy as np
import scipy  # scipy.signal takes half a second to import: only where it is called
from scipy.fft import dct, irfft, next_fast_len, rfft
from scipy.ndimage import gaussian_filter1d, median_filter

EXTRACTOR = "emonet-1"      # name and version: it goes into ARFF relation names and checkpoints

HOP, FRAME = 0.010, 0.040   # seconds
PITCH_RANGE = 70.0, 500.0   # Hz; three periods of the lowest one fit into a frame
VOICED = 0.5                # autocorrelation above which a frame has a pitch
OCTAVE_COST = 0.1           # per octave below the highest pitch: a sine has equal peaks at 1, 2, 3 ... periods
ACTIVE_RANGE = 35.0         # dB: frames this far below the loudest one are pauses
FLOOR = 1e-10               # power of what counts as silence, -100 dB
N_BANDS, N_MFCC = 26, 12
MODULATION = 1.0, 2.5, 4.0, 5.5, 7.0, 9.0, 12.0, 16.0   # Hz, edges of the bands of the envelope's spectrum
BLOCK = 2000                # frames described at once, so that an hour of sound needs little memory

_DESCRIPTORS = ("energy", "zcr", "centroid", "flatness", "voicing")
_FUNCTIONALS = ("mean", "std", "p10", "p90", "slope", "delta")
_MFCC = tuple(f"mfcc{i}" for i in range(1, N_MFCC + 1))

FEATURE_NAMES: tuple[str, ...] = (
    *(f"{d}_{f}" for d in (*_DESCRIPTORS, "pitch") for f in _FUNCTIONALS),
    *(f"{d}_{f}" for d in _MFCC for f in ("mean", "std")),
    "pitch_curve", "jitter", "shimmer", "voiced_share", "voiced_runs", "active_share", "syllable_rate",
    "modulation_centroid", *(f"modulation_{lo:g}_{hi:g}" for lo, hi in pairwise(MODULATION)),
)


def features(sound: np.ndarray, rate: int = 16000) -> np.ndarray:
    """The vector of one sound, in the order of `FEATURE_NAMES`.

    sound (S,): mono samples, floats with full scale 1 or integers with the full scale of their type.
    rate: samples a second, at least 2000. Returns (D,) float64, finite for every finite sound.

    A sound shorter than one frame is padded with zeros. Slopes and deltas are per second. Where nothing can be
    measured the value is 0: all of pitch without a voiced frame, all spread with one frame. So silence and a
    sound of no samples give -100 dB for energy_mean, energy_p10 and energy_p90, and 0 for all else.

    Raises ValueError for an array that is not 1-D, holds NaN or infinity, or a rate that is too low.
    """
    x = np.asarray(sound)
    if x.ndim != 1:
        raise ValueError(f"sound has shape {x.shape}, expected (S,): average the channels first")
    if rate < 2000:
        raise ValueError(f"rate is {rate} samples a second, expected at least 2000")
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)                                 # unsigned PCM is centred on half its range
        x = (x.astype(np.float64) - (info.max + info.min + 1) // 2) * (2.0 / (info.max - info.min + 1.0))
    x = x.astype(np.float64, copy=False)
    if not np.isfinite(x).all():
        raise ValueError("sound holds NaN or infinite samples")

    d = describe(x, rate)
    energy, n = d["energy"], len(d["energy"])
    active = energy > max(energy.max() - ACTIVE_RANGE, 10 * np.log10(FLOOR) + 20)
    voiced = active & (d["voicing"] > VOICED)
    kept = active if active.any() else np.ones(n, bool)
    t = np.arange(n) * HOP

    mfcc = d["mfcc"][kept]
    starts = np.count_nonzero(voiced[1:] & ~voiced[:-1]) + int(voiced[0])
    return np.concatenate([
        *(_functionals(d[name], t, kept) for name in _DESCRIPTORS), _functionals(d["pitch"], t, voiced),
        np.stack([mfcc.mean(axis=0), mfcc.std(axis=0)], axis=1).ravel(),
        [_curvature(d["pitch"][voiced], t[voiced]), _roughness(d["pitch"], voiced), _roughness(energy, voiced),
         voiced.sum() / kept.sum(), starts / (n * HOP), active.mean()],
        _rhythm(energy, active)])


def describe(x: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    """Descriptors of every frame, one in 10 ms: floats x (S,) -> name: (N,), "mfcc": (N, 12).

    N = 1 + (S - frame) // hop in samples, at least 1. Where voicing is low, pitch is a number without a meaning.
    """
    length, hop = round(FRAME * rate), round(HOP * rate)
    x = np.pad(x, (0, max(0, length - len(x))))
    frames = np.lib.stride_tricks.sliding_window_view(x, length)[::hop]     # (N, length), a view
    blocks = [_describe_block(frames[i:i + BLOCK], rate) for i in range(0, len(frames), BLOCK)]
    d = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    # One frame an octave off is common, five frames off at once are not.
    d["pitch"] = median_filter(d["pitch"], 5, mode="nearest")
    return d


def _describe_block(frames: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    """Descriptors, as in `describe` but for the smoothed pitch, of frames (N, L): name -> (N,), "mfcc" -> (N, 12)."""
    length = frames.shape[1]
    frames = frames - frames.mean(axis=1, keepdims=True)
    # A full-scale square wave has power 1. A constant offset is not sound and was taken away above.
    energy = 10 * np.log10(np.maximum((frames**2).mean(axis=1), FLOOR))
    window = np.hanning(length + 2)[1:-1]
    # Twice the length, so that the autocorrelation of a frame does not wrap around.
    size = next_fast_len(2 * length, real=True)
    power = np.abs(rfft(frames * window, size)) ** 2 / (window**2).sum()    # (N, F): white noise has its variance
    frequency = np.fft.rfftfreq(size, 1 / rate)
    total = power.sum(axis=1)
    silent = energy <= 10 * np.log10(FLOOR)
    mel = np.log(power @ _mel_filters(frequency) + FLOOR)                   # (N, bands)
    voicing, pitch = _pitch(power, window, size, rate)
    sign = frames >= 0
    return {
        "energy": energy,
        "zcr": np.where(silent, 0, (sign[:, 1:] != sign[:, :-1]).mean(axis=1)),
        "centroid": np.where(silent, 0, power @ frequency / np.where(silent, 1, total) / 1000),
        "flatness": np.where(silent, 0, 10 / np.log(10) * (mel.mean(axis=1) - np.log(np.exp(mel).mean(axis=1)))),
        "voicing": np.where(silent, 0, voicing),
        "pitch": np.where(silent, 0, pitch),
        "mfcc": np.where(silent[:, None], 0, dct(mel, norm="ortho")[:, 1:N_MFCC + 1]),
    }


def _mel_filters(frequency: np.ndarray) -> np.ndarray:
    """Triangles of equal area, equally spaced in mel = 1127 ln(1 + f / 700): (F,) -> (F, bands)."""
    top = min(7600.0, frequency[-1])
    edges = 700 * np.expm1(np.linspace(np.log1p(60 / 700), np.log1p(top / 700), N_BANDS + 2))
    lo, mid, hi = edges[:-2], edges[1:-1], edges[2:]
    f = frequency[:, None]
    weight = np.maximum(0, np.minimum((f - lo) / (mid - lo), (hi - f) / (hi - mid)))
    return weight / np.maximum(weight.sum(axis=0), 1e-12)


def _pitch(power: np.ndarray, window: np.ndarray, size: int, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Voicing and pitch of frames with these power spectra (N, F) (Boersma 1993).

    The autocorrelation of a windowed frame over that of the window is the autocorrelation of the sound itself,
    r(0) = 1, r(period) near 1 for a periodic sound. Peaks are refined by the parabola through three lags.
    """
    lags = np.arange(int(rate / PITCH_RANGE[1]) - 1, int(np.ceil(rate / PITCH_RANGE[0])) + 2)
    r = irfft(power, size)
    w = irfft(np.abs(rfft(window, size)) ** 2, size)
    r = r[:, lags] / np.maximum(r[:, :1], 1e-30) / (w[lags] / w[0])         # (N, L)
    left, mid, right = r[:, :-2], r[:, 1:-1], r[:, 2:]
    bend = np.minimum(left - 2 * mid + right, -1e-12)
    shift = np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    height = mid - 0.25 * (left - right) * shift
    peak = (mid > left) & (mid >= right)
    score = np.where(peak, height - OCTAVE_COST * np.log2(lags[1:-1]), -np.inf)
    best = score.argmax(axis=1)
    row = np.arange(len(r))
    f0 = rate / (lags[1:-1][best] + shift[row, best])
    voicing = np.where(peak[row, best], np.clip(height[row, best], 0, 1), 0)
    return voicing, 12 * np.log2(f0 / 100)


def _functionals(d: np.ndarray, t: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Mean, deviation, percentiles 10 and 90, slope of the line through and mean change a second, of kept frames."""
    v, t = d[kept], t[kept]
    if len(v) == 0:
        return np.zeros(len(_FUNCTIONALS))
    both = kept[1:] & kept[:-1]
    delta = np.abs(np.diff(d))[both].mean() / HOP if both.any() else 0.0
    centred = t - t.mean()
    slope = centred @ v / max(centred @ centred, HOP**2)
    return np.array([v.mean(), v.std(), *np.percentile(v, [10, 90]), slope, delta])


def _curvature(v: np.ndarray, t: np.ndarray) -> float:
    """What is left of v (N,) in a parabola over its own time span: > 0 for a valley, < 0 for an arch."""
    if len(v) < 5:
        return 0.0
    u = 2 * (t - t[0]) / (t[-1] - t[0]) - 1
    return float(np.polynomial.legendre.legfit(u, v, 2)[2])


def _roughness(d: np.ndarray, kept: np.ndarray) -> float:
    """Mean size of the second difference over three kept frames in a row: what a smooth contour has little of."""
    three = kept[2:] & kept[1:-1] & kept[:-2]
    return float(np.abs(np.diff(d, 2))[three].mean()) if three.any() else 0.0


def _rhythm(energy: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Peaks of the envelope a second, then centroid and band shares of its spectrum, 1 to 16 Hz."""
    n_bands = len(MODULATION) - 1
    if active.sum() < 10:
        return np.zeros(2 + n_bands)
    envelope = np.maximum(energy - energy.max(), -ACTIVE_RANGE)
    peaks, _ = scipy.signal.find_peaks(gaussian_filter1d(envelope, 2.5), prominence=3)
    envelope = envelope - envelope.mean()
    size = max(512, next_fast_len(len(envelope), real=True))
    power = np.abs(rfft(envelope * np.hanning(len(envelope)), size)) ** 2
    frequency = np.fft.rfftfreq(size, HOP)
    share = np.array([power[(frequency >= lo) & (frequency < hi)].sum()
                      for lo, hi in pairwise(MODULATION)])
    inside = (frequency >= MODULATION[0]) & (frequency < MODULATION[-1])
    total = max(power[inside].sum(), 1e-12)
    return np.array([len(peaks) / (len(energy) * HOP), power[inside] @ frequency[inside] / total, *share / total])
