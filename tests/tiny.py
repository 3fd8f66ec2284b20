"""Networks and data sets that train in a second, for the tests of training and of the command line."""

import json

import numpy as np

from emonet_scratch import models
from emonet_scratch.data.batches import Split
from emonet_scratch.data.opensmile import write_arff
from emonet_scratch.emotions import CLASSES
from emonet_scratch.training import Trainer
from emonet_scratch.training.projection import AudioProjection
from tests.media import tone, write_clip

TINY = models.EmoNetConfig.preset("small").replace(
    frame_size=8, frames=3, trunk_width=2, lstm_size=4, lstm_layers=2, audio_layers=(6, 6, 6), fusion_layers=(8, 8),
    batch_size=5, epochs=3, lr=0.01)
QUICK = ["--preset", "small", "--device", "cpu", "--epochs", "2", "--set", "frame_size=16", "--set", "frames=3",
         "--set", "trunk_width=2", "--set", "lstm_size=4"]


def split(seed, n=14, frames=4):
    """Clips whose label is in the colour of the picture, three bits of it, and in the audio vector."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 7
    clips = [(rng.integers(0, 60, (frames, 8, 8, 3)) + 180 * (k >> np.arange(3) & 1)).astype(np.uint8) for k in labels]
    audio = rng.standard_normal((n, 9)) + 8 * np.eye(9)[labels]
    return Split([str(i) for i in range(n)], labels, clips, audio, [f"{seed} {i}" for i in range(n)])


def make(folder, config=TINY, n=21, **options):
    train = split(0, n)
    projection = AudioProjection().fit(train.audio, train.labels) if "audio" in config.modalities else None
    return Trainer(config, train, split(1), folder, projection=projection, log=lambda line: None, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def states(folder):
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in ("last", "best")}


def build(root, features=5):
    """A data set of 7 x (3, 1) labelled clips and 2 test clips; the class is in the colour and in the vector."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        for split, count in (("Train_AFEW", 3), ("Val_AFEW", 1)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                path = root / split / name / f"{100 * k + i:09}.avi"
                frames = (rng.integers(0, 50, (5, 24, 32, 3)) + 180 * (k >> np.arange(3) & 1)).astype(np.uint8)
                write_clip(path, frames, "mjpeg", tone(0.3, hz=200 + 50 * k + rng.uniform(0, 40)), "pcm")
                if features:
                    vector = rng.standard_normal(features) + np.arange(features) * (k - 3)
                    write_arff(path.with_suffix(".arff"), "r", [f"f{j}" for j in range(features)],
                               [(path.stem, name, vector)])
    (root / "Test_AFEW").mkdir()
    for i in (1, 2):
        write_clip(root / "Test_AFEW" / f"{i:09}.avi", None, "mjpeg", tone(0.3, hz=300 * i), "pcm")
        if features:
            write_arff(root / "Test_AFEW" / f"{i:09}.arff", "r", [f"f{j}" for j in range(features)],
                       [(f"{i:09}", None, rng.standard_normal(features))])
    return root
