"""What is left of a contour of any length: 21 numbers, or 19 of its values that are not zero.

Definitions as in Eyben (2016), Real-time speech and music classification, section 2.4; names as openSMILE writes them.
Positions and slopes count frames.
"""

import numpy as np

NAMES = ("maxPos", "minPos", "amean", "linregc1", "linregc2", "linregerrA", "linregerrQ", "stddev", "skewness", "kurtosis",
         "quartile1", "quartile2", "quartile3", "iqr1-2", "iqr2-3", "iqr1-3", "percentile1.0", "percentile99.0",
         "pctlrange0-1", "upleveltime75", "upleveltime90")
VOICED_NAMES = tuple(name for name in NAMES if name not in ("percentile1.0", "pctlrange0-1"))
_KEPT = [NAMES.index(name) for name in VOICED_NAMES]


def functionals(contours: np.ndarray) -> np.ndarray:
    """contours (N, D), N >= 1 -> (D, 21) in the order of `NAMES`, float64.

    linregc1 t + linregc2 is the line of least squares over t = 0 ... N - 1, linregerrA and linregerrQ the mean absolute and
    squared distance from it. Deviation, skewness and kurtosis are those of the population, kurtosis is 3 for a normal
    distribution, skewness and kurtosis are 0 for a constant. Percentiles interpolate linearly between sorted values. The
    last two are the shares of frames above 75 % and 90 % of the range. The first of equal extremes counts.
    """
    n = len(contours)
    t = np.arange(n) - (n - 1) / 2
    mean = contours.mean(axis=0)
    centred = contours - mean
    slope = t @ centred / max(t @ t, 0.5)                        # of two frames t @ t is .5, of one 0
    error = centred - np.outer(t, slope)
    deviation = np.sqrt((centred**2).mean(axis=0))
    scale = np.maximum(np.abs(contours).max(axis=0), 1e-30)
    constant = deviation <= 1e-12 * scale                       # what rounding leaves of a constant is no deviation
    z = centred / np.where(constant, 1, deviation)
    q1, q2, q3, p1, p99 = np.quantile(contours, [0.25, 0.5, 0.75, 0.01, 0.99], axis=0)
    low, high = contours.min(axis=0), contours.max(axis=0)
    above = [(contours > low + share * (high - low)).mean(axis=0) for share in (0.75, 0.9)]
    return np.stack([
        contours.argmax(axis=0), contours.argmin(axis=0), mean, slope, mean - slope * (n - 1) / 2,
        np.abs(error).mean(axis=0), (error**2).mean(axis=0), deviation,
        np.where(constant, 0, (z**3).mean(axis=0)), np.where(constant, 0, (z**4).mean(axis=0)),
        q1, q2, q3, q2 - q1, q3 - q2, q3 - q1, p1, p99, p99 - p1, *above], axis=1)


def voiced_functionals(contours: np.ndarray) -> np.ndarray:
    """contours (N, D) -> (D, 19) in the order of `VOICED_NAMES`, over the values of each that are not 0; 0 where all are.

    Positions count these values only.
    """
    out = np.zeros((contours.shape[1], len(VOICED_NAMES)))
    for row, contour in zip(out, contours.T, strict=True):
        kept = contour[contour != 0]
        if len(kept):
            row[:] = functionals(kept[:, None])[0, _KEPT]
    return out
