"""What clips there are: from tables, from folders of corpora that are known, from folders that a pattern describes.

A data set is one or several sources, each a table of clips (see table.py) or a folder, which is one of

    AFEW's layout       folders of splits and in them folders of classes (afew.py)
    a known corpus      at least half of the names are those of a corpus of corpora.py
    a pattern           of --name, where one is given
    class folders       each clip lies in a folder named after its class

in this order, a pattern before all; corpora and class folders may lie in folders of splits, too. Classes come from the
labels (labels.py). Groups say who or what must not be on both sides of a split; where no source has splits, a fifth of the
groups becomes the validation split.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from . import afew, corpora
from .afew import SPLITS, Clip, class_of, same_name, split_of
from .folds import joined, stratified_folds
from .labels import MOST, classes_of, parse_labels, rename, same
from .table import read_table
from .video import PICTURES, SOUND_SUFFIXES, VIDEO_SUFFIXES

SUFFIXES = VIDEO_SUFFIXES | SOUND_SUFFIXES | PICTURES
FOLDS = 5           # one of so many folds of groups becomes the validation split


@dataclass(frozen=True)
class Collection:
    """The clips of a data set, and its classes in their order; roots: folders of the sources; notes: what was recognised;
    drawn: lines on a validation split that was drawn.

    problems: files that are no clip of any kind that was looked for, and clips that are left out; warnings: why scores on
    them do not hold.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    roots: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def split(self, name: str) -> list[Clip]:
        """The clips of one of SPLITS, in their order."""
        return [clip for clip in self.clips if clip.split == name]

    def number(self, clip: Clip) -> int:
        """The number of its class, -1 where it has none."""
        return -1 if clip.label is None else self.classes.index(clip.label)


def collect(sources: Sequence[str | os.PathLike], labels: str = "", name: str | None = None,
            allow_shared_groups: bool = False, strict: bool = True, least: int = 2) -> Collection:
    """The clips of all `sources`; labels: changes as of `parse_labels`; name: a pattern as of `pattern_of`.

    strict: problems of AFEW's layout are errors; least: classes.
    DataError: a source without clips, a row of a table that is wrong, fewer than `least` classes, a change of a label that
    no clip has, two clips of one name, a group in two splits.
    """
    changes = parse_labels(labels)
    found = [_read(source, name, strict) for source in dict.fromkeys(map(Path, sources))]
    every = [pair for source in found for pair in source.clips]
    if unknown := sorted(changes.keys() - {same(text) for clip, meant in every for text in (clip.label or "", meant)}):
        have = ", ".join(sorted({meant for _, meant in every if meant})[:20])
        raise DataError(f"--labels: no clip has the label {unknown[0]!r}; they have: {have}")
    kept = [replace(clip, label=label) for clip, meant in every
            if (label := clip.label and rename(clip.label, meant, changes)) or clip.label is None]
    fixed = not changes and all(source.afew for source in found)              # also the classes that it lacks
    classes = CLASSES if fixed else classes_of((clip.label for clip in kept if clip.label), least)
    spelled = {same(name): name for name in classes}
    clips = [replace(clip, label=clip.label and spelled[same(clip.label)]) for clip in kept]
    notes, problems = ([line for source in found for line in getattr(source, kind)] for kind in ("notes", "problems"))
    if dropped := len(every) - len(kept):
        notes.append(f"{dropped} of {len(every)} clips are left out by their labels")
    clips, drawn = _with_splits(clips)
    clips = _named(clips)
    shared = _shared_groups(clips, allow_shared_groups)
    return Collection(tuple(sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.id))), classes,
                      tuple(source.root for source in found), tuple(notes), drawn, tuple(problems),
                      shared)


@dataclass
class _Source:
    """What one source holds: clips, each with what its label means; afew: whether it is a folder in AFEW's layout."""

    root: Path
    clips: list[tuple[Clip, str]]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    afew: bool = False


def _read(source: Path, name: str | None, strict: bool) -> _Source:
    if os.path.isfile(source):
        return _from_table(source)
    files = [folder / file for folder, names in afew.walk(source) for file in names if Path(file).suffix.lower() in SUFFIXES]
    names = {path: path.relative_to(source).with_suffix("").as_posix() for path in files}
    if name is not None:
        try:
            return _from_names(source, names, corpora.pattern_of(name), f"names {name}")
        except ValueError as error:
            raise DataError(f"--name: {error}") from None
    inside = [parts for path in files if split_of(parts := path.relative_to(source).parts[:-1])]
    if not files or (inside and (any(map(class_of, inside)) or all(split_of(parts) == "test" for parts in inside))):
        splits, problems = (afew.find_clips(source), []) if strict else afew.scan(source)
        clips = [clip for split in SPLITS for clip in splits[split]]
        return _Source(source, [(clip, clip.label or "") for clip in clips],
                       [f"{str(source)!r}: AFEW's layout, {len(clips)} clips"], problems, afew=True)
    if known := corpora.recognise(list(names.values())):
        corpus, number = known
        found = _from_names(source, names, corpus.pattern, corpus.name, corpus)
        found.notes.append(f"{str(source)!r}: {corpus.name} ({corpus.source}; {corpus.licence}), {number} of {len(names)} "
                           f"names fit; groups: {corpus.group}")
        return found
    return _from_class_folders(source, names)


def _from_names(source: Path, names: dict[Path, str], pattern: str, what: str,
                corpus: corpora.Corpus | None = None) -> _Source:
    """The clips whose names fit the pattern; the others are problems."""
    found = _Source(source, [])
    for path, name in names.items():
        parts = corpora.parse(pattern, name)
        if parts is None:
            found.problems.append(f"{str(path)!r}: no name of {what}")
            continue
        label, group = parts["label"], parts.get("group", "")
        split = _split(parts.get("split", ""), DataError(f"{str(path)!r} names no split (train, val, test)"))
        title = _title(source)
        if corpus:
            title, group, split = corpus.name, corpora.SAME.get(group, group), split_of(name.split("/")[:-1]) or ""
        found.clips.append((Clip(split, name, path, label, group and f"{title} {group}", title),
                            corpus.labels[label] if corpus else label))
    if not found.clips:
        raise DataError(f"{str(source)!r}: expected {what}, got none among {len(names)} files"
                        + (f", such as {next(iter(names.values()))!r}" if names else ""))
    if corpus is None:
        found.notes.append(f"{str(source)!r}: {len(found.clips)} of {len(names)} names fit")
    return found


def _from_class_folders(source: Path, names: dict[Path, str]) -> _Source:
    """Clips in folders that are named after their classes."""
    clips = [(Clip(split_of(name.split("/")[:-2]) or "", name, path, label, "", _title(source)), label)
             for path, name in names.items() if path.parent != source and not split_of([label := path.parent.name])]
    labels = Counter(meant for _, meant in clips)
    if len(clips) < len(names) or not 2 <= len(labels) <= MOST or max(labels.values()) < 2:
        known = ", ".join(corpus.name for corpus in corpora.CORPORA)
        raise DataError(f"{str(source)!r}: {len(names)} files that are neither in AFEW's layout (Train/Angry/...), nor "
                        f"named as in {known}, nor in a folder a class: say what the names mean "
                        f"(--name '{{group}}_{{label}}_{{}}'), or give a table (clips.csv: path,label,group)")
    return _Source(source, clips, [f"{str(source)!r}: a folder a class, {len(clips)} clips in {len(labels)} "
                                   f"({', '.join(sorted(labels)[:8])}{', ...' * (len(labels) > 8)}); groups are not known"])


def _title(source: Path) -> str:
    return os.path.basename(os.path.abspath(source))


def _from_table(path: Path) -> _Source:
    """The rows of a table; every file has to be there."""
    rows = read_table(path)
    found, seen, used = _Source(path.parent, []), {}, {}
    for number, cells in rows:
        def fault(column: str, expected: str, number: int = number, cells: dict[str, str] = cells) -> DataError:
            return DataError(f"{str(path)!r} row {number}, column {column}: expected {expected}, got "
                             f"{cells.get(column, '')!r}")
        file, features = (path.parent / cells[column] if cells.get(column) else None for column in ("path", "features"))
        for column, there in (("path", file), ("features", features)):
            if there is not None and not os.path.isfile(there):
                raise fault(column, "a file that is there (paths are relative to the table)")
        split = _split(cells.get("split", ""), fault("split", "train, val, test or nothing"))
        if not cells["label"] and split != "test":
            raise fault("label", "a class (only clips of the test split may have none)")
        if (before := seen.setdefault(file.resolve(), number)) != number:
            raise fault("path", f"every file once, there is row {before}")
        if features and (before := used.setdefault(features.resolve(), number)) != number:
            raise fault("features", f"a file of this clip alone, row {before} has it too (leave the column out, and name "
                                    f"the rows of the file after the clips)")
        name = Path(cells["path"]).with_suffix("").as_posix()
        clip = Clip(split, name, file, cells["label"] or None, cells.get("group", ""), path.stem, features)
        found.clips.append((clip, cells["label"]))
    found.notes.append(f"{str(path)!r}: a table of {len(rows)} clips")
    return found


def _split(text: str, fault: DataError) -> str:
    """One of SPLITS, or "" for nothing; the fault is raised for another word."""
    split = split_of([text]) if text else ""
    if split is None:
        raise fault
    return split


def _named(clips: list[Clip]) -> list[Clip]:
    """The clips with ids that can name a file: stems if those are unique in their split, else paths with "_" for "/"."""
    for shorten in (lambda clip: clip.id.rpartition("/")[2], lambda clip: clip.id.replace("/", "_"),
                    lambda clip: f"{clip.corpus}_{clip.id}".replace("/", "_")):
        named = [replace(clip, id=shorten(clip)) for clip in clips]
        twice = [key for key, n in Counter((clip.split, same_name(clip.id)) for clip in named).items() if n > 1]
        if not twice:
            return named
    first, second = [clip for clip, new in zip(clips, named, strict=True) if (new.split, same_name(new.id)) == twice[0]][:2]
    raise DataError(f"{str(first.path)!r} and {str(second.path)!r} are two clips with the name {twice[0][1]!r}: expected "
                    f"one; rename or remove the other")


def _with_splits(clips: list[Clip]) -> tuple[list[Clip], tuple[str, ...]]:
    """The clips, of those without a split a fifth in the validation split, whole groups; and lines on that."""
    given = {clip.group: clip.split for clip in clips if clip.group and clip.split}
    clips = [replace(clip, split=clip.split or given.get(clip.group, "")) for clip in clips]
    free = [clip for clip in clips if not clip.split]
    if not free:
        return clips, ()
    groups = joined([clip.group or None for clip in free])
    _, label = np.unique([clip.label for clip in free], return_inverse=True)
    fold = stratified_folds(label, FOLDS, 0, groups)                          # the same for every seed of a training
    sizes = np.bincount(fold)                                                 # of two speakers the one with fewer clips
    out = fold == np.where(sizes, abs(FOLDS * sizes - len(free)), np.inf).argmin()
    names = sorted({clip.group for clip, val in zip(free, out, strict=True) if val and clip.group})
    line = (f"no split is given: {int(out.sum())} of {len(free)} clips are the validation split"
            + (f", those of {len(names)} groups ({', '.join(names[:6])}{', ...' * (len(names) > 6)})" if names else
               ", drawn by class; groups are not known"))
    split = {id(clip): "val" if val else "train" for clip, val in zip(free, out, strict=True)}
    return [replace(clip, split=clip.split or split[id(clip)]) for clip in clips], (line,)


def _shared_groups(clips: list[Clip], allowed: bool) -> tuple[str, ...]:
    """A line for each group that is in two splits; DataError with the first, unless that is allowed."""
    splits = defaultdict(dict)
    for clip in clips:
        if clip.group:
            splits[clip.group].setdefault(clip.split, clip)
    lines = [f"the group {group!r} is in {' and '.join(found)} ({', '.join(repr(clip.id) for clip in found.values())})"
             for group, found in splits.items() if len(found) > 1]
    if lines and not allowed:
        more = f", and so are {len(lines) - 1} more" if lines[1:] else ""
        raise DataError(f"{lines[0]}{more}: a score would not hold for strangers; put all of it into one split, add clips "
                        f"of other groups, or go on with --allow-shared-groups")
    return tuple(lines)
