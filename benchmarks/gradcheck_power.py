"""How often gradcheck calls a right layer wrong, and how small a mistake it finds: python benchmarks/gradcheck_power.py

Each draw is a layer of random sizes with random values and one `gradcheck` at its defaults. Every layer is right, so each
error is a false alarm. A planted mistake of relative size d is a gradient of one array times 1 + d, which is found where it
leaves the tolerance that gradcheck had; arrays with a gradient of 0 have no such mistake and are left out.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from emonet_scratch import GradientError, dispatch, gradcheck, layers, losses

SIZES = [10.0**-k for k in range(2, 9)]
RTOL = 1e-8                     # gradcheck's default, for the part of the tolerance that grows with the mistake


class LayerNorm(layers.Layer):
    """Normalise the last axis (Ba et al. 2016), x (..., C); of 2 channels nearly a step function."""

    def __init__(self, C: int, eps: float = 1e-5) -> None:
        self.eps = eps
        self.gamma = layers.Parameter(np.ones(C, np.float32))
        self.beta = layers.Parameter(np.zeros(C, np.float32))

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Any]:
        centred = x - x.mean(axis=-1, keepdims=True)
        inv_std = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.eps)
        x_hat = centred * inv_std
        return self.gamma.value * x_hat + self.beta.value, (x_hat, inv_std)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        x_hat, inv_std = cache
        rows = tuple(range(dy.ndim - 1))
        self.beta.grad += dy.sum(axis=rows)
        self.gamma.grad += (dy * x_hat).sum(axis=rows)
        d = dy * self.gamma.value
        return inv_std * (d - d.mean(axis=-1, keepdims=True) - x_hat * (d * x_hat).mean(axis=-1, keepdims=True))


Draw = Callable[[np.random.Generator], tuple[Any, ...]]


def draws() -> dict[str, Draw]:
    """{name: what draws (f, inputs...)}; sizes from 1 to 4 unless the name says more."""
    def size(rng: np.random.Generator) -> int:
        return int(rng.integers(1, 5))

    def stack(rng: np.random.Generator) -> tuple[Any, ...]:
        D = size(rng)
        net = layers.Sequential(layers.Dense(D, 4, rng), layers.ReLU(), layers.Dropout(0.3, 1), layers.Dense(4, 2, rng))
        return net, rng.standard_normal((size(rng), D))

    def lstm(rng: np.random.Generator) -> tuple[Any, ...]:
        T, N, D = size(rng), size(rng), size(rng)
        return layers.LSTM(D, 3, 2, rng=rng), rng.standard_normal((T, N, D)), rng.integers(1, T + 1, N)

    def cell(rng: np.random.Generator) -> tuple[Any, ...]:
        N, H = size(rng), size(rng)
        state = rng.standard_normal((2, N, H))
        return layers.LSTMCell(2, H, rng=rng), rng.standard_normal((N, 2)), state[0], state[1]

    def padded(rng: np.random.Generator) -> tuple[Any, ...]:
        lengths = rng.integers(1, 5, size(rng))
        return layers.PadSequences(), rng.standard_normal((lengths.sum(), 2)), lengths

    def entropy(rng: np.random.Generator) -> tuple[Any, ...]:
        N, K = size(rng), 1 + size(rng)
        return losses.softmax_cross_entropy, 3 * rng.standard_normal((N, K)), rng.integers(0, K, N), 0.1

    def of(make: Callable[[np.random.Generator, int], Any], *shape: int) -> Draw:
        """make(rng, C) on x of this shape and C last; 0 in the shape is drawn."""
        def draw(rng: np.random.Generator) -> tuple[Any, ...]:
            C = size(rng)
            return make(rng, C), rng.standard_normal((*(n or size(rng) for n in shape), C))
        return draw

    return {
        "BatchNorm, N = 2": of(lambda rng, C: layers.BatchNorm(C), 2),
        "LayerNorm, 2 channels": lambda rng: (LayerNorm(2), rng.standard_normal((size(rng), 2))),
        "BatchNorm": of(lambda rng, C: layers.BatchNorm(C), 3, 0, 0),
        "LayerNorm, 8 channels": lambda rng: (LayerNorm(8), rng.standard_normal((size(rng), 8))),
        "Dense": of(lambda rng, C: layers.Dense(C, 3, rng), 0),
        "Conv2d": of(lambda rng, C: layers.Conv2d(C, 2, 3, size(rng), 1, True, rng), 0, 4, 5),
        "ReLU": of(lambda rng, C: layers.ReLU(), 0, 0),
        "Dropout": of(lambda rng, C: layers.Dropout(0.5, 1), 0, 3),
        "GlobalAveragePool": of(lambda rng, C: layers.GlobalAveragePool(), 0, 3, 2),
        "Flatten": of(lambda rng, C: layers.Flatten(), 0, 2),
        "PadShortcut": of(lambda rng, C: layers.PadShortcut(C, C + 1, 2), 0, 3, 4),
        "ResidualBlock": of(lambda rng, C: layers.ResidualBlock(C, C + 1, 2, "projection", rng), 2, 4, 4),
        "Sequential": stack,
        "Chunked": of(lambda rng, C: layers.Chunked(layers.Dense(C, 2, rng), 2), 0),
        "LSTM": lstm,
        "LSTMCell": cell,
        "Normalize": lambda rng: (layers.Normalize((0.4,) * 3, (0.2,) * 3), 255 * rng.random((size(rng), 2, 3))),
        "PadSequences": padded,
        "softmax_cross_entropy": entropy,
    }


def measure(draw: Draw, count: int) -> tuple[list[str], Iterator[float]]:
    """The false alarms among `count` draws, and for each of SIZES the share of arrays in which that mistake is found."""
    alarms, rows = [], []
    for seed in range(count):
        f, *inputs = draw(np.random.default_rng(seed))
        try:
            rows += [row for row in gradcheck(f, *inputs, seed=seed) if row.analytic]
        except GradientError as error:
            alarms.append(f"seed {seed}: {error}")
    _, _, analytic, numeric, tolerance, _ = (np.array(column) for column in zip(*(
        (0, 0, *row[2:]) for row in rows), strict=True))
    error = tolerance - RTOL * np.maximum(abs(analytic), abs(numeric))

    def found(size: float) -> float:
        wrong = analytic * (1 + size)
        return float((abs(wrong - numeric) > error + RTOL * np.maximum(abs(wrong), abs(numeric))).mean())
    return alarms, map(found, SIZES)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="of each layer (%(default)s)")
    parser.add_argument("--hard", type=int, default=10_000, help="of the first two, where alarms were common (%(default)s)")
    options = parser.parse_args(arguments)
    dispatch.enabled = False
    print("| layer | draws | false alarms |" + "".join(f" {size:.0e} |" for size in SIZES) + " ms a check |")
    print("| --- " * (len(SIZES) + 4) + "|")
    everything = []
    for k, (name, draw) in enumerate(draws().items()):
        count, start = options.hard if k < 2 else options.draws, time.perf_counter()
        alarms, found = measure(draw, count)
        milliseconds = (time.perf_counter() - start) / count * 1e3
        cells = " | ".join(f"{share:.4f}" for share in found)
        print(f"| {name} | {count:,} | {len(alarms)} | {cells} | {milliseconds:.1f} |", flush=True)
        everything += [f"{name}, {alarm}" for alarm in alarms]
    print(*everything, sep="\n")
    return int(bool(everything))


if __name__ == "__main__":
    sys.exit(main())
