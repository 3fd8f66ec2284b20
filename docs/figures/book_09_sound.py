"""Draw a clip as it is seen and heard: python docs/figures/book_09_sound.py -> docs/images/book_09_sound.png"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from emonet_scratch.data.sound import is10, pitch
from emonet_scratch.data.synthetic import draw_clip
from emonet_scratch.training.report import BLUE, INK, MUTED, VERMILION, label_axes, save_figure

IMAGES = Path(__file__).parents[1] / "images"
BANDS = 40                                      # more than the set's 8 and 26, for the eye


def figure(figure_class: Any) -> Any:
    """The clip of the chapter: six of its pictures, samples, mel bands, F0, loudness, over one axis of time."""
    pictures, sound = draw_clip("Happy", np.random.default_rng(5))
    seconds = len(sound) / is10.RATE
    canvas = figure_class(figsize=(9, 9), layout="constrained")
    strip, wave, mel, tone, loud = canvas.subplots(5, 1, sharex=True, height_ratios=(1.15, .8, 1.3, 1, 1))

    middle, count = pictures.shape[2] // 2, 6                   # the middle 76 columns of each picture fill the panel
    shown = [pictures[int((i + .5) * len(pictures) / count)][:, middle - 38:middle + 38] for i in range(count)]
    strip.imshow(np.hstack(shown), extent=(0, seconds, 0, 1), aspect="auto")
    for i in range(1, count):
        strip.axvline(i * seconds / count, color="white", linewidth=3)
    strip.set_yticks([])
    strip.set_title("what is seen: a happy cartoon", fontsize=10, color=INK)
    strip.spines[:].set_visible(False)

    wave.plot(np.arange(len(sound)) / is10.RATE, sound, color=MUTED, linewidth=.4)
    label_axes(wave, "what is heard: 16,000 samples a second", "", "share of\nfull scale")
    wave.set_ylim(-.55, .55)

    frames = sliding_window_view(sound.astype(float), is10.FRAME)[::is10.HOP] * np.hamming(is10.FRAME)
    power = np.abs(np.fft.rfft(frames, is10.FFT)) ** 2
    level = 10 * np.log10(np.maximum(power @ is10.mel_filters(BANDS, 20, 8000), 1e-8))
    half = is10.FRAME / 2 / is10.RATE
    ticks = np.array([250, 500, 1000, 2000, 4000])
    low, top = (1127 * np.log1p(f / 700) for f in (20, 8000))
    picture = mel.imshow(level.T, aspect="auto", origin="lower", cmap="magma", vmin=level.max() - 60,
                         extent=(half - .005, half + len(level) * .01 - .005, low, top))
    label_axes(mel, f"{BANDS} mel bands: where the energy lies", "", "frequency (Hz, mel scale)")
    mel.grid(visible=False)
    mel.set_yticks(1127 * np.log1p(ticks / 700), ticks)
    canvas.colorbar(picture, ax=mel, pad=.01).set_label("power (dB)", color=MUTED)

    f0, loudness = is10.curves(sound)
    i = np.arange(len(f0)) * is10.HOP
    tone.plot((i + pitch.FRAME / 2) / is10.RATE, np.where(f0 > 0, f0, np.nan), ".-", color=BLUE, markersize=4, linewidth=1)
    label_axes(tone, "F0, where there is a pitch", "", "F0 (Hz)")
    loud.plot((i + is10.FRAME / 2) / is10.RATE, loudness, color=VERMILION, linewidth=1.2)
    label_axes(loud, "loudness: energy to the power of 0.3", "time (s), middles of frames", "(I / 1e-6)^0.3")
    loud.set_ylim(0)
    loud.set_xlim(0, seconds)
    return canvas


def main(images: Path = IMAGES) -> None:
    save_figure(images / "book_09_sound.png", figure)


if __name__ == "__main__":
    main()
