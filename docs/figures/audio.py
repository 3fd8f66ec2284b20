"""Draw the descriptors of one utterance: python docs/figures/audio.py [CLIP] -> docs/images/audio.png"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from emonet_scratch.data import synthetic
from emonet_scratch.data.sound import is10, pitch
from emonet_scratch.data.video import read_sound
from emonet_scratch.training.report import BLUE, GREEN, INK, MUTED, VERMILION, save_figure

COLUMNS = (*is10.DESCRIPTORS, *is10.VOICED_DESCRIPTORS)


def utterance() -> np.ndarray:
    """A happy sentence of the synthetic data set: (S,) samples at 16 kHz."""
    rng = np.random.default_rng(5)
    return synthetic.draw_voice(np.array(synthetic.VOICES["Happy"]), synthetic.Person.draw(rng), 32000, rng)


def draw(figure_class: Any, sound: np.ndarray) -> Any:
    """The descriptors of sound (S,), a panel each group of them, over time."""
    frames = is10.descriptors(sound.astype(float))[0]
    values = {name: frames[:, k] for k, name in enumerate(COLUMNS)}
    starts = np.arange(len(frames)) * is10.HOP
    figure = figure_class(figsize=(10, 13), layout="constrained")
    panels = figure.subplots(7, 1, sharex=True)
    draw_spectra(panels[:3], sound, frames, (starts + is10.FRAME / 2) / is10.RATE)
    draw_pitch(*panels[3:5], values, (starts + pitch.FRAME / 2) / is10.RATE)
    draw_perturbation(*panels[5:], values, (starts + 1.5 * is10.HOP) / is10.RATE)
    panels[-1].set_xlabel("time (s)", color=MUTED)
    panels[-1].set_xlim(0, len(sound) / is10.RATE)
    for axes in panels:
        axes.title.set(fontsize=11, color=INK)
        axes.yaxis.label.set_color(MUTED)
    for axes in panels[3:]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def draw_spectra(panels: Any, sound: np.ndarray, frames: np.ndarray, t: np.ndarray) -> None:
    """Spectrogram with line spectral frequencies, log mel bands, cepstrum. t (N,): the middles of the frames in seconds."""
    spectrogram, mel, cepstrum = panels

    def of(prefix: str) -> np.ndarray:
        return frames[:, [k for k, name in enumerate(COLUMNS) if name.startswith(prefix)]].T

    def bar(picture: Any, axes: Axes, label: str) -> None:
        axes.figure.colorbar(picture, ax=axes, pad=0.01).set_label(label, color=MUTED)

    *_, picture = spectrogram.specgram(sound, NFFT=400, noverlap=240, Fs=is10.RATE, pad_to=512, cmap="magma", vmin=-130)
    bar(picture, spectrogram, "power density (dB)")
    lines = spectrogram.plot(t, of("lspFreq").T * is10.RESAMPLED / 2 / np.pi, color="white", lw=0.6)
    lines[0].set_label("line spectral frequencies")
    spectrogram.legend(loc="upper right", labelcolor="white", facecolor=INK, framealpha=0.5, edgecolor="none", fontsize=9)
    spectrogram.set(title="spectrogram", ylabel="frequency (Hz)")
    half = is10.HOP / is10.RATE / 2
    across = t[0] - half, t[-1] + half
    picture = mel.imshow(of("logMel"), aspect="auto", origin="lower", extent=(*across, -0.5, 7.5), cmap="magma")
    bar(picture, mel, "log energy (nats)")
    mel.set(title="log mel bands, from low to high frequencies", ylabel="band")
    coefficients = of("mfcc")[1:]
    most = np.abs(coefficients).max()                                         # 0 is the middle of the colours
    picture = cepstrum.imshow(coefficients, aspect="auto", origin="lower", extent=(*across, 0.5, len(coefficients) + 0.5),
                              cmap="RdBu_r", vmin=-most, vmax=most)
    bar(picture, cepstrum, "value")
    cepstrum.set(title="MFCC: coarse (1) to fine (14) shape of the spectrum", ylabel="coefficient")


def draw_pitch(tone: Axes, voicing: Axes, values: dict[str, np.ndarray], t: np.ndarray) -> None:
    """F0 with its envelope, and voicing. t (N,): seconds, the middles of the frames that pitch is found in."""
    f0, envelope = values["F0final_sma"], values["F0finEnv_sma"]
    tone.plot(t, np.where(f0 > 0, f0, np.nan), color=BLUE, label="F0, mean of three frames; one without a pitch counts as 0")
    tone.plot(t, envelope, color=MUTED, lw=0.9, ls="--", label="its envelope")
    tone.set(title="pitch", ylabel="F0 (Hz)", ylim=(0, 1.35 * envelope.max()))
    voicing.plot(t, values["voicingFinalUnclipped_sma"], color=GREEN, label="voicing")
    voicing.axhline(pitch.VOICED, color=MUTED, lw=0.9, ls="--", label=f"above {pitch.VOICED}, a frame has a pitch")
    voicing.set(title="voicing: how much of the spectrum lies on harmonics", ylabel="0 to 1", ylim=(0, 1.3))
    for axes in (tone, voicing):
        axes.legend(frameon=False, ncols=2, loc="upper right", fontsize=9)


def draw_perturbation(jitter: Axes, shimmer: Axes, values: dict[str, np.ndarray], t: np.ndarray) -> None:
    """Jitter and shimmer. t (N,): seconds, the middles of the hops that a frame adds."""
    jitter.plot(t, 100 * values["jitterLocal_sma"], color=VERMILION)
    jitter.set(title="jitter: change of length from period to period; 0 where there is no pitch")
    shimmer.plot(t, 100 * values["shimmerLocal_sma"], color=BLUE)
    shimmer.set(title="shimmer: change of size from period to period; 0 where there is no pitch")
    for axes in (jitter, shimmer):
        axes.set(ylabel="% of the mean", ylim=0)


def main(images: Path = Path(__file__).parents[1] / "images", clip: str | None = None) -> None:
    """Without a clip, a happy sentence of the synthetic data set."""
    save_figure(images / "audio.png", draw, utterance() if clip is None else read_sound(clip))


if __name__ == "__main__":
    main(clip=sys.argv[1] if len(sys.argv) > 1 else None)
