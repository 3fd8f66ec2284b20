"""ResNet-20, evaluation and training step, against PyTorch on the same CPU, with the same weights and images.

    python benchmarks/resnet_cpu.py                      # 1 and 2 threads, three sizes
    python benchmarks/resnet_cpu.py --threads 2 --sizes 16x64 --kinds training --skip compile

A training step is forward, loss, backward and SGD with momentum. Before anything is timed, logits and gradients of all must
agree. The worst parameter's gradient may be off by 5 %: at 4 images of 256 x 256, PyTorch's is 2.4 % from float64 (ours
0.4 %), as sums over 262,144 pixels cancel; a wrong formula is off by its whole length. PyTorch's "eager" is what
everybody runs: channels last, malloc as it comes. All its other contestants also get a tuned malloc.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from machine import machine, peak
from peers import TUNED_MALLOC, Contestant, arguments, contestants, measure
from report import Work, summarise, table

LR, MOMENTUM = 1e-4, 0.9
TOLERANCE = {"evaluation": {"logits": 1e-3}, "training": {"logits": 1e-3, "gradients": 5e-2}}


def ours(case: dict) -> tuple[Callable, Callable]:
    """The package; the environment says with which kernels."""
    import our_nets

    from emonet_scratch.models import ResNet
    from emonet_scratch.optim import SGD

    device, net = case["device"], ResNet(rng=np.random.default_rng(0))
    net.load_state_dict(case["state"])
    net.features.conv.input_gradient = False                                  # PyTorch computes none, either
    net.to_device(device).train(case["kind"] == "training")
    if case["kind"] == "evaluation":
        return our_nets.forward(net, [case["x"]], device)
    return our_nets.training(net, [case["x"]], case["labels"], SGD(net.parameters(), LR, MOMENTUM), device)


def theirs(case: dict, variant: str = "eager", half: bool = False) -> tuple[Callable, Callable]:
    """The same network in PyTorch; half: the whole network in bfloat16 in evaluation, autocast in training."""
    import torch
    import torch_nets

    state, device = case["state"], case["device"].partition(":")[0]
    net, x = torch_nets.load(torch_nets.ResNet(), state, device), torch_nets.images(case["x"]).to(device)
    if case["kind"] == "evaluation":
        return torch_nets.forward(net.eval(), [x], variant, half)
    optimizer = torch.optim.SGD(net.parameters(), LR, MOMENTUM, fused=variant != "eager")
    return torch_nets.training(net, state, [x], torch.from_numpy(case["labels"]).to(device), optimizer, variant, half)


def all_contestants(kind: str) -> list[Contestant]:
    """Ours first; in evaluation PyTorch also with everything folded that training would change."""
    found = contestants(ours, theirs)
    if kind == "evaluation":
        frozen = TUNED_MALLOC | {"TORCHINDUCTOR_FREEZING": "1"}
        found += [Contestant("PyTorch folded + jit", partial(theirs, variant="jit"), "float32", TUNED_MALLOC),
                  Contestant("torch.compile, frozen", partial(theirs, variant="compile"), "compile", frozen)]
    return found


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


def images(N: int, size: int, kind: str) -> dict:
    """A case: images, labels, and weights with batch norms that have seen something."""
    from emonet_scratch.models import ResNet

    rng = np.random.default_rng(0)
    state = ResNet(rng=rng).state_dict()
    for name, a in state.items():
        if name.endswith(("gamma", "running_var")):
            a[...] = rng.uniform(0.5, 1.5, a.shape)
        elif name.endswith(("beta", "running_mean")):
            a[...] = 0.2 * rng.standard_normal(a.shape)
    return {"device": "cpu", "kind": kind, "state": state, "x": rng.standard_normal((N, size, size, 3), np.float32),
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
                found = measure(all_contestants(kind), images(N, side, kind), options, threads, TOLERANCE[kind])
                table(title, found, work(N, side, kind), top, ("images", N))
                rows.append((title, found))
    summarise(rows)


if __name__ == "__main__":
    main()
