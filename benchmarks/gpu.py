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
from pathlib import Path
from typing import Any

import lstm_cpu
import numpy as np
import resnet_cpu
from peers import Contestant, Measured, Work, arguments, machine, measure, ratio, table

from emonet_scratch import dispatch
from emonet_scratch.backend import choose_device, import_cupy, to_device
from emonet_scratch.files import write_whole

ROOT = Path(__file__).parents[1]
LR = 1e-6
CLIPS, FRAMES, AUDIO = 16, 50, 6
# how far logits and gradients of the same network may be apart in the Euclidean norm, when both round this way
FAR = {"fp32": (1e-3, 5e-2), "tf32": (1e-2, 1e-1), "bf16": (5e-2, 3e-1)}


# ---- ours, in a worker ----

def _waiting(run: Callable[[], Any], device: str) -> Callable[[], Any]:
    """run, and wait until the GPU has done it."""
    if device == "cpu":
        return run

    def step() -> Any:
        result = run()
        import_cupy().cuda.Device().synchronize()
        return result
    return step


def _gradients(net: Any) -> dict[str, np.ndarray]:
    return {p.name: np.array(to_device(p.grad, "cpu")) for p in net.parameters()}


def _memory(device: str) -> dict:
    """What CuPy has taken from the GPU so far, GiB."""
    return {} if device == "cpu" else {"memory": np.array(import_cupy().get_default_memory_pool().total_bytes() / 2**30)}


def _ours(net: Any, case: dict, inputs: list[Any]) -> tuple[Callable, Callable]:
    from emonet_scratch.losses import softmax_cross_entropy
    from emonet_scratch.optim import SGD

    device = case["device"]
    dispatch.use_precision(case["precision"], device)
    net.load_state_dict(case["state"])
    net.to_device(device).train(case["kind"] == "training")
    inputs = [to_device(a, device) for a in inputs]
    optimizer = SGD(net.parameters(), LR)

    def gradients() -> Any:
        net.zero_grad()
        logits, cache = net.forward(*inputs)
        net.backward(softmax_cross_entropy(logits, case["labels"])[1], cache)
        return logits

    def train() -> None:
        gradients()
        optimizer.step()

    def answer() -> dict:
        if case["kind"] == "evaluation":
            return {"logits": to_device(net.forward(*inputs)[0], "cpu")}
        logits = to_device(gradients(), "cpu")
        return {"logits": logits, "gradients": _gradients(net)} | _memory(device)
    return _waiting(train if case["kind"] == "training" else lambda: net.forward(*inputs), device), answer


def resnet(case: dict) -> tuple[Callable, Callable]:
    """ResNet-20 on float32 images."""
    from emonet_scratch.models import ResNet

    net = ResNet(rng=np.random.default_rng(0))
    net.features.conv.input_gradient = False                                  # PyTorch computes none, either
    return _ours(net, case, [case["x"]])


def emonet(case: dict) -> tuple[Callable, Callable]:
    """The whole network on bytes, the trunk in chunks that are computed again in backward."""
    from emonet_scratch.models import EmoNet, EmoNetConfig

    net = EmoNet(EmoNetConfig().replace(**case["config"]), AUDIO, np.random.default_rng(0))
    net.trunk.layer.resnet.conv.input_gradient = False
    return _ours(net, case, [case["x"], case["lengths"], case["audio"]])


def lstm(case: dict) -> tuple[Callable, Callable]:
    """3 layers, forward and backward; the recurrence is float32 in every precision."""
    from emonet_scratch.layers import LSTM

    device = case["device"]
    net = LSTM(case["x"].shape[2], case["dy"].shape[2], num_layers=3)
    net.load_state_dict(case["state"])
    net.to_device(device)
    x, dy = to_device(case["x"], device), to_device(case["dy"], device)

    def step() -> tuple[Any, Any]:
        net.zero_grad()
        (y, _), cache = net.forward(x)
        return y, net.backward(dy, None, cache)[0]

    def answer() -> dict:
        y, dx = (to_device(a, "cpu") for a in step())
        return {"logits": y, "gradients": _gradients(net) | {"x": dx}}
    return _waiting(step, device), answer


# ---- PyTorch, in a worker ----

def _torch(case: dict) -> Any:
    """PyTorch, told the precision."""
    import torch

    exact = case["precision"] == "fp32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.benchmark = True
    return torch


def _theirs(net: Any, case: dict, inputs: list[Any], how: str) -> tuple[Callable, Callable]:
    import torch_nets
    from torch.nn import functional as F

    torch, half = _torch(case), case["precision"] == "bf16"
    device = "cpu" if case["device"] == "cpu" else "cuda"
    net = torch_nets.load(net, case["state"]).to(device, memory_format=torch.channels_last)
    inputs = [torch.from_numpy(a).to(device) for a in inputs]
    if case["x"].dtype == np.float32:
        inputs[0] = inputs[0].permute(0, 3, 1, 2)                             # as it lies, that is channels last
    labels = torch.from_numpy(case["labels"]).to(device)
    net.train(case["kind"] == "training")
    run = net if how == "eager" else torch.compile(net, mode=None if how == "compile" else how)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if case["kind"] == "evaluation":
        if half:
            net.bfloat16()
            inputs = [a.bfloat16() for a in inputs]

        def evaluate() -> Any:
            with torch.no_grad():
                logits = run(*inputs)
            wait()
            return logits
        return evaluate, lambda: {"logits": evaluate().float().cpu().numpy()}

    optimizer = torch.optim.SGD(net.parameters(), LR, fused=how != "eager")

    def gradients() -> Any:
        optimizer.zero_grad()
        with torch_nets.autocast(half, device):
            logits = run(*inputs)
        F.cross_entropy(logits.float(), labels).backward()
        return logits

    def step() -> None:
        gradients()
        optimizer.step()
        wait()

    def answer() -> dict:
        logits = gradients().detach().float().cpu().numpy()
        memory = {"memory": np.array(torch.cuda.max_memory_allocated() / 2**30)} if device == "cuda" else {}
        return {"logits": logits, "gradients": torch_nets.gradients(net, case["state"])} | memory
    return step, answer


def _their_net(case: dict, how: str) -> tuple[Callable, Callable]:
    import torch_nets

    if "config" in case:
        frames = case["x"]
        return _theirs(torch_nets.EmoNet(case["config"], AUDIO), case, [frames, case["audio"]], how)
    return _theirs(torch_nets.ResNet(), case, [case["x"]], how)


def eager(case: dict) -> tuple[Callable, Callable]:
    """As one writes it, channels last."""
    return _their_net(case, "eager")


def compiled(case: dict) -> tuple[Callable, Callable]:
    """torch.compile and, in training, the fused optimizer."""
    return _their_net(case, "compile")


def replayed(case: dict) -> tuple[Callable, Callable]:
    """torch.compile with CUDA graphs."""
    return _their_net(case, "reduce-overhead")


def cudnn(case: dict) -> tuple[Callable, Callable]:
    """torch.nn.LSTM, which is cuDNN's on a GPU."""
    import torch_nets

    torch, device = _torch(case), "cpu" if case["device"] == "cpu" else "cuda"
    state, net = {f"lstm.{name}": a for name, a in case["state"].items()}, torch.nn.Module()
    net.lstm = torch.nn.LSTM(case["x"].shape[2], case["dy"].shape[2], num_layers=3)
    torch_nets.load(net, state).to(device)
    net.lstm.flatten_parameters()
    x, dy = torch.from_numpy(case["x"]).to(device).requires_grad_(), torch.from_numpy(case["dy"]).to(device)

    def step() -> Any:
        net.zero_grad()
        x.grad = None
        y, _ = net.lstm(x)
        y.backward(dy)
        if device == "cuda":
            torch.cuda.synchronize()
        return y

    def answer() -> dict:
        y = step().detach().cpu().numpy()
        found = {name.removeprefix("lstm."): g for name, g in torch_nets.gradients(net, state).items()}
        return {"logits": y, "gradients": found | {"x": x.grad.cpu().numpy()}}
    return step, answer


# ---- the table ----

@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: what runs, against whom, and what is hoped for."""

    work: str
    case: Callable[[bool], dict]            # of `quick`
    ours: Callable
    peers: tuple[tuple[str, Callable, str], ...]
    goals: dict[str, float]                 # kind of a peer -> ratio
    unit: str
    graph: bool = False                     # ours with EMONET_GRAPH=1


def _images(N: int, size: int, kind: str, precision: str) -> Callable[[bool], dict]:
    def case(quick: bool) -> dict:
        from emonet_scratch.models import ResNet

        rng, n, s = np.random.default_rng(0), min(N, 2) if quick else N, 16 if quick else size
        state = ResNet(rng=rng).state_dict()
        for name, a in state.items():                                         # batch norms that have seen something
            if name.endswith(("gamma", "running_var")):
                a[...] = rng.uniform(0.5, 1.5, a.shape)
        return {"kind": kind, "precision": precision, "state": state, "labels": rng.integers(0, 10, n),
                "x": rng.standard_normal((n, s, s, 3), np.float32)}
    return case


def _paper(precision: str) -> Callable[[bool], dict]:
    def case(quick: bool) -> dict:
        from emonet_scratch.models import EmoNet, EmoNetConfig

        # no dropout: both sides would draw other masks, and the gradients could not be compared
        config = EmoNetConfig.preset("paper").replace(dropout=0.0, lda_components=None)
        if quick:
            config = config.replace(frame_size=16, lstm_size=8)
        N, T, rng = (2, 3, np.random.default_rng(0)) if quick else (CLIPS, FRAMES, np.random.default_rng(0))
        size = config.frame_size
        return {"kind": "training", "precision": precision, "config": dataclasses.asdict(config),
                "state": EmoNet(config, AUDIO, rng).state_dict(), "labels": rng.integers(0, 7, N),
                "x": rng.integers(0, 256, (N * T, size, size, 3), np.uint8), "lengths": np.full(N, T),
                "audio": rng.standard_normal((N, AUDIO), np.float32)}
    return case


def _sequences(T: int, N: int, D: int, H: int, precision: str) -> Callable[[bool], dict]:
    def case(quick: bool) -> dict:
        from emonet_scratch.layers import LSTM

        t, n, d, h = (3, 2, 4, 8) if quick else (T, N, D, H)
        rng = np.random.default_rng(0)
        return {"kind": "training", "precision": precision, "state": LSTM(d, h, num_layers=3, rng=rng).state_dict(),
                "x": rng.standard_normal((t, n, d), np.float32), "dy": rng.standard_normal((t, n, h), np.float32)}
    return case


def rows() -> Iterator[Row]:
    """The most wanted first: the time may be over before the last."""
    both = ("PyTorch eager", eager, "eager"), ("torch.compile", compiled, "compile")
    for precision in ("bf16", "tf32"):
        yield Row(f"ResNet-20, 32 of 256 x 256, training step, {precision}", _images(32, 256, "training", precision), resnet,
                  both, {"eager": 1.5, "compile": 1.0}, "images")
        yield Row(f"ResNet-20, 64 of 256 x 256, evaluation, {precision}", _images(64, 256, "evaluation", precision), resnet,
                  both, {"eager": 2.5, "compile": 1.2}, "images")
        yield Row(f"ResNet-20, one of 256 x 256, evaluation, {precision}", _images(1, 256, "evaluation", precision), resnet,
                  (both[0], ("torch.compile, reduce-overhead", replayed, "compile")), {"eager": 3.0, "compile": 1.0},
                  "images", graph=True)
        if precision == "bf16":
            yield Row("3-layer LSTM, D 64, H 256, T 50, N 16, forward + backward, fp32", _sequences(50, 16, 64, 256, "fp32"),
                      lstm, (("torch.nn.LSTM (cuDNN)", cudnn, "eager"),), {"eager": 1.0}, "steps")
            yield Row(f"EmoNet `paper`, {CLIPS} clips of {FRAMES} frames of 256 x 256, training step, {precision}",
                      _paper(precision), emonet, both[:1], {"eager": 1.3}, "frames")


def work_of(case: dict) -> Work:
    """Operations, and bytes that have to move at the least, of one step; of the whole network, the trunk's."""
    if "dy" in case:
        (T, N, D), H = case["x"].shape, case["dy"].shape[2]
        return lstm_cpu.work(T, N, D, H)
    return resnet_cpu.work(len(case["x"]), case["x"].shape[1], case["kind"])


def _measure(row: Row, options: Any, device: str, roofline: dict) -> dict:
    case = row.case(options.quick) | {"device": device} | ({"precision": "fp32"} if device == "cpu" else {})
    logits, gradients = FAR[case["precision"]]
    units = case["dy"].shape[0] * case["dy"].shape[1] if "dy" in case else len(case["x"])
    limits = {"logits": logits} | ({"gradients": gradients} if case["kind"] == "training" else {})
    contestants = [Contestant("ours", row.ours, "ours", {"EMONET_GRAPH": "1"} if row.graph else None),
                   *(Contestant(*peer) for peer in row.peers)]
    found = measure(contestants, case, options, None, limits)
    memory = {m.contestant.name: round(float(m.answer.pop("memory")), 2) for m in found if "memory" in m.answer}
    table(("tiny: " if options.quick else "") + row.work, found, unit=(row.unit, units))

    work, top = work_of(case), roofline if isinstance(roofline, dict) else {}

    def line(m: Measured) -> dict:
        entry: dict[str, Any] = {"ms": [round(1e3 * float(q), 4) for q in np.quantile(m.seconds, [0.25, 0.5, 0.75])]}
        if top:
            seconds = float(np.median(m.seconds))
            entry |= {"of the matrix rate": round(work.flops / seconds / 1e12 / top[f"{case['precision']}, TFLOP/s"], 3),
                      "of the copy rate": round(work.bytes / seconds / 1e12 / top["copy, TB/s"], 3)}
        if m is not found[0]:
            entry |= {"over ours": ratio(m, found[0]), "goal": row.goals.get(m.contestant.kind)}
        return entry
    return {"contestants": {m.contestant.name: line(m) for m in found}, "GiB": memory,
            f"{row.unit} a second": round(units / float(np.median(found[0].seconds)), 1),
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
    facts = {"device": line.removeprefix("device: "), "date": time.strftime("%Y-%m-%d"), "kernels": dispatch.why_gpu()}
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
    options = arguments(__doc__, *extra, threads=False)
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
