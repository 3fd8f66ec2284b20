"""The training loop: epochs, evaluation, checkpoints, and a resume that changes no bit."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_device
from ..choices import NATURAL, NUMBER, OPTIONAL_COUNT, Rule, check_choices, choice, optional
from ..data.batches import Batch, Draw, Split, draws
from ..data.progress import progress
from ..errors import CheckpointError, DataError, NonFiniteError
from ..files import say
from ..layers.base import NamedParameter
from ..models import EmoNet, EmoNetConfig
from ..optim import SGD, Adam, all_finite, clip_gradient_norm, schedule
from ..shards import ALONE, Alone
from .calibration import fit_temperature, restored_temperature
from .checkpoint import expected_of, read_checkpoint, read_metrics, write_checkpoint, write_metrics
from .fingerprint import check_data, fingerprint, sha256
from .forecast import Forecast
from .gradients import Gradients
from .inference import evaluate, project
from .non_finite import first_non_finite, overflow_unwarned
from .projection import AudioProjection
from .trunk import calibrate, look, with_trunk_features

SUMS = Rule(lambda value: isinstance(value, list) and len(value) == 4 and all(map(NUMBER.holds, value)), "four numbers")


@dataclass
class Progress:
    """How far a training has come: what the next step depends on, but for arrays and what the seed decides.

    epoch: epochs that are finished. batch: batches of the one after these; over them go the sums of loss times clips, clips
    right, clips, and gradient norms, and the seconds. The least validation loss so far came after best_epoch.
    """

    epoch: int = choice(0, NATURAL)
    batch: int = choice(0, NATURAL)
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0, 0, 0.0], metadata={"rule": SUMS})
    seconds: float = choice(0.0, NUMBER)
    best_loss: float | None = choice(None, optional(NUMBER))
    best_epoch: int | None = choice(None, OPTIONAL_COUNT)


class Trainer:
    """Trains one EmoNet on two splits and keeps `last.safetensors`, `best.safetensors`, `metrics.jsonl` in `folder`.

    train, val: splits whose audio is (N, D) vectors as read; `projection`, fitted on `train`, makes the audio branch's
    inputs of them.
    seed: parameters, order of clips, frames, jitter and dropout all follow from it.
    cache: a folder for the features of a frozen trunk. facts: JSON written into every checkpoint.
    save_every: steps between checkpoints inside an epoch; None: at the end of each epoch only.
    on_epoch: gets the validation row of metrics.jsonl when an epoch is over and saved; what it raises ends the training.

    ranks: who trains together. Of a batch, each shard of the configuration is one rank's; all have the same state after each
    step, and rank 0 keeps it.

    best.safetensors is the state after the epoch with the least validation loss. Everything that the next step
    depends on is in a checkpoint, so a run that was killed and resumed ends with the same bytes as one that was not.
    """

    def __init__(self, config: EmoNetConfig, train: Split, val: Split, folder: Path, *, seed: int = 0,
                 device: str = "cpu", projection: AudioProjection | None = None, cache: str | Path | None = None,
                 facts: dict[str, Any] | None = None, save_every: int | None = None,
                 log: Callable[[str], None] = say, name: str = "train",
                 on_epoch: Callable[[dict[str, Any]], None] = lambda row: None, ranks: Alone = ALONE) -> None:
        check_shards(config, ranks)
        self.ranks = ranks
        self.config, self.folder, self.seed, self.device, self.name = config, folder, seed, device, name
        self.projection, self.cache, self.facts, self.save_every, self.log = projection, cache, facts or {}, save_every, log
        self.facts = {"classes": list(train.classes)} | self.facts
        self.on_epoch = on_epoch
        self.data = fingerprint(train, val, config.modalities)
        (train, seen), (val, _) = (_seen(split, config.modalities) for split in (train, val))
        self.looks: AudioProjection | None = None
        if config.trunk_statistics and "video" in config.modalities:
            train, val, self.looks = look(config, train, val, seed, device, cache, ranks)
        self.train, self.val = project(train, projection, self.looks), project(val, projection, self.looks)
        first = 0
        for part in filter(None, (projection, self.looks)):
            if part.training is not None:                                     # by LDA that has not seen these clips
                known = part.training if part is self.looks else part.training[seen]
                self.train.audio[:, first:first + len(part.scale)] = known
            first += len(part.scale)
        self.model = EmoNet(config, first, np.random.default_rng(seed), False, len(train.classes)).to_device(device)
        if "video" in config.modalities:
            self.model.trunk.layer.resnet.conv.input_gradient = False         # frames are bytes, which have none
        self.optimizer = _optimizer(config, self.model.parameters())
        steps = config.epochs * math.ceil(len(self.train) / config.batch_size)
        self.rate = schedule(config.schedule, config.lr, steps, min(config.warmup, steps))
        weights = balanced_weights(self.train.labels, len(train.classes)) if config.class_weights else None
        self.gradients = Gradients(self.model, self.optimizer.params, weights, device, ranks)
        self.progress = Progress()
        self.temperature = 1.0                                                # of the best epoch, see calibration.py
        self.rows: list[dict[str, Any]] = []                                  # of metrics.jsonl

    def fit(self, resume: bool = False) -> None:
        """Train to the last epoch, or until `patience` runs out. resume: go on from last.safetensors if it is there."""
        self.ranks.agree("data", json.dumps(self.data))
        with self.ranks.owning(self.folder):
            self._fit(resume)

    def _fit(self, resume: bool) -> None:
        if there := resume and (self.folder / "last.safetensors").exists():
            self._load()
        else:
            self.start()
        if self.ranks.size > 1:
            state = [*self.model.state_dict().values(), *([] if self.train.audio is None else [self.train.audio])]
            self.ranks.agree("state to begin with", json.dumps([
                there, dataclasses.asdict(self.progress), self.optimizer.t, sha256(state)]))
        self.ranks.wait()                                                     # before anything is written that others read
        if there:
            self._write_metrics(self.rows)
        else:
            self._save("last")
        if self.config.freeze_trunk and "video" in self.config.modalities:
            self.train, self.val = (with_trunk_features(split, self.model, self.device, self.cache, self.ranks)
                                    for split in (self.train, self.val))
        self.forecast = Forecast(self.config, self.device, len(self.train), len(self.val),
                                 self.config.epochs - self.progress.epoch, self.log)
        while self.progress.epoch < self.config.epochs and not self._out_of_patience():
            started = time.perf_counter() - self.progress.seconds
            self._train_epoch(started)
            self._end_epoch(started)

    def start(self) -> None:
        """Bring the network to where training starts: the trunk's weights and statistics, LDA's rule in the shortcut."""
        if path := self.model.load_trunk():
            self.facts = self.facts | {"trunk": {"name": path.name, "sha256": sha256([path.read_bytes()])}}
        if "video" in self.config.modalities and (self.config.trunk_norm == "running" or self.config.freeze_trunk):
            calibrate(self.model, self.train, self.seed, self.device)
        if self.model.shortcut is not None:
            W, b = rule_over_all_classes((self.projection, self.looks), self.train)
            self.model.shortcut.W.value[...] = to_device(W, self.device)
            self.model.shortcut.b.value[...] = to_device(b, self.device)

    def evaluate(self, split: Split) -> tuple[float, np.ndarray]:
        """(mean cross-entropy in nats, probabilities (N, C)) of a split as `self.val`, in evaluation mode."""
        return evaluate(self.model, split, self.device, self.ranks)

    def step(self, batch: Batch | Draw) -> tuple[float, int, float]:
        """One optimizer step: (loss, number of clips right, gradient norm before clipping).

        NonFiniteError, with the layer or parameter, where one of these numbers or what the step leaves is not finite.
        """
        buffers = self.model.save_buffers()
        with overflow_unwarned():
            loss, right = self.gradients(batch, self.optimizer.t, buffers)
        norm = clip_gradient_norm(self.optimizer.params, self.config.clip_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.model.restore_buffers(buffers)
            where = first_non_finite(self.model, lambda: self.gradients.accumulate(batch))
            raise NonFiniteError(
                f"the {'gradient' if math.isfinite(loss) else 'loss'} is not finite in epoch {self.progress.epoch + 1}, "
                f"step {self.optimizer.t + 1}: it appeared first {where}; {self._advice()}")
        self.optimizer.lr = self.rate(self.optimizer.t)
        with overflow_unwarned():
            self.optimizer.step()
        if not all_finite(self.optimizer.params):                             # now, before it can reach a checkpoint
            bad = next(p.name for p in self.optimizer.params if not all_finite([p]))
            raise NonFiniteError(f"the parameter {bad} is not finite after step {self.optimizer.t}: {self._advice()}")
        return loss, right, norm

    def _advice(self) -> str:
        """What to do after a number that is not finite."""
        lr, decay = self.config.lr, self.config.weight_decay
        remedy = f"a smaller lr than {lr:g} is the usual remedy"
        if lr * decay > 0.5:                                                  # of a parameter, taken away in every step
            remedy = f"lower lr ({lr:g}) or weight_decay ({decay:g}): their product should be far below 1"
        return f"the last good checkpoint is {str(self.folder / 'last.safetensors')!r}; {remedy}"

    def _train_epoch(self, started: float) -> None:
        p, c = self.progress, self.config
        self.model.train()
        with progress(None, f"{self.name} {p.epoch + 1}/{c.epochs}", len(self.train), initial=p.sums[2]) as bar:
            for batch in draws(self.train, c.batch_size, c.frames, seed=self.seed, epoch=p.epoch, training=True,
                               modality_dropout=c.modality_dropout if len(c.modalities) == 2 else 0.0,
                               jitter=c.augment, start=p.batch):
                loss, right, norm = self.step(batch)
                parts = loss * len(batch), right, len(batch), norm
                p.sums = [total + part for total, part in zip(p.sums, parts, strict=True)]
                p.batch += 1
                bar.set_postfix(loss=f"{p.sums[0] / p.sums[2]:.3f}", accuracy=f"{p.sums[1] / p.sums[2]:.3f}")
                bar.update(len(batch))
                self.forecast.step(len(batch))
                if self.save_every and self.optimizer.t % self.save_every == 0:
                    p.seconds = time.perf_counter() - started
                    self._save("last")

    def _end_epoch(self, started: float) -> None:
        if self.ranks.size > 1:                                               # no replica has drifted off unseen
            self.ranks.agree("weights", sha256(to_device(p.value, "cpu") for p in self.optimizer.params))
        p, epoch = self.progress, self.progress.epoch + 1
        loss, right, clips, norm = p.sums
        lr = self.rate(self.optimizer.t - 1)                                  # of the last step, which may be one of before
        train = {"epoch": epoch, "split": "train", "loss": loss / clips, "accuracy": right / clips,
                 "lr": lr, "grad_norm": norm / p.batch,
                 "seconds": round(time.perf_counter() - started, 3)}
        val, probabilities = self._validate(epoch, lr)
        self.rows += [train, val]
        better = p.best_loss is None or val["loss"] < p.best_loss
        best_loss, best_epoch = (val["loss"], epoch) if better else (p.best_loss, p.best_epoch)
        self.progress = Progress(epoch, best_loss=best_loss, best_epoch=best_epoch)
        self._write_metrics(self.rows)                                        # a checkpoint must not outlive its metrics
        if better:
            self.temperature = fit_temperature(probabilities, self.val.labels)
            self._save("best")
        self._save("last")  # last of all: a run that is killed before this line does the epoch's end again
        self.log(f"{self.name:5} epoch {epoch:3}/{self.config.epochs}  loss {train['loss']:.3f}  accuracy "
                 f"{train['accuracy']:.3f}  val loss {val['loss']:.3f}  val accuracy {val['accuracy']:.3f}  "
                 f"{clips / max(train['seconds'], 1e-9):.0f} clips/s")
        self.on_epoch(val)

    def _validate(self, epoch: int, lr: float) -> tuple[dict[str, Any], np.ndarray]:
        """The row of the validation split, and probabilities (N, C); NonFiniteError where its loss is not finite."""
        started = time.perf_counter()
        with overflow_unwarned():
            loss, probabilities = self.evaluate(self.val)
        if not math.isfinite(loss):
            where = first_non_finite(self.model, lambda: evaluate(self.model, self.val, self.device))
            raise NonFiniteError(f"the validation loss is not finite after epoch {epoch}: it appeared first {where}; "
                                 f"{self._advice()}")
        return {"epoch": epoch, "split": "val", "loss": loss,
                "accuracy": float((probabilities.argmax(1) == self.val.labels).mean()), "lr": lr,
                "grad_norm": None, "seconds": round(time.perf_counter() - started, 3)}, probabilities

    def _out_of_patience(self) -> bool:
        p, patience = self.progress, self.config.patience
        return patience is not None and p.best_epoch is not None and p.epoch - p.best_epoch >= patience

    def _write_metrics(self, rows: list[dict[str, Any]]) -> None:
        if self.ranks.rank == 0:
            write_metrics(self.folder, rows)

    def _save(self, name: str) -> None:
        if self.ranks.rank:
            return
        groups = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        parts = {"projection": self.projection, "looks": self.looks}
        groups |= {name: part.state_dict() for name, part in parts.items() if part}
        meta = {"config": dataclasses.asdict(self.config), "seed": self.seed, "facts": self.facts, "data": self.data,
                "progress": dataclasses.asdict(self.progress), "temperature": self.temperature}
        write_checkpoint(self.folder / f"{name}.safetensors", groups, meta)

    def _load(self) -> None:
        path = self.folder / "last.safetensors"
        groups, meta = read_checkpoint(path)
        with expected_of(path):
            if meta["seed"] != self.seed or EmoNetConfig().replace(**meta["config"]) != self.config:
                raise CheckpointError(f"checkpoint {str(path)!r} is of a run with another configuration or seed")
            check_data(path, meta["data"], self.data)
            self.model.load_state_dict(groups["model"])
            self.optimizer.load_state_dict(groups["optimizer"])
            self.progress = Progress(**{field.name: meta["progress"][field.name] for field in dataclasses.fields(Progress)})
            self._check_progress()
            self.temperature = restored_temperature(meta)
            if "trunk" in meta["facts"]:
                self.facts = self.facts | {"trunk": meta["facts"]["trunk"]}
        self.rows = self._rows_of_finished_epochs()

    def _check_progress(self) -> None:
        """ValueError where a restored progress cannot be that of this training."""
        p, size, clips = self.progress, self.config.batch_size, len(self.train)
        check_choices(p)
        steps = math.ceil(clips / size)
        if not (p.epoch <= self.config.epochs and p.batch <= steps and p.sums[2] == min(p.batch * size, clips)
                and self.optimizer.t == p.epoch * steps + p.batch
                and ((p.best_loss, p.best_epoch) == (None, None) if p.epoch == 0 else
                     None not in (p.best_loss, p.best_epoch) and p.best_epoch <= p.epoch)):
            raise ValueError(f"{p} is none of {self.config.epochs} epochs of {steps} steps, with {self.optimizer.t} done")

    def _rows_of_finished_epochs(self) -> list[dict[str, Any]]:
        """Two for each, from metrics.jsonl; an epoch that will be done again may have left others behind them."""
        epochs = self.progress.epoch
        try:
            rows = read_metrics(self.folder, epochs) if epochs else []
        except (AttributeError, LookupError, TypeError, ValueError):
            rows = []
        if len(rows) < 2 * epochs:
            raise CheckpointError(f"{str(self.folder / 'metrics.jsonl')!r} does not hold the lines of the {epochs} epochs "
                                  f"that last.safetensors has behind it: restore it to resume, or train anew with another "
                                  f"--out")
        return rows


def check_shards(config: EmoNetConfig, ranks: Alone) -> None:
    """DataError where some of the ranks would have nothing to do."""
    if ranks.size > config.shards:
        raise DataError(f"{ranks.size} ranks cannot share batches of {config.shards} shard(s): start as many ranks as "
                        f"shards at most, or train anew with more (--set shards={ranks.size})")


def _optimizer(config: EmoNetConfig, params: list[NamedParameter]) -> SGD | Adam:
    """Of all parameters but the frozen ones; the trunk's move at a rate of their own where they were not random."""
    resnet = "trunk.layer.resnet."
    stages = [("conv.", "bn."), ("stage1.",), ("stage2.",)][:config.frozen_stages]
    frozen = ("trunk.",) if config.freeze_trunk else tuple(resnet + part for stage in stages for part in stage)
    params = [p for p in params if not p.name.startswith(frozen)]
    for p in params:
        if p.name.startswith(resnet) and config.trunk != "random":
            p.lr_factor = config.trunk_lr
    if config.optimizer == "sgd":
        return SGD(params, config.lr, config.momentum, weight_decay=config.weight_decay)
    return Adam(params, config.lr, weight_decay=config.weight_decay, decoupled=True)


def _seen(split: Split, modalities: Sequence[str]) -> tuple[Split, np.ndarray]:
    """The clips that the network learns from, and their numbers: where it looks, those with frames, if there are any.

    A network of both learns what the one says without the other from `modality_dropout`; clips that have only sound, if
    they are many, would make it one for sound, and its temperature theirs.
    """
    kept = np.arange(len(split))
    if "video" in modalities and split.frames is not None:
        there = np.array([len(clip) > 0 for clip in split.frames], bool)
        if "audio" not in modalities and not there.any():
            raise DataError("no clip of the training or of the validation split shows a face")
        kept = kept[there] if there.any() else kept
    return split if len(kept) == len(split) else split.take(kept), kept


def balanced_weights(labels: np.ndarray, C: int) -> np.ndarray:
    """(C,) float32 weights of classes by the inverse of their share of labels (N,): with as many clips of each, ones."""
    counts = np.bincount(labels, minlength=C)
    share = np.maximum(counts, 1) / len(labels) * (counts > 0).sum()
    return (1 / share).astype(np.float32)


def rule_over_all_classes(parts: Sequence[AudioProjection | None], train: Split) -> tuple[np.ndarray, np.ndarray]:
    """LDA's rules for logits of all classes, W (K, C) and b (C,) float32. train: with vectors projected by all parts.

    What voice and face say is taken as independent given the class, so logits add up, with the prior once, from the first.
    A class without clips stands in the middle of the others; in the first part it is as likely as half a clip.
    """
    C, rules, first = len(train.classes), [], 0
    for k, part in enumerate(filter(None, parts)):
        z, known = train.audio[:, first:first + len(part.scale)], part.lda.classes_
        there = z.any(axis=1)
        W, b = part.rule(z[there], train.labels[there])
        b = b if k == 0 else b - np.log(part.lda.priors_)
        full_W, full_b = np.repeat(W.mean(axis=1, keepdims=True), C, axis=1), np.full(C, b.mean())
        full_W[:, known], full_b[known] = W, b
        if k == 0:
            full_b[np.setdiff1d(np.arange(C), known)] -= math.log(2 * len(train))
        rules.append((full_W, full_b))
        first += len(part.scale)
    return np.concatenate([W for W, _ in rules]).astype(np.float32), np.sum([b for _, b in rules], axis=0).astype(np.float32)
