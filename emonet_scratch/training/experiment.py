"""One experiment: a data set, the chosen modalities one after the other, and a report of all of them."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import dispatch
from ..backend import choose_device
from ..data.batches import Split
from ..data.prepare import Dataset, prepare
from ..emotions import CLASSES
from ..errors import CheckpointError
from ..files import write_whole
from ..models import EmoNet, EmoNetConfig
from ..models.emonet import trunk_weights
from ..version import __version__
from .checkpoint import expected_of, read_checkpoint
from .fingerprint import check_data, fingerprint
from .metrics import chance_and_majority, confusion_matrix, macro_f1, wilson_interval
from .projection import AudioProjection
from .report import read_metrics, save_pictures, table
from .settings import MODALITIES, Settings
from .trainer import Trainer, evaluate, project


def run(settings: Settings, folder: Path, resume: bool = False, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Train what `settings` say, in `folder`, and return the results, which are also in results.json there.

    config.json keeps the settings with the device and precision that were chosen; resume=True goes on where a run with them
    stopped.
    """
    config = settings.config
    device, line = choose_device(settings.device)
    precision = dispatch.use_precision(settings.precision, device)
    log(line if precision == "fp32" else f"{line}, {precision}")
    if not resume:
        trunk_weights(config)                                                 # an error before hours of decoding
    data = dataset(settings, log=log)
    train, val = data.splits["train"], data.splits["val"]
    projection = None
    if train.audio is not None:
        projection = projection_of(config, train, val, folder, settings.modalities if resume else (), settings.seed)
        if config.lda_cross_fit > 1 and projection.training is None:
            log("warning: some class has too few clips for projections out of fold: LDA projects the clips it was fitted on")
    log(f"{len(train)} training and {len(val)} validation clips; LDA: {len(data.feature_names)} features to "
        f"{projection.lda.scalings_.shape[1]}" if projection else f"{len(train)} training and {len(val)} validation clips")
    folder.mkdir(parents=True, exist_ok=True)                                 # only now: what is here can be resumed
    dataclasses.replace(settings, device=device, precision=precision).write(folder, versions())
    results = {}
    for name in settings.modalities:
        trainer = Trainer(settings.config_of(name), train, val, folder / name, seed=settings.seed, device=device,
                          projection=projection if "audio" in MODALITIES[name] else None, cache=settings.cache,
                          facts={"feature_names": list(data.feature_names) if "audio" in MODALITIES[name] else [],
                                 "extractor": data.extractor if "audio" in MODALITIES[name] else "",
                                 "classes": list(CLASSES)},
                          save_every=settings.save_every, log=log, name=name)
        trainer.fit(resume=resume)
        results[name] = _result(trainer, folder / name, device)
    results_file = json.dumps(results, indent=2)
    save_pictures(folder, results, {name: read_metrics(folder / name) for name in results})
    write_whole(folder / "results.txt", f"{table(results)}\n".encode())
    write_whole(folder / "results.json", results_file.encode())               # last: its presence says that all is done
    return results


def dataset(settings: Settings, wanted: Sequence[str] = ("train", "val"), log: Callable[[str], None] = print) -> Dataset:
    """The splits `wanted`, with what the modalities of the settings need."""
    config, used = settings.config, {modality for name in settings.modalities for modality in MODALITIES[name]}
    return prepare(settings.data, wanted, video="video" in used, sound="audio" in used, frame_size=config.frame_size,
                   fit=config.fit, max_frames=config.max_frames, cache=settings.cache, on_error=settings.on_error,
                   log=log, crop=config.crop)


def projection_of(config: EmoNetConfig, train: Split, val: Split, folder: Path = Path(), names: Sequence[str] = (),
                  seed: int = 0) -> AudioProjection:
    """That of the first checkpoint of these networks, so that a resumed run has the LDA of its start; else a new one."""
    for name in names:
        path = folder / name / "last.safetensors"
        if "audio" in MODALITIES[name] and path.exists():
            groups, meta = read_checkpoint(path)
            with expected_of(path):
                check_data(path, meta["data"], fingerprint(train, val, MODALITIES[name]))
                return AudioProjection.from_state(groups["projection"])
    projection = AudioProjection(config.lda_components, config.lda_shrinkage, config.audio_clip, config.lda_cross_fit, seed)
    return projection.fit(train.audio, train.labels)


def _result(trainer: Trainer, folder: Path, device: str) -> dict[str, Any]:
    """The figures of the best checkpoint on the validation split."""
    groups, meta = read_checkpoint(folder / "best.safetensors")
    trainer.model.load_state_dict(groups["model"])
    loss, probabilities = trainer.evaluate(trainer.val)
    trained = {p.name for p in trainer.optimizer.params}
    return score(trainer.val.labels, probabilities) | {
        "loss": loss, "parameters": sum(p.value.size for p in trainer.model.parameters()),
        "trained_parameters": sum(p.value.size for p in trainer.model.parameters() if p.name in trained),
        "seconds": round(sum(row["seconds"] for row in read_metrics(folder)), 3),
        "best_epoch": meta["progress"]["best_epoch"]}


def score(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    """Accuracy with its 95 % interval and what it has to beat, macro F1, confusions. labels (N,), probabilities (N, 7)."""
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, predicted, len(CLASSES))
    correct = int(np.trace(confusion))
    chance, majority = chance_and_majority(labels)
    return {"accuracy": correct / len(labels), "interval": wilson_interval(correct, len(labels)), "clips": len(labels),
            "chance": chance, "majority": majority, "macro_f1": macro_f1(confusion), "confusion": confusion.tolist()}


@dataclasses.dataclass
class Model:
    """A trained network with what stands before it."""

    net: EmoNet
    projection: AudioProjection | None
    feature_names: tuple[str, ...]
    path: Path
    extractor: str = ""             # what made its audio vectors; "" where the checkpoint does not say

    @property
    def config(self) -> EmoNetConfig:
        """The configuration that it was trained with."""
        return self.net.config

    def probabilities(self, split: Split, device: str = "cpu") -> tuple[float, np.ndarray]:
        """(mean cross-entropy in nats or nan, probabilities (N, 7)) of a `Split` with audio vectors as read."""
        return evaluate(self.net, project(split, self.projection), device)

    def check_features(self, names: tuple[str, ...], extractor: str = "") -> None:
        """CheckpointError unless these are the audio features that the network was trained on, by the same extractor."""
        if self.projection and names != self.feature_names:
            raise CheckpointError(f"checkpoint {str(self.path)!r} was trained on {len(self.feature_names)} audio features "
                                  f"(first: {self.feature_names[0]!r}), got {len(names)} (first: {names[:1]}): "
                                  f"use vectors of the same extractor")
        if self.projection and self.extractor and extractor and extractor != self.extractor:
            raise CheckpointError(f"checkpoint {str(self.path)!r} was trained on audio vectors of {_source(self.extractor)},"
                                  f" got those of {_source(extractor)}: equal names do not make equal numbers")


def _source(extractor: str) -> str:
    return "feature files of a data set" if extractor == "files" else f"the extractor {extractor}"


def load_model(path: str | Path, device: str = "cpu") -> Model:
    """The network of a checkpoint, or of the best fused (else any) checkpoint of a run's folder."""
    path = Path(path)
    if path.is_dir():
        found = [p for name in ("fused", "video", "audio", ".") if (p := path / name / "best.safetensors").exists()]
        if not found:
            raise CheckpointError(f"{str(path)!r} holds no best.safetensors: name a checkpoint or the folder of a run")
        path = found[0]
    groups, meta = read_checkpoint(path)
    with expected_of(path):
        config = EmoNetConfig().replace(**meta["config"])
        if ("audio" in config.modalities) != ("projection" in groups):
            raise ValueError(f"its modalities are {config.modalities}, its arrays {sorted(groups)}")
        projection = AudioProjection.from_state(groups["projection"]) if "projection" in groups else None
        K = groups["model"]["audio.dense1.W"].shape[0] if projection else 0
        net = EmoNet(config, K, np.random.default_rng(0), load_trunk=False).to_device(device)
        net.load_state_dict(groups["model"])
        names, extractor = tuple(meta["facts"]["feature_names"]), meta["facts"]["extractor"]
        if meta["facts"]["classes"] != list(CLASSES):
            raise ValueError(f"its classes are {meta['facts']['classes']}")
    return Model(net, projection, names, path, extractor)


def versions() -> dict[str, str]:
    """What a result depends on besides the settings."""
    import scipy
    return {"emonet_scratch": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "scipy": scipy.__version__,
            "kernels": dispatch.why().split(": ")[1],
            "machine": platform.platform(), "command": " ".join(sys.argv)}
