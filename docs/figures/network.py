"""Draw the network of the preset `default`: python docs/figures/network.py -> docs/images/network.png

Shapes and numbers of parameters are those of the network itself, traced while it looks at one frame.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from emonet_scratch.data.sound import is10
from emonet_scratch.emotions import CLASSES
from emonet_scratch.layers.base import Layer
from emonet_scratch.models import EmoNet, EmoNetConfig
from emonet_scratch.training.report import COLOURS, INK, MUTED, save_figure
from emonet_scratch.watch import trace

VIDEO, FUSION, AUDIO, SHORTCUT = 4.0, 2.6, 1.2, -0.6                          # bottoms of the boxes of each branch
HEIGHT = 1.15


def shapes_of(model: EmoNet, size: int) -> dict[str, tuple[int, ...]]:
    """{path of a layer: shape of its output} for one clip of one frame of size x size pixels."""
    found: dict[str, tuple[int, ...]] = {}

    def look(path: str, layer: Layer, y: Any, cache: Any) -> None:
        found[path] = (y[0] if isinstance(y, tuple) else y).shape

    with trace(model, look):
        model.forward(np.zeros((1, size, size, 3), np.uint8), np.array([1]), np.zeros((1, len(CLASSES) - 1), np.float32))
    return found


def box(axes: Axes, left: float, bottom: float, width: float, colour: str, title: str, *lines: str) -> None:
    """A rounded box with a title and lines below it."""
    axes.add_patch(FancyBboxPatch((left, bottom), width, HEIGHT, boxstyle="round,pad=0.05", facecolor=(colour, 0.15),
                                  edgecolor=colour))
    middle = left + width / 2
    axes.text(middle, bottom + HEIGHT - 0.18, title, ha="center", va="center", fontsize=10.5, weight="bold", color=INK)
    axes.text(middle, bottom + (HEIGHT - 0.32) / 2, "\n".join(lines), ha="center", va="center", fontsize=8.5, color=INK)


def arrow(axes: Axes, *points: tuple[float, float], label: str = "") -> None:
    """An arrow along the points, with the shape of what it carries above the middle of its last but one part."""
    axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=1)
    axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0})
    (x0, y0), (x1, y1) = points[:2]
    axes.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.06, label, ha="center", va="bottom", fontsize=8.5, color=INK)


def draw(figure_class: Any, config: EmoNetConfig) -> Any:
    """The network of `config`, which reads voice and face and has the shortcut."""
    model = EmoNet(config, load_trunk=False)
    shapes, layers = shapes_of(model, config.frame_size), dict(model.walk())

    def shape(path: str, frames: str = "") -> str:
        """Of what a layer gives for one clip, with `frames` in place of the number of its frames."""
        return " x ".join([frames] * bool(frames) + [str(n) for n in shapes[path][1:]])

    def parameters(path: str) -> str:
        return f"{sum(p.value.size for p in layers[path].parameters()):,} parameters"

    face, voice, both = COLOURS["video"], COLOURS["audio"], COLOURS["fused"]
    figure = figure_class(figsize=(14, 5.6), layout="constrained")
    axes = figure.add_subplot()
    video, audio, fusion, shortcut = (bottom + HEIGHT / 2 for bottom in (VIDEO, AUDIO, FUSION, SHORTCUT))

    box(axes, 0.0, VIDEO, 1.6, MUTED, "frames", "T pictures of a clip,", f"{config.frames} in training")
    arrow(axes, (1.6, video), (3.1, video), label=shape("trunk.layer.normalize", "T"))
    box(axes, 3.1, VIDEO, 2.0, face, f"ResNet-{config.trunk_depth}", "each frame by itself", "pretrained on CIFAR-10",
        parameters("trunk.layer.resnet"))
    arrow(axes, (5.1, video), (6.5, video), label=shape("trunk.layer.resnet", "T"))
    box(axes, 6.5, VIDEO, 1.5, face, "average", "over the picture,", "then batch norm")
    arrow(axes, (8.0, video), (8.8, video), label=shape("trunk", "T"))
    box(axes, 8.8, VIDEO, 1.9, face, "LSTM", f"{config.lstm_layers} layers, last state", "of each", parameters("lstm"))
    states = f"{config.lstm_layers} x {config.lstm_size}"
    arrow(axes, (10.7, video), (12.3, video), (12.3, FUSION + HEIGHT), label=states)

    box(axes, 0.0, AUDIO, 1.6, MUTED, "sound", "one vector", "of descriptors")
    arrow(axes, (1.6, audio), (3.1, audio), label=str(len(is10.FEATURE_NAMES)))
    box(axes, 3.1, AUDIO, 2.0, voice, "LDA", "$S_B w = \\lambda\\, S_W w$,", "fitted before training")
    directions = str(len(CLASSES) - 1)
    arrow(axes, (5.1, audio), (6.5, audio), label=directions)
    box(axes, 6.5, AUDIO, 4.2, voice, f"{len(config.audio_layers)} x (Dense, ReLU, Dropout)",
        f"{config.dropout:g} of the units dropped in training", parameters("audio"))
    arrow(axes, (10.7, audio), (12.3, audio), (12.3, FUSION), label=shape("audio"))

    box(axes, 11.2, FUSION, 2.2, both, "concatenate", f"{len(config.fusion_layers)} x (Dense, ReLU,",
        f"Dropout {config.dropout:g}), Dense", parameters("fusion"))
    arrow(axes, (13.4, fusion), (14.3, fusion), label=f"{shape('fusion')} logits")
    arrow(axes, (5.8, audio), (5.8, shortcut), (6.5, shortcut))
    box(axes, 6.5, SHORTCUT, 4.2, voice, "shortcut: Dense", "starts as LDA's own rule", parameters("shortcut"))
    arrow(axes, (10.7, shortcut), (14.5, shortcut), (14.5, fusion - 0.2), label=f"{shape('shortcut')} logits")
    axes.text(14.5, fusion, "+", ha="center", va="center", fontsize=14, color=INK,
              bbox={"boxstyle": "circle", "facecolor": "white", "edgecolor": INK})
    arrow(axes, (14.7, fusion), (15.4, fusion), label=shape(""))
    box(axes, 15.4, FUSION, 1.6, MUTED, "softmax", *(", ".join(CLASSES[k:k + 2]) for k in range(0, len(CLASSES), 2)))
    axes.set_title("The network of the preset “default”, for one clip of T frames; "
                   "at each arrow the shape of what it carries", fontsize=11, color=INK)
    axes.set_xlim(-0.2, 17.2)
    axes.set_ylim(SHORTCUT - 0.2, VIDEO + HEIGHT + 0.2)
    axes.axis("off")
    return figure


def main(images: Path = Path(__file__).parents[1] / "images", **changes: Any) -> None:
    """changes: fields of the configuration."""
    save_figure(images / "network.png", draw, EmoNetConfig.preset("default").replace(**changes))


if __name__ == "__main__":
    main()
