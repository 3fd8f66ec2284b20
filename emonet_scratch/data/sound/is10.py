"""The 1582 features of the INTERSPEECH 2010 paralinguistic challenge from the samples of a sound, in NumPy and SciPy.

38 descriptors every 10 ms, smoothed, and their changes over time, each summed up by 19 or 21 functionals
(Schuller et al. 2010, The INTERSPEECH 2010 Paralinguistic Challenge, table 3). Names and order are those of the files
that openSMILE writes with its configuration IS10_paraling_compat. How each descriptor comes about, with pictures, and
how close it is to openSMILE's: docs/audio.md.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import dct

from . import functionals, pitch

EXTRACTOR = "is10-2"                    # name and version: it goes into ARFF relation names and checkpoints

RATE, HOP = pitch.RATE, pitch.HOP
FRAME, FFT = 400, 512                   # 25 ms, and the next power of two
PRE_EMPHASIS = 0.97
MFCCS, BANDS, LSPS = 15, 8, 8
RESAMPLED = 11000                       # Hz: what linear prediction sees
INTENSITY = 1e-6                        # of a sound of loudness 1
TAIL = 3                                # so many of the last pitch frames are in no functional
SHORTEST = pitch.FRAME + TAIL * HOP     # samples: shorter sounds are padded with zeros
BLOCK = 1000                            # frames described at once, so that an hour of sound needs little memory

DESCRIPTORS: tuple[str, ...] = (
    "pcm_loudness_sma", *(f"mfcc_sma[{i}]" for i in range(MFCCS)), *(f"logMelFreqBand_sma[{i}]" for i in range(BANDS)),
    *(f"lspFreq_sma[{i}]" for i in range(LSPS)), "F0finEnv_sma", "voicingFinalUnclipped_sma")
VOICED_DESCRIPTORS: tuple[str, ...] = ("F0final_sma", "jitterLocal_sma", "jitterDDP_sma", "shimmerLocal_sma")


def _change(name: str) -> str:
    return name.replace("_sma", "_sma_de")


FEATURE_NAMES: tuple[str, ...] = (
    *(f"{d}_{f}" for d in (*DESCRIPTORS, *map(_change, DESCRIPTORS)) for f in functionals.NAMES),
    *(f"{d}_{f}" for d in (*VOICED_DESCRIPTORS, *map(_change, VOICED_DESCRIPTORS)) for f in functionals.VOICED_NAMES),
    "F0final__Turn_numOnsets", "F0final__Turn_duration")


def features(sound: np.ndarray, rate: int = RATE, loudness: str = "opensmile") -> np.ndarray:
    """The vector of one sound, in the order of `FEATURE_NAMES`.

    sound (S,): mono samples at 16 kHz, floats with full scale 1 or int16. Returns (1582,) float64, finite for every
    finite sound. loudness: "opensmile" reads one sample a frame, as openSMILE does (audeering/opensmile#51); "energy" reads
    all, as the definition has it.

    A sound of less than 90 ms is padded with zeros to one frame. Silence has the floors: 0 for loudness, F0, voicing, jitter
    and shimmer, ln 1e-8 in all bands for the MFCC, ln 1e-12 for log mel, k pi / 9 for LSP. So a clip without a voiced frame
    has 0 in all functionals of F0, jitter and shimmer.

    Raises ValueError for an array that is not 1-D, of integers other than int16, that holds NaN or infinity, or of
    another rate.
    """
    smooth, onsets = descriptors(samples(sound, rate), loudness)
    frames = len(smooth)
    kept, plain = frames - TAIL, len(DESCRIPTORS)
    change = delta(smooth)[:kept]
    smooth = smooth[:kept]
    columns = max(1, 500_000 // kept)                           # at once: few of a long sound
    out = [functionals.functionals(part[:, i:min(i + columns, plain)]).ravel()
           for part in (smooth, change) for i in range(0, plain, columns)]
    out += [functionals.voiced_functionals(part[:, plain:]).ravel() for part in (smooth, change)]
    return np.concatenate([*out, [onsets, (frames - 1) * HOP / RATE]])


def descriptors(x: np.ndarray, loudness: str = "opensmile") -> tuple[np.ndarray, int]:
    """Smoothed descriptors of x (S,), S >= 960, as `samples` gives it, and how often F0 begins.

    (N, 38), N = 1 + (S - 960) // 160, in the order of `DESCRIPTORS` and `VOICED_DESCRIPTORS`.
    """
    if loudness not in ("opensmile", "energy"):
        raise ValueError(f"loudness is {loudness!r}, expected 'opensmile' or 'energy'")
    n = 1 + (len(x) - pitch.FRAME) // HOP
    spectral = np.concatenate([_describe(part, loudness) for part in _blocks(x, n, FRAME)])
    tone, voicing = (np.concatenate(parts) for parts in zip(
        *(pitch.candidates(part) for part in _blocks(x, n, pitch.FRAME)), strict=True))
    voicing[0] = 0                                              # the tracker has heard nothing before the first frame
    f0, envelope = pitch.contour(tone, voicing)
    raw = np.column_stack([spectral, envelope, voicing, f0, pitch.perturbation(x, f0)])
    onsets = int(np.count_nonzero((f0[1:] > 0) & (f0[:-1] == 0)) + (f0[0] > 0))
    around = np.pad(raw, ((1, 1), (0, 0)), mode="edge")
    return (around[:-2] + raw + around[2:]) / 3, onsets


def curves(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F0 in Hz, 0 where there is none; loudness by its definition), (N,) both, every 10 ms of a sound as `features` has it.

    As in `descriptors`, before they are smoothed. S >= 1440.
    """
    n, window, parts = 1 + (len(sound) - pitch.FRAME) // HOP, np.hamming(FRAME), []
    for first in range(0, n, BLOCK):                                          # an hour is not copied as a whole
        part = sound[first * HOP:(min(first + BLOCK, n) - 1) * HOP + pitch.FRAME]
        x = samples(part, RATE).astype(np.float64)[:len(part)]
        frames = sliding_window_view(x, FRAME)[::HOP][:1 + (len(part) - pitch.FRAME) // HOP]
        parts.append((*pitch.candidates(x), frames**2 @ window / window.sum()))
    tone, voicing, intensity = map(np.concatenate, zip(*parts, strict=True))
    return pitch.contour(tone, voicing)[0], (intensity / INTENSITY) ** 0.3


def delta(contours: np.ndarray) -> np.ndarray:
    """Slope of the line through five values, ends repeated, (N, D) both: sum of i (c[t+i] - c[t-i]) / 10 for i = 1, 2."""
    c = np.pad(contours, ((2, 2), (0, 0)), mode="edge")
    return (c[3:-1] - c[1:-3] + 2 * (c[4:] - c[:-4])) / 10


def samples(sound: np.ndarray, rate: int) -> np.ndarray:
    """The samples (S,) float32, S >= 1440, in the unit that the descriptors count in; ValueError as `features`."""
    x = np.asarray(sound)
    if x.ndim != 1:
        raise ValueError(f"sound has shape {x.shape}, expected (S,): average the channels first")
    if rate != RATE:
        raise ValueError(f"rate is {rate} samples a second, expected {RATE}: resample first")
    if x.dtype.kind in "iu" and x.dtype != np.int16:
        raise ValueError(f"sound is {x.dtype}, expected floats or int16")
    # A sample of 16 bits counts 1 / 32767 here and 1 / 32768 to the decoder. Single precision, as openSMILE has it: which
    # periods count for jitter hangs on the last bit.
    whole = x.dtype == np.int16
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
        x *= 1 if whole else 32768
    x /= 32767
    if not np.isfinite(x).all():
        raise ValueError("sound holds NaN or infinite samples")
    return np.pad(x, (0, SHORTEST - len(x))) if len(x) < SHORTEST else x


def _blocks(x: np.ndarray, frames: int, length: int) -> Iterator[np.ndarray]:
    """The samples, float64, of BLOCK frames after the other, the last time of the rest."""
    for first in range(0, frames, BLOCK):
        count = min(BLOCK, frames - first)
        yield x[first * HOP:first * HOP + (count - 1) * HOP + length].astype(np.float64)


def _describe(x: np.ndarray, loudness: str) -> np.ndarray:
    """Loudness, 15 MFCC, 8 log mel bands, 8 LSP frequencies of the frames of x (S,): (N, 32)."""
    frames = sliding_window_view(x, FRAME)[::HOP]
    window = np.hamming(FRAME)
    if loudness == "energy":
        intensity = frames**2 @ window / window.sum()
    else:
        intensity = frames[:, 0] ** 2 * window[0] / window.sum()
    emphasised = frames.copy()
    emphasised[:, 1:] -= PRE_EMPHASIS * frames[:, :-1]
    emphasised[:, 0] *= 1 - PRE_EMPHASIS                        # as if the sample before were the same
    spectrum = np.fft.rfft(emphasised * window, FFT)
    power = spectrum.real**2 + spectrum.imag**2
    bands = np.log(np.maximum(power @ mel_filters(26, 20, 8000), 1e-8))
    lifter = 1 + 11 * np.sin(np.pi * np.arange(MFCCS) / 22)
    mfcc = dct(bands, axis=1)[:, :MFCCS] / 2 * np.sqrt(2 / 26) * lifter
    log_mel = np.log(np.maximum(power @ mel_filters(BANDS, 20, 6500), 1e-12))
    return np.column_stack([(intensity / INTENSITY) ** 0.3, mfcc, log_mel, lsp(linear_prediction(spectrum))])


@lru_cache(maxsize=4)
def mel_filters(bands: int, low: float, high: float) -> np.ndarray:
    """Triangles of height 1, evenly spaced in mel = 1127 ln(1 + f / 700), over the bins of a power spectrum: (257, bands).

    The first bin above `low` belongs to no band.
    """
    frequency = np.arange(FFT // 2 + 1) * RATE / FFT
    mel = 1127 * np.log1p(frequency / 700)[:, None]
    edges = 1127 * np.log1p(np.array([low, high]) / 700)
    lower, centre, upper = (np.linspace(*edges, bands + 2)[i:i + bands] for i in range(3))
    weight = np.maximum(0, np.minimum((mel - lower) / (centre - lower), (upper - mel) / (upper - centre)))
    weight[:1 + int(np.ceil(low * FFT / RATE))] = 0
    return weight


@lru_cache(maxsize=1)
def _resampling() -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (137, 275) that write a spectrum (257,) as 275 samples at 11 kHz: half as many bins as samples."""
    samples = round(FRAME * RESAMPLED / RATE)
    phase = 2 * np.pi * np.outer(np.arange(samples // 2), np.arange(samples)) / (FFT * RESAMPLED / RATE)
    return np.cos(phase), np.sin(phase)


def linear_prediction(spectrum: np.ndarray) -> np.ndarray:
    """Predictor error filters (N, 9), first coefficient 1, of frames with these spectra (N, 257), at 11 kHz.

    Levinson's recursion over the autocorrelation of the resampled frame (Makhoul 1975, Linear prediction, eq. 38).
    """
    cosine, sine = _resampling()
    bins, samples = cosine.shape
    y = spectrum[:, :bins].real @ cosine - spectrum[:, :bins].imag @ sine
    r = np.stack([np.einsum("nt,nt->n", y[:, :samples - k], y[:, k:]) for k in range(LSPS + 1)], axis=1)
    a = np.zeros_like(r)
    a[:, 0] = 1
    error = r[:, 0].copy()
    for i in range(1, LSPS + 1):
        k = -np.einsum("nj,nj->n", a[:, :i], r[:, i:0:-1]) / np.where(error > 0, error, 1)
        a[:, 1:i + 1] += k[:, None] * a[:, :i][:, ::-1]
        error *= 1 - k**2
    return a


def lsp(a: np.ndarray) -> np.ndarray:
    """Line spectral pairs (N, 8) of error filters a (N, 9): angles in (0, pi) rad, ascending (Itakura 1975).

    P(z) = A(z) + z^-9 A(1/z) and Q(z) = A(z) - z^-9 A(1/z) have all their roots on the unit circle, in turn; those at -1
    and 1 are divided out, and what is left is symmetric: a polynomial of degree 4 in cos w, here in Chebyshev's form.
    """
    padded = np.pad(a, ((0, 0), (0, 1)))
    angles = []
    for sign in (1, -1):
        q = padded + sign * padded[:, ::-1]
        for i in range(1, LSPS + 1):                            # divided by 1 + sign / z
            q[:, i] -= sign * q[:, i - 1]
        c = np.concatenate([q[:, LSPS // 2:LSPS // 2 + 1], 2 * q[:, LSPS // 2 - 1::-1]], axis=1)    # sum c_k cos k w
        angles.append(np.arccos(np.clip(_chebyshev_roots(c), -1, 1)))
    return np.sort(np.concatenate(angles, axis=1), axis=1)


def _chebyshev_roots(c: np.ndarray) -> np.ndarray:
    """Roots (N, 4), real parts, of sum c_k T_k(x) for c (N, 5): eigenvalues of the colleague matrix (Good 1961)."""
    matrix = np.tile((np.eye(4, k=1) + np.eye(4, k=-1)) / 2, (len(c), 1, 1))       # 2 x T_k = T_k-1 + T_k+1
    matrix[:, 0, 1] = 1                                                         # x T_0 = T_1
    matrix[:, 3] -= 0.5 * c[:, :4] / c[:, 4:]
    return np.linalg.eigvals(matrix).real
