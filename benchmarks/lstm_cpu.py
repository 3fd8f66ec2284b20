"""A 3-layer LSTM over 16 sequences, forward and backward, against torch.nn.LSTM with the same weights.

    python benchmarks/lstm_cpu.py [--threads 1 2] [--hidden 256 512] [--inputs 64 4096] [--steps 25 100]

The gradient flows to the parameters and to the input, which in the network comes from the trunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from machine import machine, peak
from peers import arguments, contestants, measure
from report import Work, summarise, table


def ours(case: dict) -> tuple[Callable, Callable]:
    """The package; the environment says with which kernels."""
    import our_nets

    from emonet_scratch.layers import LSTM

    lstm = LSTM(case["x"].shape[2], case["dy"].shape[2], num_layers=3)
    lstm.load_state_dict(case["state"])
    return our_nets.sequence(lstm.to_device(case["device"]), case["x"], case["dy"], case["device"])


def theirs(case: dict, variant: str = "eager", half: bool = False) -> tuple[Callable, Callable]:
    """torch.nn.LSTM, which has its own kernel for the whole sequence."""
    import torch
    import torch_nets

    device = case["device"].partition(":")[0]
    x, dy = (torch.from_numpy(case[name]).to(device) for name in ("x", "dy"))
    lstm = torch_nets.load(torch.nn.LSTM(x.shape[2], dy.shape[2], num_layers=3), case["state"], device)
    return torch_nets.sequence(lstm, case["state"], x, dy, variant, half)


def work(T: int, N: int, D: int, H: int) -> Work:
    """Three passes over the products with W_ih and W_hh; weights once a pass, W_hh once a step; input, gates, states."""
    flops = bytes_ = 0.0
    for C in (D, H, H):
        flops += 2 * T * N * (C + H) * 4 * H
        bytes_ += 4 * (C * 4 * H + T * H * 4 * H + T * N * (C + 4 * H + 2 * H))
    return Work(3 * flops, 3 * bytes_)


def sequences(T: int, N: int, D: int, H: int) -> dict:
    """A case: weights, input and the gradient of the output."""
    from emonet_scratch.layers import LSTM

    rng = np.random.default_rng(0)
    return {"device": "cpu", "state": LSTM(D, H, num_layers=3, rng=rng).state_dict(),
            "x": rng.standard_normal((T, N, D), np.float32), "dy": rng.standard_normal((T, N, H), np.float32)}


def main() -> None:
    sizes = (("--hidden", [256, 512]), ("--inputs", [64, 4096]), ("--steps", [25, 100]))
    options = arguments(__doc__, *((name, dict(type=int, nargs="+", default=default)) for name, default in sizes))
    machine()
    N, rows = 2 if options.quick else 16, []
    hidden, inputs, steps = ([8], [4], [3]) if options.quick else (options.hidden, options.inputs, options.steps)
    for threads in options.threads:
        top = peak(options, threads)
        for D, H, T in itertools.product(inputs, hidden, steps):
            title = f"LSTM, 3 layers, D {D}, H {H}, T {T}, N {N}, forward + backward, {threads} thread(s)"
            found = measure(contestants(ours, theirs, exact=False), sequences(T, N, D, H), options, threads,
                            {"y": 1e-4, "gradients": 1e-3})
            table(title, found, work(T, N, D, H), top, ("steps", T * N))
            rows.append((title, found))
    summarise(rows)


if __name__ == "__main__":
    main()
