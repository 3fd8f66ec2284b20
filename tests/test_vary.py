"""Pictures in other positions and light: what is drawn is what is done."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from emonet_scratch.data.vary import bilinear, vary
from tests.strategies import seeds


def smooth(N, seed=0, size=24):
    y, x = np.mgrid[:size, :size] / size
    rng = np.random.default_rng(seed)
    waves = [127 + 100 * np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(-1, 1, (N, 3))]
    return np.repeat(np.array(waves)[..., None], 3, axis=3).astype(np.uint8)


@given(st.integers(2, 9), st.integers(2, 9), seeds)
def test_pixels_are_read_as_by_scipy(h, w, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
    x, y = rng.uniform(-3, w + 2, (5, 4)), rng.uniform(-3, h + 2, (5, 4))
    want = np.stack([map_coordinates(np.pad(image[..., c].astype(float), 3), (y + 3, x + 3), order=1) for c in range(3)], -1)
    assert np.allclose(bilinear(image, x, y), want, atol=1e-2)


@given(seeds)
def test_nothing_to_vary_leaves_the_picture_or_mirrors_it(seed):
    images = np.random.default_rng(seed).integers(0, 256, (6, 7, 9, 3)).astype(np.uint8)
    for image, seen in zip(images, vary(images, np.random.default_rng(seed), 0, 0, 0, 0), strict=True):
        assert np.array_equal(seen, image) or np.array_equal(seen, image[:, ::-1])


def test_the_seed_decides_and_the_argument_stays():
    images = smooth(5)
    before = images.copy()
    a, b = (vary(images, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a, b) and np.array_equal(images, before) and a.dtype == np.uint8 and a.shape == images.shape
    assert not np.array_equal(a, vary(images, np.random.default_rng(4)))


@pytest.mark.parametrize("turn", [10, 30])
def test_a_bar_is_turned_by_up_to_the_angle(turn):
    """Its direction is that of the first axis of its grey values."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[19:22, 5:36] = 255
    angles = []
    for seen in vary(np.stack([image] * 300), np.random.default_rng(0), turn, 0, 0, 0):
        y, x = np.nonzero(seen[..., 0] > 100)
        _, vectors = np.linalg.eigh(np.cov(x, y))
        angles.append(np.degrees(np.arctan(vectors[1, 1] / vectors[0, 1])))
    assert turn * 0.9 < max(angles) < turn * 1.1 and -turn * 1.1 < min(angles) < -turn * 0.9


def test_zoom_and_shift_reach_what_they_say():
    image = np.zeros((60, 60, 3), np.uint8)
    image[20:40, 20:40] = 255
    found = vary(np.stack([image] * 400), np.random.default_rng(0), 0, 0.2, 0.1, 0) > 127
    sides = np.sqrt(found[..., 0].sum(axis=(1, 2)))
    assert 20 * np.exp(-0.2) - 1 <= sides.min() <= 18 and 22 <= sides.max() <= 20 * np.exp(0.2) + 1
    centres = [np.nonzero(one[..., 0])[1].mean() - 29.5 for one in found]
    assert -6.6 < min(centres) < -5 and 5 < max(centres) < 6.6


def test_light_changes_mean_and_contrast_within_bounds():
    images = np.clip(smooth(1).astype(int) // 3 + 80, 0, 255).astype(np.uint8)
    seen = vary(np.repeat(images, 300, axis=0), np.random.default_rng(0), 0, 0, 0, 0.4)
    means, spreads = seen.mean(axis=(1, 2, 3)) / images.mean(), seen.std(axis=(1, 2, 3)) / images.std()
    assert 0.79 < means.min() < 0.83 and 1.17 < means.max() < 1.21
    assert 0.45 < spreads.min() < 0.6 and 1.4 < spreads.max() < 1.72
