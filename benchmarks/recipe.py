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

from emonet_scratch.data.batches import Split, batches
from emonet_scratch.data.prepare import prepare
from emonet_scratch.data.sound import compact
from emonet_scratch.data.video import read_sound
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.optim import schedule
from emonet_scratch.training import Trainer
from emonet_scratch.training.metrics import mcnemar, wilson_interval
from emonet_scratch.training.projection import AudioProjection

BASE = "ours, out of fold"          # what the others are tested against
#: The third field of a file name to AFEW's classes: Angry Disgust Fear Happy Neutral Sad Surprise.
EMOTIONS = {"01": 4, "02": 4, "03": 3, "04": 5, "05": 0, "06": 2, "07": 1, "08": 6}


def ravdess(folder: Path, every: int = 1) -> Iterator[tuple[Split, Split]]:
    """Four (train, test) pairs of every n-th utterance; one woman and one man are tested each time."""
    files = sorted(folder.glob("Actor_0[1-8]/*.flac"))[::every]
    if not files:
        raise SystemExit(f"{str(folder)!r} has no Actor_01/*.flac to Actor_08/*.flac")
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


def theirs(config: EmoNetConfig, train: Split, test: Split, projection: AudioProjection, seed: int) -> np.ndarray:
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
            torch_nets.set_rate(optimizer, rate(step))
            inputs, labels = [torch.from_numpy(batch.audio)], torch.from_numpy(batch.labels)
            torch_nets.training_step(net, optimizer, inputs, labels, weights, c.clip_norm)
            step += 1
    net.eval()
    with torch.no_grad():
        return net(torch.from_numpy(projection.transform(test.audio))).argmax(1).numpy()


def predictions(config: EmoNetConfig, pairs: list[tuple[Split, Split]], seed: int) -> dict[str, np.ndarray]:
    """What each classifier calls all test clips, pair after pair."""
    found: dict[str, list[np.ndarray]] = {}
    for train, test in pairs:
        naive, fitted = project(config, train, 0, seed), project(config, train, config.lda_cross_fit, seed)
        print(f"seed {seed}: {len(train)} training clips, shrinkage {fitted.shrinkage}", flush=True)
        found.setdefault("LDA alone", []).append(fitted.lda.predict(fitted.standardise(test.audio)))
        for who, network in (("ours", ours), ("PyTorch", theirs)):
            for how, projection in (("naive", naive), ("out of fold", fitted)):
                found.setdefault(f"{who}, {how}", []).append(network(config, train, test, projection, seed))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def report(answers: list[dict[str, np.ndarray]], y: np.ndarray) -> None:
    """Print accuracies of the predictions of all seeds."""
    base = answers[0][BASE] == y

    def cells(name: str) -> list[str]:
        other = answers[0][name] == y
        p = mcnemar(int((base & ~other).sum()), int((~base & other).sum()))
        right = [int((answer[name] == y).sum()) for answer in answers]
        low, high = wilson_interval(right[0], len(y))
        each = " ".join(f"{r / len(y):.3f}" for r in right)
        return [name, f"{np.mean(right) / len(y):.3f} ({each})", f"{right[0] / len(y):.3f} ({low:.3f} - {high:.3f})",
                "-" if name == BASE else f"{p:.2f}"]

    print("\n| | accuracy: mean of seeds (each) | seed 0, 95 % interval | p |\n| --- | --- | --- | --- |")
    for name in answers[0]:
        print(f"| {' | '.join(cells(name))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="DIR")
    which.add_argument("--synthetic", type=Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change fields of the configuration")
    parser.add_argument("--quick", action="store_true", help="few clips, one seed, two epochs: shows that it works")
    options = parser.parse_args()
    changes = {name: json.loads(v) for name, v in (f.split("=") for f in options.set)}
    if options.quick:
        options.seeds, changes["epochs"] = 1, 2
    config = EmoNetConfig.preset("default" if options.ravdess else "small").replace(modalities=["audio"], **changes)
    pairs = list(ravdess(options.ravdess, 4 if options.quick else 1) if options.ravdess else synthetic(options.synthetic))
    y = np.concatenate([test.labels for _, test in pairs])
    print(f"{len(y)} test clips, {pairs[0][0].audio.shape[1]} features ({compact.EXTRACTOR})")
    report([predictions(config, pairs, seed) for seed in range(options.seeds)], y)


if __name__ == "__main__":
    main()
