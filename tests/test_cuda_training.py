"""The kernels for GPUs together: each has a test, and a whole training run with them goes as one on the host."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emonet_scratch import dispatch
from emonet_scratch.backend import to_device
from emonet_scratch.kernels.cuda import launch
from tests.tiny import TINY, make, rows, states


def test_every_kernel_for_gpus_is_tested():
    tested = "".join(p.read_text() for p in Path(__file__).parent.glob("test_cuda_*.py"))
    names = dispatch.registered("cuda")
    assert names and [n for n in names if f"def test_cuda_kernel_{n.replace('.', '_')}(" not in tested] == []


@pytest.mark.parametrize("with_cupy, environment, imported", [
    (False, {}, "False"), (True, {}, "True"), (True, {"EMONET_KERNELS": "off"}, "False"),
    (True, {"EMONET_PRECISION": "half"}, "EMONET_PRECISION must be one of fp32, tf32, bf16, got 'half'")])
def test_the_kernels_are_imported_where_cupy_is_and_kernels_are_not_off(with_cupy, environment, imported):
    """On host arrays nothing else changes."""
    code = f"""if 1:
        import sys, numpy as np
        from emonet_scratch import dispatch, layers
        if {with_cupy}:
            from tests.device import cupy
            sys.modules["cupy"] = cupy
        try:
            layers.Dropout(0.5, 1).forward(np.ones((2, 3), np.float32))
            print("emonet_scratch.kernels.cuda" in sys.modules)
        except dispatch.KernelError as error:
            print(error)"""
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | {"EMONET_KERNELS": "on"} | environment,
                         cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == imported


@pytest.fixture
def launched(monkeypatch):
    """The names of all kernels that were launched."""
    names, call = set(), launch.Kernel.__call__

    def noted(self, *args, **kwargs):
        names.add(self.name)
        return call(self, *args, **kwargs)
    monkeypatch.setattr(launch.Kernel, "__call__", noted)
    return names


@pytest.mark.parametrize("optimizer, shards", [("sgd", 1), ("adam", 1), ("sgd", 3)])
def test_a_training_run_goes_as_on_the_host(shim, tmp_path, monkeypatch, launched, optimizer, shards):
    """Two epochs with dropout, clipping and evaluation; once more, stopped and resumed, it ends with the same bytes."""
    config = TINY.replace(optimizer=optimizer, shards=shards, epochs=2, dropout=0.3, lr=0.002, trunk_width=16, frames=2,
                          clip_norm=0.5, batch_size=11)

    def train(folder, **options):
        return make(tmp_path / folder, config, **options)
    train("gpu", device="cuda:0").fit()
    stopped = train("resumed", device="cuda:0", save_every=1)
    step, steps = stopped.step, iter(range(4))
    stopped.step = lambda batch: step(batch) if next(steps) < 3 else (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    train("resumed", device="cuda:0", save_every=1).fit(resume=True)
    assert states(tmp_path / "resumed") == states(tmp_path / "gpu")
    assert launched >= {f"emonet_{name}" for name in (
        "normalize", "dropout", "softmax_cross_entropy", optimizer, "squares", "norm", "clip")}

    monkeypatch.setattr(dispatch, "enabled", False)
    train("host").fit()
    for one, two in zip(rows(tmp_path / "gpu"), rows(tmp_path / "host"), strict=True):
        for name, slack in (("loss", 1e-5), ("grad_norm", 1e-4)):
            assert two[name] is None or one[name] == pytest.approx(two[name], rel=slack)


def test_shards_draw_dropout_by_step_and_shard(shim, tmp_path):
    """Also where a kernel puts another array in the place of the counter, and a last batch has fewer clips than shards."""
    trainer = make(tmp_path, TINY.replace(shards=4, epochs=1, dropout=0.3, batch_size=6), device="cuda:0")
    trainer.fit()
    counters = [to_device(b, "cpu") for name, b in trainer.model.named_buffers().items() if name.endswith("counter")]
    assert counters and all(c[1] == 4 * trainer.optimizer.t for c in counters)


def test_the_precision_follows_the_command_line_then_the_environment(monkeypatch):
    monkeypatch.setattr(dispatch, "precision", "tf32")                         # as EMONET_PRECISION=tf32 leaves it
    assert dispatch.use_precision(None, "cpu") == "fp32" and dispatch.precision == "tf32"
    assert dispatch.use_precision(None, "cuda:0") == "tf32"
    assert dispatch.use_precision("bf16", "cuda:0") == dispatch.precision == "bf16"
    for name, device in (("tf32", "cpu"), ("half", "cuda:0")):
        with pytest.raises(dispatch.KernelError, match=name):
            dispatch.use_precision(name, device)


def test_the_benchmark_refuses_to_run_without_a_gpu(tmp_path):
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, str(root / "benchmarks/gpu.py"), "--out", str(tmp_path / "gpu.json")],
                         env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)}, capture_output=True,
                         text=True, check=False)
    assert run.returncode == 1 and run.stderr.startswith("benchmarks/gpu.py wants a GPU: ") and not list(tmp_path.iterdir())
    assert len(run.stderr.splitlines()) == 1
