"""The audio branch of the preset `default`, and LDA alone, against the same network in PyTorch: accuracy, not speed.

    python benchmarks/recipe.py --ravdess RAVDESS                  # the folder with Actor_01 ... Actor_08
    python benchmarks/recipe.py --synthetic runs/synthetic-70-20-4-seed0

RAVDESS: real speech, split by actor, six to train and two to test, four times, so every utterance is tested once by a
network that knows neither its speaker nor its sound; calm counts as neutral, which leaves AFEW's seven classes. A synthetic
data set, as `emonet synthesize` writes it: its own training and validation splits. Audio vectors are those of
data/sound/compact.py.

All networks start from the same weights and see the same projections and batches for the same number of epochs; the last
epoch counts, so no choice is made on what is tested. "naive": LDA projects the very clips that it was fitted on; "out of
fold": `lda_cross_fit`. p: exact McNemar test, two-sided, against ours out of fold, of seed 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from emonet_scratch.data.batches import Split, batches
from emonet_scratch.data.prepare import prepare
from emonet_scratch.data.sound import compact
from emonet_scratch.data.video import read_sound
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.optim import schedule
from emonet_scratch.training import Trainer
from emonet_scratch.training.metrics import wilson_interval
from emonet_scratch.training.projection import AudioProjection

#: The third field of a file name to AFEW's classes: Angry Disgust Fear Happy Neutral Sad Surprise.
EMOTIONS = {"01": 4, "02": 4, "03": 3, "04": 5, "05": 0, "06": 2, "07": 1, "08": 6}


def ravdess(folder: Path) -> Iterator[tuple[Split, Split]]:
    """Four (train, test) pairs; one woman and one man are tested each time."""
    files = sorted(folder.glob("Actor_*/*.flac"))
    if not files:
        raise SystemExit(f"{str(folder)!r} has no Actor_*/*.flac")
    X = np.array([compact.features(read_sound(path)) for path in files])
    y = np.array([EMOTIONS[path.stem.split("-")[2]] for path in files])
    actor = np.array([int(path.stem.split("-")[6]) for path in files])
    split = Split([path.stem for path in files], y, None, X)
    for k in range(4):
        test = np.isin(actor, (2 * k + 1, 2 * k + 2))
        yield split.take(np.flatnonzero(~test)), split.take(np.flatnonzero(test))


def synthetic(folder: Path) -> Iterator[tuple[Split, Split]]:
    """Its training and validation splits."""
    splits = prepare(folder, video=False).splits
    yield splits["train"], splits["val"]


def project(config: EmoNetConfig, train: Split, folds: int, seed: int) -> AudioProjection:
    """As the trainer's."""
    projection = AudioProjection(config.lda_components, config.lda_shrinkage, config.audio_clip, folds, seed)
    return projection.fit(train.audio, train.labels)


def ours(config: EmoNetConfig, train: Split, test: Split, projection: AudioProjection, seed: int) -> np.ndarray:
    """What our network calls the test clips."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, train, test, Path(folder), seed=seed, projection=projection, log=lambda line: None)
        trainer.fit()
        return trainer.evaluate(trainer.val)[1].argmax(axis=1)


def peer(config: EmoNetConfig, train: Split, test: Split, projection: AudioProjection, seed: int) -> np.ndarray:
    """The same by PyTorch: its layers, cross-entropy, dropout, AdamW and clipping, from our initial weights."""
    import torch
    import torch_nets

    torch.manual_seed(seed)
    trainer = Trainer(config, train, test, Path("unused"), seed=seed, projection=projection)
    trainer.start()
    c, x, N = config, trainer.train.audio, len(train)
    net = torch_nets.load(torch_nets.AudioNet(dataclasses.asdict(c), x.shape[1]), trainer.model.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), c.lr, weight_decay=c.weight_decay)
    rate, step = schedule(c.schedule, c.lr, c.epochs * math.ceil(N / c.batch_size), c.warmup), 0
    weights = None if trainer.class_weights is None else torch.from_numpy(trainer.class_weights)
    data = Split(train.ids, train.labels, None, x)
    for epoch in range(c.epochs):
        for batch in batches(data, c.batch_size, None, seed=seed, epoch=epoch, training=True):
            optimizer.zero_grad()
            logits = net(torch.from_numpy(batch.audio))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels), weights).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), c.clip_norm)
            optimizer.param_groups[0]["lr"], step = rate(step), step + 1
            optimizer.step()
    net.eval()
    with torch.no_grad():
        return net(torch.from_numpy(projection.transform(test.audio))).argmax(1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="DIR")
    which.add_argument("--synthetic", type=Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the configuration")
    options = parser.parse_args()
    config = EmoNetConfig.preset("default" if options.ravdess else "small").replace(
        modalities=["audio"], **{name: json.loads(v) for name, v in (f.split("=") for f in options.set)})
    pairs = list(ravdess(options.ravdess) if options.ravdess else synthetic(options.synthetic))
    y = np.concatenate([test.labels for _, test in pairs])
    print(f"{len(y)} test clips, {pairs[0][0].audio.shape[1]} features ({compact.EXTRACTOR})")
    answers: dict[str, list[np.ndarray]] = {}
    for seed in range(options.seeds):
        found: dict[str, list[np.ndarray]] = {}
        for train, test in pairs:
            naive, fitted = project(config, train, 0, seed), project(config, train, config.lda_cross_fit, seed)
            print(f"seed {seed}: {len(train)} training clips, shrinkage {fitted.shrinkage}", flush=True)
            found.setdefault("LDA alone", []).append(fitted.lda.predict(fitted.standardise(test.audio)))
            for who, network in (("ours", ours), ("PyTorch", peer)):
                for how, projection in (("naive", naive), ("out of fold", fitted)):
                    found.setdefault(f"{who}, {how}", []).append(network(config, train, test, projection, seed))
        for name, parts in found.items():
            answers.setdefault(name, []).append(np.concatenate(parts))
    base = answers["ours, out of fold"][0] == y
    print("\n| | accuracy: mean of seeds (each) | seed 0, 95 % interval | p |\n| --- | --- | --- | --- |")
    for name, found in answers.items():
        right = [int((a == y).sum()) for a in found]
        low, high = wilson_interval(right[0], len(y))
        other = found[0] == y
        one, two = int((base & ~other).sum()), int((~base & other).sum())
        p = binomtest(one, one + two).pvalue if one + two else 1.0
        each = " ".join(f"{r / len(y):.3f}" for r in right)
        print(f"| {name} | {np.mean(right) / len(y):.3f} ({each}) | {right[0] / len(y):.3f} ({low:.3f} - {high:.3f}) | "
              f"{'-' if name == 'ours, out of fold' else f'{p:.2f}'} |")


if __name__ == "__main__":
    main()
