"""kernels/cuda/lstm.cu, run on the CPU by tests/cuda/shim.h, against the definition in float64."""

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import dispatch, layers
from emonet_scratch.kernels.cuda import launch, lstm
from tests.cuda.shim import ShimError
from tests.strategies import seeds

drawn = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.tuples(st.integers(1, 5), st.integers(1, 19), st.integers(1, 7), st.integers(1, 19), st.integers(1, 2))


def near(got, want, terms, name):
    got = got.get() if hasattr(got, "get") else got
    assert got.shape == want.shape and got.dtype == np.float32, name
    limit = 16 * np.finfo(np.float32).eps * np.sqrt(terms) * max(np.abs(want).max(initial=0), 1e-3)
    worst = np.abs(got - want).max(initial=0)
    assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:.3g}"


def agrees(shim, size, ends, states, final, truncate, seed):
    """One forward and two backwards of the kernel against the definition: outputs, states, all gradients."""
    (T, N, D, H, L), rng = size, np.random.default_rng(seed)
    layer = layers.LSTM(D, H, L, truncate=truncate, rng=rng)
    for p in layer.parameters():
        p.value[...] += 0.3 * rng.standard_normal(p.value.shape)
    reference = copy.deepcopy(layer).astype(np.float64)
    layer.to_device("cuda:0")
    x = rng.standard_normal((D, N, T)).astype(np.float32).T                                      # not contiguous
    lengths = rng.integers(0, T + 1, N) if ends else None
    if ends:
        x = np.where(np.arange(T)[:, None, None] < lengths[:, None], x, np.nan).astype(np.float32)
    initial = rng.standard_normal((2, L, N, H)).astype(np.float32) if states else None
    on_device = None if initial is None else tuple(map(shim.asarray, initial))
    (y, (h, c)), cache = layer.forward(shim.asarray(x), lengths, on_device)
    assert isinstance(cache, dispatch.KernelCache), "the definition ran, not the kernel"
    (want_y, (want_h, want_c)), want_cache = reference.forward(
        x.astype(np.float64), lengths, None if initial is None else tuple(initial.astype(np.float64)))
    dy = rng.standard_normal((H, N, T)).astype(np.float32).T
    dfinal = rng.standard_normal((2, L, N, H)).astype(np.float32) if final else None
    for times in (1, 2):
        given_final = None if dfinal is None else tuple(map(shim.asarray, dfinal))
        dx, (dh, dc) = layer.backward(shim.asarray(dy), given_final, cache)
        want_dx, (want_dh, want_dc) = reference.backward(
            dy.astype(np.float64), None if dfinal is None else tuple(dfinal.astype(np.float64)), want_cache)
        terms = T * 4 * max(D, H) * L
        for name, got, want in [("y", y, want_y), ("h", h, want_h), ("c", c, want_c), ("dx", dx, want_dx),
                                ("dh", dh, want_dh), ("dc", dc, want_dc)]:
            near(got, want, terms, name)
        for p, q in zip(layer.parameters(), reference.parameters(), strict=True):
            near(p.grad, q.grad, times * terms * N, p.name)


@drawn
@given(sizes, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 1, 2, 3]), seeds)
def test_cuda_kernel_LSTM(shim, size, ends, states, final, truncate, seed):
    agrees(shim, size, ends, states, final, truncate, seed)


@pytest.mark.parametrize("size", [(2, 33, 5, 67, 1), (1, 8, 1, 8, 2), (3, 9, 2, 33, 1)])
def test_more_sequences_and_units_than_a_block_takes_at_a_time(shim, size):
    agrees(shim, size, True, True, True, None, 1)


def test_the_same_bits_every_time(shim):
    layer = layers.LSTM(3, 10, 2, rng=np.random.default_rng(0)).to_device("cuda:0")
    x = shim.asarray(np.random.default_rng(1).standard_normal((4, 17, 3)).astype(np.float32))

    def once():
        layer.zero_grad()
        (y, _), cache = layer.forward(x, [4, 1] * 8 + [0])
        dx, _ = layer.backward(y, None, cache)
        return [a.get() for a in (y, dx, *(p.grad for p in layer.parameters()))]
    for a, b in zip(once(), once(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_goes_to_the_definition(shim):
    x = shim.asarray(np.ones((2, 1, 3), np.float32))
    layer = layers.LSTM(3, 8, rng=np.random.default_rng(0)).to_device("cuda:0")
    assert isinstance(layer.forward(x)[1], dispatch.KernelCache)
    for other, inputs in [(layers.LSTM(3, 8 * 133), x), (copy.deepcopy(layer).astype(np.float64), x.astype(np.float64))]:
        assert not isinstance(other.to_device("cuda:0").forward(inputs)[1], dispatch.KernelCache)
    with pytest.raises(ValueError, match=r"expected 1 integers in 0\.\.2"):
        layer.forward(x, [3])
    _, cache = layer.forward(x)
    with pytest.raises(ValueError, match="got dy of shape"):
        layer.backward(shim.asarray(np.ones((1, 1, 8), np.float32)), None, cache)


# what stands there, what the bug makes of it, what must be said
BUGS = {
    "no barrier between the steps": ("        grid_barrier(counter);\n    }\n}", "    }\n}", "order of threads"),
    "no barrier between the steps, backward": ("grid_barrier(counter);     ", "__syncthreads();     ", "order of threads"),
    "states used before they are there": ("* H + e] : 0;\n            __syncthreads();", "* H + e] : 0;",
                                          "order of threads"),
    "a share of the sum left out": ("distance < 8", "distance < 4", "off by"),
    "rows of the wrong tile": ("(r0 + i) * SS", "(r0 + i / 2) * SS", "off by"),
    "dh read before it is written": ("__syncthreads();                                                      // dh", "// dh",
                                     "order of threads"),
    "the wrong gate": ("sums[r][UNITS + u]", "sums[r][u]", "y: off by"),
    "an end one step late": ("t < lengths[n];\n                gates", "t <= lengths[n];\n                gates", "^y"),
    "an end one step late, backward": ("t < lengths[n];\n            float in", "t <= lengths[n];\n            float in",
                                       "^d"),
    "a unit beyond the last": ("if (unit >= H) continue;", "if (unit > H) continue;", "wrote|order of threads|off by"),
    "truncation one step off": ("t % truncate == 0", "(t + 1) % truncate == 0", "^d"),
    "the second sequence of a warp": ("rows[other + k]", "rows[k]", "^d"),
    "a term of the cell's gradient": ("out * (1 - tc * tc)", "out * (1 - tc)", "^d"),
}


@pytest.mark.parametrize("there, bug, message", BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_caught(shim, monkeypatch, there, bug, message):
    compile_text = launch.compiler
    assert launch.source("lstm").count(there) == 1
    monkeypatch.setattr(launch, "compiler", lambda text, *rest: compile_text(text.replace(there, bug), *rest))
    with pytest.raises((AssertionError, ShimError), match=message):
        agrees(shim, (4, 17, 3, 10, 1), True, True, True, 2, 0)


def test_the_room_is_what_the_kernels_take():
    """Shared memory as the headers say: 4 (36 H + 16 (H + 2)) and 16 H UNITS bytes."""
    assert lstm._shared(256) == (4 * (36 * 256 + 16 * 258), 16 * 256 * 8)
