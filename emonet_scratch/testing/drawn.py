"""What property tests draw: Hypothesis draws sizes and a seed, NumPy draws the values.

Hypothesis' own arrays hold few distinct values, which hide mistakes; its sizes and seeds shrink to the smallest that fail.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import gradcheck
from ..differences import Report

CHECKED = set[Any]()   # the kinds of layers that `check` was called on, for a test that none was forgotten

sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


def shapes(axes: int, most: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of so many axes, each from 1 to `most`."""
    return st.tuples(*[st.integers(1, most)] * axes)


def values(seed: int, *shape: int, away_from: float | None = None) -> np.ndarray:
    """Normal float64 values, as a view with permuted strides every second time; `away_from`: no closer than .01."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape[::-1] if seed % 2 else shape)
    if away_from is not None:
        x += 0.01 * np.where(x < away_from, -1, 1)
    return x.T if seed % 2 else x


def arrays(shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]],
           away_from: float | None = None) -> st.SearchStrategy[np.ndarray]:
    """`values` of a shape, or of drawn shapes: `arrays(shapes(2))`."""
    drawn = shape if isinstance(shape, st.SearchStrategy) else st.just(shape)
    return st.builds(lambda seed, shape: values(seed, *shape, away_from=away_from), seeds, drawn)


def check(layer: Any, *inputs: Any, **options: Any) -> Report:
    """gradcheck(layer, *inputs), and a note in CHECKED that this kind was checked."""
    report = gradcheck(layer, *inputs, **options)
    CHECKED.add(type(layer))
    return report
