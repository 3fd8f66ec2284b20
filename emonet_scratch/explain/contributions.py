"""What face and voice each add to an answer: the Shapley values of the two (Shapley 1953; Lundberg and Lee 2017, eq. 4)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shares:
    """Of one answer, in nats of log-odds, (C,) each: face + voice = both - nothing."""

    face: np.ndarray
    voice: np.ndarray


def log_odds(p: np.ndarray) -> np.ndarray:
    """log p / (1 - p) of probabilities, kept from 0 and 1."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p) - np.log1p(-p)


def shapley(both: np.ndarray, face: np.ndarray, voice: np.ndarray, nothing: np.ndarray) -> Shares:
    """The mean of what each adds, as the first and as the second to be known, from four answers (C,), probabilities.

        phi_face = ((v(face) - v(nothing)) + (v(both) - v(voice))) / 2,  v the log-odds; phi_voice likewise

    Of all ways to share out v(both) - v(nothing) it is the only one that gives nothing to what changes nothing, and the same
    to two that change the same.
    """
    v_both, v_face, v_voice, v_nothing = map(log_odds, (both, face, voice, nothing))
    return Shares(((v_face - v_nothing) + (v_both - v_voice)) / 2, ((v_voice - v_nothing) + (v_both - v_face)) / 2)
