"""Why does it not learn? The checks that a training should go through before it is blamed on the data.

    initial loss        against ln(classes), what a network that knows nothing should have
    one batch           a network that cannot learn eight clips by heart will not learn a data set
    learning rate       the loss under a rate that grows from step to step (Smith 2017, Cyclical learning rates, section 3.3)
    layers              mean and spread of activations, units of a ReLU that are 0 for every clip, gradients, updates
    LDA                 its spectrum and rank, and its score on clips that it has not seen
    classes             how many clips of each, and how many classes among the validation clips

`measure` takes the numbers, `verdict` makes causes of them, most likely first; nothing else decides. No cause advises a
setting that is in force.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, array_module
from ..data.batches import Batch, Split, batches
from ..emotions import CLASSES
from ..errors import NonFiniteError
from ..files import owned, say, shown, write_whole
from ..layers import ReLU
from ..losses import softmax_cross_entropy
from ..models import EmoNetConfig
from ..training.inference import forward
from ..training.metrics import chance_and_majority
from ..training.non_finite import overflow_unwarned
from ..training.projection import AudioProjection, missing
from ..training.report import BLUE, GREEN, MUTED, VERMILION, label_axes, save_figure
from ..training.run import dataset, on_device, projection_of
from ..training.settings import Settings
from ..training.trainer import Trainer
from ..watch import trace

RATES = 1e-8, 1.0               # of the range test
LEAST_STEPS, MOST_STEPS = 10, 120
CALM = {"dropout": 0.0, "augment": False, "label_smoothing": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0,
        "class_weights": False, "epochs": 1}


def diagnose(settings: Settings, folder: Path, seconds: float = 120.0, log: Callable[[str], None] = say) -> str:
    """Examine the training that `settings`, of one network, describe; the report is also in `folder`.

    seconds: about how long the steps of training may take. Writes diagnosis.json, diagnosis.txt and diagnosis.png.
    """
    with owned(folder):
        return _diagnose(settings, folder, seconds, log)


def _diagnose(settings: Settings, folder: Path, seconds: float, log: Callable[[str], None]) -> str:
    name, = settings.modalities
    config, settings = settings.config_of(name), on_device(settings, log)
    splits = dataset(settings, log=log).splits
    projection = projection_of(config, splits["train"], settings.seed, log)
    found = measure(config, splits["train"], splits["val"], projection, settings.seed, settings.device, seconds, log)
    causes = verdict(config, found)
    text = report(found, causes)
    save_figure(folder / "diagnosis.png", _figure, found)
    write_whole(folder / "diagnosis.txt", f"{text}\n".encode())
    content = found | {"causes": [{"name": cause.name, "words": cause.words} for cause in causes]}
    write_whole(folder / "diagnosis.json", json.dumps(content, indent=2).encode())
    return f"{text}\n\nin {shown(folder)}: diagnosis.txt, diagnosis.json, diagnosis.png"


# ---- measuring ----

def measure(config: EmoNetConfig, train: Split, val: Split, projection: AudioProjection | None, seed: int = 0,
            device: str = "cpu", seconds: float = 120.0, log: Callable[[str], None] = say) -> dict[str, Any]:
    """All numbers, as JSON. train, val: audio (N, D) as read; `projection` fitted on train."""
    labelled = np.flatnonzero(train.labels >= 0)
    chosen = labelled[np.sort(np.random.default_rng(seed).permutation(len(labelled))[:4 * config.batch_size])]
    few, part = train.take(chosen), copy.copy(projection)
    if part is not None and part.training is not None:
        part.training = part.training[chosen]

    def start(**changes: Any) -> Trainer:
        trainer = Trainer(config.replace(**changes), few, val, Path(), seed=seed, device=device, projection=part,
                          log=lambda line: None)
        trainer.start()
        return trainer

    log("classes, LDA, the first batch")
    trainer = start()
    batch = next(batches(trainer.train, config.batch_size, config.frames, seed=seed, training=True))
    found = {"classes": {name: int((train.labels == k).sum()) for k, name in enumerate(CLASSES)},
             "validation classes": sorted({CLASSES[label] for label in val.labels if label >= 0}),
             "clips in a batch": len(batch), "lr": config.lr, "LDA": _lda(projection, train, val),
             "inputs": _inputs(train.take(labelled), projection), "initial loss": _loss(trainer, batch),
             "chance": math.log(len(CLASSES))}
    found["layers"], found["gradient norm"] = _layers(trainer, batch)
    calm = start(clip_norm=None, **CALM | {"lr": 0.0})
    calm.step(batch)                                                          # memory, caches
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
        trainer.optimizer.lr = trainer.config.lr
        trainer.optimizer.step()
    for p, old in zip(trainer.optimizer.params, before, strict=True):
        size = _norm(old)
        rows[p.name] = {"layer": p.name, "gradient": _norm(p.grad),
                        "update / value": _norm(p.value - old) / size if size else None}
    return list(rows.values()), math.hypot(*(rows[p.name]["gradient"] for p in trainer.optimizer.params))


def _norm(array: Array) -> float:
    """The Euclidean norm of all values, summed in float64."""
    return math.sqrt(float((array.astype(np.float64)**2).sum()))


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

class Cause(NamedTuple):
    """Something that can be wrong: a short name, what shows it in an `_evidence` e, and words with places for parts of e."""

    name: str
    holds: Callable[[SimpleNamespace], bool]
    words: str


#: The most likely first.
CAUSES = (
    Cause("lr too small", lambda e: e.too_slow,
          "a step changes a parameter by {e.update:.1e} of its size (1e-3 is usual), and {e.one.steps} steps on one batch "
          "leave the loss at {e.one.start:.3f} -> {e.one.end:.3f}; {e.faster}"),
    Cause("lr too large", lambda e: e.too_fast,
          "on a single batch the loss grows from {e.one.start:.3f} to {e.one.end:.3f}; {e.slower}"),
    Cause("large initial loss", lambda e: e.initial > 1.5 * e.chance,
          "the untrained network's loss is {e.initial:.2f}, against ln 7 = {e.chance:.2f}: inputs or weights are too "
          "large; standardise what goes in"),
    Cause("ReLU on the logits", lambda e: e.config.relu_on_logits,
          "a ReLU and dropout behind the last layer: no logit can be negative, and a class whose logit is 0 for all clips "
          "gets no gradient; --set relu_on_logits=false"),
    Cause("dead ReLUs", lambda e: e.dead > 0,
          "{e.dead} ReLUs give 0 for more than 90 % of their units whatever comes in, first {e.first_dead}: their layers "
          "get no gradient; a smaller lr, or look at what goes in"),
    Cause("exploding gradients", lambda e: e.config.clip_norm is None and e.gradient > 100,
          "the gradient has a norm of {e.gradient:.3g} and is not clipped: one batch can undo all others; --set "
          "clip_norm=1"),
    Cause("constant audio features", lambda e: e.constant > 0.5,
          "{e.constant:.0%} of the audio features have the same value in every clip: look at the feature files"),
    Cause("blank frames", lambda e: e.contrast < 1,
          "the frames have no contrast: look at the clips with `emonet doctor`"),
    Cause("LDA asked for too much", lambda e: e.beyond_rank > 0,
          "{e.lda[components]} components of LDA, but S_B has rank {e.lda[rank]}: the other {e.beyond_rank} are noise; "
          "{e.fewer}"),
    Cause("LDA learns by heart", lambda e: e.forgotten > 0.3,
          "LDA is right about {e.lda[train score]:.0%} of its training clips and {e.lda[val score]:.0%} of others: its "
          "training projections look far too clean; {e.cleaner}"),
    Cause("validation split of one class", lambda e: len(e.others) < 2,
          "the validation clips are of {e.others[0]} alone: neither their loss nor their accuracy says how the other "
          "classes are recognised, and the best epoch is chosen by them; put clips of every class there"),
    Cause("forget gates half shut", lambda e: e.long_clips and e.config.forget_bias < 0.5,
          "forget gates start at sigmoid({e.config.forget_bias:g}): after 10 frames less than a hundredth of the first is "
          "left; --set forget_bias=1"),
    Cause("classes out of balance", lambda e: not e.config.class_weights and e.most > 3 * e.least,
          "between {e.least} and {e.most} clips a class, all with the same weight: the largest class is a good answer; "
          "--set class_weights=true"),
    Cause("cannot learn one batch", lambda e: not (e.too_slow or e.too_fast or e.one.learnt or e.other.learnt),
          "{e.rates} {e.batch} clips by heart in {e.one.steps} steps (loss "
          "{e.one.start:.2f} -> {e.one.end:.2f} and {e.other.end:.2f}): labels or inputs cannot be told apart, or the "
          "network lets no gradient through"),
)


def verdict(config: EmoNetConfig, found: dict[str, Any]) -> list[Cause]:
    """What is wrong, most likely cause first, with its words filled in; empty where nothing was found."""
    evidence = _evidence(config, found)
    return [cause._replace(words=cause.words.format(e=evidence)) for cause in CAUSES if cause.holds(evidence)]


def _evidence(config: EmoNetConfig, found: dict[str, Any]) -> SimpleNamespace:
    """What the numbers of `measure` show."""
    one, other = (_by_heart(found[name], found["chance"]) for name in ("one batch", "one batch, suggested lr"))
    updates = [row["update / value"] for row in found["layers"] if row.get("update / value")]
    update = float(np.median(updates)) if updates else 0.0
    dead = [row["layer"] for row in found["layers"] if row.get("dead", 0) > 0.9]
    counts = [n for n in found["classes"].values() if n]
    lda = found["LDA"] or {"components": 0, "rank": 0, "train score": 0.0, "val score": None}
    return SimpleNamespace(
        config=config, one=one, other=other, batch=found["clips in a batch"], suggested=found["suggested lr"],
        update=update, too_slow=not one.learnt and 0.9 * one.start < one.end < math.inf and update < 1e-4,
        too_fast=one.end > 1.5 * max(one.start, found["chance"]),
        initial=found["initial loss"], chance=found["chance"], gradient=found["gradient norm"],
        dead=len(dead), first_dead=next(iter(dead), ""),
        constant=found["inputs"].get("constant audio features", 0), contrast=found["inputs"].get("spread of pixels", 255),
        **_rate_advice(config.lr, found["suggested lr"]),
        **_data_advice(config, found["classes"], found["validation classes"]),
        lda=lda, beyond_rank=lda["components"] - lda["rank"],
        forgotten=0.0 if lda["val score"] is None else lda["train score"] - lda["val score"],
        long_clips="video" in config.modalities and (config.frames or 99) > 10,
        least=min(counts, default=0), most=max(counts, default=0))


def _rate_advice(lr: float, suggested: float) -> dict[str, str]:
    """Words on the rates; a suggested one that is no step in the right direction is none."""
    suggests, none = f"the range test suggests lr={suggested:g}", "the range test found no better rate: look at the inputs"
    return {"faster": suggests if suggested > lr else none, "slower": suggests if suggested < lr else none,
            "rates": f"neither lr={lr:g} nor lr={suggested:g} learns" if suggested != lr else f"lr={lr:g} does not learn"}


def _data_advice(config: EmoNetConfig, classes: dict[str, int], validation: list[str]) -> dict[str, Any]:
    """Words on settings of LDA that are not in force; where all are, on what else helps; and the validation classes."""
    unset = [f"--set {setting}" for setting, there in (("lda_shrinkage=cv", config.lda_shrinkage == "cv"),
                                                       ("lda_cross_fit=5", config.lda_cross_fit > 1)) if not there]
    rarest = min((name for name, n in classes.items() if n), key=classes.get, default="")
    cleaner = (f"{' '.join(unset)}, or more clips" if unset else "shrinkage by cross-validation and projections out of fold "
               f"are set already: more clips help, first of {rarest} ({classes.get(rarest)}), or fewer features")
    fewer = "--set lda_components=null" if config.lda_components else "give features that tell the classes' means apart"
    return {"cleaner": cleaner, "fewer": fewer, "others": validation or ["no class"]}


def _by_heart(run: dict[str, Any], chance: float) -> SimpleNamespace:
    """How it went to learn one batch, against the loss of equal probabilities; one that is not finite counts as infinite."""
    end = math.inf if run["end"] is None else run["end"]
    return SimpleNamespace(start=run["start"], end=end, steps=run["steps"], learnt=end < 0.5 * min(run["start"], chance))


# ---- telling ----

#: Of the table of layers and parameters: characters and format of what their rows hold.
COLUMNS = {"mean": (9, ".2g"), "std": (9, ".2g"), "dead": (7, ".0%"), "gradient": (10, ".2g"), "update / value": (14, ".2g")}


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
    lines.append("\n" + _columns("layer or parameter", [key.replace(" ", "") for key in COLUMNS]))
    for row in found["layers"]:
        cells = ["" if row.get(key) is None else format(row[key], form) for key, (_, form) in COLUMNS.items()]
        lines.append(_columns(row["layer"][-43:], cells))
    lines.append("\nverdict")
    lines += [f"{k}. {cause.name}: {cause.words}" for k, cause in enumerate(causes, 1)] or ["nothing wrong found"]
    return "\n".join(lines)


def _columns(name: str, cells: list[str]) -> str:
    return name.ljust(44) + "".join(cell.rjust(width) for cell, (width, _) in zip(cells, COLUMNS.values(), strict=True))


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
