"""What a trunk sees before training begins: its statistics, and, where it is frozen, its features and what they say."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..backend import to_device
from ..data.batches import Split, batches
from ..data.folds import groups_of
from ..data.progress import progress
from ..data.video import FrameCache, Frames
from ..layers import BatchNorm, Sequential
from ..models import EmoNet, EmoNetConfig
from ..shards import ALONE, Alone
from .fingerprint import sha256
from .projection import AudioProjection, missing


def calibrate(model: EmoNet, train: Split, seed: int, device: str, frames: int = 256) -> None:
    """Set the fixed batch-norm statistics that nobody has trained to those of some training frames, on average."""
    known = [] if model.config.trunk == "random" else [layer for _, layer in model.trunk.layer.resnet.walk()]
    norms = [layer for _, layer in model.trunk.walk() if isinstance(layer, BatchNorm) and layer not in known]
    if not norms:
        return
    momenta, done = [n.momentum for n in norms], 0
    for n in norms:
        n.train()
    seen = train.take([i for i, clip in enumerate(train.frames) if len(clip)])
    for k, batch in enumerate(batches(seen, 1, model.config.frames, seed=seed, training=True)):
        for n in norms:
            n.momentum = 1 / (k + 1)                                          # a running mean over all batches so far
        model.trunk_features(to_device(batch.frames, device))
        done += len(batch.frames)
        if done >= frames:
            break
    for n, momentum in zip(norms, momenta, strict=True):
        n.momentum = momentum
    model.train()


def with_trunk_features(split: Split, model: EmoNet, device: str, cache: str | Path | None = None,
                        ranks: Alone = ALONE) -> Split:
    """The split with the frozen trunk's features in place of frames: computed once, then read from the folder `cache`.

    With config.trunk_statistics, `looks` are the statistics of its map by quarters, whose mean are the features. The norm of
    features, which each training fits to its own clips, is applied to what the cache keeps. ranks: each computes a part of
    them for the cache, before all read it.
    """
    if cache and ranks.size > 1:
        with_trunk_features(split.take(ranks.owned(len(split))), model, device, cache)
        ranks.wait()
    model.eval()
    config, body = model.config, _body(model)
    choices = str((config.trunk_pooling, config.trunk_statistics, config.frames_per_chunk, device.partition(":")[0]))
    state = body.state_dict().items() if cache else ()
    trunk = sha256([choices.encode(), *(x for name, a in state for x in (name.encode(), a))]).encode()
    D = model.lstm.D * (4 if config.trunk_statistics else 1)
    store, found = FrameCache(cache, optional=True) if cache else None, []
    for clip in progress(map(np.asarray, split.frames), "trunk features", len(split)):
        key = sha256([trunk, clip]) if store else ""
        known = store.load(key, (D,), np.float32, len(clip), len(clip)) if store else None
        if known is None:
            known = sights(model, clip, device)
            known = store.keep(key, known) if store else known
        found.append(known)
    split = with_sights(split, model, found, device)
    model.train()
    return split


def with_sights(split: Split, model: EmoNet, found: Sequence[Frames], device: str) -> Split:
    """The split with features and looks from what `sights` gives of each of its clips."""
    config, D = model.config, model.lstm.D
    norm = dict(model.trunk.layer.children()).get("norm") if config.trunk_pooling == "average" else None
    looks = np.array([statistics(clip) for clip in found]) if config.trunk_statistics else None
    means = [np.asarray(clip).reshape(len(clip), 4, D).mean(axis=1) if config.trunk_statistics else clip for clip in found]
    if norm is not None:
        means = [to_device(norm.forward(to_device(np.asarray(clip), device))[0], "cpu") for clip in means]
    return dataclasses.replace(split, frames=means, looks=looks)


def _body(model: EmoNet) -> Sequential:
    """The trunk without its norm and, where quarters are wanted, its pool."""
    config, parts = model.config, dict(model.trunk.layer.children())
    if config.trunk_pooling == "average":
        parts.pop("norm", None)
    if config.trunk_statistics:
        del parts["pool"]
    return Sequential(**parts).eval()


def sights(model: EmoNet, clip: np.ndarray, device: str) -> np.ndarray:
    """What frames (T, H, W, 3) are to the trunk, (T, D) on the host, some of them at a time; D is 4 times as large where the
    configuration asks for quarters.
    """
    body, config = _body(model), model.config
    size = config.frames_per_chunk or 64
    chunks = [to_device(body.forward(to_device(clip[i:i + size], device))[0], "cpu") for i in range(0, len(clip) or 1, size)]
    return np.concatenate([quarters(chunk) if config.trunk_statistics else chunk for chunk in chunks])


def quarters(maps: np.ndarray) -> np.ndarray:
    """(T, H, W, C) -> (T, 4 C): the means of the upper left, upper right, lower left and lower right of each.

    Eyes and mouth do not say the same. Where a side is odd, quarters share the middle.
    """
    h, w = ((n + 1) // 2 for n in maps.shape[1:3])
    parts = maps[:, :h, :w], maps[:, :h, -w:], maps[:, -h:, :w], maps[:, -h:, -w:]
    return np.concatenate([part.mean(axis=(1, 2)) for part in parts], axis=1)


def statistics(clip: Frames) -> np.ndarray:
    """(2 D,) float64 of a clip of features (T, D): mean and range, 90th less 10th percentile, over time; NaN if T is 0.

    What a face says in a sentence it says for a moment, which a mean alone does not show.
    """
    f = np.asarray(clip, np.float64)
    if not len(f):
        return np.full(2 * f.shape[1], np.nan)
    low, high = np.percentile(f, [10, 90], axis=0)
    return np.concatenate([f.mean(axis=0), high - low])


def look(config: EmoNetConfig, train: Split, val: Split, seed: int, device: str,
         cache: str | Path | None, ranks: Alone = ALONE) -> tuple[Split, Split, AudioProjection | None]:
    """Both splits with `looks`, the statistics of what the frozen trunk sees, and their projection, fitted on `train`.

    None where no training clip has pictures.
    """
    model = EmoNet(config, 1, np.random.default_rng(seed), num_classes=len(train.classes)).to_device(device)
    calibrate(model, train, seed, device)                                     # which a random trunk needs
    train, val = (dataclasses.replace(split, looks=with_trunk_features(split, model, device, cache, ranks).looks)
                  for split in (train, val))
    if missing(train.looks).all():
        return train, val, None
    projection = AudioProjection(config.lda_components, config.lda_shrinkage, config.audio_clip, config.lda_cross_fit, seed)
    return train, val, projection.fit(train.looks, train.labels, groups_of(train), train.classes, ranks=ranks,
                                      shards=config.shards)
