"""Peak memory of a training step against the length of the clip, with and without recomputation.

    python benchmarks/memory.py [--size 64] [--lengths 25 50 100 200] [--picture docs/images/memory.png]

Each step runs in a process of its own, which reports the most memory that it ever had resident. The peer is the same
network without chunks: what a framework that keeps every activation needs. Prints a table, and the plan of the
preset `paper` for a batch of 16 clips.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def step(size: int, frames: int, chunk: int | None) -> dict:
    """One forward and backward of the default network on one clip: {"bytes": peak resident, "seconds": ...}."""
    from emonet_scratch.losses import softmax_cross_entropy
    from emonet_scratch.models import EmoNet, EmoNetConfig

    config = EmoNetConfig.preset("default").replace(frame_size=size, frames_per_chunk=chunk, lstm_size=128)
    net = EmoNet(config, rng=np.random.default_rng(0))
    clip = np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), dtype=np.uint8)
    started = time.perf_counter()
    logits, cache = net.forward(clip, np.array([frames]), np.zeros((1, 6), np.float32))
    net.backward(softmax_cross_entropy(logits, np.array([3]))[1], cache)
    seconds = time.perf_counter() - started
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "seconds": seconds}


def plan_of_paper(frames: int, clips: int = 16, chunk: int = 8) -> list[tuple[str, float]]:
    """Bytes of the largest parts of a training step of the preset `paper` with `frames` frames a clip, on a GPU."""
    from emonet_scratch.models import EmoNetConfig, ResNet, summary

    config = EmoNetConfig.preset("paper")
    H, D = config.lstm_size, 64 * (config.frame_size // 4) ** 2
    weights = 4 * (D * 4 * H + 4 * H * H * (2 * config.lstm_layers - 1))
    row = summary(ResNet(), np.zeros((1, 32, 32, 3), np.float32)).splitlines()[-1].split()
    per_frame = int(row[-2].replace(",", "")) * (config.frame_size // 32) ** 2
    steps = frames * clips
    return [("LSTM weights and gradients", 2 * weights), ("optimizer scratch (SGD)", 4 * D * 4 * H),
            ("one product for dW_ih", 4 * D * 4 * H), ("frames, uint8", steps * 3 * config.frame_size**2),
            ("LSTM input, float32", 4 * steps * D), ("its gradient, padded and packed", 2 * 4 * steps * D),
            (f"one chunk of {chunk} frames: caches and as much again", 2 * chunk * per_frame)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--lengths", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--picture")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works, measures nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(step(*json.loads(options.one))))
        return
    if options.quick:
        options.size, options.lengths = 32, [4]
    print(f"{'frames':>7}{f'chunks of {options.chunk}':>22}{'whole clip':>22}{'ratio':>8}")
    rows = []
    for frames in options.lengths:
        pair = []
        for chunk in (options.chunk, None):
            done = subprocess.run([sys.executable, __file__, "--one", json.dumps([options.size, frames, chunk])],
                                  capture_output=True, text=True, check=True)
            pair.append(json.loads(done.stdout))
        rows.append((frames, *pair))
        cells = "".join(f"{p['bytes'] / 2**20:9.0f} MiB {p['seconds']:6.1f} s" for p in pair)
        print(f"{frames:7}{cells}{pair[1]['bytes'] / pair[0]['bytes']:8.1f}")
    for frames in (60, 169):
        parts = plan_of_paper(frames)
        print(f"\npreset paper, 16 clips of {frames} frames at 256 x 256: {sum(n for _, n in parts) / 2**30:.1f} GiB")
        print("\n".join(f"  {n / 2**30:6.2f} GiB  {name}" for name, n in parts))
    if options.picture:
        from emonet_scratch.training.report import save_figure
        save_figure(Path(options.picture), draw, rows, options.size, options.chunk)


def draw(figure_class: type, rows: list, size: int, chunk: int) -> object:
    """Peak memory over clip length, both ways."""
    from emonet_scratch.training.report import GREEN, VERMILION, label_axes

    figure = figure_class(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for k, (label, look, colour) in enumerate([(f"chunks of {chunk} frames, recomputed", "o-", GREEN),
                                               ("whole clip, all activations kept", "s--", VERMILION)], 1):
        axes.plot([r[0] for r in rows], [r[k]["bytes"] / 2**20 for r in rows], look, color=colour, label=label)
    label_axes(axes, f"memory of one training step on one clip of {size} x {size} pixels", "frames in the clip",
               "most memory resident (MiB)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
