"""ResNet-20, evaluation and training step, against PyTorch on the same CPU, with the same weights and images.

    python benchmarks/resnet_cpu.py                      # 1 and 2 threads, three sizes
    python benchmarks/resnet_cpu.py --threads 2 --sizes 16x64 --kinds training --skip compile

A training step is forward, loss, backward and SGD with momentum. Before anything is timed, logits and gradients of all must
agree. The worst parameter's gradient may be off by 5 %: at 4 images of 256 x 256, PyTorch's is 2.4 % from float64 (ours
0.4 %), as sums over 262,144 pixels cancel; a wrong formula is off by its whole length. PyTorch's "eager" is what
everybody runs: channels last, malloc as it comes. All its other contestants also get a tuned malloc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from peers import TUNED_MALLOC, Contestant, Work, arguments, machine, measure, peak, summarise, summary_row, table

LR, MOMENTUM = 1e-4, 0.9
TOLERANCE = {"evaluation": {"logits": 1e-3}, "training": {"logits": 1e-3, "gradients": 5e-2}}


def ours(case: dict) -> tuple[Callable, Callable]:
    """The package; the environment says with which kernels."""
    from emonet_scratch.losses import softmax_cross_entropy
    from emonet_scratch.models import ResNet
    from emonet_scratch.optim import SGD

    net = ResNet(rng=np.random.default_rng(0))
    net.load_state_dict(case["state"])
    net.train(case["kind"] == "training")
    net.features.conv.input_gradient = False                                  # PyTorch computes none, either
    x, labels = case["x"], case["labels"]
    optimizer = SGD(net.parameters(), LR, MOMENTUM)

    def gradients() -> np.ndarray:
        net.zero_grad()
        logits, cache = net.forward(x)
        net.backward(softmax_cross_entropy(logits, labels)[1], cache)
        return logits

    def step() -> None:
        gradients()
        optimizer.step()

    def answer() -> dict:
        logits = gradients()
        return {"logits": logits, "gradients": {p.name: p.grad.copy() for p in net.parameters()}}

    if case["kind"] == "evaluation":
        return lambda: net.forward(x), lambda: {"logits": net.forward(x)[0]}
    return step, answer


def _peer(case: dict, how: str) -> tuple[Callable, Callable]:
    import torch
    import torch_nets
    from torch.nn import functional as F

    net = torch_nets.load(torch_nets.ResNet(), case["state"]).to(memory_format=torch.channels_last)
    net.train(case["kind"] == "training")
    x = torch.from_numpy(case["x"]).permute(0, 3, 1, 2)               # as it lies, that is channels last
    labels, bf16 = torch.from_numpy(case["labels"]), how == "bf16"
    if case["kind"] == "evaluation":
        if bf16:
            net, x = net.bfloat16(), x.bfloat16()
        if how == "jit":
            with torch.no_grad():
                net = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, x)))
        run = torch.compile(net) if how == "compile" else net

        def evaluate() -> Any:
            with torch.no_grad():
                return run(x)
        return evaluate, lambda: {"logits": evaluate().float().numpy()}

    optimizer = torch.optim.SGD(net.parameters(), LR, MOMENTUM, fused=how == "compile")
    run = torch.compile(net) if how == "compile" else net

    def gradients() -> Any:
        optimizer.zero_grad()
        with torch_nets.autocast(bf16):
            logits = run(x)
        F.cross_entropy(logits.float(), labels).backward()
        return logits

    def step() -> None:
        gradients()
        optimizer.step()

    def answer() -> dict:
        logits = gradients().detach().float().numpy()
        return {"logits": logits, "gradients": torch_nets.gradients(net, case["state"])}
    return step, answer


def eager(case: dict) -> tuple[Callable, Callable]:
    """As one writes it."""
    return _peer(case, "eager")


def jit(case: dict) -> tuple[Callable, Callable]:
    """Traced, frozen, batch norm folded into the filters."""
    return _peer(case, "jit")


def compiled(case: dict) -> tuple[Callable, Callable]:
    """torch.compile and, in training, the fused optimizer."""
    return _peer(case, "compile")


def bf16(case: dict) -> tuple[Callable, Callable]:
    """Half the bits: the whole network in evaluation, autocast in training."""
    return _peer(case, "bf16")


def contestants(kind: str) -> Iterator[Contestant]:
    """Ours first."""
    yield Contestant("ours", ours, "ours")
    yield Contestant("ours, exact convolution", ours, "exact", {"EMONET_EXACT": "1"})
    yield Contestant("ours, NumPy definitions", ours, "definitions", {"EMONET_KERNELS": "off"})
    yield Contestant("PyTorch eager", eager, "eager")
    yield Contestant("PyTorch eager, tuned malloc", eager, "float32", TUNED_MALLOC)
    if kind == "evaluation":
        yield Contestant("PyTorch folded + jit", jit, "float32", TUNED_MALLOC)
        yield Contestant("torch.compile, frozen", compiled, "compile", TUNED_MALLOC | {"TORCHINDUCTOR_FREEZING": "1"})
    yield Contestant("torch.compile", compiled, "compile", TUNED_MALLOC)
    yield Contestant("PyTorch bf16", bf16, "bf16", TUNED_MALLOC)


def work(N: int, size: int, kind: str) -> Work:
    """Multiply-adds of direct convolutions, and each one's input, output and filters once; three times that to train."""
    flops = bytes_ = 0.0
    layers = [(3, 16, size, 1)]
    for C, F, s in ((16, 16, size), (16, 32, size // 2), (32, 64, size // 4)):
        layers += [(C, F, s, 1 if C == F else 2), *[(F, F, s, 1)] * 5]
    for C, F, s, stride in layers:
        flops += 2 * 9 * N * s * s * C * F
        bytes_ += 4 * (N * s * s * (F + C * stride**2) + 9 * C * F)
    times = 3 if kind == "training" else 1
    return Work(times * flops, times * bytes_)


def _case(N: int, size: int, kind: str) -> dict:
    """Images, labels, and weights with batch norms that have seen something."""
    from emonet_scratch.models import ResNet

    rng = np.random.default_rng(0)
    state = ResNet(rng=rng).state_dict()
    for name, a in state.items():
        if name.endswith(("gamma", "running_var")):
            a[...] = rng.uniform(0.5, 1.5, a.shape)
        elif name.endswith(("beta", "running_mean")):
            a[...] = 0.2 * rng.standard_normal(a.shape)
    return {"kind": kind, "state": state, "x": rng.standard_normal((N, size, size, 3)).astype(np.float32),
            "labels": rng.integers(0, 10, N)}


def main() -> None:
    options = arguments(__doc__, ("--sizes", dict(nargs="+", default=["16x64", "128x32", "4x256"],
                                                  help="images x pixels of a side")),
                        ("--kinds", dict(nargs="+", default=["evaluation", "training"])))
    machine()
    rows = []
    for threads in options.threads:
        top = peak(options, threads)
        for kind in options.kinds:
            for size in ["2x16"] if options.quick else options.sizes:
                N, side = map(int, size.split("x"))
                title = f"ResNet-20 {kind}, {N} images of {side} x {side}, {threads} thread(s)"
                found = measure(list(contestants(kind)), _case(N, side, kind), options, threads, TOLERANCE[kind])
                table(title, found, work(N, side, kind), top, ("images", N))
                rows.append(summary_row(title, found))
    summarise(rows)


if __name__ == "__main__":
    main()
