"""progress.py and forecast.py: what long work says without a terminal, by a clock that the test turns."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emonet_scratch.data import progress as module
from emonet_scratch.data.progress import Lines, progress
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.training.forecast import Forecast, quicker


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_line_every_ten_seconds(capsys):
    clock = Clock()
    lines = Lines(range(100), "reading clips", 100, clock=clock)
    for _ in lines:
        clock.now += 0.5                                                      # two a second, 50 seconds
    said = capsys.readouterr().err.splitlines()
    assert said == [f"reading clips: {done} of 100 clips, 2 a second, 00:{left} left"
                    for done, left in ((20, 40), (40, 30), (60, 20), (80, 10), (100, "00"))]


def test_work_of_less_than_ten_seconds_says_nothing(capsys):
    clock = Clock()
    assert list(Lines(iter("abc"), "reading clips", 3, clock=clock)) == ["a", "b", "c"]
    with Lines(None, "synthesising", 5, clock=clock) as bar:
        for _ in range(5):
            clock.now += 1.9
            bar.update()
            bar.set_postfix(loss="1")
    assert capsys.readouterr() == ("", "")


def test_the_speed_is_that_of_now_and_what_was_done_before_is_no_speed(capsys):
    clock = Clock()
    with Lines(None, "audio features", 4000, initial=1000, clock=clock) as bar:
        for count, seconds in ((900, 1), (100, 9), (10, 10), (0, 30), (5, 0)):
            clock.now += seconds
            bar.update(count)
    assert capsys.readouterr().err.splitlines() == ["audio features: 2000 of 4000 clips, 100 a second, 00:20 left",
                                                    "audio features: 2010 of 4000 clips, 1 a second, 33:10 left",
                                                    "audio features: 2015 of 4000 clips, 0.167 a second, 3:18:30 left"]


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress([1], "reading clips", 1), module.tqdm)
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(progress([1], "reading clips", 1), Lines)


def forecast(seconds, clips=16, train=700, val=140, epochs=20, **fields):
    clock, lines = Clock(), []
    told = Forecast(EmoNetConfig().replace(**fields), "cpu", train, val, epochs, lines.append, clock)
    for step in seconds:
        clock.now += step
        told.step(clips)
    return lines


def test_a_forecast_is_said_once_from_the_quickest_of_three_steps():
    assert forecast([4.0, 0.4]) == []
    line, = forecast([0.4, 0.16, 0.2, 9, 9, 9])                     # .01 s a clip: (700 + 140 x 3 windows / 3) x .01
    assert line == "about 8.4 seconds an epoch, 2.8 minutes for 20 on this machine; quicker: a GPU (--device cuda), " \
                   "--set freeze_trunk=true, a smaller frame_size than 256, fewer frames than 50 of a clip, --preset small"
    assert forecast([0.4, 0.16, 0.2], epochs=2) == ["about 8.4 seconds an epoch, 17 seconds for 2 on this machine"]


def test_one_slow_step_is_enough():
    line, = forecast([80.0, 1.0, 1.0])                              # 5 s a clip
    assert line.startswith("about 70.0 minutes an epoch, 23.3 hours for 20 on this machine; quicker: ")


@given(seed=st.integers(0, 2**32 - 1), device=st.sampled_from(["cpu", "cuda:0"]))
def test_nothing_is_advised_that_is_in_force(seed, device):
    rng = np.random.default_rng(seed)
    config = EmoNetConfig.preset(str(rng.choice(["default", "paper", "small"]))).replace(
        modalities=[("audio",), ("video",), ("audio", "video")][rng.integers(3)], freeze_trunk=bool(rng.integers(2)),
        frame_size=int(rng.choice([32, 64, 256])))
    text = " ".join(quicker(config, device))
    assert ("GPU" in text) <= (device == "cpu") and ("freeze_trunk" in text) <= (not config.freeze_trunk)
    assert ("frame_size" in text) <= (config.frame_size > 32 and not config.freeze_trunk)
    assert text == "" or "video" in config.modalities


def test_small_on_a_gpu_is_as_quick_as_it_gets():
    assert quicker(EmoNetConfig.preset("small"), "cuda:0") == []
