"""A voice that says a few syllables, from what an emotion does to it."""

import numpy as np
import scipy  # as in sound/compact.py

from .person import Person

RATE = 16000                # samples a second

# Columns: pitch (semitones from the speaker's own), accents (semitones up and down), slope (semitones over the
# clip), loudness (dB), syllables a second, roughness, breath, brightness.
VOICE_SCALE = (3.0, 1.2, 2.5, 3.5, 0.9, 0.35, 0.3, 0.5)     # one step of difference in each column
VOICES = {
    "Angry":    ( 4.0, 2.5, -4.0,  7.0, 5.0, 1.0, 0.1,  1.0),
    "Disgust":  (-4.0, 1.5, -5.0,  1.0, 3.0, 0.7, 0.3, -0.4),
    "Fear":     ( 7.0, 0.8,  1.0, -3.0, 6.2, 0.4, 0.8,  0.0),
    "Happy":    ( 5.0, 4.5,  2.0,  5.0, 5.0, 0.1, 0.1,  0.7),
    "Neutral":  ( 0.0, 1.0, -1.0,  0.0, 4.0, 0.1, 0.1,  0.0),
    "Sad":      (-2.0, 0.6, -4.0, -7.0, 2.6, 0.3, 0.5, -1.0),
    "Surprise": ( 6.0, 1.5, 10.0,  3.0, 3.6, 0.1, 0.3,  0.4),
}
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))   # Hz, a e i o u


def draw_voice(cues: np.ndarray, person: Person, n: int, rng: np.random.Generator) -> np.ndarray:
    """Syllables said by one person: cues (8,) in the columns of `VOICES` -> n samples (n,) float32, full scale 1.

    Source and filter (Fant 1960): pulses of Rosenberg's shape (1971), each period a little off in length and height
    (roughness), plus breath, through three resonances a vowel. Loudness is set for the whole clip, so it does not
    depend on vowel or pitch.
    """
    pitch, accent, slope, loudness, rate, rough, breath, bright = cues
    rough, breath, rate = max(rough, 0), max(breath, 0), max(rate, 1.5)
    seconds = n / RATE
    t = np.arange(n) / RATE
    count = max(1, round(rate * (seconds - .1)))
    starts = .05 + (np.arange(count) + rng.uniform(-.12, .12, count)) * (seconds - .1) / count
    accents = rng.permuted(np.where(np.arange(count) % 2, 1.0, -1.0)) * rng.uniform(.7, 1.3, count)
    centres = starts + .5 * (seconds - .1) / count
    knots = np.arange(0, seconds + .02, .01)
    wander = np.interp(t, knots, rng.standard_normal(len(knots)))
    semitones = (pitch + accent * np.interp(t, centres, accents) + slope * (t / seconds - .5) + .35 * rough * wander)
    f0 = np.clip(person.f0 * 2 ** (semitones / 12), 70, 480)

    cycle = np.cumsum(f0) / RATE
    index = cycle.astype(int)
    phase = cycle - index
    opened = .62                                             # share of a period in which the glottis is open
    rise = np.clip(phase / (opened * .7), 0, 1)
    fall = np.clip((phase - opened * .7) / (opened * .3), 0, 1)
    glottis = .5 * (1 - np.cos(np.pi * rise)) * np.cos(.5 * np.pi * fall)
    height = 1 + .35 * rough * rng.standard_normal(index[-1] + 1) - .3 * rough * (np.arange(index[-1] + 1) % 2)
    source = np.diff(glottis * height[index], prepend=0) * 4
    source += breath * .25 * rng.standard_normal(n) * (.3 + glottis)
    tilt = np.clip(.75 - .2 * bright, 0, .97)                # one pole: a soft voice has weaker high harmonics
    source = scipy.signal.lfilter([1 - tilt], [1, -tilt], source)

    sound = np.zeros(n)
    for start in starts:
        length = .82 * (seconds - .1) / count
        i, j = int(max(start, 0) * RATE), min(n, int((start + length) * RATE))
        piece = source[i:j]
        vowel = VOWELS[rng.integers(len(VOWELS))]
        for formant, band in zip(vowel, (90, 110, 170), strict=True):
            r = np.exp(-np.pi * band / RATE)
            a = [1, -2 * r * np.cos(2 * np.pi * min(formant * person.tract, 7000) / RATE), r * r]
            piece = scipy.signal.lfilter([sum(a)], a, piece)
        window = np.sin(np.pi * np.linspace(0, 1, len(piece))) ** .6
        sound[i:j] += piece * window / (np.sqrt((piece**2).mean()) + 1e-9) * rng.uniform(.8, 1.2)
    level = 10 ** ((-26 + loudness + person.gain) / 20)
    sound *= level / np.sqrt((sound**2).mean())
    sound += 10 ** (rng.uniform(-58, -48) / 20) * scipy.signal.lfilter([1], [1, -.7], rng.standard_normal(n))   # the room
    return np.clip(sound, -1, 1).astype(np.float32)
