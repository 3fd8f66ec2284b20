"""emonet_scratch.testing: every promise of a contract is missed where it is broken, and the recipe runs elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from emonet_scratch import GradientError, layers, optim, testing
from tests.test_layers import EXAMPLES

ROOT = Path(__file__).parents[1]


class Changes(layers.Dense):
    """In place: what `what` says."""

    def __init__(self, what):
        super().__init__(3, 2, np.random.default_rng(0))
        self.what = what

    def forward(self, x):
        y, cache = super().forward(x)
        if self.what == "x in forward":
            x *= 2
        if self.what == "W in forward":
            self.W.value *= 2
        self.kept = None
        return (y, (cache, y) if self.what == "y" else cache)

    def backward(self, dy, cache):
        x, y = cache if self.what == "y" else (cache, None)
        dx = super().backward(dy, x)
        for name, array in (("dy", dy), ("x", x), ("y", y), ("W", self.W.value)):
            if name == self.what:
                array *= 2
        return dx


@pytest.mark.parametrize("what", ["x in forward", "W in forward", "dy", "x", "y", "W"])
def test_a_contract_misses_a_changed_argument(what):
    testing.contract(Changes(""), np.ones((4, 3)))
    side = "forward" if "forward" in what else "backward"
    with pytest.raises(AssertionError, match=f"{side} changed an argument"):
        testing.contract(Changes(what), np.ones((4, 3)))


class Wide(layers.ReLU):
    def forward(self, x):
        y, cache = super().forward(x)
        return y.astype(np.float64), cache


class WideGradient(layers.ReLU):
    def backward(self, dy, cache):
        return dy * cache.astype(np.float64)


class Coarse(layers.ReLU):
    def forward(self, x):
        return x.astype(np.float16).astype(x.dtype) if x.dtype == np.float32 else x, x > 0


class Sets(layers.Dense):
    def backward(self, dy, cache):
        self.W.grad[...] = cache.T @ dy
        return dy @ self.W.value.T


class Consumes(layers.ReLU):
    def backward(self, dy, cache):
        dx = dy * cache
        cache[...] = 0
        return dx


class Remembers(layers.Layer):
    """Its cache is on itself."""

    kept: tuple = ()

    def forward(self, x):
        self.kept = (float(x.sum()),)
        return x * x.sum(), x

    def backward(self, dy, x):
        return dy * self.kept[0] + (dy * x).sum()


class RemembersInGradient(layers.Dense):
    """What it adds to W.grad is of the last input, dx is right."""

    last: tuple = ()

    def forward(self, x):
        self.last = (x,)
        return super().forward(x)

    def backward(self, dy, cache):
        super().backward(dy, self.last[0])
        return dy @ self.W.value.T


class Shares(layers.Dense):
    def state_dict(self):
        return {p.name: p.value for p in self.parameters()}


class Loses(layers.Dense):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"b": 0 * state["b"]})


class Keeps(layers.Dense):
    def load_state_dict(self, state):
        self.W.value, self.b.value = state["W"], state["b"]


class Drifts(layers.ReLU):
    calls = 0

    def load_state_dict(self, state):
        self.calls += 1

    def forward(self, x):
        return x + self.calls, np.ones_like(x)


class Hides(layers.ReLU):
    def __init__(self):
        self.shift = np.ones(3)

    def forward(self, x):
        return x + self.shift, np.ones_like(x)


class KeepsItsMask(layers.ReLU):
    """Signs alone: halved inputs have the same."""

    def forward(self, x):
        self.mask = x > 0
        return x * self.mask, None

    def backward(self, dy, cache):
        return dy * self.mask


class WritesIntoItsOutput(layers.ReLU):
    def forward(self, x):
        self.room = vars(self).get("room", {"y": None})
        if self.room["y"] is None or self.room["y"].dtype != x.dtype:
            self.room["y"] = np.empty_like(x)
        return np.multiply(x, 2, out=self.room["y"]), None

    def backward(self, dy, cache):
        return 2 * dy


class Clips(layers.Dense):
    def forward(self, x):
        self.W.value = np.clip(self.W.value, -9, 9)
        return super().forward(x)


@pytest.mark.parametrize("layer, message", [
    (KeepsItsMask(), "changed an earlier cache"), (WritesIntoItsOutput(), "changed an earlier output"),
    (Clips(3, 2), "forward replaced a parameter"), (Wide(), "of float32 comes .*float64"),
    (WideGradient(), "of float32 comes .*float64"), (Coarse(), "float32 is far"),
    (Sets(3, 2), "do not double"), (Consumes(), "changed an argument|another gradient of an input"),
    (Remembers(), "a later forward changed an earlier cache"), (RemembersInGradient(3, 2), "changed an earlier cache"),
    (Shares(3, 2), "differs, or shares"), (Loses(3, 2), "differs, or shares"), (Keeps(3, 2), "differs, or shares"),
    (Drifts(), "forward is another"), (Hides(), "Hides holds an array of shape")], ids=lambda p: type(p).__name__)
def test_a_contract_misses_what_is_broken(layer, message):
    with pytest.raises((AssertionError, ValueError), match=message):
        testing.contract(layer, testing.values(2, 4, 3))


def test_a_contract_leaves_the_layer_as_it_was():
    for make, *_ in EXAMPLES.values():
        layer = make()
        state, grads = layer.state_dict(), [p.grad.copy() for p in layer.parameters()]
        if type(layer) in (layers.Dense, layers.BatchNorm, layers.Dropout):
            x = testing.values(1, 4, 3)
            before = x.copy()
            testing.contract(layer, x)
            assert np.array_equal(x, before)
            assert all(np.array_equal(a, state[k]) for k, a in layer.state_dict().items())
            assert all(np.array_equal(p.grad, g) for p, g in zip(layer.parameters(), grads, strict=True))


class Replaces(optim.SGD):
    def _update(self, p, slots, lr):
        p.value = p.value - lr * p.grad


class ChangesGradients(optim.SGD):
    def _update(self, p, slots, lr):
        p.grad *= lr
        p.value -= p.grad


class Forgets(optim.SGD):
    """Its momentum is not in its state."""

    def _update(self, p, slots, lr):
        memory = vars(self).setdefault("memory", {})
        memory[id(p)] = 0.9 * memory.get(id(p), 0) + p.grad
        p.value -= lr * memory[id(p)]


class DoesNothing(optim.SGD):
    def _update(self, p, slots, lr):
        value = p.value
        value = value - lr * p.grad


class OneRate(optim.SGD):
    def _update(self, p, slots, lr):
        p.value -= 0.1 * p.grad


@pytest.mark.parametrize("make, message", [
    (lambda p: DoesNothing(p, 0.1), "a step changes nothing"), (lambda p: OneRate(p, 0.1), "lr_factor 0 moves"),
    (lambda p: Replaces(p, 0.1), "replaced a parameter's array"), (lambda p: ChangesGradients(p, 0.1), "changed a gradient"),
    (lambda p: Forgets(p, 0.1), "goes on otherwise")])
def test_a_contract_misses_what_is_broken_in_an_optimizer(make, message):
    with pytest.raises(AssertionError, match=message):
        testing.contract_of_optimizer(make)


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, 0.9, True, 0.01), lambda p: optim.Adam(p, 0.1)])
def test_the_optimizers_keep_their_contract(make):
    testing.contract_of_optimizer(make)


@given(testing.shapes(3, most=4), testing.seeds)
def test_what_is_drawn(shape, seed):
    assert len(shape) == 3 and all(1 <= n <= 4 for n in shape)
    x = testing.values(seed, *shape, away_from=0.5)
    assert x.shape == shape and x.dtype == np.float64 and abs(x - 0.5).min() >= 0.01
    assert x.flags.c_contiguous or (seed % 2 and x.T.flags.c_contiguous)
    assert np.array_equal(x, testing.values(seed, *shape, away_from=0.5))


@given(testing.arrays((2, 3)), testing.arrays(testing.shapes(2), away_from=0.0))
def test_arrays_are_drawn(fixed, drawn):
    assert fixed.shape == (2, 3) and drawn.ndim == 2 and abs(drawn).min() >= 0.01


def test_check_is_gradcheck_and_remembers():
    class Own(layers.Dense):
        pass

    class Wrong(Own):
        def backward(self, dy, cache):
            return 2 * super().backward(dy, cache)
    assert [row.name for row in testing.check(Own(3, 2), np.ones((4, 3)))] == ["input 0", "parameter W", "parameter b"]
    with pytest.raises(GradientError):
        testing.check(Wrong(3, 2), np.ones((4, 3)))
    assert Own in testing.CHECKED and Wrong not in testing.CHECKED
    assert len(testing.check(Own(3, 2), np.ones((4, 3)), directions=2)) == 6


def recipe():
    page = (ROOT / "docs" / "gradient_checks.md").read_text(encoding="utf-8")
    code, = re.findall(r"^```python recipe\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return code


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """(an empty folder, the environment of a process that has the package from its wheel and nothing else of here)."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"                                                # setuptools builds beside its sources
    ignore = ["build", "*.egg-info", "*.so", "__pycache__", ".*"]
    for name in ("emonet_scratch", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*ignore))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EMONET_KERNELS")}
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheels", source],
                   check=True, env=environment | {"CC": "false"})             # without kernels, as where no compiler is
    wheel, = (folder / "wheels").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, env=environment)
    own = folder / "own"
    own.mkdir()
    quick = "settings.register_profile('quick', deadline=None, max_examples=10, phases=[Phase.generate])"
    (own / "conftest.py").write_text(f"from hypothesis import Phase, settings\n{quick}\nsettings.load_profile('quick')\n")
    return own, environment | {"PYTHONPATH": str(folder / "site"), "PYTHONDONTWRITEBYTECODE": "1"}


MISTAKES = {
    "self.b.grad += dy.sum(axis=0)": "pass", "dy / (1 + np.exp(-x))": "dy / (1 + np.exp(x))",
    "self.W.grad += q.T @ dy @ k": "self.W.grad += q.T @ q @ self.W.value", "self.dw = (dy * x)": "self.dw = (dy * self.w)",
    "2 * (y - targets) / y.size": "(y - targets) / y.size", "slots[\"m\"]": "vars(self).setdefault(id(p), 0 * p.value)"}


def test_the_recipe_runs_from_the_wheel(elsewhere):
    """As it stands, all pass; with a mistake in each of its tests, all fail."""
    folder, environment = elsewhere
    code = recipe()
    where = f"\n\ndef test_where():\n    assert layers.__file__.startswith({environment['PYTHONPATH']!r})\n"
    (folder / "test_gradients.py").write_text(code + where, encoding="utf-8")
    for right, wrong in MISTAKES.items():
        assert code.count(right) == 1, right
        code = code.replace(right, wrong)
    (folder / "test_mistakes.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"], cwd=folder,
                          env=environment, capture_output=True, text=True)
    results = {outcome: set(re.findall(rf"^{outcome} (test_\w+)\.py::(\w+)", done.stdout, re.MULTILINE))
               for outcome in ("PASSED", "FAILED", "ERROR")}
    names = set(re.findall(r"^def (test_\w+)", code, re.MULTILINE))
    assert len(names) == 5
    assert results == {"PASSED": {("test_gradients", name) for name in names | {"test_where"}},
                       "FAILED": {("test_mistakes", name) for name in names}, "ERROR": set()}, done.stdout + done.stderr
