"""Draw what the classics have learnt: python docs/figures/classics.py -> docs/images/classics.png

Fitted on synthetic clips that are drawn here, without files: faces cut out of the middle, and the frames of sound.
"""

from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.classics.activity import FRAMES, SIZE, Activity, blocks
from emonet_scratch.classics.belief import BeliefNet
from emonet_scratch.classics.graphs import GRID, SIDE, PatchGraphs, describe
from emonet_scratch.classics.mouths import GRID as SECTIONS
from emonet_scratch.classics.mouths import PATCH, BagOfMouths
from emonet_scratch.data.sound import is10
from emonet_scratch.data.synthetic import draw_clip
from emonet_scratch.emotions import CLASSES
from emonet_scratch.training.report import VERMILION, save_figure

IMAGES = Path(__file__).parents[1] / "images"
PAIRS = ("Happy", "Sad"), ("Fear", "Surprise")


def grey(axes: Any, picture: np.ndarray, title: str = "") -> None:
    axes.imshow(picture, cmap="gray")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def tiled(pictures: np.ndarray, columns: int) -> np.ndarray:
    """(N, H, W) -> one picture, each stretched to 0..1, a line of white between them."""
    low, high = pictures.min(axis=(1, 2), keepdims=True), pictures.max(axis=(1, 2), keepdims=True)
    pictures = np.pad((pictures - low) / np.maximum(high - low, 1e-9), ((0, 0), (0, 1), (0, 1)), constant_values=1)
    N, H, W = pictures.shape
    return pictures.reshape(N // columns, columns, H, W).transpose(0, 2, 1, 3).reshape(N // columns * H, columns * W)


def figure(figure_class: Any, clips: list[np.ndarray], labels: np.ndarray, sounds: list[np.ndarray]) -> Any:
    canvas = figure_class(figsize=(11, 8.6), layout="constrained")
    top, bottom = canvas.subfigures(2, 1, height_ratios=(1, 1.15))
    a, b, c = top.subplots(1, 3)

    mouths = BagOfMouths(7, words=64).fit(clips, labels)
    section = SECTIONS * 2 + 1                                                # third row, second column: where lips meet
    white, centroids = mouths.whitenings[section], mouths.centroids[section][:48]
    patches = (centroids @ np.linalg.pinv(white.map) + white.mean).reshape(-1, 3, PATCH, PATCH).mean(axis=1)
    grey(a, tiled(patches[:len(patches) // 8 * 8], 8), "words of one section of the mouth (48 of 64 centroids)")

    activity = Activity(7, units=100, words=30, epochs=8).fit(clips, labels)
    back = np.linalg.pinv(activity.whitening.map)
    filters = activity.net.W.value.T @ back                                   # (units, 2560): what a unit adds to a block
    units = np.argsort(-np.linalg.norm(filters, axis=1))[:6]
    grey(b, tiled(filters[units].reshape(-1, SIZE, SIZE), FRAMES), "6 filters of the relational autoencoder, 10 frames each")

    some = np.concatenate([blocks(clip) for clip in clips[:7]])
    busy = some[np.argsort(-np.ptp(some.reshape(-1, FRAMES, SIZE, SIZE), axis=1).mean(axis=(1, 2)))[:3]]
    x = activity.whitening.transform(busy)
    rows = np.stack([busy, x @ back + activity.whitening.mean,
                     activity.net.forward(x)[0] @ back + activity.whitening.mean], axis=1)
    grey(c, tiled(rows.reshape(-1, SIZE, SIZE), FRAMES), "3 blocks: as they are, whitened and back, reconstructed")

    d, *faces = bottom.subplots(1, 1 + len(PAIRS), width_ratios=(1.6, 1, 1))
    net = BeliefNet(7, (40, 20), epochs=1).fit(sounds, labels)
    shown = net.rbms[0].W[:, np.argsort(-np.abs(net.rbms[0].W).max(axis=0))[:24]]
    limit = np.abs(shown).max()
    d.imshow(shown, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    names = [name.partition("_sma")[0] for name in (*is10.DESCRIPTORS, *is10.VOICED_DESCRIPTORS)]
    ends = {0: "loudness", 8: "MFCC", 19.5: "log mel", 27.5: "LSP", 34.5: "voice", 57: "their changes"}
    d.set_yticks(list(ends), ends.values(), fontsize=8)
    d.set_xlabel(f"24 hidden units; the rows are the {2 * len(names)} descriptors of a frame", fontsize=8)
    d.set_title("weights of the first restricted Boltzmann machine", fontsize=9)

    X = np.array([describe(clip).ravel() for clip in clips])
    graphs = PatchGraphs().fit(X, labels)
    for axes, pair in zip(faces, PAIRS, strict=True):
        one, other = sorted(map(CLASSES.index, pair))
        last = [clip[-1].mean(axis=2) for clip, label in zip(clips, labels, strict=True) if label in (one, other)]
        grey(axes, np.mean(last, axis=0), f"patches that tell {pair[0]} from {pair[1]}")
        for number in graphs.chosen[one, other]:
            corner = number % GRID * SIDE - 0.5, number // GRID * SIDE - 0.5
            axes.add_patch(rectangle(corner))
    return canvas


def rectangle(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle
    return Rectangle(corner, SIDE, SIDE, fill=False, edgecolor=VERMILION, linewidth=1.2)


def main(images: Path = IMAGES, number: int = 20) -> None:
    labels = np.repeat(np.arange(7), number)
    drawn = [draw_clip(CLASSES[k], np.random.default_rng([0, i])) for i, k in enumerate(labels)]
    clips = [frames[:, :, 16:112] for frames, _ in drawn]
    sounds = []
    for _, sound in drawn:
        smooth, _ = is10.descriptors(is10.samples(sound, is10.RATE))
        sounds.append(np.concatenate([smooth, is10.delta(smooth)], axis=1).astype(np.float32))
    save_figure(images / "classics.png", figure, clips, labels, sounds)


if __name__ == "__main__":
    main()
