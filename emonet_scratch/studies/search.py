"""A search over settings with Optuna: one folder that any number of processes and machines share, and a report of it."""

import contextlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, NonFiniteError
from ..files import Lock, read_whole, remove_leftovers, say, write_csv, write_whole
from ..models import EmoNetConfig
from ..shards import ALONE, Alone
from ..training.fingerprint import fingerprint
from ..training.metrics import chance_and_majority
from ..training.report import BLUE, GREEN, INK, MUTED, VERMILION, label_axes, save_figure
from ..training.run import dataset, on_device, projection_of
from ..training.settings import Settings
from ..training.trainer import Trainer, check_shards

# A number is drawn log-uniformly or uniformly between two bounds, or one of several values is. width: a factor on WIDTHS.
SPACES: dict[str, dict[str, tuple]] = {
    "default": {"lr": ("log", 1e-5, 1e-1), "optimizer": ("choice", "adam", "sgd"), "width": ("choice", 0.5, 1.0, 2.0),
                "dropout": ("uniform", 0.0, 0.6)},
    "paper": {"lr": ("log", 1e-8, 1e-6), "optimizer": ("choice", "sgd", "adam")},
}
HEAD = b'{"op_code":'         # what a line of the journal begins with
WIDTHS = ("lstm_size", "audio_layers", "fusion_layers")


def search(settings: Settings, space: str, trials: int, folder: Path, log: Callable[[str], None] = say,
           ranks: Alone = ALONE) -> str:
    """Take trials of the study in `folder` until it has `trials`, then write the report and return it as text.

    settings: with one network. Each trial is a training with the seed of the settings;
    its value is the least validation loss (nats). In the space `default` a tree-structured Parzen estimator draws
    (Bergstra et al., NeurIPS 2011), and a trial stops early whose least validation loss so far is above the median of
    the others' after as many epochs, from a third of all epochs on; in `paper` all is drawn at random and trained to the
    end, as published. What a trial draws depends on the seed and on the trials before it, so one process gives the same
    table every time.

    ranks: they train every trial together, one trial after the other, since what is drawn depends on those before; rank 0
    draws, judges and writes.

    A trial whose process has ended without a result, however, is marked as failed and run once more.
    DataError: Optuna is not there, the journal is damaged, or it holds a search for something else.
    """
    optuna = _import_optuna()
    name, = settings.modalities
    config, settings = settings.config_of(name), on_device(settings, log)
    check_shards(config, ranks)
    splits = dataset(settings, log=log, ranks=ranks).splits
    train, val = splits["train"], splits["val"]
    projection = projection_of(config, train, settings.seed, log, ranks)
    what = {"space": SPACES[space], "seed": settings.seed, **vars(config),
            "data": fingerprint(train, val, config.modalities)}

    def trainer(number: int, params: dict[str, Any], on_epoch: Callable[[dict[str, Any]], None]) -> Trainer:
        return Trainer(config.replace(**fields_of(params, config)), train, val, _scratch(folder, number),
                       seed=settings.seed, device=settings.device, projection=projection, cache=settings.cache,
                       log=lambda line: None, on_epoch=on_epoch, name=f"trial {number}", ranks=ranks)
    if ranks.rank:
        return _help(optuna, ranks, trainer)
    study = _open_study(optuna, folder, json.loads(json.dumps(what)))
    if space == "default":
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=config.epochs // 3 + 1)
    try:
        while claimed := _claim(optuna, study, folder, space, trials, settings.seed):
            trial, lock = claimed
            try:
                _train(optuna, study, trial, trainer, ranks)
                log(_line(study.trials[trial.number]))
                shutil.rmtree(_scratch(folder, trial.number))                 # the journal has its losses
                lock.path.unlink()
            finally:
                lock.release()
        ranks.told("[]")
    finally:                                                                  # Ctrl-C keeps what is done
        with Lock(folder / "study.lock"), _journal_errors(folder):            # so the last report has what all have done
            text = write_report(study, config, folder, *chance_and_majority(val.labels))
    return ranks.told(text)


def _help(optuna: Any, ranks: Alone, trainer: Callable[..., Trainer]) -> str:
    """Train what rank 0 draws, until it has drawn enough; the report."""
    def on_epoch(row: dict[str, Any]) -> None:
        if ranks.told(""):
            raise optuna.TrialPruned
    while told := json.loads(ranks.told("")):
        with contextlib.suppress(optuna.TrialPruned, NonFiniteError):
            trainer(*told, on_epoch).fit()
    return ranks.told("")


def _train(optuna: Any, study: Any, trial: Any, trainer: Callable[..., Trainer], ranks: Alone) -> None:
    """Train to the end or until the pruner says stop, and tell the study."""
    ranks.told(json.dumps([trial.number, trial.params]))
    State, best, started = optuna.trial.TrialState, {}, time.perf_counter()

    def on_epoch(row: dict[str, Any]) -> None:
        if not best or row["loss"] < best["loss"]:
            best.update(row)
        trial.report(row["loss"], row["epoch"])
        if ranks.told("prune" if trial.should_prune() else ""):
            raise optuna.TrialPruned

    try:
        trainer(trial.number, trial.params, on_epoch).fit()
        state, value = State.COMPLETE, best["loss"]
    except (optuna.TrialPruned, NonFiniteError) as reason:                    # a rate at which it diverges is a bad rate
        state, value = State.PRUNED, None
        trial.set_user_attr("reason", str(reason) or "above the median")
    trial.set_user_attr("accuracy", best.get("accuracy"))
    trial.set_user_attr("seconds", round(time.perf_counter() - started, 1))
    study.tell(trial, value, state=state)


def fields_of(params: dict[str, Any], config: EmoNetConfig) -> dict[str, Any]:
    """The fields of EmoNetConfig that a trial's parameters stand for."""
    fields = dict(params)
    if (width := fields.pop("width", None)) is not None:
        for name in WIDTHS:
            sizes = np.atleast_1d(getattr(config, name))
            scaled = [max(1, round(float(size) * width)) for size in sizes]
            fields[name] = scaled if isinstance(getattr(config, name), tuple) else scaled[0]
    return fields


def _import_optuna() -> Any:
    try:
        import fcntl  # noqa: F401

        import optuna
    except ImportError as error:
        raise DataError(f"emonet search needs {error.name}: pip install 'emonet_scratch[search]'"
                        + (" on Linux or macOS" if error.name == "fcntl" else "")) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _scratch(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04}"


@contextlib.contextmanager
def _journal_errors(folder: Path) -> Iterator[None]:
    """What Optuna trips over in a damaged journal is raised as a DataError."""
    try:
        yield
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{str(folder / 'study.journal')!r} is damaged or no journal of a study "
                        f"({type(error).__name__}: {error}): restore it, or search anew with another --out") from None


def _repair(path: Path) -> None:
    """Cut half a line at the end of a journal, which a writer that died left, and nobody has acted upon."""
    content = read_whole(path, 2**28) if path.exists() and (not path.is_file() or path.stat().st_size) else b""
    if not HEAD.startswith(content[:len(HEAD)].rstrip(b"\0")):
        raise DataError(f"{str(path)!r} is no journal of a study: move it elsewhere, or give another --out")
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _open_study(optuna: Any, folder: Path, what: dict[str, Any]) -> Any:
    """The study in `folder`, made if there is none; DataError where it is not the search for `what`."""
    from optuna.storages.journal import JournalFileBackend
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    path = folder / "study.journal"
    journal_lock = Lock(folder / "journal.lock")
    with journal_lock:
        if not journal_lock.held:
            raise DataError(f"{str(folder)!r} is on a file system without flock, which several processes need: give another "
                            f"--out")
        _repair(path)
        remove_leftovers(folder)
    with Lock(folder / "study.lock"), _journal_errors(folder):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=journal_lock))
        study = optuna.create_study(storage=storage, study_name="emonet", load_if_exists=True,
                                    pruner=optuna.pruners.NopPruner())
        if [direction.name for direction in study.directions] != ["MINIMIZE"]:
            raise ValueError(f"its directions are {study.directions}")
        for trial in study.trials:
            _line(trial)                                                      # what cannot be told now could not later
        known = study.user_attrs.get("search")
        if known is None:
            if study.trials:
                raise ValueError("it has trials, but not what was searched")
            study.set_user_attr("search", what)
        elif changed := [key for key in what if ({"shards": 1} | known).get(key) != what[key]]:
            old, new = (json.dumps(values.get(changed[0])) for values in (known, what))
            shown = "" if changed[0] == "data" else f" {old}, not {new}"
            raise DataError(f"{str(path)!r} holds a search with {'other ' * (not shown)}{changed[0]}{shown}: "
                            f"give the settings that it was begun with, or another --out")
    return study


def _claim(optuna: Any, study: Any, folder: Path, space: str, trials: int, seed: int) -> tuple[Any, Lock] | None:
    """A new trial with the lock that says that its process lives; None when the study has enough of them.

    One process at a time is here, so the number is exact. Trials that failed do not count; each is queued once more.
    """
    State = optuna.trial.TrialState
    with Lock(folder / "study.lock"), _journal_errors(folder):
        for trial in study.get_trials(states=(State.RUNNING,)):
            lock = Lock(_scratch(folder, trial.number).with_suffix(".lock"))
            if lock.acquire(wait=False):                                      # its process is no more
                study.tell(trial.number, state=State.FAIL)
                shutil.rmtree(_scratch(folder, trial.number), ignore_errors=True)
                if trial.params and "again" not in trial.user_attrs:
                    study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
                lock.path.unlink()
                lock.release()
        taken = len(study.get_trials(deepcopy=False, states=(State.RUNNING, State.COMPLETE, State.PRUNED)))
        if taken >= trials:
            return None
        draw = int(np.random.SeedSequence([seed, taken]).generate_state(1)[0])
        study.sampler = (optuna.samplers.RandomSampler(draw) if space == "paper" else
                         optuna.samplers.TPESampler(seed=draw, constant_liar=True))
        trial = study.ask({name: _distribution(optuna, *rule) for name, rule in SPACES[space].items()})
        lock = Lock(_scratch(folder, trial.number).with_suffix(".lock"))
        lock.acquire()
        return trial, lock


def _distribution(optuna: Any, kind: str, *values: Any) -> Any:
    if kind == "choice":
        return optuna.distributions.CategoricalDistribution(values)
    return optuna.distributions.FloatDistribution(*values, log=kind == "log")


def _line(trial: Any) -> str:
    loss = f"{trial.value:9.4f}" if trial.value is not None else f"{'-':>9}"
    accuracy = trial.user_attrs.get("accuracy")
    drawn = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
    accuracy = "    -" if accuracy is None else f"{accuracy:.3f}"
    return (f"trial {trial.number:4}  {trial.state.name.lower():8}  loss {loss}  accuracy {accuracy}  "
            f"epochs {len(trial.intermediate_values):3}  {drawn}")


def write_report(study: Any, config: EmoNetConfig, folder: Path, chance: float, majority: float) -> str:
    """Write trials.csv, search.png and, once a trial is complete, best.json; return what there is to say.

    chance, majority: accuracies that a trial has to beat.
    """
    trials = study.get_trials()
    names = sorted({name for trial in trials for name in trial.params})
    rows = [[t.number, t.state.name.lower(), t.value, t.user_attrs.get("accuracy"), len(t.intermediate_values),
             t.user_attrs.get("seconds"), *map(t.params.get, names), t.user_attrs.get("reason")] for t in trials]
    write_csv(folder / "trials.csv", [["trial", "state", "loss", "accuracy", "epochs", "seconds", *names, "reason"], *rows])
    counts = {state: sum(t.state.name == state for t in trials) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
    lines = [", ".join(f"{count} {state.lower()}" for state, count in counts.items() if count) or "no trials"]
    complete = sorted((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: (t.value, t.number))
    if complete:
        best = complete[0]
        fields = fields_of(best.params, config)
        chosen = " ".join(f"--set {shlex.quote(f'{k}={v if isinstance(v, str) else json.dumps(v)}')}"
                          for k, v in fields.items())
        content = {"trial": best.number, "loss": best.value, "accuracy": best.user_attrs["accuracy"], "params": best.params,
                   "fields": fields, "set": chosen}
        write_whole(folder / "best.json", json.dumps(content, indent=2).encode())
        lines += [*map(_line, complete[:5]), f"to beat: chance {chance:.3f}, majority class {majority:.3f}",
                  f"the best on the validation split, so it flatters; with it: {chosen}"]
        save_figure(folder / "search.png", _figure, trials, chance)
    return "\n".join(lines)


def _figure(figure_class: Any, trials: list[Any], chance: float) -> Any:
    """Losses in the order of the trials, and against each parameter. chance: an accuracy; guessing costs ln(1 / chance)."""
    shown = [t for t in trials if t.value is not None and np.isfinite(t.value)]
    complete = [t for t in shown if t.state.name == "COMPLETE"]
    names = sorted({name for t in shown for name in t.params})
    figure = figure_class(figsize=(3.1 * (1 + len(names)), 4), layout="constrained")
    panels = figure.subplots(1, 1 + len(names), sharey=True)
    guessing = -np.log(chance)
    top = 1.2 * max(np.quantile([t.value for t in shown], 0.9), guessing)     # one that diverged would hide the others
    for axes, name in zip(panels, ["trial", *names], strict=True):
        _draw_trials(axes, name, shown, top)
        axes.axhline(guessing, color=MUTED, linestyle=":", label=f"chance, ln {1 / chance:.0f}")
        label_axes(axes, "", {"lr": "learning rate", "width": "width (factor on the layers)"}.get(name, name))
    panels[0].step([t.number for t in complete], np.minimum.accumulate([t.value for t in complete]), where="post",
                   color=GREEN, label="least so far")
    panels[0].set_ylabel(f"validation loss (nats, drawn up to {top:.1f})", color=MUTED)
    figure.suptitle("a mark is a trial: in order, and against each parameter", fontsize=11, color=INK)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _draw_trials(axes: Any, name: str, trials: list[Any], top: float) -> None:
    """A mark for each trial, at its loss or `top`, against the parameter `name` or the order of the trials."""
    places = _places(axes, name, trials)
    for state, marker, colour, label in (("COMPLETE", "o", BLUE, "trained to the end"),
                                         ("PRUNED", "x", VERMILION, "stopped early, at its loss then")):
        some = [k for k, t in enumerate(trials) if t.state.name == state]
        axes.scatter([places[k] for k in some], [min(trials[k].value, top) for k in some], s=26, marker=marker, color=colour,
                     alpha=0.7, label=label)


def _places(axes: Any, name: str, trials: list[Any]) -> list[float]:
    """Where each trial stands on the axis of a parameter; the axis gets its scale.

    Trials with the same one of several values stand side by side, in their order, so that none hides another.
    """
    if name == "trial":
        axes.xaxis.get_major_locator().set_params(integer=True)
        return [t.number for t in trials]
    rule, values = trials[0].distributions[name], [t.params[name] for t in trials]
    if not hasattr(rule, "choices"):
        axes.set_xscale("log" if rule.log else "linear")
        return values
    axes.set_xticks(range(len(rule.choices)), rule.choices)
    last = max(1, trials[-1].number)
    return [rule.choices.index(value) + 0.6 * (t.number / last - 0.5) for value, t in zip(values, trials, strict=True)]
