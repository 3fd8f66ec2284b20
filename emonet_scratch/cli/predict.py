"""Commands that answer with trained weights: predict, explain, models."""

import argparse
import csv
import dataclasses
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..data.afew import Clip, Features, load_features, split_of
from ..data.batches import Split
from ..data.extract import DEFAULT, SUFFIXES, find
from ..data.left_out import attempt
from ..data.prepare import Reader, extractor_of
from ..data.video import PICTURES
from ..errors import DataError
from ..files import owned, say, shown
from ..shards import Alone
from ..training import load_model
from ..training.answer import SHIPPED, Answer, Answerer, figures, of_one_speaker, summary
from ..training.inference import Model, reading
from .options import add_device, add_ranks, device_of, log, path_of, seconds, together


def predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `predict`."""
    parser.add_argument("clips", type=path_of, nargs="+", metavar="CLIP",
                        help="media files, or folders of them; put -- before names that begin with a dash")
    parser.add_argument("--checkpoint", type=path_of,
                        help="a checkpoint or the folder of a run (default: the weights that come along, see emonet models)")
    parser.add_argument("--features", type=path_of, metavar="DIR",
                        help="ARFF or CSV files with the clips' audio vectors, for --checkpoint")
    parser.add_argument("--one-speaker", action="store_true",
                        help="all clips are of one person: what they say on average is how this one looks and speaks")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    told = parser.add_argument_group("when, who and why", "with the weights that come along, window by window")
    told.add_argument("--timeline", type=path_of, metavar="FILE",
                      help="of one clip: write a row a window and person to a .csv or .json")
    told.add_argument("--page", type=path_of, metavar="PLACE",
                      help="of one clip: write a page, NAME.html; else a folder of pages with an index")
    told.add_argument("--embed", action="store_true", help="put the clip into the page, small, so that it plays there")
    told.add_argument("--video", type=path_of, metavar="FILE", help="of one clip: write an .mp4 with what is seen drawn in")
    told.add_argument("--window", type=seconds(0.4), help="seconds of a row (default: 2)")
    told.add_argument("--step", type=seconds(0.04), help="seconds from row to row (default: .5)")
    add_ranks(parser, "each answers about a share of the clips")
    add_device(parser)


def predict(options: argparse.Namespace) -> int:
    """Print the class and the probabilities of all classes of each clip."""
    with together(options) as ranks:
        return _predict(options, ranks)


def _predict(options: argparse.Namespace, ranks: Alone) -> int:
    device, line = device_of(options)
    found = [str(clip) for place in options.clips for clip in find([place], SUFFIXES | PICTURES)]
    options.clips = list(map(Path, json.loads(ranks.told(json.dumps(found)))))
    if not options.clips:
        raise DataError(f"expected clips, or folders of clips ({', '.join(sorted(SUFFIXES))}), got none")
    if options.checkpoint is None:
        return _answer(options, device, ranks)
    if options.timeline or options.page or options.video:
        options.parser.error("--timeline, --page and --video are of the weights that come along; leave out --checkpoint")
    log(line)
    model = load_model(options.checkpoint, device)
    clips = [Clip(split_of(name.absolute().parts[:-1]) or "test", name.stem, name, None)
             for name in options.clips]
    features = _features_for(model, options.features, clips)
    failed: list[DataError] = []
    ears = Path(options.checkpoint, "audio", "best.safetensors")              # of the run, for what has no pictures
    listener = load_model(ears, device) if len(model.config.modalities) == 2 and ears.exists() else model

    def answer(clip: Clip) -> Answer:
        split, fault = _one_clip(model, clip, features)
        seen = split.frames is None or len(split.frames[0]) > 0
        p = (model if seen else listener).probabilities(split, device)[1][0]
        return Answer(str(clip.path), "", model.classes[int(p.argmax())], p, None, True, True, fault)

    found = _each(_by(ranks, lambda some: (attempt(answer, clip) for clip in some), clips), failed)
    _print_predictions(_alike(found, model.classes) if options.one_speaker else found, model.classes, options)
    return 1 if failed else 0


def _each(results: Iterable[Answer | DataError], failed: list[DataError]) -> Iterator[Answer]:
    """The answers; errors, of clips that cannot be read, are told and gathered in `failed`."""
    for result in results:
        if isinstance(result, DataError):
            failed.append(result)
            log(f"emonet: error: {result}")
        else:
            if result.fault:
                log(f"without sound: {result.clip!r}: {result.fault}")
            yield result


def _by(ranks: Alone, answers: Callable[[list[Any]], Iterable[Answer | DataError]],
        clips: list[Any]) -> Iterator[Answer | DataError]:
    """answers(clips), each clip by one of the ranks."""
    if ranks.size == 1:
        yield from answers(clips)
        return

    def work(mine: list[Any]) -> Iterator[Any]:
        for one in answers(mine):
            yield str(one) if isinstance(one, DataError) else vars(one) | {"probabilities": one.probabilities.tolist()}
    for _, said in ranks.rounds(work, clips):
        yield (DataError(said) if isinstance(said, str) else
               Answer(**said | {"probabilities": np.array(said["probabilities"])}))


def _alike(answers: Iterable[Answer], classes: Sequence[str]) -> list[Answer]:
    """The same where all are of one speaker."""
    found = list(answers)
    known = [k for k, answer in enumerate(found) if answer.face or answer.voice]
    p = of_one_speaker(np.array([found[k].probabilities for k in known]).reshape(-1, len(classes)))
    for k, row in zip(known, p, strict=True):
        found[k] = dataclasses.replace(found[k], probabilities=row, label=classes[int(row.argmax())])
    return found


def _answer(options: argparse.Namespace, device: str, ranks: Alone) -> int:
    """Predict with the weights that come along."""
    if options.features is not None:
        options.parser.error("--features goes with --checkpoint")
    _check_told(options)
    answerer, failed, said = Answerer(device), [], set()
    if answerer.blind:
        log(f"by voices alone: {answerer.blind}")
    if options.timeline or options.page or options.video:
        return _tell(options, answerer)                                       # which --ranks does not go with

    def introduced() -> Iterator[Answer]:
        for answer in _each(_by(ranks, answerer.answers, options.clips), failed):
            if answer.weights and answer.weights not in said:
                said.add(answer.weights)
                card = SHIPPED[answer.weights].with_suffix(".md")
                log(f"weights for {answer.weights}: {summary(answer.weights)} Card: {card}")
            yield answer

    found = introduced()
    _print_predictions(_alike(found, answerer.classes) if options.one_speaker else found, answerer.classes, options)
    return 1 if failed else 0


def _check_told(options: argparse.Namespace) -> None:
    """What does not go together, before anything is read."""
    told = [name for name in ("timeline", "video", "page") if getattr(options, name)]
    alone = [name.replace("_", "-") for name in ("one_speaker", "json", "csv", "ranks") if getattr(options, name)]
    clips = len(options.clips)
    for wrong, line in (
            (told and alone, f"--{''.join(alone[:1])} does not go with --{''.join(told[:1])}"),
            (options.embed and not options.page, "--embed goes with --page"),
            (not told and (options.window or options.step), "--window and --step go with --timeline, --page or --video"),
            (clips > 1 and told[:1] not in ([], ["page"]), f"--{''.join(told[:1])} is of one clip, got {clips}"),
            (clips > 1 and _is_page(options.page or ""), f"--page of {clips} clips is a folder, got {options.page!r}")):
        if wrong:
            options.parser.error(line)


def _is_page(place: str) -> bool:
    return Path(place).suffix.lower() in (".html", ".htm")


def _tell(options: argparse.Namespace, answerer: Answerer) -> int:
    """Timeline, page and film of one clip, in one reading; or pages of many."""
    from ..explain.clip_page import ClipPage  # an optional room
    from ..explain.film import Film
    from ..explain.index import Entry, check_index, write_index
    from ..explain.tell import tell
    from ..explain.timeline import STEP, WINDOW, Table, Timeline

    def told(clip: Path, page: Path | None) -> list[Any]:
        timeline = Timeline(answerer, clip, options.window or WINDOW, options.step or STEP)
        tellers = [Table(Path(options.timeline), answerer.classes)] if options.timeline else []
        tellers += [ClipPage(timeline, page, options.embed)] if page else []
        tellers += [Film(timeline, Path(options.video))] if options.video else []
        return tell(timeline, tellers, log)

    if not options.page or _is_page(options.page):
        told(options.clips[0], Path(options.page) if options.page else None)
        return 0
    entries, folder = [], Path(options.page)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{options.page!r} is a file: --page wants NAME.html, or a folder")
    with owned(folder):
        check_index(folder / "index.html")
        try:
            for k, clip in enumerate(options.clips, 1):
                page = folder / (f"{k}-" + re.sub(r"[^\w.-]", "_", clip.stem)[:80] + ".html")
                entries.append(Entry(str(clip), page.name, (), "stopped"))
                rows = attempt(told, clip, page)
                if isinstance(rows, DataError):
                    log(f"emonet: error: {rows}")
                    entries[-1] = Entry(str(clip), "", (), f"not read: {rows}")
                else:
                    entries[-1] = Entry(str(clip), page.name, rows)
        finally:
            if entries:
                write_index(folder / "index.html", entries, answerer.classes)
                say(f"wrote {shown(folder / 'index.html')}: {len(entries)} clips")
    return 1 if any(not entry.page for entry in entries) else 0


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `explain`."""
    parser.add_argument("clip", type=path_of, metavar="CLIP", help="a media file")
    parser.add_argument("--out", type=path_of, metavar="DIR", default="explained", help="folder of the pictures")
    add_device(parser)


def explain(options: argparse.Namespace) -> None:
    """Say what face, voice and its descriptors add to the answer about a clip, and draw what face and LSTM do."""
    from ..explain.lesson import explain as run_explain  # an optional room
    answerer = Answerer(device_of(options)[0])
    if answerer.blind:
        log(f"by voices alone: {answerer.blind}")
    run_explain(answerer, Path(options.clip), Path(options.out), say)


def models_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""
    del parser


def models(options: argparse.Namespace) -> None:
    """List the weights that come with the package: what they know, how good they are, what for they may be used."""
    del options
    for name, path in SHIPPED.items():
        say("\n".join([f"{name}  {path.stat().st_size / 1e6:.2f} MB  {path}", f"  {summary(name)}",
                       *(f"  {line}" for line in figures(name))]))


def _features_for(model: Model, folder: str | None, clips: Sequence[Clip]) -> Features | None:
    """The vectors of the files in `folder`; None without one. CheckpointError where they are not what the network reads."""
    if folder is not None:
        features = load_features([folder], clips, on_error="skip", log=log)
        model.check_features(features.names if features else (), extractor_of(features), log)
        return features
    if "audio" in model.config.modalities and not model.computes:
        raise DataError(f"checkpoint {str(model.path)!r} reads {len(model.feature_names)} audio features that come with "
                        f"the data set: give the folder of their files with --features")
    model.check_features(model.feature_names, extractor_of(None, model.computes), log)
    return None


def _one_clip(model: Model, clip: Clip, features: Features | None) -> tuple[Split, str]:
    """(what the network reads of a clip, why its sound cannot be decoded). DataError where the clip lacks it."""
    used = model.config.modalities
    pictures = reading(model.config) if "video" in used else None
    found = Reader(pictures, "audio" in used, features, model.computes or DEFAULT)(clip)
    return Split([clip.id], np.array([-1]), None if found.frames is None else [found.frames],
                 None if found.audio is None else found.audio[None]), found.fault


def _print_predictions(answers: Iterable[Answer], classes: Sequence[str], options: argparse.Namespace) -> None:
    """Each as soon as it is there, so that none is lost with a later one; remarks only of the weights that come along."""
    own = options.checkpoint is None
    if options.json:
        _print_json(answers, classes, own)
    elif options.csv:
        exact = not sys.stdout.isatty()                                       # a program gets names as they are
        writer = csv.writer(sys.stdout if exact else SimpleNamespace(write=partial(say, end="")), lineterminator="\n")
        writer.writerow(["clip", "class", *classes, *(["weights", "novelty", "unlike", "face", "voice"] if own else [])])
        for answer in answers:
            facts = [int(x) if isinstance(x, bool) else x for x in answer.facts.values()] if own else []
            writer.writerow([answer.clip, answer.label, *(f"{x:.6f}" for x in answer.probabilities), *facts])
            sys.stdout.flush()
    else:
        for answer in answers:
            remarks = f"  ({answer.remarks})" if own and answer.remarks else ""
            say(f"{shown(answer.clip)}: {answer.label}  "
                + "  ".join(f"{c} {x:.3f}" for c, x in zip(classes, answer.probabilities, strict=True)) + remarks)


def _print_json(answers: Iterable[Answer], classes: Sequence[str], own: bool) -> None:
    opening = "["
    try:
        for answer in answers:
            row = {"clip": answer.clip, "class": answer.label,
                   "probabilities": dict(zip(classes, map(float, answer.probabilities), strict=True))}
            row |= answer.facts if own else {}
            say(f"{opening}\n{textwrap.indent(json.dumps(row, indent=2), '  ')}", end="")
            opening = ","
    finally:                                                                  # what is there is a list, also after Ctrl-C
        say("[]" if opening == "[" else "\n]")
