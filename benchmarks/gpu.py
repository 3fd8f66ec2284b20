"""All that has to be seen on a GPU, in one run of at most 8 minutes: first that it is right, then how fast it is.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --quick                    # tiny sizes, on the CPU where there is no GPU: measures nothing

1. the tests of the CUDA kernels (tests/test_cuda_*.py) with CuPy's arrays against float64 definitions on the CPU;
2. `examples/train_afew.py`, whole, on the GPU: the accuracies that docs/results.md has for the CPU;
3. what the GPU can do: a large copy and large matrix products in each precision;
4. networks side by side with PyTorch in the same precision, each in its own process, taking turns (see peers.py), and with
   the GPU's own rates.

Every step ends by waiting for the GPU. Inputs lie on the GPU beforehand, for all. In bf16 our kernels round the factors of
products and keep everything else in float32; PyTorch runs under autocast, and in evaluation with the whole network in
bfloat16. What is left when the time is over stays "not measured". The file is written after every part.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lstm_cpu
import numpy as np
import resnet_cpu
from machine import machine
from peers import Contestant, Measured, arguments, measure
from report import Work, ratio, table

from emonet_scratch import dispatch
from emonet_scratch.backend import choose_device, import_cupy
from emonet_scratch.files import write_whole

ROOT = Path(__file__).parents[1]
LR = 1e-6
AUDIO = 6                           # inputs of the audio branch
PYTORCH = {"eager": "PyTorch eager", "compile": "torch.compile", "reduce-overhead": "torch.compile, reduce-overhead"}
# How far outputs and gradients of the same network may be apart in the Euclidean norm, when both round this way. bf16 has 3
# bits less than tf32, whose gradients of a ResNet-20 were .06 apart on an H100; a wrong formula is off by its whole length.
FAR = {"fp32": (1e-3, 5e-2), "tf32": (1e-2, 1e-1), "bf16": (5e-2, 5e-1)}


# ---- contestants, built in a worker ----

def _ours(case: dict, build: Callable) -> tuple[Callable, Callable]:
    """build(case), in the precision of the case; the answer has the memory that CuPy has taken, GiB."""
    device = case["device"]
    dispatch.use_precision(case["precision"], device)
    step, answer = build(case)

    def with_memory() -> dict:
        found = answer()
        return found if device == "cpu" else found | {
            "memory": np.array(import_cupy().get_default_memory_pool().total_bytes() / 2**30)}
    return step, with_memory


def _theirs(case: dict, build: Callable, variant: str) -> tuple[Callable, Callable]:
    """build(case, variant, half), in the precision of the case; the answer has the most memory that PyTorch held, GiB."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case["precision"] != "fp32"
    torch.backends.cudnn.benchmark = True
    step, answer = build(case, variant, case["precision"] == "bf16")

    def with_memory() -> dict:
        found = answer()
        return found if case["device"] == "cpu" else found | {"memory": np.array(torch.cuda.max_memory_allocated() / 2**30)}
    return step, with_memory


def our_emonet(case: dict) -> tuple[Callable, Callable]:
    """The whole network on bytes, the trunk in chunks that are computed again in backward."""
    import our_nets

    from emonet_scratch.models import EmoNet, EmoNetConfig
    from emonet_scratch.optim import SGD

    net = EmoNet(EmoNetConfig().replace(**case["config"]), AUDIO, np.random.default_rng(0))
    net.load_state_dict(case["state"])
    net.trunk.layer.resnet.conv.input_gradient = False                        # PyTorch computes none, either
    net.to_device(case["device"]).train()
    inputs = [case["x"], case["lengths"], case["audio"]]
    return our_nets.training(net, inputs, case["labels"], SGD(net.parameters(), LR), case["device"])


def their_emonet(case: dict, variant: str, half: bool) -> tuple[Callable, Callable]:
    """The same in PyTorch."""
    import torch
    import torch_nets

    device = case["device"].partition(":")[0]
    net = torch_nets.load(torch_nets.EmoNet(case["config"], AUDIO), case["state"], device).train()
    *inputs, labels = (torch.from_numpy(case[name]).to(device) for name in ("x", "audio", "labels"))
    optimizer = torch.optim.SGD(net.parameters(), LR, fused=variant != "eager")
    return torch_nets.training(net, case["state"], inputs, labels, optimizer, variant, half)


# ---- the table ----

@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: what runs, in which precision, and what is hoped for.

    case(*sizes), with --quick case(*tiny), is what ours and theirs are built from. goals: variants of PyTorch
    (torch_nets.as_run), each with the ratio to reach.
    """

    work: str
    precision: str
    case: Callable[..., dict]
    sizes: tuple
    tiny: tuple
    ours: Callable
    theirs: Callable
    goals: dict[str, float]
    unit: str


def clips(N: int, T: int, changes: dict) -> dict:
    """A case: clips of T frames for the preset `paper` with `changes`."""
    from emonet_scratch.models import EmoNet, EmoNetConfig

    # no dropout: both sides would draw other masks, and the gradients could not be compared
    config = EmoNetConfig.preset("paper").replace(dropout=0.0, lda_components=None, **changes)
    rng, size = np.random.default_rng(0), config.frame_size
    return {"kind": "training", "config": dataclasses.asdict(config), "state": EmoNet(config, AUDIO, rng).state_dict(),
            "labels": rng.integers(0, 7, N), "x": rng.integers(0, 256, (N * T, size, size, 3), np.uint8),
            "lengths": np.full(N, T), "audio": rng.standard_normal((N, AUDIO), np.float32)}


def resnet(N: int, kind: str, precision: str, goals: dict[str, float]) -> Row:
    """ResNet-20 on N images of 256 x 256; kind: "training" or "evaluation"."""
    return Row(f"ResNet-20, {N} of 256 x 256, {kind}, {precision}", precision, resnet_cpu.images, (N, 256, kind),
               (min(N, 2), 16, kind), resnet_cpu.ours, resnet_cpu.theirs, goals, "images")


def rows() -> Iterator[Row]:
    """The most wanted first: the time may be over before the last."""
    for precision in ("bf16", "tf32"):
        yield resnet(32, "training", precision, {"eager": 1.5, "compile": 1.0})
        yield resnet(64, "evaluation", precision, {"eager": 2.5, "compile": 1.2})
        yield resnet(1, "evaluation", precision, {"eager": 3.0, "reduce-overhead": 1.0})
        if precision == "bf16":
            yield Row("3-layer LSTM, D 64, H 256, T 50, N 16, forward + backward, fp32", "fp32", lstm_cpu.sequences,
                      (50, 16, 64, 256), (3, 2, 4, 8), lstm_cpu.ours, lstm_cpu.theirs, {"eager": 1.0}, "steps")
            yield Row("EmoNet `paper`, 16 clips of 50 frames of 256 x 256, training step, bf16", "bf16", clips,
                      (16, 50, {}), (2, 3, {"frame_size": 16, "lstm_size": 8}), our_emonet, their_emonet,
                      {"eager": 1.3}, "frames")


def work_of(case: dict) -> Work:
    """Operations, and bytes that have to move at the least, of one step; of the whole network, the trunk's."""
    if "dy" in case:
        (T, N, D), H = case["x"].shape, case["dy"].shape[2]
        return lstm_cpu.work(T, N, D, H)
    return resnet_cpu.work(len(case["x"]), case["x"].shape[1], case["kind"])


def _measure(row: Row, options: Any, device: str, roofline: dict) -> dict:
    precision = "fp32" if device == "cpu" else row.precision
    case = row.case(*(row.tiny if options.quick else row.sizes)) | {"device": device, "precision": precision}
    outputs, gradients = FAR[precision]
    contestants = [Contestant("ours", partial(_ours, build=row.ours), "ours"),
                   *(Contestant(PYTORCH[variant], partial(_theirs, build=row.theirs, variant=variant), variant)
                     for variant in row.goals)]
    found = measure(contestants, case, options, None, {"logits": outputs, "y": outputs, "gradients": gradients})
    memory = {m.contestant.name: round(float(m.answer.pop("memory")), 2) for m in found if "memory" in m.answer}
    units = case["dy"].shape[0] * case["dy"].shape[1] if "dy" in case else len(case["x"])
    table(("tiny: " if options.quick else "") + row.work, found, unit=(row.unit, units))

    work, top = work_of(case), roofline if isinstance(roofline, dict) else {}

    def line(m: Measured) -> dict:
        entry: dict[str, Any] = {"ms": [round(1e3 * float(q), 4) for q in np.quantile(m.seconds, [0.25, 0.5, 0.75])]}
        if top:
            entry |= {"of the matrix rate": round(work.flops / m.median / 1e12 / top[f"{precision}, TFLOP/s"], 3),
                      "of the copy rate": round(work.bytes / m.median / 1e12 / top["copy, TB/s"], 3)}
        if m is not found[0]:
            entry |= {"over ours": ratio(m, found[0]), "goal": row.goals[m.contestant.kind]}
        return entry
    return {"contestants": {m.contestant.name: line(m) for m in found}, "GiB": memory,
            f"{row.unit} a second": round(units / found[0].median, 1),
            "left out": [c.name for c in contestants if c not in [m.contestant for m in found]]}


# ---- the other parts ----

def _kernel_tests(limit: float) -> dict:
    """The tests of the CUDA kernels with real arrays; those of the shim itself and its planted bugs are skipped."""
    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").glob("test_cuda_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=20", "--tb=short", *files]
    run = subprocess.run(command, cwd=ROOT, timeout=limit, text=True, capture_output=True, check=False,
                         env=os.environ | {"EMONET_TEST_DEVICE": "cuda"})
    failed = re.findall(r"^FAILED (\S+)", run.stdout, re.MULTILINE)
    return {"passed": run.returncode == 0, "summary": (run.stdout.strip() or run.stderr.strip()).splitlines()[-1],
            "failed": failed, "output": run.stdout[-3000:] if run.returncode else ""}


def _example(limit: float, device: str, quick: bool) -> dict:
    """Accuracies of the example's three networks."""
    with tempfile.TemporaryDirectory() as folder:
        small = ["--clips-per-class", "3", "1", "1", "--epochs", "1"] if quick else []
        command = [sys.executable, str(ROOT / "examples/train_afew.py"), "--device", device, "--out", f"{folder}/run"]
        command += ["--runs", folder, *small]
        run = subprocess.run(command, timeout=limit, text=True, capture_output=True, check=False)
        if run.returncode:
            raise RuntimeError((run.stderr.strip() or "no message").splitlines()[-1])
        results = json.loads(Path(folder, "run", "results.json").read_text(encoding="utf-8"))
    return {name: round(r["accuracy"], 4) for name, r in results.items()}


def _roofline(device: str) -> dict:
    """Bytes (read and written) and operations a second, the best of 5."""
    if device == "cpu":
        return {}
    import torch

    def best(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(6):
            torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return min(times[1:])
    x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    y, n, found = torch.empty_like(x), 8192, {}
    found["copy, TB/s"] = round(2 * x.numel() / best(lambda: y.copy_(x)) / 1e12, 3)
    for name, dtype, tf32 in (("fp32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.ones(n, n, dtype=dtype, device="cuda")
        found[f"{name}, TFLOP/s"] = round(2 * n**3 / best(lambda a=a: a @ a) / 1e12, 1)
    return found


def _facts(device: str, line: str) -> dict:
    facts = {"device": line.removeprefix("device: "), "date": time.strftime("%Y-%m-%d"), "kernels": dispatch.why("cuda")}
    if device != "cpu":
        cupy = import_cupy()
        properties = cupy.cuda.runtime.getDeviceProperties(int(device.split(":")[1]))
        facts |= {"GPU": properties["name"].decode(), "GiB": round(properties["totalGlobalMem"] / 2**30, 1),
                  "CuPy": cupy.__version__, "CUDA": cupy.cuda.runtime.runtimeGetVersion()}
    return facts


def main() -> int:
    extra = ("--out", dict(type=Path, default=Path("gpu.json"), help="where the figures go")), \
            ("--seconds", dict(type=float, default=470, help="when to stop beginning new parts")), \
            ("--only", dict(nargs="+", default=[], metavar="WORD", help="the parts with WORD in their names"))
    options = arguments(__doc__, *extra, threads=False, before=False)
    started = time.monotonic()
    device, line = choose_device()
    if device == "cpu" and not options.quick:
        print(f"benchmarks/gpu.py wants a GPU: {line.removeprefix('device: ')}; --quick shows that the script works",
              file=sys.stderr)
        return 1
    machine()
    found: dict[str, Any] = {"facts": _facts(device, line) | {"tiny sizes": options.quick}}
    parts: list[tuple[str, Callable[[float], dict]]] = [
        ("kernel tests", lambda left: _kernel_tests(min(left, 200)) if device != "cpu" else {}),
        ("example", lambda left: _example(min(left, 150), device, options.quick)),
        ("roofline", lambda left: _roofline(device))]
    parts += [(row.work, lambda left, row=row: _measure(row, options, device, found.get("roofline", {}))) for row in rows()]
    for name, part in parts:
        left = options.seconds - (time.monotonic() - started)
        if options.only and not any(word in name for word in options.only):
            continue
        try:
            found[name] = part(left) if left > 0 else "not measured: out of time"
        except (Exception, SystemExit) as error:                              # the other parts are worth having
            found[name] = f"not measured: {type(error).__name__}: {error}"
        print(f"\n{name}: {json.dumps(found[name])}", flush=True)
        write_whole(options.out, f"{json.dumps(found, indent=2)}\n".encode())
    return 0 if all(not isinstance(part, str) for part in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
