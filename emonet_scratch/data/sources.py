"""One source of clips: a table, a folder of a known corpus, in AFEW's layout, with a folder a class, or with a pattern."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DataError
from . import afew, corpora
from .afew import SPLITS, Clip, class_of, split_of
from .labels import MOST
from .table import read_table
from .video import PICTURES, SOUND_SUFFIXES, VIDEO_SUFFIXES

SUFFIXES = VIDEO_SUFFIXES | SOUND_SUFFIXES | PICTURES


@dataclass
class Source:
    """What one source holds: clips, each with what its label means; afew: whether it is a folder in AFEW's layout."""

    root: Path
    clips: list[tuple[Clip, str]]
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    afew: bool = False


def read_source(path: Path, name: str | None, strict: bool = True) -> Source:
    """The clips of one source; name, strict: as of `collect`. DataError: none, or a table or name that is wrong."""
    if os.path.isfile(path):
        if path.suffix.lower() in SUFFIXES:
            raise DataError(f"{str(path)!r}: expected a table of clips or a folder, got one clip")
        return _from_table(path)
    files = [folder / file for folder, names in afew.walk(path) for file in names if Path(file).suffix.lower() in SUFFIXES]
    names = {file: file.relative_to(path).with_suffix("").as_posix() for file in files}
    if name is not None:
        try:
            return _from_names(path, names, corpora.pattern_of(name), f"names {name}")
        except ValueError as error:
            raise DataError(f"--name: {error}") from None
    known = corpora.recognise(list(names.values()))
    if not files or _is_afew([file.relative_to(path).parts[:-1] for file in files]):
        return _from_afew(path, known and known[0], strict)
    if known is None:
        return _from_class_folders(path, names)
    found = _from_names(path, names, known[0].pattern, known[0].name, known[0])
    found.notes.append(_recognised(path, *known, len(names)))
    return found


def _recognised(path: Path, corpus: corpora.Corpus, number: int, of: int) -> str:
    return (f"{str(path)!r}: {corpus.name} ({corpus.source}; {corpus.licence}), {number} of {of} names fit; groups: "
            f"{corpus.group}")


def _is_afew(folders: Sequence[Sequence[str]]) -> bool:
    """Whether clips in these folders are in those of splits and classes, or all of them in folders of a test split."""
    inside = [parts for parts in folders if split_of(parts)]
    return any(map(class_of, inside)) or (inside != [] and all(split_of(parts) == "test" for parts in inside))


def _from_afew(path: Path, known: corpora.Corpus | None, strict: bool) -> Source:
    """Clips in AFEW's layout; where their names are those of a known corpus, they still say who it is."""
    splits, problems = (afew.find_clips(path), []) if strict else afew.scan(path)
    clips = [clip for split in SPLITS for clip in splits[split]]
    notes = [f"{str(path)!r}: AFEW's layout, {len(clips)} clips"]
    if known and known.name != "AFEW":
        parts = [corpora.parse(known.pattern, clip.id) or {} for clip in clips]
        clips = [replace(clip, group=f"{known.name} {part['group']}", corpus=known.name) if part else clip
                 for clip, part in zip(clips, parts, strict=True)]
        notes.append(_recognised(path, known, sum(map(bool, parts)), len(clips)))
    return Source(path, [(clip, clip.label or "") for clip in clips], notes, problems, afew=True)


def _from_names(source: Path, names: dict[Path, str], pattern: str, what: str,
                corpus: corpora.Corpus | None = None) -> Source:
    """The clips whose names fit the pattern; the others are problems."""
    found = Source(source, [])
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
                            corpus.labels.get(label, label) if corpus else label))
    if not found.clips:
        raise DataError(f"{str(source)!r}: expected {what}, got none among {len(names)} files"
                        + (f", such as {next(iter(names.values()))!r}" if names else ""))
    labels = Counter(meant for _, meant in found.clips)
    if corpus is None and max(labels.values()) < 2:
        raise DataError(f"{str(source)!r}: expected {what} with several clips a class, got {len(labels)} classes of one, "
                        f"such as {shortened(sorted(labels), 3)}")
    if corpus is None:
        found.notes.append(f"{str(source)!r}: {len(found.clips)} of {len(names)} names fit, {len(labels)} classes "
                           f"({shortened(sorted(labels), 8)}), {len({clip.group for clip, _ in found.clips} - {''})} groups")
    return found


def _from_class_folders(source: Path, names: dict[Path, str]) -> Source:
    """Clips in folders that are named after their classes."""
    clips = [(Clip(split_of(name.split("/")[:-2]) or "", name, path, label, "", _title(source)), label)
             for path, name in names.items() if path.parent != source and not split_of([label := path.parent.name])]
    labels = Counter(meant for _, meant in clips)
    if len(clips) < len(names) or not 2 <= len(labels) <= MOST or max(labels.values()) < 2:
        known = ", ".join(corpus.name for corpus in corpora.CORPORA)
        raise DataError(f"{str(source)!r}: {len(names)} files that are neither in AFEW's layout (Train/Angry/...), nor "
                        f"named as in {known}, nor in a folder a class: say what the names mean "
                        f"(--name '{{group}}_{{label}}_{{}}'), or give a table (clips.csv: path,label,group)")
    return Source(source, clips, [f"{str(source)!r}: a folder a class, {len(clips)} clips in {len(labels)} "
                                   f"({shortened(sorted(labels), 8)}); groups are not known"])


def shortened(names: Sequence[str], most: int = 6) -> str:
    """The first of some names, with dots for the others."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _title(source: Path) -> str:
    return os.path.basename(os.path.abspath(source))


def _from_table(path: Path) -> Source:
    """The rows of a table; every file has to be there."""
    rows = read_table(path)
    found, seen, used = Source(path.parent, []), {}, {}
    for number, cells in rows:
        def fault(column: str, expected: str, number: int = number, cells: dict[str, str] = cells) -> DataError:
            return DataError(f"{str(path)!r} row {number}, column {column}: expected {expected}, got "
                             f"{cells.get(column, '')!r}")
        file, features = (_beside(path, cells[column]) if cells.get(column) else None for column in ("path", "features"))
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
    found.root = Path(os.path.commonpath([clip.path.parent.absolute() for clip, _ in found.clips]))
    found.notes.append(f"{str(path)!r}: a table of {len(rows)} clips")
    return found


def _beside(table: Path, name: str) -> Path:
    """A file as a table names it, also where that was written on Windows."""
    path = table.parent / name
    return path if os.path.isfile(path) else table.parent / name.replace("\\", "/")


def _split(text: str, fault: DataError) -> str:
    """One of SPLITS, or "" for nothing; the fault is raised for another word."""
    split = split_of([text]) if text else ""
    if split is None:
        raise fault
    return split


