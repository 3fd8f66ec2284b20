"""kernels/cuda/gemm.cu, run on the CPU by tests/cuda/shim.h, against the definition in float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import dispatch, layers
from emonet_scratch.gpu import gemm, launch
from tests.cuda.shim import ShimError
from tests.strategies import seeds
from tests.test_cuda_conv import EPS, ROUND, keep_precision, precisions  # noqa: F401

drawn = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def agrees(shim, M, N, K, precision, seed, few=False):
    """Each number within what rounding its terms and adding them up can do."""
    dispatch.precision = precision
    rng = np.random.default_rng(seed)
    x, W, b = (rng.standard_normal(s).astype(np.float32) for s in ((M, K), (K, N), N))
    with gemm.own_products():
        y = gemm.affine(shim.asarray(x.T).T, shim.asarray(W), shim.asarray(b)).get()
    want, terms = x.astype(np.float64) @ W + b, np.abs(x).astype(np.float64) @ np.abs(W) + np.abs(b)
    u = ROUND[precision]
    assert y.shape == (M, N) and y.dtype == np.float32
    assert (np.abs(y - want) <= (2 * u + u * u + (K + 4) * EPS) * terms).all()
    with gemm.own_products():
        assert gemm.affine(shim.asarray(x), shim.asarray(W), shim.asarray(b)).get().tobytes() == y.tobytes()


@drawn
@given(st.integers(1, 70), st.integers(1, 140), st.integers(1, 300), precisions, seeds)
def test_products(shim, M, N, K, precision, seed):
    agrees(shim, M, N, K, precision, seed)


@pytest.mark.parametrize("precision", dispatch.PRECISIONS)
@pytest.mark.parametrize("M, N, K", [(1, 1, 1), (32, 64, 32), (33, 65, 129), (1, 7, 2000)])
def test_chosen_sizes(shim, M, N, K, precision):
    agrees(shim, M, N, K, precision, 0)


@pytest.mark.parametrize("most, shares", [(1, 1), (3, 3), (10**6, 16)])
def test_the_sum_is_cut_into_shares(shim, monkeypatch, most, shares):
    """Into at most as many as asked for, whole steps each, and the last may be shorter."""
    monkeypatch.setattr(gemm, "ENOUGH_BLOCKS", most)
    grids, call = [], launch.Kernel.__call__
    monkeypatch.setattr(launch.Kernel, "__call__",
                        lambda self, grid, *rest: (grids.append(grid), call(self, grid, *rest))[1])
    agrees(shim, 2, 9, 2000, "fp32", 0)
    assert grids[0] == (1, 1, shares)


@drawn
@given(st.lists(st.integers(1, 5), min_size=1, max_size=2), st.integers(1, 40), st.integers(1, 40), seeds)
def test_cuda_twin_Dense(shim, leading, D, M, seed):
    """Only where products must be our own; its backward is the definition's."""
    rng = np.random.default_rng(seed)
    layer = layers.Dense(D, M, rng).to_device("cuda:0")
    x = shim.asarray(rng.standard_normal((*leading, D)).astype(np.float32))
    y, cache = layer.forward(x)
    assert not isinstance(cache, dispatch.TwinCache)
    with gemm.own_products():
        own, own_cache = layer.forward(x)
    assert isinstance(own_cache, dispatch.TwinCache) and own.shape == (*leading, M)
    assert np.allclose(own.get(), y.get(), rtol=0, atol=2 * (D + 4) * EPS * (np.abs(x.get()).sum(-1).max() + 1) * 4)
    dx, grad = layer.backward(own, cache).get(), layer.W.grad.get()
    layer.zero_grad()
    assert np.array_equal(layer.backward(own, own_cache).get(), dx) and np.array_equal(layer.W.grad.get(), grad)


def test_what_dense_does_not_know_goes_to_the_definition(shim):
    layer = layers.Dense(3, 2).to_device("cuda:0")
    with gemm.own_products():
        for x in (np.ones((2, 3)), np.ones((0, 3), np.float32), np.ones(3, np.float32)):
            assert gemm._Dense.forward(layer, shim.asarray(x)) is NotImplemented
        with pytest.raises(ValueError, match="a last axis of 3"):
            layer.forward(shim.asarray(np.ones((2, 4), np.float32)))
    assert not gemm._own


BUGS = [("__syncthreads();                                                      // the block", "// the block"),
        ("i0 + i < M && k0 + k < last ?", "i0 + i < M ?"), ("if (i < M && j < N)", "if (j < N)"),
        ("if (i < M && j < N)", "if (i < M)"),
        ("sum + b[i % N]", "sum + b[i / N]"), ("y += (i64)blockIdx.z * M * N;", ""),
        ("first = (i64)blockIdx.z * share", "first = (i64)blockIdx.z * (share - 32)"),
        ("r / 2 * (KS / 2)", "r / 2 * 2"), ("(p[t * WS])", "(p[t * XS])")]
BUGS = [*((*bug, "tf32") for bug in BUGS),
        ("__syncthreads();\n        multiply(", "multiply(", "fp32"),
        ("e / 2 * 8) * XS + k]", "e / 2 * 4) * XS + k]", "fp32"),
        ("p[(2 * t + 1) * WS])", "p[2 * t * WS + 1])", "bf16"),
        ("pack_bf16(p[2 * t], p[2 * t + 1])", "pack_bf16(p[t], p[t + 1])", "bf16")]


@pytest.mark.parametrize("there, bug, precision", BUGS)
def test_a_planted_bug_is_caught(shim, monkeypatch, there, bug, precision):
    compile_text = launch.compiler

    def change(text, *rest):
        assert text.count(there) == 1
        return compile_text(text.replace(there, bug), *rest)
    monkeypatch.setattr(launch, "compiler", change)
    with pytest.raises((AssertionError, ShimError)):
        agrees(shim, 37, 71, 401, precision, 0)
