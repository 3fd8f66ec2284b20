"""bf16 on the CPU: what the processor can do at most, and how far bf16 turns gradients.

    python benchmarks/bf16.py [--compiler cc]

First the rates of one core: multiply-adds of each instruction, bytes from each level of memory (rates.c). Then, layer by
layer, the angle between the gradient of a parameter and that of the definitions in float64, in degrees, for float32 and for
bf16: of a ResNet-20 in training on 16 images of 32 x 32, and of three layers of LSTM over 16 sequences of 25 steps, both
untrained. In between, every kind of convolution of a ResNet-20 at 64 x 64 in float32 (Winograd where the stride is 1) and in
bf16 (direct), in turns: which is faster, forward and for each gradient.
Speed against PyTorch is measured by lstm_cpu.py and resnet_cpu.py.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import markdown

from emonet_scratch import dispatch, layers, losses, models
from emonet_scratch.kernels.cpu import library


def rates(compiler: str) -> None:
    """Print what rates.c measures."""
    tiles = library.current().of_products() and library.current().round_convolutions
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "rates"))
        subprocess.run([compiler, "-O2", str(Path(__file__).with_name("rates.c")), "-o", program], check=True)
        run = [program, "2" if tiles else "1"]
        lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    markdown("One core at most, in 1e9 a second", ["what", "rate"], (line.split() for line in lines.splitlines()))


KINDS = ((3, 16, 64, 1), (16, 16, 64, 1), (16, 32, 64, 2), (32, 32, 32, 1), (32, 64, 32, 2), (64, 64, 16, 1))


def seconds(work: Callable[[], Any]) -> float:
    """Of one call, from as many as take a fiftieth of a second."""
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < 0.02:
        work()
        calls += 1
    return (time.perf_counter() - start) / calls


def by_layer(rounds: int = 9) -> None:
    """Print float32's time over bf16's, median and quartiles: forward, the gradient of the filters, both gradients."""
    rng, rows = np.random.default_rng(0), []
    for C, F, size, stride in KINDS:
        conv, x = layers.Conv2d(C, F, 3, stride, 1), rng.standard_normal((16, size, size, C)).astype(np.float32)
        y, cache = conv.forward(x)
        dy, ratios = rng.standard_normal(y.shape).astype(np.float32), []
        for _ in range(rounds):
            turn = []
            for precision in ("fp32", "bf16"):
                dispatch.use_precision(precision, "cpu")
                times = [seconds(lambda conv=conv, x=x: conv.forward(x))]
                for conv.input_gradient in (False, True):
                    times.append(seconds(lambda conv=conv, dy=dy, cache=cache: conv.backward(dy, cache)))
                turn.append(times)
            ratios.append(np.divide(*turn))
        low, median, high = np.percentile(ratios, (25, 50, 75), axis=0)
        rows.append([f"{C} to {F}, 16 of {size} x {size}, stride {stride}",
                     *(f"{m:.2f} ({a:.2f} - {z:.2f})" for a, m, z in zip(low, median, high, strict=True))])
    markdown(f"Float32's time over bf16's, {library.current().threads} thread(s)",
             ["convolution", "forward", "dW", "dW and dx"], rows)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two gradients, in degrees."""
    a, b = np.float64(a).ravel(), np.float64(b).ravel()
    return float(np.degrees(np.arccos(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))))


def resnet(dtype: type) -> dict[str, np.ndarray]:
    """Gradients of a training step."""
    rng, net = np.random.default_rng(0), models.ResNet(rng=np.random.default_rng(1)).astype(dtype)
    logits, cache = net.forward(rng.standard_normal((16, 32, 32, 3)).astype(dtype))
    net.backward(losses.softmax_cross_entropy(logits, rng.integers(0, 10, 16))[1], cache)
    return {p.name: p.grad for p in net.parameters()}


def lstm(dtype: type) -> dict[str, np.ndarray]:
    """Gradients for a random gradient of the last step's output."""
    rng, net = np.random.default_rng(0), layers.LSTM(64, 256, 3, rng=np.random.default_rng(1)).astype(dtype)
    (y, _), cache = net.forward(rng.standard_normal((25, 16, 64)).astype(dtype))
    dy = np.zeros_like(y)
    dy[-1] = rng.standard_normal(y.shape[1:])
    net.backward(dy, None, cache)
    return {p.name: p.grad for p in net.parameters()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="cc")
    options = parser.parse_args()
    dispatch.use_precision("bf16", "cpu")
    print(dispatch.why())
    rates(options.compiler)
    by_layer()
    for title, gradients in (("ResNet-20, training", resnet), ("LSTM, 3 layers", lstm)):
        exact, found = gradients(np.float64), {}
        for precision in ("fp32", "bf16"):
            dispatch.use_precision(precision, "cpu")
            found[precision] = gradients(np.float32)
        markdown(f"{title}: degrees between a gradient and float64's", ["parameter", *found],
                 ([name, *(f"{angle(g[name], exact[name]):.3g}" for g in found.values())] for name in exact))


if __name__ == "__main__":
    main()
