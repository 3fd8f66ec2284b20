"""Who is seen and heard, and where: all of a clip that has nothing to do with its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SKINS = ((255, 219, 188), (244, 196, 158), (222, 168, 126), (190, 134, 94), (148, 98, 66), (118, 78, 54))
HAIRS = ((40, 30, 26), (74, 46, 28), (122, 74, 38), (196, 150, 84), (158, 66, 34), (150, 146, 142), (28, 28, 34))
EYES = ((70, 46, 30), (60, 96, 140), (70, 110, 70), (96, 84, 60))


@dataclass(frozen=True)
class Person:
    """What stays the same about a face and a voice: lengths in half head heights, colours (3,) 0 to 255."""

    width: float
    jaw: float
    eye_gap: float
    eye_size: float
    eye_y: float
    brow: float
    mouth_y: float
    mouth: float
    nose: float
    hairline: float
    wave: float
    volume: float
    long_hair: float
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    shirt: np.ndarray
    f0: float               # usual pitch, Hz
    tract: float            # factor on all formants: 1 / relative length of the vocal tract
    gain: float             # dB

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A new person, different from every other one."""
        u = rng.uniform
        tint = u(0.93, 1.05)
        high = u() < 0.5
        return cls(u(.80, .92), u(.0, .16), u(.35, .41), u(.92, 1.12), u(-.14, -.06), u(.055, .08), u(.46, .52),
                   u(.92, 1.10), u(.8, 1.2), u(.50, .68), u(-.06, .06), u(.05, .14), u(-.4, 1.0),
                   np.array(SKINS[rng.integers(len(SKINS))]) * tint, np.array(HAIRS[rng.integers(len(HAIRS))]) * tint,
                   np.array(EYES[rng.integers(len(EYES))]), u(30, 220, 3),
                   (195 if high else 110) * 2 ** u(-.25, .25), (1.12 if high else .98) * u(.95, 1.05), u(-2.5, 2.5))


@dataclass(frozen=True)
class Scene:
    """Where the face is and how it is lit and filmed."""

    x: float
    y: float                # centre of the head, shares of width and height of the picture
    scale: float            # half height of the head, share of the height of the picture
    walls: np.ndarray       # (2, 3) colours of the background, left and right
    blobs: np.ndarray       # (B, 7): x, y, radius, strength, colour of lights out of focus
    light: np.ndarray       # (2,) direction, length = strength
    gain: np.ndarray        # (3,) brightness and tint
    noise: float            # standard deviation, grey levels

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scene:
        """A new place."""
        u = rng.uniform
        blobs = np.concatenate([u((0, 0, .05, .1), (1, 1, .25, .5), (4, 4)), u(60, 250, (4, 3))], axis=1)
        return cls(u(.48, .52), u(.50, .54), u(.45, .49), u(60, 180, (2, 3)), blobs, u(-.15, .15, 2),
                   u(.9, 1.1) * u(.97, 1.03, 3), u(2, 6))
