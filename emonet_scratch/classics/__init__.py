"""The systems that the EmoNet paper stands on, each from scratch: see docs/classics.md.

Nothing imports this package but the command line, when it is asked for.
"""

import numpy as np


def evenly(frames: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the frames (T, ...), an even number, evenly spaced; of the reversed clip the same ones.

    >>> evenly(np.arange(10), 4)
    array([1, 3, 6, 8])
    """
    T, half = len(frames), (2 * np.arange(most // 2) + 1) * len(frames) // (2 * most)
    return frames[np.concatenate([half, (T - 1 - half)[::-1]])] if T > most else frames
