"""What clips with the same sound do to a training, when folds are made of clips and when they are made of sounds.

    python benchmarks/shared_sound.py RAVDESS --actors 12 --copies 440

Of the utterances of some actors many are there twice, as when one soundtrack lies under several clips. LDA projects the
training clips out of fold for the audio network. Where one of two equal clips is projected by an LDA that was fitted on the
other, it is not out of fold: the network believes projections that strangers do not have. Folds by clips are shown by moving
every copy by a rounding error, so that nobody can see that it is one.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from emonet_scratch.models import EmoNetConfig
from emonet_scratch.studies.cross_validate import everything
from emonet_scratch.training import Settings, Trainer
from emonet_scratch.training.projection import AudioProjection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder of RAVDESS, or any other data with groups")
    parser.add_argument("--actors", type=int, default=12, help="to train on; the others validate")
    parser.add_argument("--copies", type=int, default=440)
    parser.add_argument("--cache", default="runs/cache")
    options = parser.parse_args()
    config = EmoNetConfig().replace(modalities=("audio",))
    settings = Settings((str(Path(options.data).absolute()),), config, ("audio",), cache=options.cache)
    _, data = everything(settings, lambda line: None)
    names = sorted(set(data.groups))
    known = np.isin(data.groups, names[:options.actors])
    train, val, rng = data.take(np.flatnonzero(known)), data.take(np.flatnonzero(~known)), np.random.default_rng(0)
    index = np.concatenate([np.arange(len(train)), rng.integers(0, len(train), options.copies)])
    copied = replace(train.take(index), keys=None, groups=[""] * len(index), ids=[str(k) for k in range(len(index))])
    moved = replace(copied, audio=copied.audio * (1 + np.finfo(float).eps * rng.integers(1, 99, (len(index), 1))))
    print(f"{len(train)} utterances of {options.actors} speakers, {options.copies} of them once more; validation: "
          f"{len(val)} clips of {len(names) - options.actors} other speakers\n\n"
          "| folds of | shrinkage | training accuracy | validation accuracy | validation loss |\n"
          "| --- | --- | --- | --- | --- |")
    for name, split in (("clips", moved), ("sounds", copied)):
        fitted = AudioProjection(None, "cv", config.audio_clip, config.lda_cross_fit).fit(split.audio, split.labels)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(config, split, val, Path(folder), projection=fitted, log=lambda line: None)
            trainer.fit()
            seen, strange = trainer.rows[-2:]
            cells = [name, fitted.shrinkage] + [f"{x:.3f}" for x in (seen["accuracy"], strange["accuracy"], strange["loss"])]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
