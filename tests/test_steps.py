"""kernels/steps: every version of every kernel there against its definition, and the command that times them."""

import importlib.util
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emonet_scratch import losses
from emonet_scratch.kernels.cuda import launch
from tests.cuda import nvrtc
from tests.cuda.shim import ShimError
from tests.strategies import seeds

STEPS = Path(__file__).parents[1] / "kernels" / "steps"
SPEC = importlib.util.spec_from_file_location("steps_run", STEPS / "run.py")
run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run)

drawn = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes, widths = st.integers(1, 14), st.sampled_from([1, 3, 8, 16, 20, 35])
CUDA = sorted(path.stem for path in STEPS.glob("*.cu"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    if shutil.which(run.CC) is None:
        pytest.skip(f"there is no {run.CC} to compile kernels/steps with")
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="session")
def libraries(folder):
    return {path.stem: run.build(path.stem, folder) for path in sorted(STEPS.glob("*.c"))}


def agree(libraries, family, function, case):
    names = [name for name in libraries if name.startswith(family)]
    assert len(names) == 4
    for name in names:
        off = run.excess(run.call(libraries[name][function], case)(), case)
        assert off <= 1, f"{name}: {off:.3g} times the tolerance"


@drawn
@given(st.integers(1, 2), sizes, sizes, widths, widths, seeds)
def test_every_convolution_is_the_definition(libraries, N, H, W, C, F, seed):
    agree(libraries, "conv", "conv3x3", run.conv_case(N, H, W, C, F, seed))


@drawn
@given(st.integers(1, 3), sizes, widths, widths, seeds)
def test_every_lstm_is_the_definition(libraries, T, N, D, H, seed):
    agree(libraries, "lstm", "lstm_forward", run.lstm_case(T, N, D, H, seed))


@pytest.mark.parametrize("name, right, wrong", [
    ("conv_1", "q < 3", "q < 2"), ("conv_2", "s = j + q - 1", "s = j + q"), ("conv_3", "p++, xs += row", "p++"),
    ("lstm_1", "sigmoid(a[1]) * *cell + sigmoid(a[0])", "sigmoid(a[0]) * *cell + sigmoid(a[1])"),
    ("lstm_2", "memcpy(a + r * 4 * H, b", "memcpy(a + r * 4 * H, b + r"),
    ("lstm_3", "sigmoid_of(a[r][3]) * tanh_of(cell)", "sigmoid_of(a[r][3]) * cell"),
    ("lstm_4", ".has_initial = 1", ".has_initial = 0")])
def test_planted_bugs_are_caught(folder, name, right, wrong):
    text = (STEPS / f"{name}.c").read_text(encoding="utf-8")
    assert text.count(right) == 1
    library = run.build(f"{name}_wrong", folder, text.replace(right, wrong))
    function, case = ("conv3x3", run.conv_case(1, 5, 6, 3, 4)) if name[:4] == "conv" else (
        "lstm_forward", run.lstm_case(2, 3, 4, 5))
    assert run.excess(run.call(library[function], case)(), case) > 10


def test_the_command_prints_its_tables(folder, libraries, monkeypatch, capsys):
    build = run.build
    monkeypatch.setattr(run, "build", lambda name, _: libraries[name])
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick"])
    run.main()
    rows = re.findall(r"^\| `(\w+)\.c` \| [\d.e+-]+ \| \d+ % \| [\d.]+ \| [\d.]+ \| \d+ % \|$", capsys.readouterr().out,
                      re.MULTILINE)
    assert rows == [f"{family}_{k}" for family in ("conv", "lstm", "lstm") for k in range(1, 5)]
    text = (STEPS / "conv_2.c").read_text(encoding="utf-8").replace("q < 3", "q < 2")
    monkeypatch.setitem(libraries, "conv_2", build("conv_2_wrong", folder, text))
    with pytest.raises(SystemExit, match=r"conv_2: \S+ times as far from the definition"):
        run.main()


# ---- CUDA ----

def text_of(name):
    """One text, as launch.py makes one of its sources."""
    text = (STEPS / f"{name}.cu").read_text(encoding="utf-8")
    return re.sub(r'#include "(\S+)"', lambda m: (STEPS / m[1]).read_text(encoding="utf-8"), text)


def softmax(shim, monkeypatch, name, N, K, weighted, seed, change=lambda text: text):
    """(how far the loss, how far dlogits are from the definition, in units of 16 eps sqrt(K))"""
    rng = np.random.default_rng(seed)
    logits, labels = 3 * rng.standard_normal((N, K)).astype(np.float32), rng.integers(0, K, N)
    weights = (0.5 + rng.random(K)).astype(np.float32) if weighted else None
    loss, want = losses.softmax_cross_entropy(logits.astype(np.float64), labels, 0.1, weights)
    targets, total = losses.targets_of(labels, N, K, 0.1, weights)
    monkeypatch.setattr(launch, "source", lambda _: change(text_of(name)))
    kernel = launch.Module(name, {}, False, launch.compiler).kernel("emonet_softmax_cross_entropy")
    parts, dlogits = shim.asarray(np.zeros(N)), shim.asarray(np.full((N, K), np.nan, np.float32))
    grid = {"1": -(-N // 256), "2": N, "3": -(-N // 8)}[name[-1]]
    kernel((grid,), (256,), (
        np.int32(N), np.int32(K), np.float64(total), np.int32(weighted), shim.asarray(logits),
        shim.asarray(targets.astype(np.float32)), shim.asarray(weights if weighted else logits), dlogits, parts))
    unit = 16 * run.EPS * math.sqrt(K)
    return (abs(parts.get().sum() - loss) / max(abs(loss), np.abs(logits).max()) / unit,
            np.abs(dlogits.get() - want).max() / max(np.abs(want).max(), 1 / N) / unit)


@pytest.mark.parametrize("name", CUDA)
@drawn
@given(st.integers(1, 20), st.sampled_from([1, 2, 7, 33, 300]), st.booleans(), seeds)
def test_every_softmax_is_the_definition(shim, monkeypatch, name, N, K, weighted, seed):
    assert max(softmax(shim, monkeypatch, name, N, K, weighted, seed)) <= 1


def test_planted_bugs_of_cuda_are_caught(shim, monkeypatch):
    def off(name, right, wrong):
        return softmax(shim, monkeypatch, name, 9, 40, True, 0, lambda text: text.replace(right, wrong, 1))
    assert off("softmax_cuda_1", "* t_sum - t)", "- t)")[1] > 10
    with pytest.raises(ShimError, match="depends on the order of threads"):
        off("softmax_cuda_2", "__syncthreads();", "")


@pytest.mark.skipif(not nvrtc.installed(), reason="nvidia-cuda-nvrtc is not installed")
@pytest.mark.parametrize("name", CUDA)
def test_every_softmax_is_cuda(name):
    binary, _ = nvrtc.compile_text(text_of(name), [*launch.options({}), "--gpu-architecture=sm_90"])
    assert binary.startswith(b"\x7fELF")
