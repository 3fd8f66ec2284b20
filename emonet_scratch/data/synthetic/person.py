"""Who is seen and heard, and where: all of a clip that has nothing to do with its label."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

SKINS = ((255, 219, 188), (244, 196, 158), (222, 168, 126), (190, 134, 94), (148, 98, 66), (118, 78, 54))
HAIRS = ((40, 30, 26), (74, 46, 28), (122, 74, 38), (196, 150, 84), (158, 66, 34), (150, 146, 142), (28, 28, 34))
EYES = ((70, 46, 30), (60, 96, 140), (70, 110, 70), (96, 84, 60))


class Person(SimpleNamespace):
    """What stays the same about a face and a voice: lengths in half head heights, colours (3,) 0 to 255."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A new person, different from every other one. f0: usual pitch, Hz; gain: dB."""
        u = rng.uniform
        tint = u(0.93, 1.05)
        high = u() < 0.5
        return cls(
            width=u(.80, .92), jaw=u(.0, .16), eye_gap=u(.35, .41), eye_size=u(.92, 1.12), eye_y=u(-.14, -.06),
            brow=u(.055, .08), mouth_y=u(.46, .52), mouth=u(.92, 1.10), nose=u(.8, 1.2), hairline=u(.50, .68),
            wave=u(-.06, .06), volume=u(.05, .14), long_hair=u(-.4, 1.0),
            skin=np.array(SKINS[rng.integers(len(SKINS))]) * tint,
            hair=np.array(HAIRS[rng.integers(len(HAIRS))]) * tint,
            iris=np.array(EYES[rng.integers(len(EYES))]),
            shirt=u(30, 220, 3),
            f0=(195 if high else 110) * 2 ** u(-.25, .25),
            tract=(1.12 if high else .98) * u(.95, 1.05),        # all formants times that: 1 / length of the vocal tract
            gain=u(-2.5, 2.5))


class Scene(SimpleNamespace):
    """Where the face is and how it is lit and filmed."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scene:
        """A new place."""
        u = rng.uniform
        spots, colours = u((0, 0, .05, .1), (1, 1, .25, .5), (4, 4)), u(60, 250, (4, 3))
        return cls(
            x=u(.48, .52), y=u(.50, .54),                        # centre of the head, shares of width and height
            scale=u(.45, .49),                                   # half height of the head, share of the picture's
            walls=u(60, 180, (2, 3)),                            # colours of the background, left and right
            blobs=np.concatenate([spots, colours], axis=1),      # (4, 7) lights out of focus: x, y, radius, strength, colour
            light=u(-.15, .15, 2),                               # direction, length = strength
            gain=u(.9, 1.1) * u(.97, 1.03, 3),                   # brightness and tint
            noise=u(2, 6))                                       # standard deviation, grey levels
