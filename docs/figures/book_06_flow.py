"""Draw gradients along untrained networks: python docs/figures/book_06_flow.py -> docs/images/book_06_flow.png"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.classics.plain import plain
from emonet_scratch.losses import softmax_cross_entropy
from emonet_scratch.models import ResNet
from emonet_scratch.training.report import BLUE, GREEN, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
DEPTHS = 8, 14, 20, 32, 44, 56, 80, 110
COLOURS = {20: GREEN, 56: BLUE, 110: VERMILION}
KINDS = {"ResNet": (lambda net: net, "-", "o"), "plain": (plain, ":", "x")}


def flow(net: ResNet) -> np.ndarray:
    """|dL/dx| at the input x of every block, the first block first, over that at the output of the last block."""
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((16, 8, 8, 3)), rng.integers(0, 10, 16)
    trunk, caches, norms = net.features, [], []
    blocks = [block for stage in (trunk.stage1, trunk.stage2, trunk.stage3) for _, block in stage.children()]
    row = [trunk.conv, trunk.bn, trunk.relu, *blocks, net.pool, net.dense]
    for layer in row:
        x, cache = layer.forward(x)
        caches.append(cache)
    _, d = softmax_cross_entropy(x, labels)
    for layer, cache in zip(row[:2:-1], caches[:2:-1], strict=True):
        d = layer.backward(d, cache)
        norms.append(float(np.linalg.norm(d)))
    return np.array(norms[:0:-1]) / norms[1]


def figure(figure_class: Any, flows: dict[str, dict[int, np.ndarray]]) -> Any:
    canvas = figure_class(figsize=(11, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for kind, (_, line, mark) in KINDS.items():
        for depth, colour in COLOURS.items():
            norms = flows[kind][depth]
            left.semilogy(np.arange(len(norms) + 1) / len(norms), [*norms, 1], line, color=colour, label=f"{kind}-{depth}")
        blocks = [(depth - 2) // 2 for depth in DEPTHS]
        right.loglog(blocks, [flows[kind][depth][0] for depth in DEPTHS], line, marker=mark, color="#222222", label=kind)
    label_axes(left, "the gradient along the network, before training", "place: 0 the first block, 1 the end of the last",
               "norm of dL/dx, relative to the end")
    label_axes(right, "at the first block, over depth", "number of blocks (two convolutions each)",
               "norm of dL/dx, relative to the end")
    ticks = (3, 9, 27, 54)
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    right.minorticks_off()
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
    return canvas


def main(images: Path = IMAGES) -> None:
    flows = {kind: {depth: flow(change(ResNet(depth, width=8, rng=np.random.default_rng(0)).astype(np.float64)))
                    for depth in DEPTHS} for kind, (change, _, _) in KINDS.items()}
    save_figure(images / "book_06_flow.png", figure, flows)


if __name__ == "__main__":
    main()
