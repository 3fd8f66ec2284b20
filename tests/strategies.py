"""What the property tests draw: Hypothesis draws sizes and a seed, NumPy draws the values."""

import numpy as np
from hypothesis import strategies as st

from emonet_scratch import gradcheck

CHECKED = set()   # the layer classes that `check` was called on


def check(layer, *inputs, **options):
    """gradcheck, remembered."""
    CHECKED.add(type(layer))
    gradcheck(layer, *inputs, **options)


sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def values(seed: int, *shape: int, away_from: float | None = None) -> np.ndarray:
    """Normal float64 values, as a view with permuted strides every second time; `away_from`: no closer than .01."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape[::-1] if seed % 2 else shape)
    if away_from is not None:
        x += 0.01 * np.sign(x - away_from)
    return x.T if seed % 2 else x
