"""How long a training will take on this machine, said after its first steps; and what would be quicker."""

import math
import time
from collections.abc import Callable

from ..models import EmoNetConfig

STEPS, ENOUGH = 3, 5.0          # so many steps are timed, or as many as there are in so many seconds
LONG = 120.0                    # seconds: of a shorter training nobody asks what would be quicker


class Forecast:
    """Looks on while steps are done, and changes nothing. train, val: numbers of clips; epochs: those that are to come."""

    def __init__(self, config: EmoNetConfig, device: str, train: int, val: int, epochs: int, log: Callable[[str], None],
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.config, self.device, self.epochs, self.log, self.clock = config, device, epochs, log, clock
        self.clips = train + val * config.test_windows / 3                  # a step costs about three forward passes
        self.wanted = min(STEPS, epochs * math.ceil(train / config.batch_size))
        self.begun = self.last = clock()
        self.times: list[float] | None = []                                 # seconds a clip of each step; None: it is said

    def step(self, clips: int) -> None:
        """One more step is done, of so many clips."""
        if self.times is None:
            return
        now = self.clock()
        self.times.append((now - self.last) / clips)
        self.last = now
        if len(self.times) == self.wanted or now - self.begun > ENOUGH:
            epoch = min(self.times) * self.clips                            # the first step also loads and compiles
            hints = ", ".join(quicker(self.config, self.device)) if epoch * self.epochs > LONG else ""
            self.log(f"about {_words(epoch)} an epoch, {_words(epoch * self.epochs)} for {self.epochs} on this machine"
                     + (f"; quicker: {hints}" if hints else ""))
            self.times = None


def quicker(config: EmoNetConfig, device: str) -> list[str]:
    """What takes less time than these settings, the largest gain first; nothing that is in force."""
    c, small = config, EmoNetConfig.preset("small")
    sees, trains = "video" in c.modalities, "video" in c.modalities and not c.freeze_trunk
    return [hint for applies, hint in (
        (device == "cpu" and sees, "a GPU (--device cuda)"),
        (trains and c.trunk != "random", "--set freeze_trunk=true"),
        (trains and c.frame_size > small.frame_size, f"a smaller frame_size than {c.frame_size}"),
        (sees and (c.frames is None or c.frames > small.frames), f"fewer frames than {c.frames or 'all'} of a clip"),
        (trains and c.trunk_depth * c.trunk_width > small.trunk_depth * small.trunk_width, "--preset small")) if applies]


def _words(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.{0 if seconds >= 10 else 1}f} seconds"
