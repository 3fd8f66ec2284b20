"""Which descriptors of a voice moved LDA towards a class, by name and in words."""

import re
from typing import NamedTuple

import numpy as np

from ..training.projection import AudioProjection

#: What a descriptor measures, by the beginning of its name (Schuller et al. 2010, table 3).
MEASURES = {
    "pcm_loudness": "loudness", "mfcc": "timbre (MFCC {})", "logMelFreqBand": "energy in band {}",
    "lspFreq": "vocal tract (LSP {})", "F0finEnv": "pitch, its envelope", "F0final__Turn_numOnsets": "voiced stretches",
    "F0final__Turn_duration": "length", "F0final": "pitch", "voicingFinalUnclipped": "voicing", "jitterLocal": "jitter",
    "jitterDDP": "change of jitter", "shimmerLocal": "shimmer"}
#: What is said of it over time, by the end.
FUNCTIONALS = {
    "amean": "mean", "stddev": "deviation", "skewness": "skewness", "kurtosis": "kurtosis", "quartile1": "lower quartile",
    "quartile2": "median", "quartile3": "upper quartile", "iqr1-2": "median less lower quartile",
    "iqr2-3": "upper quartile less median", "iqr1-3": "quartile range", "percentile1.0": "least (1 %)",
    "percentile99.0": "most (99 %)", "pctlrange0-1": "range", "upleveltime75": "time above 75 % of its range",
    "upleveltime90": "time above 90 % of its range", "linregc1": "slope", "linregc2": "start of its line",
    "linregerrA": "distance from its line", "linregerrQ": "squared distance from its line",
    "maxPos": "place of its maximum", "minPos": "place of its minimum"}


class Term(NamedTuple):
    """A summand of w^T (x - mean): the descriptor, the same in words, its value, by how many nats it moves the log-odds."""

    name: str
    words: str
    value: float
    moves: float


def in_words(name: str) -> str:
    """
    >>> in_words("mfcc_sma_de[3]_stddev")
    'deviation of the change of timbre (MFCC 3)'
    """
    start = next((start for start in MEASURES if name.startswith(start)), None)
    if start is None:
        return name
    number = re.search(r"\[(\d+)\]", name)
    what = MEASURES[start].format(number[1] if number else "")
    if "__" in name:
        return what
    what = f"the change of {what}" if "_de" in name else what
    functional = FUNCTIONALS.get(name.rpartition("_")[2], name.rpartition("_")[2])
    return f"{functional} of {what}"


def moved(projection: AudioProjection, names: tuple[str, ...], x: np.ndarray, label: int, count: int = 10) -> list[Term]:
    """The `count` largest terms by magnitude of what LDA adds to the log-odds of the class with number `label`.

    x (D,) descriptors, as `names` calls them. With z the standardised x, w = S_W^-1 (m_k - m): the score of class k is
    w^T (z - m) - (m_k - m)^T S_W^-1 (m_k - m) / 2 + ln pi_k, a sum over descriptors but for what is the same for every clip.
    ValueError: LDA has not seen the class.
    """
    where = np.flatnonzero(projection.lda.classes_ == label)
    if not len(where):
        raise ValueError(f"LDA has seen no clip of class {label}")
    terms = projection.lda.coef_[where[0]] * (projection.standardise(x[None])[0] - projection.lda.mean_)
    return [Term(names[d], in_words(names[d]), float(x[d]), float(terms[d])) for d in np.argsort(-np.abs(terms))[:count]]
