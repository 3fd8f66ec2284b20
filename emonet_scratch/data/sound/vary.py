"""A sound as another microphone in another room would have taken it of another speaker: for what is not emotion."""

import numpy as np
import scipy  # as in compact.py


def vary(sound: np.ndarray, rng: np.random.Generator, rate: int = 16000) -> np.ndarray:
    """A random change of a sound (n,) in -1..1: a new array (m,), as long but for the speed.

    In this order, as sound meets them: speed, and with it pitch and formants, by a factor in exp(-.15)..exp(.15); a room,
    whose echoes fall by 60 dB in .1 to .7 s and are together 0 to 25 dB below the direct sound; coloured noise (power
    falls with frequency to the power of 0 to 2) 5 to 45 dB below; a microphone: gains up to 8 dB at seven frequencies from
    60 Hz to half the rate, straight between them on a logarithmic axis, and slopes of 24 dB an octave below 40 to 300 Hz
    and above 3.4 to 8 kHz; level: -25 to 0 dB of full scale at its peak; in one of five, the 8 bits of a telephone (mu-
    law, ITU-T G.711).
    """
    x = np.asarray(sound, np.float64)
    x = scipy.signal.resample(x, max(16, round(len(x) / np.exp(rng.uniform(-0.15, 0.15)))))
    x = scipy.signal.fftconvolve(x, _room(rng, rate))[:len(x)]
    x = _microphone(x + _noise(x, rng), rng, rate)
    x *= 10 ** (rng.uniform(-25, 0) / 20) / max(np.abs(x).max(), 1e-9)
    return _telephone(x) if rng.random() < 0.2 else x


def _room(rng: np.random.Generator, rate: int) -> np.ndarray:
    """An impulse response: the direct sound, and noise under an exponential from the first echo, after 5 ms, on."""
    seconds, echoes = rng.uniform(0.1, 0.7), 10 ** (-rng.uniform(0, 25) / 20)
    t = np.arange(round(seconds * rate)) / rate
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / seconds) * (t > 0.005)
    h = echoes * tail / np.sqrt((tail**2).sum())
    h[0] = 1
    return h


def _noise(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise for x (n,), 5 to 45 dB below its mean power."""
    f = np.maximum(np.fft.rfftfreq(len(x)), 1 / 400)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(x))) * f ** (-rng.uniform(0, 1)), len(x))
    below = 10 ** (-rng.uniform(5, 45) / 20)
    return noise * below * np.sqrt((x**2).mean() / max((noise**2).mean(), 1e-30))


def _microphone(x: np.ndarray, rng: np.random.Generator, rate: int) -> np.ndarray:
    f = np.maximum(np.fft.rfftfreq(len(x), 1 / rate), 1)
    knots = np.geomspace(60, rate / 2, 7)
    gain = np.interp(np.log(f), np.log(knots), rng.uniform(-8, 8, 7))                                       # dB
    low, high = np.exp(rng.uniform(np.log(40), np.log(300))), np.exp(rng.uniform(np.log(3400), np.log(8000)))
    gain -= 24 * (np.maximum(np.log2(low / f), 0) + np.maximum(np.log2(f / high), 0))
    return np.fft.irfft(np.fft.rfft(x) * 10 ** (gain / 20), len(x))


def _telephone(x: np.ndarray) -> np.ndarray:
    coded = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
    coded = np.rint(coded * 127) / 127
    return np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
