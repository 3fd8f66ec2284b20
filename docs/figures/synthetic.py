"""Draw the expressions and voices of the synthetic data: python docs/figures/synthetic.py -> docs/images/synthetic.png"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from emonet_scratch.data import synthetic
from emonet_scratch.data.sound import compact
from emonet_scratch.emotions import CLASSES
from emonet_scratch.training.report import INK, MUTED, VERMILION, save_figure

SECONDS = 1.6
MOMENTS = (0.0, 0.35, 0.65, 1.0)         # how far the face has come from neutral
PEOPLE = 6, 5, 21, 36, 11, 16, 24        # seeds: a person and a place for each class


def draw(figure_class: Any, size: tuple[int, int]) -> Any:
    """A row a class: a face on its way from neutral to the expression, in pictures of `size` (H, W) pixels, and a voice."""
    figure = figure_class(figsize=(11, 9.8), layout="constrained")
    rows = figure.subplots(len(CLASSES), len(MOMENTS) + 1, width_ratios=[1] * len(MOMENTS) + [2])
    for axes, label, seed in zip(rows, CLASSES, PEOPLE, strict=True):
        rng = np.random.default_rng(seed)
        person, scene = synthetic.Person.draw(rng), synthetic.Scene.draw(rng)
        frames = synthetic.draw_face(np.outer(MOMENTS, synthetic.FACES[label]), person, scene, size)
        for ax, frame in zip(axes, frames, strict=False):
            ax.imshow(np.clip(frame, 0, 255).astype(np.uint8))
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_ylabel(label, fontsize=13, color=INK)
        sound = synthetic.draw_voice(np.array(synthetic.VOICES[label]), person, round(SECONDS * synthetic.RATE), rng)
        marks = draw_sound(axes[-1], sound, person.f0)
    for ax, moment in zip(rows[0], MOMENTS, strict=False):
        ax.set_title({0.0: "neutral", 1.0: "the expression"}.get(moment, f"{moment:.0%} of the way"), fontsize=11, color=INK)
    rows[0][-1].set_title("the voice", fontsize=11, color=INK)
    for axes in rows[:-1]:
        axes[-1].set_xticklabels([])
    rows[-1][-1].set_xlabel("time (s)", color=MUTED)
    legend = figure.legend(handles=marks, loc="outside lower right", ncols=3, frameon=False)
    legend.get_lines()[0].set_linewidth(2)                                    # the samples are a thin line, hard to see here
    figure.suptitle("The synthetic data: a face and a voice of each class", color=INK)
    return figure


def draw_sound(ax: Axes, sound: np.ndarray, usual: float) -> list[Any]:
    """The samples of `sound` (S,) and its pitch, against the speaker's usual pitch in Hz; what a legend explains."""
    samples, = ax.plot(np.arange(len(sound)) / synthetic.RATE, sound, color="#c4c8cf", lw=0.4,
                       label="samples, all on one scale")
    ax.set_ylim(-0.8, 0.8)
    ax.set_yticks([])
    frames = compact.describe(sound.astype(float), synthetic.RATE)
    t = np.arange(len(frames["pitch"])) * compact.HOP + compact.FRAME / 2
    voiced = (frames["voicing"] > compact.VOICED) & (frames["energy"] > frames["energy"].max() - compact.ACTIVE_RANGE)
    pitch = ax.twinx()
    hertz = 100 * 2 ** (frames["pitch"] / 12)                                 # from semitones above 100 Hz
    found, = pitch.plot(t, np.where(voiced, hertz, np.nan), color=VERMILION, lw=1.8, label="the pitch found in them")
    usually = pitch.axhline(usual, color=INK, lw=0.8, ls=":", label="the speaker's usual pitch")
    pitch.set_yscale("log", base=2)
    pitch.set_ylim(70, 500)
    pitch.set_yticks([100, 200, 400], ["100", "200", "400"])
    pitch.set_ylabel("pitch (Hz)", color=MUTED)
    pitch.set_xlim(0, SECONDS)
    return [samples, found, usually]


def main(images: Path = Path(__file__).parents[1] / "images", size: tuple[int, int] = (192, 256)) -> None:
    save_figure(images / "synthetic.png", draw, size)


if __name__ == "__main__":
    main()
