"""Near-duplicates: the same recording encoded again, scaled, trimmed or louder, but not another take of the same sentence.

Of a sound it is the sign by which neighbouring bands of the spectrum change against each other from frame to frame: the
fingerprint of Haitsma and Kalker 2002 (A highly robust audio fingerprinting system, ISMIR), which codecs and volume leave
as it is. Of pictures it is how each of 8 x 8 blocks changes over a third of a second: movement, which two takes do not
share. Two prints are compared at every offset at once, by FFT.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import fft

RATE, HOP, FRAME = 16000, 512, 4096             # samples a second, between frames and in one
BANDS = np.geomspace(300, 2000, 34)             # Hz: the edges of 33 bands, whose 32 differences are compared
QUIET = 1e-4                                    # of the loudest frame's energy: what is below says nothing
MOST = 30                                       # seconds that are looked at
OVERLAP = 0.8                                   # of the longer print has to lie on the other
SAME = 0.55                                     # the least correlation of two prints of one recording
CHUNK = 64
STILL = 4.0                                     # the least that changes from frame to frame: below it is a codec's noise
LAG = 8                                         # frames over which a change of pictures is taken
LEAST = 16                                      # rows of a print: those of fewer are alike by chance


def sound_print(sound: np.ndarray | None) -> np.ndarray:
    """(n, 32) int8 of -1, 0, 1, a row every 32 ms, of a sound (S,) at RATE; 0 where it is quiet.

    n = 0: nothing is heard, or not for long enough.
    """
    sound = np.zeros(0, np.float32) if sound is None else np.asarray(sound[:MOST * RATE], np.float32)
    if len(sound) < FRAME + LEAST * HOP or not sound.any():
        return np.zeros((0, 32), np.int8)
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP] * np.hanning(FRAME).astype(np.float32)
    power = np.abs(fft.rfft(frames, axis=1)) ** 2                             # (n + 1, FRAME / 2 + 1)
    edges = np.round(BANDS * FRAME / RATE).astype(int)
    bands = np.add.reduceat(power[:, :edges[-1]], edges[:-1], axis=1)         # (n + 1, 33)
    total = bands.sum(axis=1)
    slope = np.diff(np.log(bands + 1e-12), axis=1)
    signs = np.sign(np.diff(slope, axis=0)).astype(np.int8)                   # (n, 32)
    signs[(total < QUIET * total.max())[1:]] = 0
    return signs


def picture_print(frames: np.ndarray | None) -> np.ndarray:
    """(n, 64) float32 of frames (n + LAG, 16, 16, 3) uint8 at 25 a second: by how much each of 8 x 8 blocks brightens.

    n = 0: nothing moves, or not for long enough.
    """
    if frames is None or len(frames) < LAG + LEAST:
        return np.zeros((0, 64), np.float32)
    grey = frames[:MOST * 25].reshape(-1, 8, 2, 8, 2, 3).mean(axis=(2, 4, 5), dtype=np.float32).reshape(-1, 64)
    change = grey[LAG:] - grey[:-LAG]
    size = np.linalg.norm(change, axis=1, keepdims=True)
    usual = np.median(size)
    if usual < STILL:
        return np.zeros((0, 64), np.float32)
    return change / np.maximum(size, usual)                                   # a cut or a flash weighs no more than the rest


def similarities(prints: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Iterator[tuple[int, int, float]]:
    """(i, j, correlation of prints[i] and others[j] at their best offset) of all pairs of which that is positive.

    At an offset it is taken over what overlaps; of signs it is 1 - 2 x the share of bits that differ.
    """
    longest = max((len(p) for p in (*prints, *others)), default=0)
    size = fft.next_fast_len(2 * longest + 1, real=True)
    for first in range(0, len(prints), CHUNK):
        ours, energy, there, length = _spectra(prints[first:first + CHUNK], size)
        for second in range(0, len(others), CHUNK):
            theirs, their_energy, both, their_length = _spectra(others[second:second + CHUNK], size)
            product, left, right, overlap = (
                fft.irfft(np.matmul(a.conj(), b.transpose(0, 2, 1)), size, axis=0)           # (size, ours, theirs)
                for a, b in ((ours, theirs), (energy, both), (there, their_energy), (there, both)))
            enough = overlap > OVERLAP * np.maximum(length[:, None], their_length) - 0.5
            enough &= (left > OVERLAP / 2 * left.max(axis=0)) & (right > OVERLAP / 2 * right.max(axis=0))
            score = np.where(enough, product / np.sqrt(np.maximum(left * right, 1e-6)), -1).max(axis=0)
            for i, j in np.argwhere(score > 0):
                yield first + int(i), second + int(j), float(score[i, j])


def _spectra(prints: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Over time (frequencies, N, ...): of the prints, of their energy, of where there is any; and how long that is (N,)."""
    values = np.zeros((size, len(prints), prints[0].shape[1]), np.float32)
    for k, one in enumerate(prints):
        values[:len(one), k] = one
    energy = (values**2).sum(axis=2, keepdims=True)
    there = (energy > 0).astype(np.float32)
    return *(fft.rfft(a, axis=0) for a in (values, energy, there)), there.sum(axis=(0, 2))
