"""The training loop: epochs, evaluation, checkpoints, and a resume that changes no bit."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..backend import to_device
from ..data.batches import Batch, Split, batches
from ..data.video import FrameCache
from ..emotions import CLASSES
from ..errors import CheckpointError, NonFiniteError
from ..files import write_whole
from ..layers import BatchNorm
from ..layers.base import NamedParameter
from ..losses import softmax_cross_entropy
from ..models import EmoNet, EmoNetConfig
from ..optim import SGD, Adam, all_finite, clip_gradient_norm, schedule
from .checkpoint import expected_of, read_checkpoint, write_checkpoint
from .fingerprint import check_data, fingerprint, sha256
from .inference import evaluate, forward, project
from .non_finite import first_non_finite
from .projection import AudioProjection


class Trainer:
    """Trains one EmoNet on two splits and keeps `last.safetensors`, `best.safetensors`, `metrics.jsonl` in `folder`.

    train, val: splits whose audio is (N, D) vectors as read; `projection`, fitted on `train`, makes the audio branch's
    inputs of them.
    seed: parameters, order of clips, frames, jitter and dropout all follow from it.
    cache: a folder for the features of a frozen trunk. facts: JSON written into every checkpoint.
    save_every: steps between checkpoints inside an epoch; None: at the end of each epoch only.
    on_epoch: gets the validation row of metrics.jsonl when an epoch is over and saved; what it raises ends the training.

    best.safetensors is the state after the epoch with the least validation loss. Everything that the next step
    depends on is in a checkpoint, so a run that was killed and resumed ends with the same bytes as one that was not.
    """

    def __init__(self, config: EmoNetConfig, train: Split, val: Split, folder: Path, *, seed: int = 0,
                 device: str = "cpu", projection: AudioProjection | None = None, cache: Path | None = None,
                 facts: dict[str, Any] | None = None, save_every: int | None = None,
                 log: Callable[[str], None] = print, name: str = "train",
                 on_epoch: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
        self.config, self.folder, self.seed, self.device, self.name = config, folder, seed, device, name
        self.projection, self.cache, self.facts, self.save_every, self.log = projection, cache, facts or {}, save_every, log
        self.on_epoch = on_epoch
        self.data = fingerprint(train, val, config.modalities)
        self.train, self.val = project(train, projection), project(val, projection)
        if projection and projection.training is not None:                    # by LDA that has not seen these clips
            self.train.audio = projection.training
        audio_features = self.train.audio.shape[1] if projection else 0
        self.model = EmoNet(config, audio_features, np.random.default_rng(seed), load_trunk=False).to_device(device)
        if "video" in config.modalities:
            self.model.trunk.layer.resnet.conv.input_gradient = False         # frames are bytes, which have none
        self.optimizer = _optimizer(config, self.model.parameters())
        self.batches = math.ceil(len(self.train) / config.batch_size)
        steps = config.epochs * self.batches
        self.rate = schedule(config.schedule, config.lr, steps, min(config.warmup, steps))
        self.class_weights = None
        if config.class_weights:
            counts = np.bincount(self.train.labels, minlength=len(CLASSES))
            share = np.maximum(counts, 1) / len(self.train) * (counts > 0).sum()
            self.class_weights = to_device((1 / share).astype(np.float32), device)
        # sums over the epoch so far: loss times clips, clips right, clips, gradient norms; seconds: of the epoch so far
        self.progress: dict[str, Any] = {"epoch": 0, "batch": 0, "sums": [0.0, 0, 0, 0.0], "seconds": 0.0,
                                         "best_loss": None, "best_epoch": None}

    def fit(self, resume: bool = False) -> None:
        """Train to the last epoch, or until `patience` runs out. resume: go on from last.safetensors if it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume and (self.folder / "last.safetensors").exists():
            self._load()
        else:
            self.start()
            self._save("last")
        self._cut_metrics()
        if self.config.freeze_trunk and "video" in self.config.modalities:
            self.train, self.val = (self._with_features(split) for split in (self.train, self.val))
        while self.progress["epoch"] < self.config.epochs and not self._out_of_patience():
            started = time.perf_counter() - self.progress["seconds"]
            self._train_epoch(started)
            self._end_epoch(started)

    def start(self) -> None:
        """Bring the network to where training starts: the trunk's weights and statistics, LDA's rule in the shortcut."""
        if path := self.model.load_trunk():
            self.facts = self.facts | {"trunk": {"name": path.name, "sha256": sha256([path.read_bytes()])}}
        if "video" in self.config.modalities and (self.config.trunk_norm == "running" or self.config.freeze_trunk):
            self._calibrate()
        if self.projection and self.model.shortcut is not None:
            W, b = self.projection.rule(self.train.audio, self.train.labels)
            known, shortcut = self.projection.lda.classes_, self.model.shortcut
            # A class without clips stands in the middle of the others and is as likely as half a clip.
            full_W = np.repeat(W.mean(axis=1, keepdims=True), len(CLASSES), axis=1)
            full_b = np.full(len(CLASSES), b.mean() - math.log(2 * len(self.train)))
            full_W[:, known], full_b[known] = W, b
            shortcut.W.value[...] = to_device(full_W.astype(np.float32), self.device)
            shortcut.b.value[...] = to_device(full_b.astype(np.float32), self.device)

    def evaluate(self, split: Split) -> tuple[float, np.ndarray]:
        """(mean cross-entropy in nats, probabilities (N, 7)) of a split as `self.val`, in evaluation mode."""
        return evaluate(self.model, split, self.device)

    def _train_epoch(self, started: float) -> None:
        p, c = self.progress, self.config
        self.model.train()
        bar = tqdm(total=len(self.train), initial=p["sums"][2], unit="clip", leave=False, file=sys.stderr,
                   desc=f"{self.name} {p['epoch'] + 1}/{c.epochs}", disable=not sys.stderr.isatty())
        with bar:
            for batch in batches(self.train, c.batch_size, c.frames, seed=self.seed, epoch=p["epoch"], training=True,
                                 modality_dropout=c.modality_dropout if len(c.modalities) == 2 else 0.0,
                                 jitter=c.augment, start=p["batch"]):
                loss, correct, norm = self._step(batch)
                sums = p["sums"]
                p["sums"] = [sums[0] + loss * len(batch), sums[1] + correct, sums[2] + len(batch), sums[3] + norm]
                p["batch"] += 1
                bar.set_postfix(loss=f"{p['sums'][0] / p['sums'][2]:.3f}", accuracy=f"{p['sums'][1] / p['sums'][2]:.3f}")
                bar.update(len(batch))
                if self.save_every and self.optimizer.t % self.save_every == 0:
                    p["seconds"] = time.perf_counter() - started
                    self._save("last")

    def _step(self, batch: Batch) -> tuple[float, int, float]:
        """One optimizer step: (loss, number of clips right, gradient norm before clipping)."""
        buffers = self.model.save_buffers()

        def forward_backward() -> tuple[float, Any]:
            logits, cache = forward(self.model, batch, self.device)
            loss, dlogits = softmax_cross_entropy(logits, batch.labels, self.config.label_smoothing, self.class_weights)
            self.model.backward(dlogits, cache)
            return loss, logits

        self.model.zero_grad()
        with np.errstate(over="ignore", invalid="ignore"):                    # what is not finite is an error below
            loss, logits = forward_backward()
        norm = clip_gradient_norm(self.optimizer.params, self.config.clip_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.model.restore_buffers(buffers)
            with np.errstate(over="ignore", invalid="ignore"):
                where = first_non_finite(self.model, forward_backward)
            raise NonFiniteError(
                f"the {'gradient' if math.isfinite(loss) else 'loss'} is not finite in epoch {self.progress['epoch'] + 1}, "
                f"step {self.optimizer.t + 1}: it appeared first {where}; the last good checkpoint is "
                f"{str(self.folder / 'last.safetensors')!r}; {self._remedy()}")
        self.optimizer.lr = self.rate(self.optimizer.t)
        with np.errstate(over="ignore", invalid="ignore"):
            self.optimizer.step()
        if not all_finite(self.optimizer.params):                             # now, before it can reach a checkpoint
            bad = next(p.name for p in self.optimizer.params if not all_finite([p]))
            raise NonFiniteError(f"the parameter {bad} is not finite after step {self.optimizer.t}: the last good "
                                 f"checkpoint is {str(self.folder / 'last.safetensors')!r}; {self._remedy()}")
        return loss, int((to_device(logits.argmax(axis=1), "cpu") == batch.labels).sum()), norm

    def _remedy(self) -> str:
        lr, decay = self.config.lr, self.config.weight_decay
        if lr * decay > 0.5:                                                  # of a parameter, taken away in every step
            return f"lower lr ({lr:g}) or weight_decay ({decay:g}): their product should be far below 1"
        return f"a smaller lr than {lr:g} is the usual remedy"

    def _end_epoch(self, started: float) -> None:
        p = self.progress
        epoch, (loss, correct, clips, norm) = p["epoch"] + 1, p["sums"]
        train = {"epoch": epoch, "split": "train", "loss": loss / clips, "accuracy": correct / clips,
                 "lr": self.optimizer.lr, "grad_norm": norm / self.batches,
                 "seconds": round(time.perf_counter() - started, 3)}
        started = time.perf_counter()
        with np.errstate(over="ignore", invalid="ignore"):
            val_loss, probabilities = self.evaluate(self.val)
            if not math.isfinite(val_loss):
                where = first_non_finite(self.model, lambda: self.evaluate(self.val))
                raise NonFiniteError(f"the validation loss is not finite after epoch {epoch}: it appeared first {where}; "
                                     f"the last good checkpoint is {str(self.folder / 'last.safetensors')!r}; "
                                     f"{self._remedy()}")
        accuracy = float((probabilities.argmax(1) == self.val.labels).mean())
        val = {"epoch": epoch, "split": "val", "loss": val_loss, "accuracy": accuracy, "lr": self.optimizer.lr,
               "grad_norm": None, "seconds": round(time.perf_counter() - started, 3)}
        better = p["best_loss"] is None or val_loss < p["best_loss"]
        if better:
            p |= {"best_loss": val_loss, "best_epoch": epoch}
        p |= {"epoch": epoch, "batch": 0, "sums": [0.0, 0, 0, 0.0], "seconds": 0.0}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(train)}\n{json.dumps(val)}\n")
            file.flush()
            os.fsync(file.fileno())                                           # a checkpoint must not outlive its metrics
        if better:
            self._save("best")
        self._save("last")  # last of all: a run that is killed before this line does the epoch's end again
        self.log(f"{self.name:5} epoch {epoch:3}/{self.config.epochs}  loss {train['loss']:.3f}  accuracy "
                 f"{train['accuracy']:.3f}  val loss {val_loss:.3f}  val accuracy {accuracy:.3f}  "
                 f"{clips / max(train['seconds'], 1e-9):.0f} clips/s")
        self.on_epoch(val)

    def _out_of_patience(self) -> bool:
        p, patience = self.progress, self.config.patience
        return patience is not None and p["best_epoch"] is not None and p["epoch"] - p["best_epoch"] >= patience

    def _save(self, name: str) -> None:
        groups = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.projection:
            groups["projection"] = self.projection.state_dict()
        meta = {"config": dataclasses.asdict(self.config), "seed": self.seed, "progress": self.progress, "facts": self.facts,
                "data": self.data}
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
            self.progress = {name: meta["progress"][name] for name in self.progress}
            self.facts = self.facts | {"trunk": meta["facts"]["trunk"]} if "trunk" in meta["facts"] else self.facts

    def _cut_metrics(self) -> None:
        """Keep the lines of finished epochs; those of an epoch that will be done again go."""
        path, epochs = self.folder / "metrics.jsonl", self.progress["epoch"]
        lines = path.read_bytes().splitlines(keepends=True)[:2 * epochs] if path.exists() else []
        try:
            done = [(row["epoch"], row["split"]) for row in map(json.loads, lines)]
        except (KeyError, TypeError, ValueError):
            done = []
        if done != [(epoch, split) for epoch in range(1, epochs + 1) for split in ("train", "val")]:
            raise CheckpointError(f"{str(path)!r} does not hold the lines of the {epochs} epochs that last.safetensors "
                                  f"has behind it: restore it to resume, or train anew with another --out")
        if path.exists():
            write_whole(path, b"".join(lines))

    def _calibrate(self, frames: int = 256) -> None:
        """Set the fixed batch-norm statistics that nobody has trained to those of some training frames, on average."""
        known = [] if self.config.trunk == "random" else [layer for _, layer in self.model.trunk.layer.resnet.walk()]
        norms = [layer for _, layer in self.model.trunk.walk() if isinstance(layer, BatchNorm) and layer not in known]
        if not norms:
            return
        momenta, done = [n.momentum for n in norms], 0
        for n in norms:
            n.train()
        for k, batch in enumerate(batches(self.train, 1, self.config.frames, seed=self.seed, training=True)):
            for n in norms:
                n.momentum = 1 / (k + 1)                                      # a running mean over all batches so far
            self.model.trunk_features(to_device(batch.frames, self.device))
            done += len(batch.frames)
            if done >= frames:
                break
        for n, momentum in zip(norms, momenta, strict=True):
            n.momentum = momentum
        self.model.train()

    def _with_features(self, split: Split) -> Split:
        """The split with the frozen trunk's features in place of frames: computed once, then read from the cache."""
        self.model.eval()
        trunk = [str((self.config.trunk_pooling, self.config.frames_per_chunk, self.device)).encode()]
        for name, array in self.model.trunk.state_dict().items():
            trunk += [name.encode(), array]
        trunk = sha256(trunk).encode()
        cache = FrameCache(self.cache) if self.cache else None
        features = []
        bar = tqdm(split.frames, unit="clip", desc="trunk features", leave=False, disable=not sys.stderr.isatty())
        for clip in bar:
            key = sha256([trunk, clip]) if cache else ""
            known = cache.load(key) if cache else None
            if known is None:
                known = to_device(self.model.trunk_features(to_device(np.asarray(clip), self.device)), "cpu")
                if cache:
                    cache.store(key, known)
            features.append(known)
        self.model.train()
        return dataclasses.replace(split, frames=features)


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
