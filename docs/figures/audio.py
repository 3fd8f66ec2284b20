"""Draw the descriptors of one utterance: python docs/figures/audio.py [CLIP] -> docs/images/audio.png"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emonet_scratch.data import synthetic
from emonet_scratch.data.sound import is10
from emonet_scratch.data.video import read_sound


def main() -> None:
    """Without a clip, a happy sentence of the synthetic data set."""
    if len(sys.argv) > 1:
        sound = read_sound(sys.argv[1])
    else:
        rng = np.random.default_rng(5)
        sound = synthetic.draw_voice(np.array(synthetic.VOICES["Happy"]), synthetic.Person.draw(rng), 32000, rng)
    frames = is10.descriptors(sound.astype(float))[0]
    column = {name: i for i, name in enumerate((*is10.DESCRIPTORS, *is10.VOICED_DESCRIPTORS))}
    t = np.arange(len(frames)) * is10.HOP / is10.RATE

    def of(prefix: str) -> np.ndarray:
        return frames[:, [i for name, i in column.items() if name.startswith(prefix)]]

    figure = Figure(figsize=(10, 11), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(6, 1, sharex=True)
    axes[0].specgram(sound, NFFT=400, noverlap=240, Fs=is10.RATE, pad_to=512, cmap="magma", vmin=-130)
    for line in of("lspFreq").T:
        axes[0].plot(t, line * is10.RESAMPLED / 2 / np.pi, color="white", lw=0.5)
    axes[0].set_title("spectrogram and line spectral frequencies, Hz")
    axes[1].imshow(of("logMel").T, aspect="auto", origin="lower", extent=(0, t[-1], -0.5, 7.5), cmap="magma")
    axes[1].set_title("log mel bands 0-7")
    axes[2].imshow(of("mfcc")[:, 1:].T, aspect="auto", origin="lower", extent=(0, t[-1], 0.5, 14.5), cmap="coolwarm")
    axes[2].set_title("MFCC 1-14")
    f0 = frames[:, column["F0final_sma"]]
    axes[3].plot(t, np.where(f0 > 0, f0, np.nan), color="#2a6fbb", label="F0")
    axes[3].plot(t, frames[:, column["F0finEnv_sma"]], color="#888888", lw=0.7, label="envelope")
    axes[3].legend(frameon=False, ncols=2)
    axes[3].set_title("pitch, Hz")
    axes[4].plot(t, frames[:, column["voicingFinalUnclipped_sma"]], color="#2b8a3e")
    axes[4].axhline(0.75, color="#888888", lw=0.7)
    axes[4].set_title("voicing, and the threshold of a pitch")
    for name, colour in (("jitterLocal_sma", "#c77700"), ("shimmerLocal_sma", "#b03060")):
        axes[5].plot(t, frames[:, column[name]], color=colour, label=name.replace("Local_sma", ""))
    axes[5].legend(frameon=False, ncols=2)
    axes[5].set_title("jitter and shimmer")
    axes[5].set_xlabel("seconds")
    figure.savefig(Path(__file__).parents[1] / "images" / "audio.png", dpi=90)


if __name__ == "__main__":
    main()
