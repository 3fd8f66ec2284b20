"""Pitch by subharmonic summation, and how period after period differs from it: F0, voicing, jitter, shimmer.

Sources: Hermes (1988), Measurement of pitch by subharmonic summation, JASA 83(1); Eyben (2016), Real-time speech and
music classification, Springer, sections 2.2.11 and 2.2.13 for the descriptors and their smoothing. Constants are those of
the INTERSPEECH 2010 set (Schuller et al. 2010); how openSMILE decides what no text gives is told in docs/audio.md.
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
JUMPS = 0.8, 1.2                                    # ratios of F0 in neighbouring frames beyond which it jumps


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
    magnitude = np.abs(np.fft.rfft(sliding_window_view(x, FRAME)[::HOP] * window, FFT))
    spectrum = np.maximum(magnitude @ spline, 0)
    total = np.zeros_like(spectrum)
    for i, shift in enumerate(shifts):
        total[:, :POINTS - shift] += COMPRESSION**i * spectrum[:, shift:]

    left, middle, right = total[:, :-2], total[:, 1:-1], total[:, 2:]
    peaks = np.where((middle > left) & (middle > right), middle, 0)
    below = np.maximum.accumulate(np.pad(peaks, ((0, 0), (1, 0))), axis=1)[:, :-1]      # the highest so far
    frame, at = np.nonzero(peaks > below)
    rank = np.searchsorted(frame, frame, side="right") - np.arange(len(frame))           # 1 is the last of its frame
    frame, at, rank = (a[rank <= CANDIDATES] for a in (frame, at, rank))
    left, middle, right = (a[frame, at] for a in (left, middle, right))
    offset = 0.5 * (left - right) / (left - 2 * middle + right)             # of the parabola through three points
    height = middle - 0.25 * (left - right) * offset
    frequency = 2 ** (points[1 + at] + offset * (points[1] - points[0]))
    voicing = 1 - total.mean(axis=1)[frame] / height
    usable = (frequency >= RANGE[0]) & (frequency <= RANGE[1]) & (voicing > 0)
    table = np.zeros((2, len(total), CANDIDATES))
    table[:, frame[usable], CANDIDATES - rank[usable]] = frequency[usable], voicing[usable]
    pick = table[1].argmax(axis=1)
    return table[0][np.arange(len(pick)), pick], table[1][np.arange(len(pick)), pick]


def contour(pitch: np.ndarray, voicing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 (N,), 0 where voicing is not above .75, for a single frame only, and in the first; and its envelope (N,).

    A frame out of which F0 jumps back where it came from, most often an octave away for a single frame, has the F0 of the
    next. The envelope starts at the first F0, follows by .75 of itself and .25 of F0, and holds where there is none.
    """
    raw = np.where(voicing > VOICED, pitch, 0.0)
    raw[0] = 0
    around = np.pad(raw, 1)
    before, after = around[:-2], around[2:]
    voiced = (before > 0) & (raw > 0) & (after > 0)
    up_and_down = (before < JUMPS[0] * raw) & (raw > JUMPS[1] * after)
    down_and_up = (before > JUMPS[1] * raw) & (raw < JUMPS[0] * after)
    f0 = np.where(voiced & (up_and_down | down_and_up), after, raw)
    f0[(before == 0) & (after == 0)] = 0
    envelope, last = np.zeros_like(f0), 0.0
    for t, f in enumerate(f0):
        if f > 0:
            last = 0.75 * last + 0.25 * f if last else f
        envelope[t] = last
    return f0, envelope


def perturbation(x: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """Jitter local, jitter DDP and shimmer local (N, 3) of the sound x (S,) with F0 (N,), period by period.

    T_i are the periods that count in a frame (see `_periods`), A_i and B_i the ranges of the samples in one and in the next:

        jitter local  mean |T_i - T_i-1| / mean T_i
        jitter DDP    mean ||T_i - T_i-1| - |T_i-1 - T_i-2|| / mean T_i
        shimmer       mean |B_i - A_i| / mean (A_i + B_i) / 2

    each at most 1. T_i-1 and T_i-2 are those that counted last, be it frames ago; a change after one of exactly 0 is not in
    DDP. A frame in which no period counts holds the values before; all are 0 where F0 is, and a voiced stretch starts anew.
    """
    out, held = np.zeros((len(f0), 3)), [0.0] * 3
    begin, last, last_change = HOP, 0.0, 0.0
    for t, f in enumerate(f0.tolist()):
        end = HOP * (t + 2)
        if f == 0:
            begin, last, last_change, held = end, 0.0, 0.0, [0.0] * 3
            continue
        found, begin = _periods(x, begin, end, RATE / f)
        changes, changes2 = [], []
        for period, _, _ in found:
            if last > 0:
                changes.append(abs(period - last))
                if last_change > 0:
                    changes2.append(abs(changes[-1] - last_change))
                last_change = changes[-1]
            last = period
        if not found:
            out[t] = held
            continue
        T, A, B = (np.array(column) for column in zip(*found, strict=True))
        now = [np.array(c).mean() / T.mean() if c else None for c in (changes, changes2)]
        now.append(2 * np.abs(A - B).sum() / max((A + B).sum(), np.finfo(float).tiny))
        for k, value in enumerate(now):
            if value is not None:
                out[t, k] = held[k] = min(value, 1)
    return out


def _periods(x: np.ndarray, begin: int, end: int, period0: float) -> tuple[list[tuple[float, float, float]], int]:
    """The periods that count in a frame, as (length, range of its samples, range of the next one's), and where to go on.

    From sample `begin` one period starts where the last one ended. Its length is the lag within `period0` +- 25 % at which
    it and the samples behind it correlate best; without a peak there, `period0` is taken and nothing counts. Periods that
    reach beyond the samples up to `end` are left to the next frame, but one is always looked at; the next frame goes on at
    the last start before `end`, and may meet that one again.

    A period counts if its correlation is above the lowest of the frame so far, its own included, rounded to single
    precision. So the first and every new lowest count or not by how that rounding falls: openSMILE's rule by an accident
    that it keeps for the sake of old models ("useBrokenJitterThresh"), and so part of what the 1582 numbers are.
    """
    low, high = int((1 - SEARCH) * period0), int(np.ceil((1 + SEARCH) * period0))
    stop = max(end, begin + 2 * high + 2) - 2 * high - 1
    found, lowest, start, go_on = [], np.inf, begin, begin
    while start < stop:
        part = x[start:start + 2 * high].astype(np.float64)
        lag, period, correlation = _best_lag(part, low, high)
        if lag:
            lowest = min(lowest, float(np.float32(correlation)))
            if correlation > lowest:
                one, two = part[1:lag - 1], part[lag + 1:2 * lag - 1]
                found.append((period, float(one.max() - one.min()), float(two.max() - two.min())))
        start += lag or round(period0)
        if start < end - 1:
            go_on = start
    return found, go_on


@lru_cache(maxsize=512)
def _within(low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The lags (L,) from low to high, and for each 1 for the samples below it and 0 for the others, (L, high)."""
    lags = np.arange(low, high + 1.0)
    return lags, (np.arange(high) < lags[:, None]).astype(float)


def _best_lag(x: np.ndarray, low: int, high: int) -> tuple[int, float, float]:
    """(lag, its refinement by a parabola, correlation there) of the highest peak of the correlation of x[:lag] and
    x[lag:2 lag] over low <= lag <= high; zeros where there is no peak. x: 2 high samples, float64.

    The peak is looked for by (sum ab - sum a sum b / lag) / sqrt((sum aa - (sum a)^2 / lag) (sum bb - (sum b)^2 / lag)),
    whose sums are differences of running ones; what is told of it comes from the definition.
    """
    lags, within = _within(low, high)
    shifted = np.ndarray((len(lags), high), x.dtype, x, low * x.itemsize, 2 * x.strides)     # the row of a lag is x[lag:]
    (a, b), (aa, bb) = ((s[low - 1:high], s[2 * low - 1::2] - s[low - 1:high]) for s in (x.cumsum(), (x * x).cumsum()))
    spread = (aa - a * a / lags) * (bb - b * b / lags)
    spread[spread <= 1e-24 * aa * bb] = np.nan                              # silence, a constant: no correlation, no peak
    r = ((shifted * within) @ x[:high] - a * b / lags) / np.sqrt(spread)
    left, middle, right = r[:-3], r[1:-2], r[2:-1]
    peak = (left < middle) & (middle > right)
    k = int(np.where(peak, middle, -2).argmax())
    if not peak[k]:
        return 0, 0.0, 0.0
    left, middle, right = _correlation(x[:high], shifted[k:k + 3], lags[k:k + 3, None], within[k:k + 3]).tolist()
    offset = 0.5 * (left - right) / (left - 2 * middle + right)
    lag = low + 1 + k
    return lag, lag + offset, middle - 0.25 * (left - right) * offset


def _correlation(a: np.ndarray, b: np.ndarray, lags: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Pearson's, (L,), of a (S,) and each row of b (L, S), over their first samples: `lags` (L, 1) many, those `within`."""
    a, b = a * within, b * within
    a -= within * (a.sum(axis=1, keepdims=True) / lags)
    b -= within * (b.sum(axis=1, keepdims=True) / lags)
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
