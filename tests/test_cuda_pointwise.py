"""The kernels of kernels/cuda/pointwise.cu, run on the CPU by tests/cuda/shim.h, against the definitions in float64."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import kernels, layers
from tests.strategies import seeds

drawn = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
EPS = np.finfo(np.float32).eps


@drawn
@given(st.lists(st.integers(1, 20), min_size=0, max_size=3), st.integers(1, 16), seeds)
def test_cuda_twin_Normalize(shim, shape, C, seed):
    rng = np.random.default_rng(seed)
    layer = layers.Normalize(rng.random(C), rng.random(C) + 0.1)
    x = rng.integers(0, 256, (*shape, 2 * C)).astype(np.uint8)
    want = x[..., ::2] * layer.scale.astype(np.float64) + layer.shift
    layer.to_device("cuda:0")
    y, cache = layer.forward(shim.asarray(x)[..., ::2])
    assert isinstance(cache, kernels.TwinCache) and layer.backward(y, cache) is None
    assert np.abs(y.get() - want).max() <= 2 * EPS * np.abs(want).max()
