"""Pictures as other cameras and rooms would have taken them: turned, nearer or farther, moved, mirrored, in other light."""

import numpy as np
from scipy.ndimage import gaussian_filter


def vary(images: np.ndarray, rng: np.random.Generator, turn: float = 15.0, zoom: float = 0.15, shift: float = 0.1,
         light: float = 0.3, blur: float = 0.0) -> np.ndarray:
    """A random change of each of images (N, H, W, C) uint8; a new array of the same shape and type.

    turn: degrees, up to which it is turned about its centre; zoom: it is scaled by a factor in exp(-zoom)..exp(zoom); shift:
    share of its sides by which it is moved; mirrored or not; light: values are multiplied by 1 +- light about their mean
    (contrast) and by 1 +- light / 2 (brightness); blur: half of them are blurred by a Gaussian with a deviation of up to
    that many pixels. What comes in from outside is black. Pixels are read bilinearly at

        source = c + [[cos a, sin a], [-sin a, cos a]] (x - c - d) / s           c: the centre, d: the shift, s: the factor
    """
    N, H, W, _C = images.shape
    angle, scale, across, down, contrast, brightness, soft = rng.uniform(-1, 1, (7, N))
    mirror = np.where(rng.random(N) < 0.5, -1.0, 1.0)
    cos, sin = (f(np.radians(turn) * angle) / np.exp(zoom * scale) for f in (np.cos, np.sin))
    y, x = (axis - (n - 1) / 2 for axis, n in zip(np.mgrid[:H, :W].astype(np.float32), (H, W), strict=True))
    out = np.empty_like(images)
    for k, image in enumerate(images):                                        # one by one: it stays in cache
        u, v = x - shift * W * across[k], y - shift * H * down[k]
        seen = bilinear(image, mirror[k] * (cos[k] * u + sin[k] * v) + (W - 1) / 2, cos[k] * v - sin[k] * u + (H - 1) / 2)
        if blur * soft[k] > 0:
            seen = gaussian_filter(seen, (blur * soft[k], blur * soft[k], 0), truncate=3)
        mean = seen.mean()
        seen = ((seen - mean) * (1 + light * contrast[k]) + mean) * (1 + light / 2 * brightness[k])
        out[k] = np.clip(np.rint(seen), 0, 255)
    return out


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(H, W, C) float32: an image (h, w, C) read at x and y (H, W) in pixels, black outside."""
    h, w, C = image.shape
    padded = np.zeros(((h + 4) * (w + 4), C), np.float32)
    padded.reshape(h + 4, w + 4, C)[2:-2, 2:-2] = image
    x, y = np.clip(x + 2, 0, w + 2), np.clip(y + 2, 0, h + 2)
    left, top = x.astype(np.intp), y.astype(np.intp)
    a, b = (x - left)[..., None], (y - top)[..., None]
    at = top * (w + 4) + left
    upper, lower = ((1 - a) * padded[row] + a * padded[row + 1] for row in (at, at + w + 4))
    return (1 - b) * upper + b * lower
