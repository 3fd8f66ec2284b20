"""What a network says of clips: its probabilities, how often they are right, and how it is read back from a checkpoint."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, to_device
from ..data.batches import Batch, Draw, Split, draws
from ..data.extract import EXTRACTORS, base_of
from ..errors import CheckpointError
from ..files import say
from ..losses import softmax, softmax_cross_entropy
from ..models import EmoNet, EmoNetConfig
from ..shards import ALONE, Alone
from ..weights import Bounded
from .calibration import restored_temperature, temper
from .checkpoint import expected_of, read_checkpoint
from .metrics import chance_and_majority, confusion_matrix, macro_f1, unweighted_recall, wilson_interval
from .projection import AudioProjection
from .trunk import with_trunk_features


def reading(config: EmoNetConfig) -> dict[str, Any]:
    """How clips are read for a network: arguments of `data.prepare.prepare`, and `pictures` of its `Reader`."""
    return {name: getattr(config, name) for name in ("frame_size", "fit", "max_frames", "crop")}


def project(split: Split, projection: AudioProjection | None, looks: AudioProjection | None = None) -> Split:
    """The split with projected vectors (N, K) float32 as audio, of its sound and of its looks, or without audio."""
    parts = [part.transform(X) for part, X in ((projection, split.audio), (looks, split.looks)) if part]
    heard = len(projection.scale) if projection else 0
    return dataclasses.replace(split, audio=np.hstack(parts) if parts else None, heard=heard)


def forward(model: EmoNet, batch: Batch, device: str) -> tuple[Array, Any]:
    """(logits (N, C), cache) of a batch, which is in the host's memory."""
    frames, audio = (None if a is None else to_device(a, device) for a in (batch.frames, batch.audio))
    return model.forward(frames, batch.lengths, audio)


def count_right(logits: Array, labels: np.ndarray) -> int:
    """Of how many rows of logits (N, C) the largest is that of the label (N,)."""
    return int((to_device(logits.argmax(axis=1), "cpu") == labels).sum())


def evaluate(model: EmoNet, split: Split, device: str = "cpu", ranks: Alone = ALONE) -> tuple[float, np.ndarray]:
    """(mean cross-entropy in nats over labelled clips, nan without any; probabilities (N, C)), in evaluation mode.

    split: with projected audio, as `project` gives it. A clip of more frames than the network sees is looked at in
    `test_windows` windows; the mean of their probabilities is that of a mixture of as many answers. Batches are spread
    over `ranks`.
    """
    frames, windows = model.config.frames, model.config.test_windows
    longer = [i for i, clip in enumerate(split.frames or ()) if frames is not None and len(clip) > frames]
    loss, probabilities = _evaluate(model, split, device, 0, windows, ranks)
    if windows > 1 and longer and "video" in model.config.modalities:
        part = split.take(longer)
        for window in range(1, windows):
            probabilities[longer] += _evaluate(model, part, device, window, windows, ranks)[1]
        probabilities[longer] /= windows
        loss = cross_entropy(probabilities, split.labels)
    return loss, probabilities


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -ln p of the labels (N,) that are known, in nats; nan without any."""
    known = np.flatnonzero(labels >= 0)
    right = probabilities[known, labels[known]].astype(np.float64)
    return float(-np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean()) if len(known) else math.nan


def _evaluate(model: EmoNet, split: Split, device: str, window: int, windows: int,
              ranks: Alone) -> tuple[float, np.ndarray]:
    """The same for one window."""
    if model.training:                                                        # not a walk over all layers each time
        model.eval()

    def told(draw: Draw) -> np.ndarray:
        """The loss, summed over labelled clips, and behind it the probabilities of a batch."""
        batch, loss = draw.part(0, len(draw)), 0.0
        logits, _ = forward(model, batch, device)
        known = batch.labels >= 0
        if known.any():
            rows = to_device(np.flatnonzero(known), device)
            loss = softmax_cross_entropy(logits[rows], batch.labels[known])[0] * known.sum()
        return np.append(loss, to_device(softmax(logits), "cpu"))
    whole = draws(split, model.config.batch_size, model.config.frames, window=window, windows=windows)
    rows = ranks.spread(told, whole)
    labelled, loss = int((split.labels >= 0).sum()), sum(float(row[0]) for row in rows)
    probabilities = np.concatenate([row[1:] for row in rows]).reshape(len(split), -1)
    dtype = model.parameters()[0].value.dtype
    return loss / labelled if labelled else math.nan, probabilities.astype(dtype)


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Accuracy with its 95 % interval and what it has to beat, macro F1, confusions. labels (N,), probabilities (N, C)."""
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, probabilities.shape[1])
    correct = int(np.trace(confusion))
    chance, majority = chance_and_majority(labels)
    return {"accuracy": correct / len(labels), "interval": wilson_interval(correct, len(labels)), "clips": len(labels),
            "chance": chance, "majority": majority, "macro_f1": macro_f1(confusion), "recall": unweighted_recall(confusion),
            "confusion": confusion.tolist()}


@dataclasses.dataclass
class Model:
    """A trained network with what stands before it."""

    net: EmoNet
    projection: AudioProjection | None
    feature_names: tuple[str, ...]
    extractor: str                  # what made its audio vectors, by which ffmpeg; "" for a network that reads none
    path: Path
    classes: tuple[str, ...]
    temperature: float              # by which its probabilities are tempered, see calibration.py
    looks: AudioProjection | None = None    # of the statistics of a frozen trunk's features

    @property
    def config(self) -> EmoNetConfig:
        """The configuration that it was trained with."""
        return self.net.config

    @property
    def computes(self) -> str:
        """The extractor that made its audio vectors, or "" where they came with the data set."""
        return base_of(self.extractor) if base_of(self.extractor) in EXTRACTORS else ""

    def probabilities(self, split: Split, device: str = "cpu") -> tuple[float, np.ndarray]:
        """(mean cross-entropy in nats or nan, calibrated probabilities (N, C)) of a `Split` with audio vectors as read.

        Labels of the split count among the network's classes, which have to be its own.
        """
        split = self.looked_at(split, device)
        _, probabilities = evaluate(self.net, project(split, self.projection, self.looks), device)
        probabilities = temper(probabilities, self.temperature)
        return cross_entropy(probabilities, split.labels), probabilities

    def looked_at(self, split: Split, device: str = "cpu") -> Split:
        """The split with what the frozen trunk sees in place of frames, and its statistics, if this network reads them."""
        if not self.looks or split.looks is not None:
            return split
        return with_trunk_features(split, self.net, device)

    def novelty(self, split: Split) -> np.ndarray:
        """(N,): how unlike the training clips those of a split, as `looked_at` gives it, look or sound; above 1: unlike."""
        parts = [part.novelty(X) for part, X in ((self.projection, split.audio), (self.looks, split.looks)) if part]
        return np.max(parts, axis=0, initial=0)

    def check_features(self, names: tuple[str, ...], extractor: str, log: Callable[[str], None] = say) -> None:
        """CheckpointError unless these are the audio features that the network was trained on, by the same extractor.

        Where another ffmpeg has decoded the sound for it, a line says so: decoders differ in their last bits, and more.
        """
        if self.projection is None:
            return
        if names != self.feature_names:
            raise CheckpointError(f"checkpoint {str(self.path)!r} was trained on {len(self.feature_names)} audio features "
                                  f"(first: {self.feature_names[0]!r}), got {len(names)} (first: {names[:1]}): "
                                  f"use vectors of the same extractor")
        if base_of(extractor) != base_of(self.extractor):
            raise CheckpointError(f"checkpoint {str(self.path)!r} was trained on audio vectors of {_source(self.extractor)},"
                                  f" got those of {_source(extractor)}: equal names do not make equal numbers")
        if extractor != self.extractor and "+" in extractor and "+" in self.extractor:
            log(f"note: checkpoint {str(self.path)!r} was trained on audio vectors of {self.extractor}, these are of "
                f"{extractor}: the same extractor behind another decoder, so numbers may differ a little")


def _source(extractor: str) -> str:
    return "feature files of a data set" if extractor == "files" else f"the extractor {extractor}"


def _projections_of(groups: dict[str, dict[str, np.ndarray]], config: EmoNetConfig) -> list[AudioProjection | None]:
    """[of the sound, of the looks] in a checkpoint; ValueError where they do not fit the modalities."""
    heard, seen = (kind in config.modalities for kind in ("audio", "video"))
    if heard != ("projection" in groups) or ("looks" in groups and not seen):
        raise ValueError(f"its modalities are {config.modalities}, its arrays {sorted(groups)}")
    return [AudioProjection.from_state(groups[name]) if name in groups else None for name in ("projection", "looks")]


def load_model(path: str | Path, device: str = "cpu") -> Model:
    """The network of a checkpoint, or of the best fused (else any) checkpoint of a run's folder."""
    path = Path(path)
    if path.is_dir():
        found = [p for name in ("fused", "video", "audio", ".") if (p := path / name / "best.safetensors").exists()]
        if not found:
            raise CheckpointError(f"{str(path)!r} holds no best.safetensors: name a checkpoint or the folder of a run")
        path = found[0]
    groups, meta = read_checkpoint(path, lambda name: not name.startswith("optimizer/"))
    with expected_of(path):
        config, facts = EmoNetConfig().replace(**meta["config"]), meta["facts"]
        classes, names = _classes_of(facts), tuple(facts["feature_names"])
        projection, looks = _projections_of(groups, config)
        K = sum(len(part.scale) for part in (projection, looks) if part)
        if not all(isinstance(name, str) for name in (*names, facts["extractor"])) or (
                projection and len(names) != len(projection.mean)):
            raise ValueError("its extractor and audio features are no names, or not one a feature")
        net = EmoNet(config, K, Bounded(groups["model"]), False, len(classes)).to_device(device)
        net.load_state_dict(groups["model"])
        return Model(net, projection, names, facts["extractor"], path, classes, restored_temperature(meta), looks)


def _classes_of(facts: dict[str, Any]) -> tuple[str, ...]:
    """The classes of a checkpoint; ValueError for what are none."""
    classes = tuple(facts["classes"])
    if not (2 <= len(set(classes)) == len(classes) and all(isinstance(name, str) and name for name in classes)):
        raise ValueError(f"its classes are {facts['classes']}")
    return classes
