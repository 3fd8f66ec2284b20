"""Pitch by subharmonic summation, and how period after period differs from it: F0, voicing, jitter, shimmer.

Sources: Hermes (1988), Measurement of pitch by subharmonic summation, JASA 83(1); Eyben (2016), Real-time speech and
music classification, Springer, sections 2.2.11 and 2.2.13 for the descriptors and their smoothing. Constants are those of
the INTERSPEECH 2010 set (Schuller et al. 2010); what no text gives was found by listening to signals: see docs/audio.md.
"""

from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.interpolate import CubicSpline

RATE, HOP, FRAME, FFT = 16000, 160, 960, 1024       # samples: 10 ms, 60 ms, and the next power of two
RANGE = 52.0, 620.0                                 # Hz
LOWEST, POINTS = 25.0, FFT // 2 + 1                 # the log2 axis: from 25 Hz to 8 kHz, as many points as bins
HARMONICS, COMPRESSION = 15, 0.85
VOICED = 0.75
CANDIDATES = 3
SEARCH = 0.25                                       # a period lies within T0 +- 25 %
MIN_CORRELATION = 0.5


@lru_cache(maxsize=1)
def _axis() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Window (960,), the cubic spline from bins to the log2 axis as a matrix (513, 513), log2 of its points (513,)."""
    n = np.arange(FRAME) - (FRAME - 1) / 2
    window = np.exp(-0.5 * (n / (0.25 * (FRAME - 1) / 2)) ** 2)
    bins = np.log2(np.arange(1, POINTS) * RATE / FFT)
    points = np.linspace(np.log2(LOWEST), np.log2(RATE / 2), POINTS)
    # Bin 0 has no logarithm; it stands an octave below bin 1.
    spline = CubicSpline(np.concatenate([[bins[0] - 1], bins]), np.eye(POINTS), bc_type="natural")(points)
    return window, spline.T, points


def candidates(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz (N,) and voicing (N,) of the frames of x (S,), N = 1 + (S - 960) // 160; both 0 where there is none.

    The spectrum on a log2 axis, shifted down by log2(i) and weighted by .85^(i-1), is added up for i = 1 ... 15: where the
    harmonics of a pitch meet, the sum peaks. Voicing is 1 - mean / peak of that sum. Of the three last peaks that are
    higher than all below them, the highest within 52-620 Hz is taken.
    """
    window, spline, points = _axis()
    # An octave is 513 / log2(320) points, and not 512: the axis is counted by points where shifts are concerned.
    shifts = [int(np.log2(i) * POINTS / np.log2(RATE / 2 / LOWEST)) for i in range(1, HARMONICS + 1)]
    spectrum = np.maximum(np.abs(np.fft.rfft(sliding_window_view(x, FRAME)[::HOP] * window, FFT)) @ spline, 0)
    total = np.zeros_like(spectrum)
    for i, shift in enumerate(shifts):
        total[:, :POINTS - shift] += COMPRESSION**i * spectrum[:, shift:]

    left, middle, right = total[:, :-2], total[:, 1:-1], total[:, 2:]
    higher = np.maximum.accumulate(np.pad(np.where((middle > left) & (middle > right), middle, 0), ((0, 0), (1, 0))), axis=1)
    record = (middle > left) & (middle > right) & (middle > higher[:, :-1])
    from_above = np.cumsum(record[:, ::-1], axis=1)[:, ::-1]
    bend = np.where(record, left - 2 * middle + right, -1)
    offset = 0.5 * (left - right) / bend                                    # of the parabola through three points
    height = middle - 0.25 * (left - right) * offset
    frequency = 2 ** (points[1:-1] + offset * (points[1] - points[0]))
    voicing = 1 - total.mean(axis=1, keepdims=True) / np.where(record, height, 1)
    usable = record & (from_above <= CANDIDATES) & (frequency >= RANGE[0]) & (frequency <= RANGE[1]) & (voicing > 0)
    best = np.where(usable, voicing, 0).argmax(axis=1)[:, None]
    found = np.take_along_axis(usable, best, axis=1)[:, 0]
    pick = [np.where(found, np.take_along_axis(a, best, axis=1)[:, 0], 0) for a in (frequency, voicing)]
    return pick[0], pick[1]


def contour(pitch: np.ndarray, voicing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 (N,), 0 where voicing is not above .75, for a single frame only, and in the first; and its envelope (N,).

    The envelope starts at the first F0, follows by .75 of itself and .25 of F0, and holds where there is none.
    """
    f0 = np.where(voicing > VOICED, pitch, 0.0)
    f0[0] = 0
    around = np.pad(f0, 1)
    f0[(around[:-2] == 0) & (around[2:] == 0)] = 0
    envelope, last = np.zeros_like(f0), 0.0
    for t, f in enumerate(f0):
        if f > 0:
            last = 0.75 * last + 0.25 * f if last else f
        envelope[t] = last
    return f0, envelope


def perturbation(x: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """Jitter local, jitter DDP and shimmer local (N, 3) of the sound x (S,) with F0 (N,), period by period.

    A period T_i starts where the last one ended; it is the lag within T0 +- 25 % at which the following samples correlate
    best with it, refined by a parabola. Over the periods of a frame, with A_i the range of the samples in a period:

        jitter local  mean |T_i - T_i-1| / mean T_i
        jitter DDP    mean ||T_i - T_i-1| - |T_i-1 - T_i-2|| / mean T_i
        shimmer       mean |A_i+1 - A_i| / mean (A_i+1 + A_i) / 2, at most 1

    A frame in which no period ends holds the values before; all are 0 where F0 is, and a voiced stretch starts anew.
    """
    out = np.zeros((len(f0), 3))
    start, last_period, last_change = -1, 0.0, np.nan
    for t, f in enumerate(f0):
        if f == 0:
            start, last_period, last_change = -1, 0.0, np.nan
            continue
        if start < 0:
            start = HOP * (t + 1)
        else:
            out[t] = out[t - 1]
        period0, low, high = RATE / f, int(0.75 * RATE / f), int(np.ceil(1.25 * RATE / f))
        change, change2, periods, steps, levels = [], [], [], [], []
        first = True
        # At least one a frame; more while two of the longest periods fit into the samples of two hops.
        while (first or start - HOP * t + 2 * (1 + SEARCH) * period0 < 2 * HOP - 3) and start + 2 * high + 2 <= len(x):
            first = False
            lag, period, correlation = _period(x[start:start + 2 * high + 2], low, high)
            if correlation > MIN_CORRELATION:
                a, b = np.ptp(x[start:start + lag]), np.ptp(x[start + lag:start + 2 * lag])
                steps.append(abs(a - b))
                levels.append((a + b) / 2)
                if last_period:
                    periods.append(period)
                    change.append(abs(period - last_period))
                    if not np.isnan(last_change):
                        change2.append(abs(change[-1] - last_change))
                    last_change = change[-1]
                last_period, step = period, lag
            else:                                                           # no period: look on one pitch period later
                last_period, last_change, step = 0.0, np.nan, round(period0)
            start += step
        if change:
            out[t, 0] = np.mean(change) / np.mean(periods)
        if change2:
            out[t, 1] = np.mean(change2) / np.mean(periods)
        if sum(levels) > 0:
            out[t, 2] = min(sum(steps) / sum(levels), 1.0)
    return out


def _period(x: np.ndarray, low: int, high: int) -> tuple[int, float, float]:
    """(lag, its refinement, correlation) of the best match of x[:lag] and x[lag:2 lag], low <= lag <= high."""
    lags = np.arange(low - 1, high + 2)
    inside = np.arange(high + 1) < lags[:, None]
    a = np.where(inside, x[:high + 1], 0)
    b = np.where(inside, sliding_window_view(np.pad(x, (0, 1)), high + 1)[lags], 0)
    a = np.where(inside, a - a.sum(axis=1, keepdims=True) / lags[:, None], 0)
    b = np.where(inside, b - b.sum(axis=1, keepdims=True) / lags[:, None], 0)
    r = (a * b).sum(axis=1) / np.sqrt(np.maximum((a * a).sum(axis=1) * (b * b).sum(axis=1), 1e-30))
    k = 1 + int(r[1:-1].argmax())
    left, middle, right = r[k - 1:k + 2]
    bend = left - 2 * middle + right
    peak = left < middle >= right
    offset = 0.5 * (left - right) / bend if peak and bend < 0 else 0.0
    return int(lags[k]), float(lags[k] + offset), float(middle) if peak else 0.0
