"""A run: one data set, the networks that the settings name one after the other, and a report of all of them."""

import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from .. import dispatch
from ..backend import choose_device
from ..data.batches import Split
from ..data.clips import Collection
from ..data.folds import groups_of
from ..data.prepare import Dataset, prepare
from ..data.video import ffmpeg_version
from ..files import say, write_csv, write_whole
from ..models import EmoNetConfig
from ..models.emonet import trunk_weights
from ..shards import ALONE, Alone
from ..version import __version__
from .calibration import calibration, restored_temperature, temper
from .checkpoint import expected_of, read_checkpoint
from .fingerprint import check_data, fingerprint
from .inference import reading, score
from .projection import AudioProjection
from .report import save_pictures, table
from .settings import MODALITIES, Settings
from .trainer import Trainer, check_shards


def run(settings: Settings, folder: Path, resume: bool = False, log: Callable[[str], None] = say,
        ranks: Alone = ALONE) -> dict[str, Any]:
    """Train what `settings` say, in `folder`, and return the results, which are also in results.json there.

    config.json keeps the settings with the device and precision that were chosen; resume=True goes on where a run with them
    stopped. DataError, before anything is read, where another process has the folder.
    ranks: who trains together, with the bytes of one alone; rank 0 writes. DataError where they are told different things.
    """
    with ranks.owning(Path(folder)):
        return _run(settings, Path(folder), resume, log, ranks)


def _run(settings: Settings, folder: Path, resume: bool, log: Callable[[str], None], ranks: Alone) -> dict[str, Any]:
    settings = on_device(settings, log)
    told = settings.as_json() | {"device": settings.device.partition(":")[0]}
    ranks.agree("settings", json.dumps(told))
    check_shards(settings.config, ranks)
    if not resume:
        trunk_weights(settings.config)                                        # an error before hours of decoding
    data = dataset(settings, log=log, ranks=ranks)
    train, val = data.splits["train"], data.splits["val"]
    if ranks.size > 1:                                                        # before what is fitted to them together
        there = [name for name, part in (("video", train.frames), ("audio", train.audio)) if part is not None]
        ranks.agree("data", json.dumps(fingerprint(train, val, there)))
    projection = _saved_projection(folder, settings.modalities, train, val) if resume else None
    projection = projection or projection_of(settings.config, train, settings.seed, log, ranks)
    if missing := [name for k, name in enumerate(train.classes) if k not in train.labels]:
        log(f"warning: the training split has no clip of {', '.join(missing)}: no clip will be rightly called that")
    to = f"; LDA: {len(data.feature_names)} features to {projection.lda.scalings_.shape[1]}" if projection else ""
    log(f"{len(train)} training and {len(val)} validation clips{to}")
    if ranks.rank == 0:                                                       # only now: what has it can be resumed
        settings.write(folder, versions() | {"ffmpeg": ffmpeg_version()})
    results, rows = {}, {}
    for name in settings.modalities:
        trainer = train_network(settings, data, name, folder / name, projection, resume, log, ranks)
        ranks.wait()                                                          # for rank 0, who writes
        results[name], rows[name] = _result(trainer) | {"warnings": list(data.warnings)}, trainer.rows
    if ranks.rank:
        return results
    save_pictures(folder, results, rows)
    write_whole(folder / "results.txt", f"{table(results)}\n".encode())
    write_whole(folder / "results.json", json.dumps(results, indent=2).encode())   # last: it says that all is done
    return results


def train_network(settings: Settings, data: Dataset, name: str, folder: Path, projection: AudioProjection | None,
                  resume: bool, log: Callable[[str], None], ranks: Alone = ALONE) -> Trainer:
    """Train one network of MODALITIES on the training and validation split of `data`, in `folder`."""
    hears = "audio" in MODALITIES[name]
    facts = {"feature_names": list(data.feature_names) if hears else [], "extractor": data.extractor if hears else ""}
    trainer = Trainer(settings.config_of(name), data.splits["train"], data.splits["val"], folder, seed=settings.seed,
                      device=settings.device, projection=projection if hears else None, cache=settings.cache, facts=facts,
                      save_every=settings.save_every, log=log, name=name, ranks=ranks)
    trainer.fit(resume=resume)
    return trainer


def on_device(settings: Settings, log: Callable[[str], None] = say) -> Settings:
    """The settings with the device and the precision that will be used, from now on; a line says which."""
    device, line = choose_device(settings.device)
    precision = dispatch.use_precision(settings.precision, device)
    log(line if precision == "fp32" else f"{line}, {precision}")
    return dataclasses.replace(settings, device=device, precision=precision)


def dataset(settings: Settings, wanted: Sequence[str] = ("train", "val"), log: Callable[[str], None] = say,
            clips: Collection | None = None, ranks: Alone = ALONE) -> Dataset:
    """The splits `wanted` of the clips that the settings name, or of others, with what the networks of the settings read."""
    if clips is None:
        clips = settings.collection()
        for line in (*clips.notes, *clips.drawn):
            log(line)
        if clips.problems:
            log(f"warning: {len(clips.problems)} files left out (`emonet doctor` names them), such as {clips.problems[0]}")
    used = {modality for name in settings.modalities for modality in MODALITIES[name]}
    return prepare(clips, wanted, video="video" in used, sound="audio" in used, cache=settings.cache,
                   on_error=settings.on_error, log=log, varied=settings.config.sound_variants, ranks=ranks,
                   **reading(settings.config))


def projection_of(config: EmoNetConfig, train: Split, seed: int = 0,
                  log: Callable[[str], None] = say, ranks: Alone = ALONE) -> AudioProjection | None:
    """The projection that `config` asks for, fitted on the training split; None for a split without audio vectors."""
    if train.audio is None:
        return None
    projection = AudioProjection(config.lda_components, config.lda_shrinkage, config.audio_clip, config.lda_cross_fit, seed)
    corpora = np.unique(train.corpora or [""] * len(train), return_inverse=True)[1]
    several = all(len(np.unique(corpora[train.labels == label])) > 1 for label in np.unique(train.labels))
    groups = corpora if corpora.max() > 1 and several else groups_of(train)   # of three and more: strangers are of another
    projection.fit(train.audio, train.labels, groups, train.classes, corpora if corpora.any() else None, train.varied,
                   groups_of(train), ranks, config.shards)
    if config.lda_cross_fit > 1 and projection.training is None:
        log("warning: some class has too few clips, or groups, for projections out of fold: LDA projects the clips it was "
            "fitted on")
    return projection


def _saved_projection(folder: Path, names: Sequence[str], train: Split, val: Split) -> AudioProjection | None:
    """That of the first checkpoint of these networks, so that a resumed run has the LDA of its start; None without any."""
    for name in names:
        path = folder / name / "last.safetensors"
        if "audio" in MODALITIES[name] and path.exists():
            groups, meta = read_checkpoint(path)
            with expected_of(path):
                check_data(path, meta["data"], fingerprint(train, val, MODALITIES[name]))
                return AudioProjection.from_state(groups["projection"])
    return None


def _result(trainer: Trainer) -> dict[str, Any]:
    """The figures of the best checkpoint on the validation split."""
    best = trainer.folder / "best.safetensors"
    with expected_of(best):
        groups, meta = read_checkpoint(best)
        trainer.model.load_state_dict(groups["model"])
        T = restored_temperature(meta)
    loss, probabilities = trainer.evaluate(trainer.val)                       # the loss of metrics.jsonl, without T
    probabilities = temper(probabilities, T)
    if trainer.ranks.rank == 0:
        _write_answers(trainer.folder / "validation.csv", trainer.val, probabilities)
    return score(trainer.val.labels, probabilities) | {
        "classes": list(trainer.val.classes), "temperature": T,
        "calibration": calibration(probabilities, trainer.val.labels), "loss": loss,
        "parameters": sum(p.value.size for p in trainer.model.parameters()),
        "trained_parameters": sum(p.value.size for p in trainer.optimizer.params),
        "seconds": round(sum(row["seconds"] for row in trainer.rows), 3),
        "best_epoch": trainer.progress.best_epoch}


def _write_answers(path: Path, split: Split, probabilities: np.ndarray) -> None:
    """What is said of each clip, with its group and its label, "" where these are not known."""
    names, groups = (*split.classes, ""), split.groups or [""] * len(split)   # -1, no label, is the last
    rows = [[id, group, names[label], names[p.argmax()], *(f"{x:.6f}" for x in p)]
            for id, group, label, p in zip(split.ids, groups, split.labels, probabilities, strict=True)]
    write_csv(path, [["id", "group", "label", "class", *split.classes], *rows])


def versions() -> dict[str, str]:
    """What a result depends on besides the settings."""
    return {"emonet_scratch": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "scipy": scipy.__version__, "kernels": dispatch.why().split(": ")[1], "machine": platform.platform(),
            "command": " ".join(sys.argv)}
