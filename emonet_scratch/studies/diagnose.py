"""Why does it not learn? The checks that a training should go through before it is blamed on the data.

    initial loss        against ln(classes), what a network that knows nothing should have
    one batch           a network that cannot learn eight clips by heart will not learn a data set
    learning rate       the loss under a rate that grows from step to step (Smith 2017, Cyclical learning rates, section 3.3)
    layers              mean and spread of activations, units of a ReLU that are 0 for every clip, gradients, updates
    LDA                 its spectrum and rank, and its score on clips that it has not seen
    classes             how many clips of each

`measure` takes the numbers, `verdict` makes causes of them, most likely first; nothing else decides.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import array_module, choose_device
from ..data.batches import Batch, Split, batches
from ..emotions import CLASSES
from ..errors import NonFiniteError
from ..files import write_whole
from ..layers import ReLU
from ..losses import softmax_cross_entropy
from ..models import EmoNetConfig
from ..training.inference import forward
from ..training.metrics import chance_and_majority
from ..training.non_finite import overflow_unwarned
from ..training.projection import AudioProjection, missing
from ..training.report import BLUE, GREEN, MUTED, VERMILION, label_axes, save_figure
from ..training.run import dataset, projection_of
from ..training.settings import Settings
from ..training.trainer import Trainer
from ..watch import trace

RATES = 1e-8, 1.0               # of the range test
LEAST_STEPS, MOST_STEPS = 10, 120
CALM = {"dropout": 0.0, "augment": False, "label_smoothing": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0,
        "class_weights": False, "epochs": 1}


class Cause(NamedTuple):
    """Something that is wrong, a short name for it, and what to do."""

    name: str
    words: str


def diagnose(settings: Settings, folder: Path, seconds: float = 120.0, log: Callable[[str], None] = print) -> str:
    """Examine the training that `settings`, of one network, describe; the report is also in `folder`.

    seconds: about how long the steps of training may take. Writes diagnosis.json, diagnosis.txt and diagnosis.png.
    """
    name, = settings.modalities
    config = settings.config_of(name)
    device, line = choose_device(settings.device)
    log(line)
    data = dataset(settings, log=log)
    train, val = data.splits["train"], data.splits["val"]
    projection = projection_of(config, train, settings.seed)
    found = measure(config, train, val, projection, settings.seed, device, seconds, log)
    causes = verdict(config, found)
    text = report(found, causes)
    folder.mkdir(parents=True, exist_ok=True)
    save_figure(folder / "diagnosis.png", _figure, found)
    write_whole(folder / "diagnosis.txt", f"{text}\n".encode())
    write_whole(folder / "diagnosis.json", json.dumps(found | {"causes": [c._asdict() for c in causes]}, indent=2).encode())
    return f"{text}\n\nin {folder}: diagnosis.txt, diagnosis.json, diagnosis.png"


# ---- measuring ----

def measure(config: EmoNetConfig, train: Split, val: Split, projection: AudioProjection | None, seed: int = 0,
            device: str = "cpu", seconds: float = 120.0, log: Callable[[str], None] = print) -> dict[str, Any]:
    """All numbers, as JSON. train, val: audio (N, D) as read; `projection` fitted on train."""
    labelled = train.take(np.flatnonzero(train.labels >= 0))
    few = labelled.take(np.sort(np.random.default_rng(seed).permutation(len(labelled))[:4 * config.batch_size]))
    part = None if projection is None else _of_these(projection, train.ids, few.ids)

    def start(**changes: Any) -> Trainer:
        trainer = Trainer(config.replace(**changes), few, val, Path(), seed=seed, device=device, projection=part,
                          log=lambda line: None)
        trainer.start()
        return trainer

    log("classes, LDA, the first batch")
    trainer = start()
    batch = next(batches(trainer.train, config.batch_size, config.frames, seed=seed, training=True))
    found = {"classes": {name: int((train.labels == k).sum()) for k, name in enumerate(CLASSES)},
             "clips in a batch": len(batch), "lr": config.lr, "LDA": _lda(projection, train, val),
             "inputs": _inputs(labelled, projection), "initial loss": _loss(trainer, batch),
             "chance": math.log(len(CLASSES))}
    found["layers"], found["gradient norm"] = _layers(trainer, batch)
    calm = start(clip_norm=None, **CALM | {"lr": 0.0})
    calm.step(batch)                                                         # memory, caches
    started = time.perf_counter()
    calm.step(batch)
    each = time.perf_counter() - started
    steps = int(min(MOST_STEPS, max(LEAST_STEPS, seconds / 3 / max(each, 1e-3))))
    log(f"learning rates from {RATES[0]:g} to {RATES[1]:g} in {steps} steps")
    found["range"] = _range_test(start(clip_norm=None, **CALM), steps, seed)
    found["suggested lr"] = suggest(found["range"])
    for name, lr in (("one batch", config.lr), ("one batch, suggested lr", found["suggested lr"])):
        log(f"one batch by heart at a rate of {lr:g}, {steps} steps")
        found[name] = _one_batch(start(lr=lr, **CALM), batch, steps)
    return found


def _of_these(projection: AudioProjection, ids: list[str], few: list[str]) -> AudioProjection:
    """A copy whose `training` has the rows of some of the clips that it was fitted on."""
    part, row = copy.copy(projection), {clip: k for k, clip in enumerate(ids)}
    if part.training is not None:
        part.training = part.training[[row[clip] for clip in few]]
    return part


def _inputs(train: Split, projection: AudioProjection | None) -> dict[str, float]:
    """The share of audio features that are constant, and the spread of pixels (0..255) within and between clips."""
    found = {}
    if projection is not None:
        found["constant audio features"] = float((train.audio[~missing(train.audio)].std(axis=0) == 0).mean())
    if train.frames is not None:
        means = np.array([np.asarray(clip).mean() for clip in train.frames])
        found["spread of pixels"] = float(np.mean([np.asarray(clip[0]).std() for clip in train.frames]))
        found["spread of clips' means"] = float(means.std())
    return found


def _lda(projection: AudioProjection | None, train: Split, val: Split) -> dict[str, Any] | None:
    if projection is None:
        return None
    lda = projection.lda
    known = np.flatnonzero(val.labels >= 0)
    return {"eigenvalues": [float(v) for v in lda.eigenvalues_], "components": int(lda.scalings_.shape[1]),
            "rank": int((lda.eigenvalues_ > 1e-9 * max(lda.eigenvalues_[0], 1e-300)).sum()),
            "train score": lda.score(projection.standardise(train.audio), train.labels),
            "val score": lda.score(projection.standardise(val.audio[known]), val.labels[known]) if len(known) else None,
            "chance and majority": chance_and_majority(val.labels[known]) if len(known) else None}


def _loss(trainer: Trainer, batch: Batch) -> float:
    trainer.model.eval()
    with overflow_unwarned():
        loss = softmax_cross_entropy(forward(trainer.model, batch, trainer.device)[0], batch.labels)[0]
    trainer.model.train()
    return float(loss)


def _layers(trainer: Trainer, batch: Batch) -> tuple[list[dict[str, Any]], float]:
    """Activations of every innermost layer in one step; and gradient and update of every parameter against its value."""
    rows: dict[str, dict[str, Any]] = {}
    inner = {path for path, layer in trainer.model.walk() if not any(layer.children())}

    def look(path: str, layer: Any, y: Any, _cache: Any) -> None:
        if path not in inner or isinstance(y, tuple):
            return
        xp = array_module(y)
        row = rows.setdefault(path, {"layer": path, "mean": float(y.mean()), "std": float(y.std())})
        if isinstance(layer, ReLU):                                           # units: all that is not the batch
            row["dead"] = float((xp.abs(y).reshape(len(y), -1).max(axis=0) == 0).mean())

    before = [p.value.copy() for p in trainer.optimizer.params]
    with np.errstate(all="ignore"), trace(trainer.model, look):
        logits, cache = forward(trainer.model, batch, trainer.device)
        trainer.model.zero_grad()
        trainer.model.backward(softmax_cross_entropy(logits, batch.labels)[1], cache)
        norm = math.sqrt(sum(float((p.grad.astype(np.float64)**2).sum()) for p in trainer.optimizer.params))
        for p in trainer.optimizer.params:
            rows[p.name] = {"layer": p.name, "gradient": float((p.grad.astype(np.float64)**2).sum()) ** 0.5}
        trainer.optimizer.lr = trainer.config.lr
        trainer.optimizer.step()
    for p, old in zip(trainer.optimizer.params, before, strict=True):
        size = float((old.astype(np.float64)**2).sum()) ** 0.5
        moved = float(((p.value - old).astype(np.float64)**2).sum()) ** 0.5
        rows[p.name]["update / value"] = moved / size if size else None
    return list(rows.values()), norm


def _range_test(trainer: Trainer, steps: int, seed: int) -> list[list[float]]:
    """[rate, loss] of every step, the rate growing by a constant factor; ends where the loss has exploded."""
    rows: list[list[float]] = []
    rates = np.geomspace(*RATES, steps)
    drawn = list(batches(trainer.train, trainer.config.batch_size, trainer.config.frames, seed=seed, training=True))
    for k, rate in enumerate(rates):
        trainer.rate = lambda _t, rate=rate: rate
        try:
            loss, _, _ = trainer.step(drawn[k % len(drawn)])
        except NonFiniteError:
            break
        rows.append([float(rate), loss])
        if loss > 4 * rows[0][1] + 4:
            break
    return rows


def suggest(rows: list[list[float]]) -> float:
    """A third of the rate at which the smoothed loss is least; 1e-3 where no rate lowers it by a fiftieth."""
    losses = np.array([loss for _, loss in rows])
    smooth = np.array([losses[max(0, k - 2):k + 3].mean() for k in range(len(losses))])
    if len(rows) < 3 or smooth.min() > 0.98 * smooth[0]:
        return 1e-3
    return float(f"{rows[int(smooth.argmin())][0] / 3:.1e}")


def _one_batch(trainer: Trainer, batch: Batch, steps: int) -> dict[str, Any]:
    losses = [_loss(trainer, batch)]
    trainer.rate = lambda _t: trainer.config.lr
    try:
        for _ in range(steps):
            losses.append(trainer.step(batch)[0])
        end = _loss(trainer, batch)
    except NonFiniteError:
        end = math.inf
    return {"start": losses[0], "end": end if math.isfinite(end) else None, "steps": steps, "losses": losses[1:]}


# ---- judging ----

def verdict(config: EmoNetConfig, found: dict[str, Any]) -> list[Cause]:
    """What is wrong, most likely cause first; empty where nothing was found."""
    one, other = found["one batch"], found["one batch, suggested lr"]

    def learnt(run: dict[str, Any]) -> bool:
        return run["end"] is not None and run["end"] < 0.5 * min(run["start"], found["chance"])
    updates = [row["update / value"] for row in found["layers"] if row.get("update / value")]
    typical = float(np.median(updates)) if updates else 0.0
    dead = {row["layer"]: row["dead"] for row in found["layers"] if row.get("dead", 0) > 0.9}
    lda, inputs, counts = found["LDA"], found["inputs"], [n for n in found["classes"].values() if n]
    chance, hint, causes = found["chance"], f"; the range test suggests lr={found['suggested lr']:g}", []

    def add(holds: Any, name: str, words: str) -> None:
        if holds:
            causes.append(Cause(name, words))
    slow = not learnt(one) and one["end"] is not None and one["end"] > 0.9 * one["start"]
    end, other_end = (math.inf if run["end"] is None else run["end"] for run in (one, other))
    add(slow and typical < 1e-4, "lr too small",
        f"a step changes a parameter by {typical:.1e} of its size (1e-3 is usual), and {one['steps']} steps on one batch "
        f"leave the loss at {one['start']:.3f} -> {end:.3f}{hint}")
    add(end > 1.5 * max(one["start"], chance), "lr too large",
        f"on a single batch the loss grows from {one['start']:.3f} to {end:.3f}{hint}")
    add(found["initial loss"] > 1.5 * chance, "large initial loss",
        f"the untrained network's loss is {found['initial loss']:.2f}, against ln 7 = {chance:.2f}: inputs or weights are "
        "too large; standardise what goes in")
    add(config.relu_on_logits, "ReLU on the logits",
        "a ReLU and dropout behind the last layer: no logit can be negative, and a class whose logit is 0 for all clips "
        "gets no gradient; --set relu_on_logits=false")
    add(dead, "dead ReLUs",
        f"{len(dead)} ReLUs give 0 for more than 90 % of their units whatever comes in, first {next(iter(dead), '')}: their "
        "layers get no gradient; a smaller lr, or look at what goes in")
    add(config.clip_norm is None and found["gradient norm"] > 100, "exploding gradients",
        f"the gradient has a norm of {found['gradient norm']:.3g} and is not clipped: one batch can undo all others; "
        "--set clip_norm=1")
    constant = inputs.get("constant audio features", 0)
    add(constant > 0.5, "constant audio features",
        f"{constant:.0%} of the audio features have the same value in every clip: look at the feature files")
    add(inputs.get("spread of pixels", 255) < 1, "blank frames",
        "the frames have no contrast: look at the clips with `emonet doctor`")
    if lda is not None:
        add(lda["components"] > lda["rank"], "LDA asked for too much",
            f"{lda['components']} components of LDA, but S_B has rank {lda['rank']}: the other "
            f"{lda['components'] - lda['rank']} are noise; --set lda_components=null")
        add(lda["val score"] is not None and lda["train score"] - lda["val score"] > 0.3, "LDA learns by heart",
            f"LDA is right about {lda['train score']:.0%} of its training clips and {lda['val score'] or 0:.0%} of others: "
            "its training projections look far too clean; --set lda_shrinkage=cv --set lda_cross_fit=5, or more clips")
    long = "video" in config.modalities and (config.frames or 99) > 10
    add(long and config.forget_bias < 0.5, "forget gates half shut",
        f"forget gates start at sigmoid({config.forget_bias:g}): after 10 frames less than a hundredth of the first is "
        "left; --set forget_bias=1")
    least, most = min(counts, default=0), max(counts, default=0)
    add(not config.class_weights and most > 3 * least, "classes out of balance",
        f"between {least} and {most} clips a class, all with the same weight: the largest class is a good answer; "
        "--set class_weights=true")
    rates = {"lr too small", "lr too large"} & {cause.name for cause in causes}
    add(not rates and not learnt(one) and not learnt(other), "cannot learn one batch",
        f"neither lr={found['lr']:g} nor lr={found['suggested lr']:g} learns {found['clips in a batch']} clips by heart in "
        f"{one['steps']} steps (loss {one['start']:.2f} -> {end:.2f} and {other_end:.2f}): labels or inputs cannot be told "
        "apart, or the network lets no gradient through")
    return causes


# ---- telling ----

def report(found: dict[str, Any], causes: list[Cause]) -> str:
    """Plain text."""
    one, other, lda = found["one batch"], found["one batch, suggested lr"], found["LDA"]

    def end(run: dict[str, Any]) -> str:
        return "not finite" if run["end"] is None else f"{run['end']:.3f}"
    lines = [f"classes        {', '.join(f'{name} {n}' for name, n in found['classes'].items())}",
             f"initial loss   {found['initial loss']:.3f}; ln 7 = {found['chance']:.3f}",
             f"one batch      lr={found['lr']:g}: {one['start']:.3f} -> {end(one)} in {one['steps']} steps; "
             f"lr={found['suggested lr']:g}: -> {end(other)}",
             f"range test     {len(found['range'])} rates; suggested lr={found['suggested lr']:g}",
             f"gradient norm  {found['gradient norm']:.3g}"]
    if lda:
        score = "-" if lda["val score"] is None else f"{lda['val score']:.3f}"
        if lda["chance and majority"]:
            score += " (chance {:.3f}, majority class {:.3f})".format(*lda["chance and majority"])
        lines.append(f"LDA            {lda['components']} components, rank {lda['rank']}; score {lda['train score']:.3f} on "
                     f"training clips, on validation clips {score}; eigenvalues "
                     + " ".join(f"{v:.3g}" for v in lda["eigenvalues"][:8]))
    lines.append(f"\n{'layer or parameter':44}{'mean':>9}{'std':>9}{'dead':>7}{'gradient':>10}{'update/value':>14}")
    for row in found["layers"]:
        cells = [row.get(k) for k in ("mean", "std", "dead", "gradient", "update / value")]
        shown = ["" if v is None else f"{v:.0%}" if k == 2 else f"{v:.2g}" for k, v in enumerate(cells)]
        lines.append(f"{row['layer'][-43:]:44}{shown[0]:>9}{shown[1]:>9}{shown[2]:>7}{shown[3]:>10}{shown[4]:>14}")
    lines.append("\nverdict")
    lines += [f"{k}. {cause.name}: {cause.words}" for k, cause in enumerate(causes, 1)] or ["nothing wrong found"]
    return "\n".join(lines)


def _figure(figure_class: Any, found: dict[str, Any]) -> Any:
    """The range test; one batch by heart; the spectrum of LDA; updates of all parameters."""
    figure = figure_class(figsize=(10, 7.4), layout="constrained")
    rates, heart, spectrum, updates = figure.subplots(2, 2).flat
    chance, rows, lda = found["chance"], found["range"], found["LDA"]
    rates.semilogx([rate for rate, _ in rows], [loss for _, loss in rows], color=BLUE, label="one step at this rate")
    for name, label, colour in (("suggested lr", "suggested", GREEN), ("lr", "configured", VERMILION)):
        rates.axvline(found[name], color=colour, linestyle="--", label=f"{label} rate, {found[name]:g}")
    label_axes(rates, "range test: the rate grows from step to step", "learning rate", "loss of a batch (nats)")
    for name, label, colour in (("one batch, suggested lr", "suggested", GREEN), ("one batch", "configured", VERMILION)):
        heart.plot(found[name]["losses"], color=colour, label=f"at the {label} rate")
    label_axes(heart, f"one batch of {found['clips in a batch']} clips by heart", "step", "loss of this batch (nats)")
    for axes in (rates, heart):
        axes.axhline(chance, color=MUTED, linestyle=":", label="7 equal probabilities, ln 7")
        axes.set_ylim(0, min(4 * chance, axes.get_ylim()[1]))                 # a loss that explodes hides the rest
    values = lda["eigenvalues"] if lda else []
    spectrum.bar(range(1, len(values) + 1), values, color=BLUE)
    label_axes(spectrum, "spectrum of LDA" if lda else "no audio, no LDA", "component", "spread between / within classes")
    moved = [row["update / value"] for row in found["layers"] if row.get("update / value")]
    updates.semilogy(range(1, len(moved) + 1), moved, ".", color=BLUE, label="a parameter")
    updates.axhline(1e-3, color=MUTED, linestyle="--", label="usual, 0.001")
    label_axes(updates, "how far the first step moves each parameter", "parameter, as in the table", "|update| / |value|")
    for axes in (rates, heart, updates):
        axes.legend(fontsize=9, frameon=False)
    return figure
