"""The AFEW data set as the EmotiW challenge distributed it: clips, classes and audio vectors in folders.

    Train_AFEW/Angry/000046280.avi      Val_AFEW/.../000149120.avi      Test_vid_Distribute/000123960.avi
    Train_Audio/Angry/000046280.arff    Val_audio.arff (many rows)      anywhere below the same root

A path says all there is to know. The split is the innermost folder that has one of the words train, val,
valid, validation or test in its name (`Train_AFEW_5_0`, `Test_vid_Distribute`); the class is the innermost
folder named like one, in any case; the id is the name of the file without its suffix. An id may occur in
two splits, so a clip is keyed by (split, id). Clips of the test split need no class.

Any container in `VIDEO_SUFFIXES` and any id is accepted, so that other data sets fit in the same tree. The clips of a
split without videos are its sounds, and of one without these its pictures; beside videos both are ignored.
Names are compared by `same_name`, and shown and written as they are on the disk.
Hidden files, `__MACOSX` and `._*` are ignored. A linked folder is followed once, and never into a loop.
Source: Dhall, Goecke, Lucey, Gedeon 2012, Collecting large, richly annotated facial-expression databases.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from ..files import faults_of
from .opensmile import ESCAPES, Row, Table, is_feature_table, read_features
from .table import is_clip_table
from .video import PICTURES, SOUND_SUFFIXES, VIDEO_SUFFIXES

SPLITS = ("train", "val", "test")
KINDS = (VIDEO_SUFFIXES, SOUND_SUFFIXES, PICTURES)         # of files that are clips: of a split, the first that it has
ESCAPED = str.maketrans({c: text for c, text in ESCAPES.items() if c != "\\"})       # of D:\new, read as Weka's escapes
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "test": "test", "testing": "test"}


@dataclass(frozen=True)
class Clip:
    """One recording; label: its class, None where none is given.

    group: who or what must not be on both sides of a split, "" where that is not known; corpus: where it is from; features:
    the file of its audio vector, where a table names one.
    """

    split: str
    id: str
    path: Path
    label: str | None
    group: str = ""
    corpus: str = "AFEW"
    features: Path | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other clip of the data set."""
        return self.split, self.id


@dataclass
class Features:
    """The audio vectors of a data set: D names, and (D,) float64 for each clip that has one.

    `sources` lists the files that held a vector for a clip; the first, by name, is the one used, and of several rows
    the last. `unclear` says of which clips that file holds several vectors: none of them is the clip's, and networks do
    without. `rivals` are lines on clips of which a later file holds another vector. `unmatched` lists (file, name of the
    row) without a clip. `disagreements` says where a feature file gives another class than the folder of the clip: the
    folder is believed. `problems` is what `load_features` raises, `conflicts` those of them that are about files with
    other columns. `skipped` are the columns that are no features.
    """

    names: tuple[str, ...] = ()
    first: Path | None = None       # the file that these are the columns of
    relation: str = ""              # what it says of its extractor, if it is ARFF
    vectors: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    sources: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    unmatched: list[tuple[Path, str | None]] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    unclear: dict[tuple[str, str], str] = field(default_factory=dict)
    rivals: list[str] = field(default_factory=list)
    skipped: dict[str, None] = field(default_factory=dict)

    @property
    def duplicates(self) -> dict[tuple[str, str], list[Path]]:
        """The clips with more than one feature file, and those files."""
        return {key: paths for key, paths in self.sources.items() if len(paths) > 1}

    def add(self, path: Path, folders: Sequence[str], table: Table, rows: Mapping[Clip, Sequence[Row]]) -> None:
        """Take these rows of a file below `folders`, unless its columns are others than those of the first."""
        if self.first is None:
            self.first, self.names, self.relation = path, table.names, table.relation
        if table.names != self.names:
            self.conflicts.append(_difference(self.first, self.names, path, table.names))
            self.problems.append(self.conflicts[-1])
            return
        self.skipped |= dict.fromkeys(table.skipped)
        for clip, own in rows.items():
            vector = self.vectors.setdefault(clip.key, own[-1].vector)
            sources = self.sources.setdefault(clip.key, [])
            if not all(np.array_equal(vector, row.vector, equal_nan=True) for row in own):
                if sources:
                    self.rivals.append(f"{str(path)!r} has another vector of clip {clip.id!r} than {str(sources[0])!r}")
                else:
                    self.unclear[clip.key] = (
                        f"{str(path)!r} has {len(own)} rows of clip {clip.id!r}: expected one; low-level features have a "
                        f"row a frame or segment: write functionals of the whole clip, and what is there twice only once")
            sources.append(path)
            given = class_of(folders)
            given = class_of([own[-1].label or ""]) if given is None else given
            if None not in (given, clip.label) and given != clip.label:
                self.disagreements.append(f"{str(path)!r} says {given}, the folder of {str(clip.path)!r} says {clip.label}")


def find_clips(root: str | os.PathLike) -> dict[str, list[Clip]]:
    """The clips of every split, sorted by id: the same order in every layout and on every file system.

    A split for which the tree has no folder is an empty list. DataError for no folder, no split, a split
    folder with neither clips nor features, a training or validation clip outside of a class folder, and
    two clips with one id in a split.
    """
    clips, problems = scan(root)
    _raise_first(problems)
    return clips


def scan(root: str | os.PathLike) -> tuple[dict[str, list[Clip]], list[str]]:
    """As `find_clips`, with the problems as lines; DataError remains for no folder and for no split at all."""
    root = Path(root)
    clips: list[Clip] = []
    problems, tops, empty = [], [], []
    paths: dict[str | None, list[Path]] = defaultdict(list)
    first: dict[str, Path] = {}                               # one folder of each split that has any
    for folder, files in walk(root):
        parts = folder.relative_to(root).parts
        tops += parts if len(parts) == 1 else ()
        split = split_of(parts)
        paths[split] += [folder / name for name in files]
        if split is not None:
            first.setdefault(split, folder)
    if not first:
        raise DataError(_no_split(root, tops, paths[None]))
    for split, folder in first.items():
        found, wrong = _clips_of(split, paths[split], root)
        clips, problems = clips + found, problems + wrong
        if not found and not any(map(_is_feature_file, paths[split])):
            empty.append(f"{str(folder)!r}: expected clips of the {split} split, got {_found(paths[split])}: unpack or "
                         f"remove it (clips are {', '.join(sorted(VIDEO_SUFFIXES))}, or sounds, or pictures)")
    clips.sort(key=lambda clip: clip.id)
    return {split: [clip for clip in clips if clip.split == split] for split in SPLITS}, problems + empty


def _clips_of(split: str, paths: Sequence[Path], root: Path) -> tuple[list[Clip], list[str]]:
    """The clips among the files of a split, each id once, and what is wrong with their places."""
    have, problems = {path.suffix.lower() for path in paths}, []
    found: dict[str, Clip] = {}
    kind = next((kind for kind in KINDS if not kind.isdisjoint(have)), set())
    for path in (path for path in paths if path.suffix.lower() in kind):
        clip = Clip(split, path.stem, path, class_of(path.relative_to(root).parts[:-1]))
        problems += _misplaced(clip, found.get(same_name(clip.id)))
        found.setdefault(same_name(clip.id), clip)
    return list(found.values()), problems


def _no_split(root: Path, tops: Sequence[str], paths: Sequence[Path]) -> str:
    """What is wrong with a folder of these folders and files."""
    where = f"above {root.name!r}" if split_of([root.resolve().name]) else "that holds them"
    return (f"{str(root)!r}: expected folders such as Train_AFEW, Val_AFEW, Test_AFEW, got "
            f"{', '.join(map(repr, tops[:5])) or 'no folder'} with {_found(paths)}: name the folder {where}, or sort the "
            f"clips into folders such as Train/Angry and Val/Angry")


def _found(paths: Sequence[Path]) -> str:
    """How many files of each suffix, the most frequent first."""
    suffixes = Counter(path.suffix.lower() for path in paths)
    return ", ".join(f"{n} {suffix or 'without a suffix'}" for suffix, n in suffixes.most_common(5)) or "none"


def _misplaced(clip: Clip, namesake: Clip | None) -> list[str]:
    """What is wrong with the place of a clip, one line at most; `namesake` has its id in its split, and came before."""
    suffix = clip.path.suffix.lower()
    if namesake:
        return [f"{str(namesake.path)!r} and {str(clip.path)!r} are two clips with the id {clip.id!r} in the "
                f"{clip.split} split: expected one; remove or rename the other"
                + f", or join the pictures of a clip (ffmpeg -framerate 25 -i %d{suffix} X.mp4)" * (suffix in PICTURES)]
    if clip.label is None and clip.split != "test":
        return [f"{str(clip.path)!r}: expected a {clip.split} clip in a folder named after its class "
                f"({', '.join(CLASSES)}), got none in its path: move it into one, or give --name "
                "'{split}/{label}/{}' where the folders are classes of your own"]
    return []


def same_name(name: str) -> str:
    """A name of a clip as it is compared: with composed accents (NFC), as macOS does not write them."""
    return unicodedata.normalize("NFC", name)


def missing_classes(clips: Sequence[Clip], classes: Sequence[str] = CLASSES) -> list[str]:
    """Those of the classes that none of these clips has: a model cannot learn them."""
    return [name for name in classes if all(clip.label != name for clip in clips)]


def one_class(labels: Sequence[Any]) -> Any:
    """The class of all these clips that have one, by name or number, from two on; None where there are several or none."""
    known = [label for label in labels if label is not None and label != -1]
    return known[0] if len(known) > 1 and len(set(known)) == 1 else None


def split_of(parts: Sequence[str]) -> str | None:
    """The split that the innermost telling component of a path names; a `train_val` tells nothing."""
    for part in reversed(parts):
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)
        splits = {SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS}
        if len(splits) == 1:
            return splits.pop()
    return None


def class_of(parts: Sequence[str]) -> str | None:
    """The class that the innermost component named like one gives, in any case."""
    names = {name.lower(): name for name in CLASSES}
    return next((names[part.lower()] for part in reversed(parts) if part.lower() in names), None)


def load_features(roots: Sequence[str | os.PathLike], clips: Sequence[Clip], splits: Sequence[str] = SPLITS,
                  on_error: str = "stop", log: Callable[[str], None] = print) -> Features | None:
    """The audio vectors of these clips, from every ARFF and openSMILE CSV file below the roots; None without any.

    A file whose name is a clip's id, or that a table names for it, holds that clip's vector. Any other file holds rows that
    are named after clips. A file under no split is for the one split that has the id, so `clips` are those of all
    splits; of a split that is not in `splits` no file is read. DataError for clips with different feature columns and for an
    unreadable file; with on_error "skip" that is logged and left out. Logged are also clips with several vectors, in rows
    (see `Features.unclear`) or in files, a class that is another than that of the clip's folder, and tables of other things.
    """
    features = scan_features(roots, clips, splits, log)
    if features is None:
        return None
    _raise_first(features.conflicts if on_error == "skip" else features.problems)
    for problem in features.problems:
        log(f"feature file left out: {problem}")
    for lines, outcome in ((list(features.unclear.values()), "not used"), (features.rivals, "the first is used")):
        if lines:
            log(f"warning: {lines[0]}{f', and so of {len(lines) - 1} more clips' if lines[1:] else ''}; {outcome}")
    for line in features.disagreements:
        log(f"warning: {line}; the folder is believed")
    return features


def scan_features(roots: Sequence[str | os.PathLike], clips: Sequence[Clip], splits: Sequence[str] = SPLITS,
                  note: Callable[[str], None] = lambda line: None) -> Features | None:
    """As `load_features`, with the problems listed instead of raised; a file with a problem is left out.

    note: gets a line on the tables that were looked at and are none of features.
    """
    features, index = Features(), _by_name(clips)
    named = {clip.features: clip for clip in clips if clip.features}
    files = {path: path.relative_to(root).parts[:-1] for root in map(Path, roots) for path in _feature_files(root, note)}
    files |= dict.fromkeys(named, ())
    for path, folders in files.items():
        split = split_of(folders) or split_of([path.stem])
        if split and split not in splits and path not in named:
            continue
        try:
            table = read_features(path)
            rows, unmatched = ({named[path]: table.rows}, []) if path in named else _rows_by_clip(path, table, split, index)
        except DataError as error:
            features.problems.append(str(error))
            continue
        features.unmatched += [(path, row.name) for row in unmatched]
        if rows:
            features.add(path, folders, table, rows)
    return features if files else None


def _feature_files(root: Path, note: Callable[[str], None]) -> list[Path]:
    """Those for `read_features`, sorted; `note` gets a line on the other tables."""
    files, others = [], []
    for path in sorted(folder / name for folder, names in walk(root) for name in names):
        if _is_feature_file(path):
            files.append(path)
        elif path.suffix.lower() in (".csv", ".npz", ".tsv") and not is_clip_table(path):
            others.append(path)
    if others:
        note(f"{len(others)} tables not taken for feature files, such as {str(others[0])!r}: expected .arff, or .csv with "
             f"';' between the values or openSMILE's columns (file, start, end, ..._sma...) and numbers below them")
    return files


def _rows_by_clip(path: Path, table: Table, split: str | None,
                  index: Mapping[tuple[int, str, str], list[Clip]]) -> tuple[dict[Clip, list[Row]], list[Row]]:
    """The rows of each clip that a file describes, and those without a clip.

    DataError: the file is named after one clip, and a row after another.
    """
    own, rows = _match(path.stem, split, index), defaultdict(list)
    matches = {name: _match(name or "", split, index) for name in {row.name for row in table.rows}}
    for row in table.rows:
        clip = matches[row.name]
        if own and clip not in (own, None):
            raise DataError(f"{str(path)!r}: expected features of clip {own.id!r}, as the file is named, "
                            f"got a row of {clip.id!r}: rename the file or correct the row")
        rows[own or clip].append(row)
    unmatched = rows.pop(None, [])
    return rows, unmatched


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of its files), sorted, without hidden files and without what macOS adds to archives."""
    if not root.is_dir():
        raise DataError(f"{str(root)!r}: expected a folder with the splits of a data set, got "
                        f"{'a file' if root.exists() else 'nothing of that name'}: name the folder itself")

    def stop(error: OSError) -> None:
        with faults_of(error.filename):
            raise error

    linked = {root.resolve()}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=stop):
        kept = []
        for path in sorted(Path(folder, name) for name in folders if name != "__MACOSX" and name[0] != "."):
            target = path.resolve()
            if path.is_symlink() and (target in linked or Path(folder).resolve().is_relative_to(target)):
                continue
            if path.is_symlink():
                linked.add(target)
            kept.append(path.name)
        folders[:] = kept
        yield Path(folder), [name for name in sorted(files) if name[0] != "."]


def _is_feature_file(path: Path) -> bool:
    """Whether it is for `read_features`: any ARFF file, and a CSV file whose first lines look like features."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return path.suffix.lower() == ".arff"
    try:
        with open(path, "rb") as file:
            lines = file.readline(1 << 20) + file.readline(1 << 20)
    except OSError:
        return True                     # read_features says what is wrong with it
    return is_feature_table(lines.decode("utf-8", "surrogateescape").removeprefix("\ufeff")) and not is_clip_table(path)


def _forms(name: str) -> tuple[str, ...]:
    """What names are compared by, the strictest first: as they are, composed, and without case."""
    return name, same_name(name), same_name(name).casefold()


def _by_name(clips: Sequence[Clip]) -> dict[tuple[int, str, str], list[Clip]]:
    """The clips by how strict a form of a name is, split and that form of their ids."""
    index = defaultdict(list)
    for clip in clips:
        for k, form in enumerate(_forms(clip.id)):
            index[k, clip.split, form].append(clip)
    return index


def _match(text: str, split: str | None, index: Mapping[tuple[int, str, str], list[Clip]]) -> Clip | None:
    """The clip that a file or a row is named after: by an id, or by a path or file name that holds one."""
    ids = []
    for name in (text, text.translate(ESCAPED)):
        base = re.split(r"[/\\]", name)[-1]
        ids += [name, base, os.path.splitext(base)[0]]
    for k, forms in enumerate(zip(*map(_forms, ids), strict=True)):
        for form in forms:
            clips = [clip for s in ([split] if split else SPLITS) for clip in index.get((k, s, form), [])]
            if len(clips) == 1:
                return clips[0]
    return None


def _difference(first: Path, names: Sequence[str], path: Path, others: Sequence[str]) -> str:
    """What tells the columns of two files apart, as a line: how many there are, or the first of another name."""
    if len(names) != len(others):
        what = f"{len(others)} feature columns, {str(first)!r} has {len(names)}"
    else:
        k = next(k for k in range(len(names)) if names[k] != others[k])
        what = f"the feature {others[k]!r} in column {k + 1}, {str(first)!r} has {names[k]!r}"
    return f"{str(path)!r} has {what}: expected the same for every clip; move one kind of file elsewhere"


def _raise_first(problems: Sequence[str]) -> None:
    """DataError with the first problem, and how many more there are; nothing where there is none."""
    if problems:
        more = f" (and {len(problems) - 1} more: run `emonet doctor`)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
