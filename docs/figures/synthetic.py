"""Draw the expressions and voices of the synthetic data: python docs/figures/synthetic.py -> docs/images/synthetic.png"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emonet_scratch.data import synthetic
from emonet_scratch.data.sound import compact
from emonet_scratch.emotions import CLASSES

SECONDS, SIZE = 1.6, (192, 256)
MOMENTS = (0.0, 0.35, 0.65, 1.0)         # how far the face has come from neutral
PEOPLE = 6, 5, 21, 36, 11, 16, 24        # seeds: a person and a place for each class


def main() -> None:
    figure = Figure(figsize=(11, 9.4), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(CLASSES), len(MOMENTS) + 1, width_ratios=[1] * len(MOMENTS) + [2])
    n = round(SECONDS * synthetic.RATE)
    for axes, label, seed in zip(rows, CLASSES, PEOPLE, strict=True):
        rng = np.random.default_rng(seed)
        person, scene = synthetic.Person.draw(rng), synthetic.Scene.draw(rng)
        frames = synthetic.draw_face(np.outer(MOMENTS, synthetic.FACES[label]), person, scene, SIZE)
        for ax, frame in zip(axes, frames, strict=False):
            ax.imshow(np.clip(frame, 0, 255).astype(np.uint8))
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0].set_ylabel(label, fontsize=13)
        draw_sound(axes[-1], synthetic.draw_voice(np.array(synthetic.VOICES[label]), person, n, rng), person.f0)
    rows[0][0].set_title("the face, from neutral ...", loc="left", fontsize=11)
    rows[0][-2].set_title("... to the expression", loc="right", fontsize=11)
    rows[0][-1].set_title("the voice, its pitch, the speaker's usual pitch", fontsize=11)
    for axes in rows[:-1]:
        axes[-1].set_xticklabels([])
    rows[-1][-1].set_xlabel("seconds")
    path = Path(__file__).parents[1] / "images" / "synthetic.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_sound(ax: Axes, sound: np.ndarray, usual: float) -> None:
    """The samples of `sound` (S,) in grey and its pitch, against the speaker's usual pitch in Hz."""
    ax.plot(np.arange(len(sound)) / synthetic.RATE, sound, color="#c4c8cf", lw=0.4)
    ax.set_ylim(-0.8, 0.8)
    ax.set_yticks([])
    frames = compact.describe(sound.astype(float), synthetic.RATE)
    t = np.arange(len(frames["pitch"])) * compact.HOP + compact.FRAME / 2
    voiced = (frames["voicing"] > compact.VOICED) & (frames["energy"] > frames["energy"].max() - compact.ACTIVE_RANGE)
    pitch = ax.twinx()
    pitch.plot(t, np.where(voiced, 100 * 2 ** (frames["pitch"] / 12), np.nan), color="#b5331f", lw=1.8)
    pitch.axhline(usual, color="#333333", lw=0.8, ls=":")
    pitch.set_yscale("log", base=2)
    pitch.set_ylim(70, 500)
    pitch.set_yticks([100, 200, 400], ["100 Hz", "200", "400"])
    pitch.set_xlim(0, SECONDS)


if __name__ == "__main__":
    main()
