"""The command line: `emonet COMMAND`; `emonet --help` names them."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from . import dispatch
from .backend import choose_device
from .data.afew import SPLITS, Clip, load_features, split_of, write_predictions
from .data.batches import Split
from .data.doctor import examine
from .data.extract import DEFAULT, EXTRACTORS, extract
from .data.prepare import audio_vector, clip_frames, extractor_of, prepare
from .data.synthetic import write as write_synthetic
from .emotions import CLASSES
from .errors import DataError, EmonetError
from .models import EmoNetConfig, ResNet
from .models.config import PRESETS
from .studies.compare import compare as run_compare
from .studies.diagnose import diagnose as run_diagnose
from .studies.search import SPACES
from .studies.search import search as run_search
from .training import load_model, run
from .training.checkpoint import write_checkpoint
from .training.inference import Model, score
from .training.report import table
from .training.run import versions
from .training.settings import MODALITIES, Settings, find_run, read_settings
from .version import __version__

SYNTHETIC = (70, 20, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 after a one-line error, 2 for a wrong call, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    options.typed = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return options.command(options) or 0
    except BrokenPipeError:                                                   # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (EmonetError, OSError, MemoryError) as error:
        print(f"emonet: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        file, hint = getattr(options, "go_on", (None, ""))
        print(f"emonet: interrupted{'; ' + hint if file and file.exists() else ''}", file=sys.stderr)
        return 130


def train(options: argparse.Namespace) -> int:
    """Train audio, video and fused networks on a data set in AFEW's layout, and report."""
    runs, typed = Path(options.runs), _typed(options)
    if options.resume is not None:
        if fixed := [name for name in typed if name not in ("--resume", "--runs", "--device", "--precision")]:
            options.parser.error(f"--resume continues with the saved settings; leave out {fixed[0]}")
        folder = find_run(options.resume, runs)
        if (folder / "results.json").exists():
            print(f"{str(folder)!r} is finished:\n\n{(folder / 'results.txt').read_text(encoding='utf-8')}", end="")
            return 0
        given = {name: getattr(options, name) for name in ("device", "precision") if f"--{name}" in typed}
        settings = dataclasses.replace(read_settings(folder), **given)
    else:
        _check_new(options)
        folder = Path(options.out) if options.out is not None else runs / time.strftime("%Y-%m-%d-%H.%M.%S")
        if (folder / "config.json").exists():
            raise DataError(f"{str(folder)!r} holds a run already: continue it with --resume, or give another --out")
        names = tuple(MODALITIES) if options.modalities == "all" else (options.modalities,)
        settings = dataclasses.replace(_settings(options, names), save_every=options.save_every)
    options.go_on = folder / "config.json", f"continue with --resume {shlex.quote(str(folder))}"
    print(f"run: {folder}")
    results = run(settings, folder, resume=options.resume is not None)
    print(f"\n{table(results)}\n\nvalidation split, epoch of least validation loss; in {folder}: "
          "results.json, confusion.png, curves.png, checkpoints")
    return 0


def search(options: argparse.Namespace) -> int:
    """Search learning rate, optimizer, width and dropout with Optuna; the same command again goes on or helps."""
    _check_new(options)
    folder = Path(options.out) if options.out is not None else Path(options.runs) / "search"
    print(f"study: {folder}")
    options.go_on = folder / "study.journal", "the same command goes on"
    print(run_search(_settings(options, (options.modalities,)), options.space, options.trials, folder))
    return 0


def compare(options: argparse.Namespace) -> int:
    """Train audio, video and fused networks, and compare them with late fusion, a linear SVM and LDA."""
    typed = _typed(options)
    if options.run is not None:
        if fixed := [n for n in typed if n not in ("--run", "--out", "--split", "--device", "--precision", "--runs")]:
            options.parser.error(f"--run goes by the settings of that run; leave out {fixed[0]}")
        folder = find_run(options.run, Path(options.runs))
        settings = read_settings(folder)
    else:
        _check_new(options)
        folder = Path(options.out) if options.out is not None else \
            Path(options.runs) / time.strftime("%Y-%m-%d-%H.%M.%S-compare")
        if (folder / "config.json").exists():
            raise DataError(f"{str(folder)!r} holds a run already: compare it with --run, or give another --out")
        settings = _settings(options, tuple(MODALITIES))
    device, _ = _device(options)
    print(f"run: {folder}")
    options.go_on = folder / "config.json", f"continue with --run {shlex.quote(str(folder))}"
    if not (folder / "results.json").exists():
        run(settings, folder, resume=options.run is not None)
    print(f"\n{run_compare(folder, Path(options.out or folder), options.split, device)}")
    return 0


def diagnose(options: argparse.Namespace) -> int:
    """Say why a training does not learn, or that nothing is wrong with it."""
    _check_new(options)
    folder = Path(options.out) if options.out is not None else Path(options.runs) / "diagnosis"
    print(run_diagnose(_settings(options, (options.modalities,)), folder, options.seconds))
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a checkpoint on a split; write predictions in the challenge's form."""
    device, line = _device(options)
    model = load_model(options.checkpoint, device)
    print(f"checkpoint: {model.path}\n{line}")
    config = model.config
    data = prepare(options.data, (options.split,), video="video" in config.modalities, sound="audio" in config.modalities,
                   frame_size=config.frame_size, fit=config.fit, max_frames=config.max_frames, cache=_cache(options),
                   on_error=options.on_error, extractor=_extractor(model) or DEFAULT, crop=config.crop)
    model.check_features(data.feature_names, data.extractor)
    split = data.splits[options.split]
    loss, probabilities = model.probabilities(split, device)
    labelled = split.labels >= 0
    if labelled.any():
        result = score(split.labels[labelled], probabilities[labelled])
        low, high = result["interval"]
        print(f"{options.split}: {result['clips']} clips, accuracy {result['accuracy']:.3f} ({low:.3f} - {high:.3f}), "
              f"macro F1 {result['macro_f1']:.3f}, loss {loss:.3f}\n"
              f"to beat: chance {result['chance']:.3f}, majority class {result['majority']:.3f}")
        width = max(map(len, CLASSES)) + 1
        print("\n".join([" " * width + "".join(name[:5].rjust(6) for name in CLASSES)]
                        + [name.ljust(width) + "".join(f"{n:6}" for n in row)
                           for name, row in zip(CLASSES, result["confusion"], strict=True)]))
    else:
        print(f"{options.split}: {len(split)} clips without labels")
    if options.out is not None:
        write_predictions(options.out, split.ids, probabilities.argmax(1).tolist(), probabilities)
        print(f"predictions: {options.out}")
    return 0


def predict(options: argparse.Namespace) -> int:
    """Print the class and seven probabilities of each clip."""
    device, line = _device(options)
    print(line, file=sys.stderr)
    model = load_model(options.checkpoint, device)
    config, failed, rows = model.config, 0, []
    clips = [Clip(split_of(Path(name).absolute().parts[:-1]) or "test", Path(name).stem, Path(name), None)
             for name in options.clips]
    features = None
    if options.features is not None:
        features = load_features(options.features, {s: [c for c in clips if c.split == s] for s in SPLITS},
                                 on_error="skip", log=lambda line: print(line, file=sys.stderr))
        model.check_features(features.names if features else (), extractor_of(features) if features else "")
    elif "audio" in config.modalities and not _extractor(model):
        raise DataError(f"checkpoint {str(model.path)!r} reads {len(model.feature_names)} audio features that come with "
                        f"the data set: give the folder of their files with --features")
    for clip in clips:
        try:
            frames = clip_frames(clip.path, config.frame_size, config.fit, config.max_frames, config.crop) \
                if "video" in config.modalities else None
            vector = audio_vector(clip, features, _extractor(model) or DEFAULT, "video" in config.modalities) \
                if "audio" in config.modalities else None
        except DataError as error:
            failed += 1
            print(f"emonet: error: {error}", file=sys.stderr)
            continue
        split = Split([clip.id], np.array([-1]), None if frames is None else [frames],
                      None if vector is None else vector[None])
        rows.append((str(clip.path), model.probabilities(split, device)[1][0]))
    _print_predictions(rows, options)
    return 1 if failed else 0


def _extractor(model: Model) -> str:
    """The extractor that made the audio vectors of this network, or "" where they came with the data set."""
    return model.extractor if model.extractor in EXTRACTORS else ""


def _print_predictions(rows: list[tuple[str, np.ndarray]], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([{"clip": name, "class": CLASSES[int(p.argmax())],
                           "probabilities": dict(zip(CLASSES, map(float, p), strict=True))} for name, p in rows], indent=2))
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["clip", "class", *CLASSES])
        writer.writerows([name, CLASSES[int(p.argmax())], *(f"{x:.6f}" for x in p)] for name, p in rows)
    else:
        for name, p in rows:
            shown = name if name.isprintable() else repr(name)
            print(f"{shown}: {CLASSES[int(p.argmax())]}  "
                  + "  ".join(f"{c} {x:.3f}" for c, x in zip(CLASSES, p, strict=True)))


def features(options: argparse.Namespace) -> int:
    """Compute the audio features of clips from their sound, and write them to one file."""
    def log(line: str) -> None:
        print(line, file=sys.stderr)
    written, failed = extract(options.clips, options.out, options.extractor, on_error=options.on_error,
                              workers=options.workers, log=log)
    print(f"wrote {options.out}: {written} clips, {len(EXTRACTORS[options.extractor][1])} features ({options.extractor})")
    if failed:
        log(f"emonet: error: {failed} of {written + failed} clips were left out")
    return 1 if failed else 0


def synthesize(options: argparse.Namespace) -> int:
    """Write a synthetic data set in AFEW's layout."""
    _write_synthetic(Path(options.folder), options.clips_per_class, options.seed)
    print(f"wrote {options.folder}: {len(CLASSES) * sum(options.clips_per_class)} clips")
    return 0


def import_weights(options: argparse.Namespace) -> int:
    """Read a CIFAR ResNet's weights from a PyTorch or safetensors file, and write them as a trunk for --set trunk=FILE."""
    source, target = Path(options.file), Path(options.out or f"{Path(options.file).stem}.safetensors")
    resnet = ResNet.from_torch(source)
    if target.exists():
        raise DataError(f"{str(target)!r} exists: give another name with --out")
    write_checkpoint(target, {"weights": resnet.state_dict()}, {"source": source.name})
    parameters = sum(p.value.size for p in resnet.parameters())
    width = resnet.num_features // 4
    print(f"{resnet!r}, width {width}, {parameters} parameters: {target}\n"
          f"use it with --set trunk={shlex.quote(str(target))} --set trunk_depth={resnet.depth} --set trunk_width={width}; "
          f"pixels are normalised by mean .485 .456 .406, std .229 .224 .225")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Say what a data set holds, or what this machine runs on; 1 where something is wrong."""
    if options.system:
        print(", ".join(f"{name} {version}" for name, version in versions().items()))
        device, line = choose_device()
        print(line)
        print(dispatch.why())
        if device != "cpu":
            print(dispatch.why("cuda"))
        return 0
    report = examine(options.data)
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


def _device(options: argparse.Namespace) -> tuple[str, str]:
    device, line = choose_device(options.device)
    dispatch.use_precision(options.precision, device)
    return device, line


def _check_new(options: argparse.Namespace) -> None:
    """Refuse what contradicts itself before anything is written."""
    if options.data is not None and "--clips-per-class" in _typed(options):
        options.parser.error("--clips-per-class is of the synthetic data set; leave it out with --data")
    _config(options)
    _device(options)


def _settings(options: argparse.Namespace, names: tuple[str, ...]) -> Settings:
    """Those of the networks `names`; without --data, the synthetic data set is written first."""
    data = options.data if options.data is not None else \
        _synthetic(Path(options.runs), options.clips_per_class, options.seed)
    return Settings(str(Path(data).absolute()), _config(options), names, options.seed, options.device, options.precision,
                    str(_cache(options)), options.on_error)


def _synthetic(runs: Path, clips_per_class: Sequence[int], seed: int) -> Path:
    """The synthetic data set of this size and seed, written where it is not there yet."""
    root = runs / f"synthetic-{'-'.join(map(str, clips_per_class))}-seed{seed}"
    if not root.exists():
        print(f"no --data given: writing a synthetic data set to {root}")
        runs.mkdir(parents=True, exist_ok=True)
        try:
            _write_synthetic(root, clips_per_class, seed)
        except (DataError, OSError):
            if not root.exists():                                             # else another process was faster
                raise
    return root


def _write_synthetic(root: Path, clips_per_class: Sequence[int], seed: int) -> None:
    total = len(CLASSES) * sum(clips_per_class)
    with tqdm(total=total, unit="clip", desc="synthesising", leave=False, disable=not sys.stderr.isatty()) as bar:
        write_synthetic(root, tuple(clips_per_class), seed, progress=bar.update)


def _cache(options: argparse.Namespace) -> Path:
    return (Path(options.cache) if options.cache is not None else Path(options.runs) / "cache").absolute()


def _typed(options: argparse.Namespace) -> list[str]:
    """The options that the command was given, even with the value of their default."""
    unset = argparse.Namespace(**dict.fromkeys(vars(options)))                # defaults fill only what is not there
    values = vars(options.parser.parse_args(options.typed[1:], unset))
    return [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]


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
    preset = options.preset or ("small" if options.data is None else "default")
    try:
        return EmoNetConfig.preset(preset).replace(**fields)
    except (ValueError, TypeError) as error:
        options.parser.error(str(error))


def _path(text: str) -> str:
    """An argument type: "" is a shell variable that was not set, not the folder of that name."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return text


def _integer(least: int) -> Callable[[str], int]:
    """An argument type: an integer from `least`."""
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer from {least}, got {value}")
        return value
    parse.__name__ = "integer"                                                # as argparse says it: invalid integer value
    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="emonet", description="Emotion recognition from clips, every layer by hand.")
    parser.add_argument("--version", action="version", version=f"emonet_scratch {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__,
                                  formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(command=command, parser=sub)
        return sub

    def add_synthetic(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--clips-per-class", type=_integer(1), nargs=3, default=SYNTHETIC, metavar=("TRAIN", "VAL", "TEST"),
                         help="size of the synthetic data set")

    def add_device(sub: argparse.ArgumentParser, more: str = "") -> None:
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K" + more)
        sub.add_argument("--precision", choices=dispatch.PRECISIONS,
                         help="of products in the kernels of a GPU (default: EMONET_PRECISION or fp32)" + more)

    def add_reading(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--on-error", choices=["skip", "stop"], default="skip",
                         help="what to do about clips and feature files that cannot be used")
        sub.add_argument("--runs", type=_path, metavar="DIR", default="runs",
                         help="where runs, caches and synthetic data go")
        sub.add_argument("--cache", type=_path, metavar="DIR",
                         help="decoded frames and trunk features (default: RUNS/cache)")

    def add_training(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data", type=_path, metavar="DIR",
                         help="a data set in AFEW's layout; without it, a synthetic one is written")
        sub.add_argument("--preset", choices=list(PRESETS), help="small without --data, else default")
        sub.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of EmoNetConfig")
        sub.add_argument("--epochs", type=int, help="the same as --set epochs=N")
        sub.add_argument("--crop", choices=["none", "faces"],
                         help="the same as --set crop=...: faces sees the face of each clip instead of the whole frame")
        sub.add_argument("--seed", type=_integer(0), default=0, help="of the synthetic data and the training")
        add_synthetic(sub)
        add_reading(sub)

    sub = add("train", train)
    add_training(sub)
    sub.add_argument("--modalities", choices=[*MODALITIES, "all"], default="all", help="which networks to train")
    sub.add_argument("--out", type=_path, metavar="DIR", help="folder of this run (default: RUNS/<time>)")
    sub.add_argument("--resume", type=_path, metavar="DIR|auto",
                     help="continue the run in this folder with its own settings, bit for bit; auto: the newest one "
                          "directly below RUNS that is not finished")
    sub.add_argument("--save-every", type=_integer(1), metavar="STEPS", help="checkpoints inside an epoch, too")
    add_device(sub, "; with --resume, if given, in place of the run's own")

    sub = add("search", search)
    add_training(sub)
    sub.add_argument("--modalities", choices=list(MODALITIES), default="fused", help="which network to train")
    sub.add_argument("--space", choices=list(SPACES), default="default",
                     help="what is drawn: default, or the paper's learning rates (1e-8 to 1e-6) with SGD and Adam")
    sub.add_argument("--trials", type=_integer(1), default=50, help="of the whole study, not of this process")
    sub.add_argument("--out", type=_path, metavar="DIR", help="folder of the study, shared by all processes that are to "
                     "work on it (default: RUNS/search)")
    add_device(sub)

    sub = add("diagnose", diagnose)
    add_training(sub)
    sub.add_argument("--modalities", choices=list(MODALITIES), default="fused", help="which network to examine")
    sub.add_argument("--seconds", type=float, default=120.0, help="about how long its steps of training may take")
    sub.add_argument("--out", type=_path, metavar="DIR", help="where the report goes (default: RUNS/diagnosis)")
    add_device(sub)

    sub = add("compare", compare)
    add_training(sub)
    sub.add_argument("--run", type=_path, metavar="DIR",
                     help="a run of all modalities: its networks are compared; one that was stopped is continued")
    sub.add_argument("--split", choices=["val", "test"], default="val",
                     help="what the table is measured on; test only if all its clips have labels")
    sub.add_argument("--out", type=_path, metavar="DIR", help="folder of the run and the table (default: "
                     "that of --run, or RUNS/<time>-compare)")
    add_device(sub)

    sub = add("evaluate", evaluate)
    sub.add_argument("checkpoint", type=_path, help="a checkpoint or the folder of a run")
    sub.add_argument("--data", type=_path, metavar="DIR", required=True, help="a data set in AFEW's layout")
    sub.add_argument("--split", choices=["train", "val", "test"], default="val", help="which part of it")
    sub.add_argument("--out", type=_path, metavar="DIR", help="write <id>.txt and predictions.csv here")
    add_reading(sub)
    add_device(sub)

    sub = add("predict", predict)
    sub.add_argument("clips", type=_path, nargs="+", metavar="CLIP",
                     help="media files; put -- before names that begin with a dash")
    sub.add_argument("--checkpoint", type=_path, required=True, help="a checkpoint or the folder of a run")
    sub.add_argument("--features", type=_path, metavar="DIR", help="ARFF or CSV files with the clips' audio vectors")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    add_device(sub)

    sub = add("features", features)
    sub.add_argument("clips", type=_path, nargs="+", metavar="CLIP", help="sounds, clips, or folders of them")
    sub.add_argument("--out", type=_path, metavar="FILE", required=True,
                     help="what to write: .arff, .csv or .npz; the same call goes on where one was stopped")
    sub.add_argument("--extractor", choices=list(EXTRACTORS), default=DEFAULT,
                     help="is10-2: the 1582 features of INTERSPEECH 2010 as openSMILE has them; -energy: loudness from all "
                          "samples; emonet-1: 75 of this project")
    sub.add_argument("--workers", type=_integer(1), help="processes (default: one a core)")
    sub.add_argument("--on-error", choices=["skip", "stop"], default="skip",
                     help="what to do about clips that cannot be read")

    sub = add("synthesize", synthesize)
    sub.add_argument("folder", type=_path, help="where to write; must not exist")
    sub.add_argument("--seed", type=_integer(0), default=0, help="of everything that is drawn")
    add_synthetic(sub)

    sub = add("import-weights", import_weights)
    sub.add_argument("file", type=_path, help="weights of a CIFAR ResNet; no other pickle than one of tensors is read")
    sub.add_argument("--out", type=_path, metavar="FILE", help="what to write (default: the same name, .safetensors, here)")

    sub = add("doctor", doctor)
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("data", type=_path, nargs="?", help="a data set in AFEW's layout")
    what.add_argument("--system", action="store_true", help="versions, device, and which CPU kernels are in use and why")
    return parser
