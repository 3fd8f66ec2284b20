"""The command line: `emonet COMMAND`; `emonet --help` names them. A command is a function; its arguments stand above it."""

import argparse
import dataclasses
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import numpy as np

from .. import dispatch
from ..backend import choose_device
from ..data.afew import SPLITS
from ..data.batches import Split, merged
from ..data.clips import collect
from ..data.doctor import examine
from ..data.extract import DEFAULT, EXTRACTORS, extract
from ..data.labels import same
from ..data.predictions import write_predictions
from ..data.prepare import prepare
from ..data.progress import progress
from ..data.synthetic import write as write_synthetic
from ..data.video import PICTURES, SOUND_SUFFIXES
from ..emotions import CLASSES
from ..errors import DataError, EmonetError
from ..files import on_one_line, owned, owned_file, print_anything, read_whole, say, shown
from ..models import EmoNetConfig, ResNet
from ..models.config import PRESETS
from ..shards import ALONE, Alone
from ..studies.compare import compare as run_compare
from ..studies.cross_validate import cross_validate as run_cross_validate
from ..studies.diagnose import diagnose as run_diagnose
from ..studies.search import SPACES
from ..studies.search import search as run_search
from ..training import Settings, load_model, run, write_checkpoint
from ..training.inference import Model, reading, score
from ..training.report import table
from ..training.run import versions
from ..training.settings import MODALITIES, find_run, read_settings
from ..version import __version__
from .export import export, export_arguments
from .options import add_device, add_ranks, device_of, integer, log, path_of, together
from .predict import explain, explain_arguments, models, models_arguments, predict, predict_arguments

SHARDS = 8                  # of a batch that ranks share: as many ranks at most
GRACE = 3.0                 # seconds in which rank 0 says first what has ended all ranks


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 after a one-line error, 2 for a wrong call, 128 + the signal that stopped it."""
    print_anything()
    options = argparse.Namespace()
    with _stopped_by_signals():
        try:
            typed = _with_dashes(sys.argv[1:] if arguments is None else arguments)
            options = _parser().parse_args(typed, options)
            options.typed = typed
            return options.command(options) or 0
        except BrokenPipeError:                                               # `| head` has read enough
            return _ended(options, 1, "")
        except SystemExit as stop:                                            # a wrong call, perhaps of one rank only
            if stop.code and getattr(options, "together", ALONE).size > 1:
                return _ended(options, stop.code, f"error: {options.parser.said}" * (options.together.rank > 0))
            raise
        except (EmonetError, OSError, MemoryError) as error:
            return _ended(options, 1, f"error: {' '.join(str(error).split())[:4000] or type(error).__name__}")
        except KeyboardInterrupt as stop:
            number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
            file, hint = getattr(options, "go_on", (None, ""))
            how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
            return _ended(options, 128 + number, f"{how}{'; ' + hint if file and file.exists() else ''}")
        finally:
            _flush()


def _ended(options: argparse.Namespace, code: int, line: str) -> int:
    """Say why the command has ended, if it is to be said, and end it on all ranks; what has ended all, rank 0 says."""
    ranks = getattr(options, "together", ALONE)
    if ranks.rank:
        time.sleep(GRACE)
    if line:
        log(f"emonet: {'' if ranks.size == 1 else f'rank {ranks.rank}: '}{line}")
    if ranks.size > 1:
        ranks.end(code)
    return code


def _with_dashes(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--labels -contempt` as `--labels=-contempt`: argparse would look for an option -contempt."""
    joined: list[str] = []
    for text in arguments:
        if joined[-1:] == ["--labels"] and text[:1] == "-" != text[1:2]:
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP where nohup has not said otherwise, stop what runs as Ctrl-C does: the first, once."""
    def stop(number: int, frame: object) -> NoReturn:
        for each in mine:
            signal.signal(each, signal.SIG_IGN)                               # `timeout` sends two
        raise KeyboardInterrupt(number)
    mine = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None
            and threading.current_thread() is threading.main_thread() and signal.getsignal(number) == signal.SIG_DFL]
    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _flush() -> None:
    """Hand over what is printed; where nobody takes it any more, the interpreter shall not try again at its end."""
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Parser(argparse.ArgumentParser):
    said = ""

    def error(self, message: str) -> NoReturn:
        self.said = on_one_line(message)
        super().error(on_one_line(message))                                   # which may quote an argument as it came


# ---- arguments that several commands have ----


def _add_synthetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips-per-class", type=integer(1), nargs=3, default=(70, 20, 4),
                        metavar=("TRAIN", "VAL", "TEST"), help="size of the synthetic data set")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--on-error", choices=["skip", "stop"], default="skip",
                        help="what to do about clips and feature files that cannot be used")
    parser.add_argument("--runs", type=path_of, metavar="DIR", default="runs",
                        help="where runs, caches and synthetic data go")
    parser.add_argument("--cache", type=path_of, metavar="DIR",
                        help="decoded frames and trunk features (default: RUNS/cache)")


def _add_data(parser: argparse.ArgumentParser, more: str = "", required: bool = False) -> None:
    parser.add_argument("--data", type=path_of, action="append", metavar="PATH", required=required,
                        help="a table of clips (.csv: columns path, label, and if wanted split, group, features), or "
                             "a folder of RAVDESS, CREMA-D, SAVEE, EmoDB, TESS, Java-SED, in AFEW's layout, or with a "
                             "folder a class; several times for a mixture" + more)
    _add_names(parser)


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", default="", metavar="CHANGES",
                        help="rename, merge and drop labels: 'calm=Neutral, fearful=Fear, -contempt'")
    parser.add_argument("--name", metavar="PATTERN",
                        help="what the names of the clips in a folder say: '{group}-{}-{label}_{}'")
    parser.add_argument("--allow-shared-groups", action="store_true",
                        help="go on where a speaker or film is in two splits: scores do not hold for strangers then")


def _add_training(parser: argparse.ArgumentParser) -> None:
    _add_data(parser, "; without it, a synthetic data set is written")
    parser.add_argument("--preset", choices=list(PRESETS), help="small without --data, else default")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of EmoNetConfig")
    parser.add_argument("--epochs", type=int, help="the same as --set epochs=N")
    parser.add_argument("--crop", choices=["none", "faces"],
                        help="the same as --set crop=...: faces sees the face of each clip instead of the whole frame")
    parser.add_argument("--seed", type=integer(0), default=0, help="of the synthetic data and the training")
    _add_synthetic(parser)
    _add_reading(parser)


# ---- from options to settings ----

def _settings(options: argparse.Namespace, networks: Sequence[str], ranks: Alone = ALONE) -> Settings:
    """Those of the options; what contradicts itself is refused before a synthetic data set is written.

    Where ranks, be it one, are to train together, a batch has SHARDS shards, unless --set says how many.
    """
    if options.data is not None and "clips_per_class" in _typed(options):
        options.parser.error("--clips-per-class is of the synthetic data set; leave it out with --data")
    config = _config(options)
    device_of(options)
    if ranks.rank:                                                            # rank 0 may have to write the data first
        ranks.wait()
    data = options.data or [_synthetic(Path(options.runs), options.clips_per_class, options.seed)]
    if not ranks.rank:
        ranks.wait()
    settings = Settings(tuple(str(Path(path).absolute()) for path in data), config, tuple(networks), options.seed,
                        options.device, options.precision, str(_cache(options)), options.on_error, labels=options.labels,
                        name=options.name, allow_shared_groups=options.allow_shared_groups)
    return dataclasses.replace(settings, modalities=_possible(settings))


def _possible(settings: Settings) -> tuple[str, ...]:
    """Those of the networks that can be trained: of sounds alone that of the audio, of pictures alone that of the video."""
    every = dataclasses.replace(settings, allow_shared_groups=True)           # who shares is refused where that matters
    suffixes = {clip.path.suffix.lower() for clip in every.collection().clips}
    only = "audio" if suffixes <= SOUND_SUFFIXES else "video" if suffixes <= PICTURES else None
    if only is None or settings.modalities == (only,):
        return settings.modalities
    if only not in settings.modalities:
        raise DataError(f"the clips are {'sounds' if only == 'audio' else 'pictures'} alone: use --modalities {only}")
    say(f"the clips are {'sounds' if only == 'audio' else 'pictures'} alone: only the {only} network is trained")
    return (only,)


def _config(options: argparse.Namespace) -> EmoNetConfig:
    fields = {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            options.parser.error(f"--set wants FIELD=VALUE, got {item!r}")
        if name == "modalities":
            options.parser.error(f"what is trained is no field to --set: use --modalities {{{','.join(MODALITIES)},all}}")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    fields |= {name: value for name in ("epochs", "crop") if (value := getattr(options, name)) is not None}
    if getattr(options, "ranks", False) and options.command in (train, search):
        fields = {"shards": SHARDS} | fields
    preset = options.preset or ("small" if options.data is None else "default")
    if fields.get("crop") == "faces" and preset == "default":                 # what the weights for faces have seen
        fields = {"trunk": "faces", "frame_size": 48} | fields
    try:
        return EmoNetConfig.preset(preset).replace(**fields)
    except (ValueError, TypeError) as error:
        options.parser.error(str(error))


def _typed(options: argparse.Namespace) -> list[str]:
    """Names of the options that the command was given, even with the value of their default."""
    unset = argparse.Namespace(**dict.fromkeys(vars(options)))                # defaults fill only what is not there
    typed = options.parser.parse_args(options.typed[1:], unset)
    return [name for name, value in vars(typed).items() if value is not None]


def _cache(options: argparse.Namespace) -> Path:
    if options.cache is not None:                                             # asked for: an error where it cannot be
        os.makedirs(options.cache, exist_ok=True)
    return Path(options.cache or Path(options.runs) / "cache").absolute()


def _synthetic(runs: Path, clips_per_class: Sequence[int], seed: int) -> Path:
    """The synthetic data set of this size and seed, written where it is not there yet."""
    root = runs / f"synthetic-{'-'.join(map(str, clips_per_class))}-seed{seed}"
    if not root.exists():
        say(f"no --data given: a synthetic data set is written to {shown(root)}")
        runs.mkdir(parents=True, exist_ok=True)
        _write_synthetic(root, clips_per_class, seed, exist_ok=True)          # another process may be at it
    return root


def _write_synthetic(root: Path, clips_per_class: Sequence[int], seed: int, exist_ok: bool = False) -> int:
    clips = len(CLASSES) * sum(clips_per_class)
    with progress(None, "synthesising", clips) as bar:
        write_synthetic(root, tuple(clips_per_class), seed, progress=bar.update, exist_ok=exist_ok)
    return clips


# ---- where a run goes ----

def _folder(options: argparse.Namespace, name: str) -> Path:
    return Path(options.out or Path(options.runs) / name)


@contextmanager
def _new_run(options: argparse.Namespace, name: str, go_on: str, ranks: Alone = ALONE) -> Iterator[Path]:
    """The folder of a run that begins, owned: --out, or one that nobody has, the time with `name` behind it."""
    folder = _folder(options, time.strftime("%Y-%m-%d-%H.%M.%S") + name)
    with owned(folder, new=options.out is None) if ranks.rank == 0 else nullcontext(folder) as folder:
        folder = Path(ranks.told(str(folder)))
        if (folder / "config.json").exists():
            raise DataError(f"{str(folder)!r} holds a run already: {go_on}, or give another --out")
        ranks.wait()                                                          # before rank 0 writes one
        yield folder


def _refuse_others(options: argparse.Namespace, reason: str, *allowed: str) -> None:
    """Of a run that is there, everything but some options is settled."""
    if fixed := [name for name in _typed(options) if name not in allowed]:
        options.parser.error(f"{reason}; leave out --{fixed[0].replace('_', '-')}")


# ---- commands ----

def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _add_training(parser)
    parser.add_argument("--modalities", choices=[*MODALITIES, "all"], default="all", help="which networks to train")
    parser.add_argument("--out", type=path_of, metavar="DIR", help="folder of this run (default: RUNS/<time>)")
    parser.add_argument("--resume", type=path_of, metavar="DIR|auto",
                        help="continue the run in this folder with its own settings, bit for bit; auto: the newest one "
                             "directly below RUNS that is not finished")
    parser.add_argument("--save-every", type=integer(1), metavar="STEPS", help="checkpoints inside an epoch, too")
    add_ranks(parser, "each takes its share of every batch; the same bytes for any number of them up to shards, 8 then")
    add_device(parser, "; with --resume, if given, in place of the run's own")


def train(options: argparse.Namespace) -> None:
    """Train audio, video and fused networks on a data set in AFEW's layout, and report."""
    with together(options) as ranks:
        if options.resume is None:
            networks = MODALITIES if options.modalities == "all" else [options.modalities]
            with _new_run(options, "", "continue it with --resume", ranks) as folder:
                settings = _settings(options, list(networks), ranks)
                _train(options, folder, dataclasses.replace(settings, save_every=options.save_every), ranks)
        else:
            _resume(options, ranks)


def _resume(options: argparse.Namespace, ranks: Alone) -> None:
    _refuse_others(options, "--resume continues with the saved settings", "resume", "runs", "device", "precision", "ranks")
    folder = find_run(ranks.told(str(find_run(options.resume, Path(options.runs)))), Path(options.runs))
    if (folder / "results.json").exists():
        if ranks.rank == 0 and not (folder / "page.html").exists() and any(folder.glob("*/validation.csv")):
            _write_page(folder)                                               # stopped between the two
        say(f"{str(folder)!r} is finished:\n\n{read_whole(folder / 'results.txt').decode(errors='replace')}", end="")
        return
    saved = read_settings(folder)
    given = {name: getattr(options, name) for name in _typed(options) if name in ("device", "precision")}
    if ranks.size > 1:
        given = {"device": ranks.device(saved.device.partition(":")[0])} | given
    _train(options, folder, dataclasses.replace(saved, **given), ranks)


def _train(options: argparse.Namespace, folder: Path, settings: Settings, ranks: Alone) -> None:
    options.go_on = folder / "config.json", f"continue with --resume {shlex.quote(str(folder))}"
    say(f"run: {shown(folder)}")
    results = run(settings, folder, resume=options.resume is not None, ranks=ranks)
    say(f"\n{table(results)}\n\nvalidation split, epoch of least validation loss; in {shown(folder)}: page.html, "
        "results.json, validation.csv of each network, confusion.png, reliability.png, curves.png, checkpoints")
    if ranks.rank == 0:
        _write_page(folder)


def _write_page(folder: Path) -> None:
    """The page of a run that is finished; where that fails, a line says so, and the run is what it is."""
    from ..explain.run_page import write_run_page  # an optional room
    try:
        write_run_page(folder, read_settings(folder))
    except (DataError, OSError) as error:
        log(f"warning: {shown(folder / 'page.html')} could not be written: {error}")


def _search_arguments(parser: argparse.ArgumentParser) -> None:
    _add_training(parser)
    parser.add_argument("--modalities", choices=list(MODALITIES), default="fused", help="which network to train")
    parser.add_argument("--space", choices=list(SPACES), default="default",
                        help="what is drawn: default, or the paper's learning rates (1e-8 to 1e-6) with SGD and Adam")
    parser.add_argument("--trials", type=integer(1), default=50, help="of the whole study, not of this process")
    parser.add_argument("--out", type=path_of, metavar="DIR",
                        help="folder of the study, shared by all processes that are to work on it (default: RUNS/search)")
    add_ranks(parser, "they train each trial together")
    add_device(parser)


def search(options: argparse.Namespace) -> None:
    """Search learning rate, optimizer, width and dropout with Optuna; the same command again goes on or helps."""
    with together(options) as ranks:
        folder, settings = _folder(options, "search"), _settings(options, [options.modalities], ranks)
        say(f"study: {shown(folder)}")
        options.go_on = folder / "study.journal", "the same command goes on"
        say(run_search(settings, options.space, options.trials, folder, ranks=ranks))


def _diagnose_arguments(parser: argparse.ArgumentParser) -> None:
    _add_training(parser)
    parser.add_argument("--modalities", choices=list(MODALITIES), default="fused", help="which network to examine")
    parser.add_argument("--seconds", type=float, default=120.0, help="about how long its steps of training may take")
    parser.add_argument("--out", type=path_of, metavar="DIR", help="where the report goes (default: RUNS/diagnosis)")
    add_device(parser)


def diagnose(options: argparse.Namespace) -> None:
    """Say why a training does not learn, or that nothing is wrong with it."""
    say(run_diagnose(_settings(options, [options.modalities]), _folder(options, "diagnosis"), options.seconds))


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    _add_training(parser)
    parser.add_argument("--run", type=path_of, metavar="DIR",
                        help="a run of all modalities: its networks are compared; one that was stopped is continued")
    parser.add_argument("--split", choices=["val", "test"], default="val",
                        help="what the table is measured on; test only if all its clips have labels")
    parser.add_argument("--classics", action="store_true",
                        help="also what the paper stands on: EmoNets of 2013, after Yao et al., LDA of two classes")
    parser.add_argument("--out", type=path_of, metavar="DIR", help="folder of the run and the table (default: "
                        "that of --run, or RUNS/<time>-compare)")
    add_device(parser)


def compare(options: argparse.Namespace) -> None:
    """Train audio, video and fused networks, and compare them with late fusion, a linear SVM and LDA."""
    if options.run is None:
        with _new_run(options, "-compare", "compare it with --run") as folder:
            settings = _settings(options, list(MODALITIES))
            if len(settings.modalities) < len(MODALITIES):
                raise DataError("compare wants clips with pictures and sound: use cross-validate, or train")
            _compare(options, folder, settings)
    else:
        _refuse_others(options, "--run goes by the settings of that run", "run", "runs", "out", "split", "classics",
                       "device", "precision")
        folder = find_run(options.run, Path(options.runs))
        _compare(options, folder, read_settings(folder))


def _compare(options: argparse.Namespace, folder: Path, settings: Settings) -> None:
    device, _ = device_of(options)
    say(f"run: {shown(folder)}")
    options.go_on = folder / "config.json", f"continue with --run {shlex.quote(str(folder))}"
    if not (folder / "results.json").exists():
        run(settings, folder, resume=options.run is not None)
    more = None
    if options.classics:
        from ..classics.rows import rows as more
    say(f"\n{run_compare(folder, Path(options.out or folder), options.split, device, more=more)}")


def _cross_validate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", type=path_of, nargs="*", metavar="DATA", help="the same as --data")
    _add_training(parser)
    parser.add_argument("--modalities", choices=[*MODALITIES, "all"], default="all", help="which networks to train")
    folds = parser.add_mutually_exclusive_group()
    folds.add_argument("--folds", type=integer(2), default=5, help="of whole groups")
    folds.add_argument("--leave-one-group-out", action="store_true", help="a fold for each speaker, film or subject")
    parser.add_argument("--out", type=path_of, metavar="DIR",
                        help="folder of the folds, shared by all processes that are to work on them (default: "
                             "RUNS/cross-validation-DATA)")
    add_ranks(parser, "each trains folds of its own")
    add_device(parser)


def cross_validate(options: argparse.Namespace) -> None:
    """Train and test on folds of whole groups: what a training is worth on people that it has not seen."""
    options.data = [*options.sources, *(options.data or [])] or None
    networks = MODALITIES if options.modalities == "all" else [options.modalities]
    name = "-".join(["cross-validation", *(Path(path).absolute().stem for path in options.data or ())])[:120]
    number = None if options.leave_one_group_out else options.folds
    with together(options) as ranks:
        folder, settings = _folder(options, name), _settings(options, list(networks), ranks)
        say(f"folds: {shown(folder)}")
        options.go_on = folder / "settings.json", "the same command goes on"
        say(f"\n{run_cross_validate(settings, folder, number, ranks=ranks)}\n\n"
            f"in {shown(folder)}: crossvalidation.json, .csv and .txt, confusion.png, reliability.png")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=path_of, help="a checkpoint or the folder of a run")
    _add_data(parser, required=True)
    parser.add_argument("--split", choices=["train", "val", "test", "all"], default="val",
                        help="which part of it; all: of data that the network has seen nothing of")
    parser.add_argument("--out", type=path_of, metavar="DIR", help="write <id>.txt and predictions.csv here")
    _add_reading(parser)
    add_device(parser)


def evaluate(options: argparse.Namespace) -> None:
    """Measure a checkpoint on a split; write predictions in the challenge's form."""
    with owned(options.out) if options.out else nullcontext():
        _evaluate(options)


def _evaluate(options: argparse.Namespace) -> None:
    device, line = device_of(options)
    model = load_model(options.checkpoint, device)
    say(f"checkpoint: {shown(model.path)}\n{line}")
    used = model.config.modalities
    shared = options.allow_shared_groups or options.split == "all"
    clips = collect(options.data, options.labels, options.name, shared, least=0)
    for note in (*clips.notes, *(() if options.split == "all" else clips.drawn)):
        say(note)
    wanted = [name for name in SPLITS if clips.split(name)] if options.split == "all" else [options.split]
    data = prepare(clips, wanted, video="video" in used, sound="audio" in used, cache=_cache(options),
                   log=say, on_error=options.on_error, extractor=model.computes or DEFAULT, **reading(model.config))
    for line in data.warnings if options.split != "all" else ():
        say(f"warning: {line}")
    model.check_features(data.feature_names, data.extractor)
    split = _in_classes_of(model, merged(data.splits))
    loss, probabilities = model.probabilities(split, device)
    labelled = split.labels >= 0
    if labelled.any():
        result = score(split.labels[labelled], probabilities[labelled])
        low, high = result["interval"]
        say(f"{options.split}: {result['clips']} clips, accuracy {result['accuracy']:.3f} ({low:.3f} - {high:.3f}), "
              f"macro F1 {result['macro_f1']:.3f}, loss {loss:.3f}\n"
              f"to beat: chance {result['chance']:.3f}, majority class {result['majority']:.3f}")
        width = max(map(len, model.classes)) + 1
        say("\n".join([" " * width + "".join(name[:5].rjust(6) for name in model.classes)]
                        + [name.ljust(width) + "".join(f"{n:6}" for n in row)
                           for name, row in zip(model.classes, result["confusion"], strict=True)]))
    else:
        say(f"{options.split}: {len(split)} clips without labels")
    if options.out is not None:
        write_predictions(options.out, split.ids, probabilities.argmax(1).tolist(), probabilities, model.classes)
        say(f"predictions: {shown(options.out)}")


def _in_classes_of(model: Model, split: Split) -> Split:
    """The split with labels that count among the network's classes; lines say which classes are not known on either side."""
    index = {same(name): k for k, name in enumerate(model.classes)}
    numbers = [index.get(same(name), -1) for name in split.classes]
    labels = np.array([*numbers, -1])[split.labels]                           # -1, no class, is the last
    if lost := int(((split.labels >= 0) & (labels < 0)).sum()):
        unknown = ", ".join(name for name, number in zip(split.classes, numbers, strict=True) if number < 0)
        say(f"{lost} clips are of classes that the network does not know ({unknown}) and are not counted: rename them with "
            f"--labels")
    if absent := [name for k, name in enumerate(model.classes) if k not in labels]:
        say(f"no clip of {', '.join(absent)}: nothing is said about how well these are recognised")
    return dataclasses.replace(split, labels=labels, classes=model.classes)


def _features_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", type=path_of, nargs="+", metavar="CLIP", help="sounds, clips, or folders of them")
    parser.add_argument("--out", type=path_of, metavar="FILE", required=True,
                        help="what to write: .arff, .csv or .npz; the same call goes on where one was stopped")
    parser.add_argument("--extractor", choices=list(EXTRACTORS), default=DEFAULT,
                        help="is10-2: the 1582 features of INTERSPEECH 2010 as openSMILE has them; -energy: loudness from "
                             "all samples; emonet-1: 75 of this project")
    parser.add_argument("--workers", type=integer(1), help="processes (default: one a core; with --ranks, one a rank)")
    parser.add_argument("--on-error", choices=["skip", "stop"], default="skip",
                        help="what to do about clips that cannot be read")
    add_ranks(parser, "each computes a share")
    parser.set_defaults(device="cpu")


def features(options: argparse.Namespace) -> int:
    """Compute the audio features of clips from their sound, and write them to one file."""
    with together(options) as ranks:
        return _features(options, ranks)


def _features(options: argparse.Namespace, ranks: Alone) -> int:
    written, failed = extract(options.clips, options.out, options.extractor, on_error=options.on_error,
                              workers=options.workers, log=log, ranks=ranks)
    say(f"wrote {shown(options.out)}: {written} clips, {len(EXTRACTORS[options.extractor][1])} features "
          f"({options.extractor})")
    if failed:
        log(f"emonet: error: {failed} of {written + failed} clips were left out")
    return 1 if failed else 0


def _synthesize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path_of, help="where to write; must not exist")
    parser.add_argument("--seed", type=integer(0), default=0, help="of everything that is drawn")
    _add_synthetic(parser)


def synthesize(options: argparse.Namespace) -> None:
    """Write a synthetic data set in AFEW's layout."""
    clips = _write_synthetic(Path(options.folder), options.clips_per_class, options.seed)
    say(f"wrote {shown(options.folder)}: {clips} clips")


def _import_weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path_of, help="weights of a CIFAR ResNet; no other pickle than one of tensors is read")
    parser.add_argument("--out", type=path_of, metavar="FILE",
                        help="what to write (default: the same name, .safetensors, here)")


def import_weights(options: argparse.Namespace) -> None:
    """Read a CIFAR ResNet's weights from a PyTorch, safetensors or exported ONNX file, as a trunk for --set trunk=FILE."""
    source, target = Path(options.file), Path(options.out or f"{Path(options.file).stem}.safetensors")
    if source.suffix.lower() == ".onnx":
        from ..export.onnx import read_trunk
        resnet = read_trunk(source)
    else:
        resnet = ResNet.from_torch(source)
    with owned_file(target):
        if target.exists():
            raise DataError(f"{str(target)!r} exists: give another name with --out")
        write_checkpoint(target, {"weights": resnet.state_dict()}, {"source": source.name})
    parameters = sum(p.value.size for p in resnet.parameters())
    width = resnet.num_features // 4
    say(f"{resnet!r}, width {width}, {parameters} parameters: {shown(target)}\n"
          f"use it with --set trunk={shlex.quote(str(target))} --set trunk_depth={resnet.depth} --set trunk_width={width}; "
          f"pixels are normalised by mean .485 .456 .406, std .229 .224 .225")


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("data", type=path_of, nargs="*", default=[], help="tables of clips and folders, as --data of train")
    what.add_argument("--system", action="store_true", help="versions, device, and which CPU kernels are in use and why")
    _add_names(parser)


def doctor(options: argparse.Namespace) -> int:
    """Say what a data set holds, or what this machine runs on; 1 where something is wrong."""
    if options.system:
        say(", ".join(f"{name} {version}" for name, version in versions().items()))
        device, line = choose_device()
        say(line)
        say(dispatch.why("cpu"))
        if device != "cpu":
            say(dispatch.why("cuda"))
        return 0
    report = examine(collect(options.data, options.labels, options.name, True, strict=False))
    say("\n".join(report.lines()))
    return 1 if report.problems else 0


COMMANDS = [(train, _train_arguments), (search, _search_arguments), (diagnose, _diagnose_arguments),
            (compare, _compare_arguments), (cross_validate, _cross_validate_arguments),
            (evaluate, _evaluate_arguments), (predict, predict_arguments), (explain, explain_arguments),
            (features, _features_arguments), (synthesize, _synthesize_arguments),
            (import_weights, _import_weights_arguments), (export, export_arguments),
            (models, models_arguments), (doctor, _doctor_arguments)]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="emonet", description="Emotion recognition from clips, every layer by hand.")
    parser.add_argument("--version", action="version", version=f"emonet_scratch {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, add_arguments in COMMANDS:
        sub = commands.add_parser(command.__name__.replace("_", "-"), help=command.__doc__, description=command.__doc__,
                                  formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(command=command, parser=sub)
        add_arguments(sub)
    return parser
