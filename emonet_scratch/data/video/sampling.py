"""Which frames of a clip a network sees, and one random change of all of them."""

import numpy as np


def sample_frames(length: int, count: int, rng: np.random.Generator | None = None, window: int = 0,
                  windows: int = 1) -> np.ndarray:
    """min(length, count) ascending int64 indices below `length`, one from each of `count` equal segments.

    Without rng the centre of each segment, with it a random index in each (temporal segment sampling: Wang et
    al., Temporal Segment Networks, ECCV 2016). All indices where length <= count. windows: cut each segment into so many
    parts and take the centre of part number `window`; all of them together are evenly spread over the clip.
    """
    if length < 0 or count < 1:
        raise ValueError(f"expected length >= 0 and count >= 1, got length={length!r}, count={count!r}")
    if not 0 <= window < windows:
        raise ValueError(f"expected 0 <= window < windows, got window={window!r}, windows={windows!r}")
    if length <= count:
        return np.arange(length, dtype=np.int64)
    if rng is None:
        parts = windows * np.arange(count, dtype=np.int64) + window
        return (2 * parts + 1) * length // (2 * windows * count)
    edges = np.arange(count + 1, dtype=np.int64) * length // count       # segments hold >= 1 frame: length > count
    return rng.integers(edges[:-1], edges[1:])


def augment(frames: np.ndarray, rng: np.random.Generator, flip: bool = True, crop: float = 0.1,
            brightness: float = 0.2) -> np.ndarray:
    """One random change for all frames (T, H, W, 3) uint8 of a clip; a new array of the same shape and type.

    flip: mirrored with probability 1/2. crop: a window, smaller than the picture by a random fraction up to `crop`
    of each side, anywhere in it, stretched back (bilinear). brightness: times a factor in 1 +- brightness.
    Five numbers are drawn whatever is switched off, so that a switch does not change the other draws.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    if not (0 <= crop < 1 and 0 <= brightness <= 1):
        raise ValueError(f"expected crop in [0, 1) and brightness in [0, 1], got {crop!r} and {brightness!r}")
    mirror, shrink, top, left, light = rng.random(5)
    height, width = frames.shape[1:3]
    first, second, weight = _window(height, crop * shrink, top)
    rows = first, second, weight[:, None]
    first, second, weight = _window(width, crop * shrink, left)
    if flip and mirror < 0.5:
        first, second, weight = first[::-1], second[::-1], weight[::-1]
    channels = np.arange(3)           # a row as 3 * width numbers: NumPy's inner loops are long then, and quick
    columns = (first[:, None] * 3 + channels).ravel(), (second[:, None] * 3 + channels).ravel(), weight.repeat(3)
    factor = np.uint16(round(128 * (1 + brightness * (2 * light - 1))))      # in 1/128: 255 * 256 + 64 fits
    out = np.empty(frames.shape, np.uint8)
    for source, target in zip(frames, out, strict=True):      # frame by frame: the intermediates stay in cache
        picture = _blend(_blend(source.reshape(height, 3 * width), *rows, axis=0), *columns, axis=1)
        lit = np.multiply(picture, factor, dtype=np.uint16)       # NumPy 1 would take one byte for a small factor
        lit += 64
        lit >>= 7
        target[...] = np.minimum(lit, 255, out=lit).reshape(target.shape)
    return out


def _window(length: int, cut: float, place: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear reading of a window of (1 - cut) * length at `place` (0 start, 1 end) with `length` samples.

    Gives the two neighbours of each sample and the second one's weight in 1/256. Pixel centres lie at k + 1/2.
    """
    at = (np.arange(length) + 0.5) * (1 - cut) + place * cut * length - 0.5
    at = np.clip(at, 0, length - 1)
    first = at.astype(np.intp)
    weight = np.rint((at - first) * 256).astype(np.uint16)
    return first, np.minimum(first + 1, length - 1), weight


def _blend(lines: np.ndarray, first: np.ndarray, second: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """(256 - weight) * first + weight * second along an axis of (rows, columns) uint8; 255 * 256 + 128 fits."""
    mixed = np.take(lines, first, axis, mode="clip") * (256 - weight)     # mode: "raise" would check each index again
    mixed += np.take(lines, second, axis, mode="clip") * weight
    mixed += 128
    mixed >>= 8
    return mixed.astype(np.uint8)
