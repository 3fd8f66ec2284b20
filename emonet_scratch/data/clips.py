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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from .afew import SPLITS, Clip, same_name
from .folds import a_fifth, joined
from .labels import classes_of, parse_labels, rename, same
from .sources import Source, read_source, shortened
from .table import NO_TEXT
from .video import content_key

LEAST = 1000        # bytes: a smaller file is no recording that could be there twice


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
    DataError: a source without clips, a row of a table that is wrong, fewer than `least` classes, changes of labels that no
    clip has, two clips of one name, a group in two splits.
    """
    found = [read_source(source, name, strict) for source in dict.fromkeys(map(Path, sources))]
    clips, classes, changed = _labelled(found, parse_labels(labels), least)
    clips, drawn = _with_splits(clips)
    clips = _named(clips)
    shared = _shared_groups(clips, allow_shared_groups)
    notes, problems = ([line for source in found for line in getattr(source, kind)] for kind in ("notes", "problems"))
    return Collection(tuple(sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.id))), classes,
                      tuple(source.root for source in found), (*notes, *changed), drawn, tuple(problems), shared)


def _labelled(found: Sequence[Source], changes: Mapping[str, str | None], least: int) -> tuple[
        list[Clip], tuple[str, ...], list[str]]:
    """The clips that are not dropped, labelled by names of classes; the classes; lines on the changes."""
    every = [pair for source in found for pair in source.clips]
    if not changes and all(source.afew for source in found):
        return [clip for clip, _ in every], CLASSES, []                       # also those that it lacks
    notes, kept = _unknown(changes, every), []
    for clip, meant in every:
        label = rename(clip.label, meant, changes) if clip.label else None
        kept += [replace(clip, label=label)] if label or not clip.label else []
    if dropped := len(every) - len(kept):
        notes.append(f"{dropped} of {len(every)} clips are left out by their labels")
    return *_spelled(kept, least), notes


def _spelled(clips: Sequence[Clip], least: int) -> tuple[list[Clip], tuple[str, ...]]:
    """The clips, with one spelling of each class and group; and the classes. DataError: names that are no text."""
    for clip in clips:
        if NO_TEXT.search(f"{clip.label}{clip.group}"):
            raise DataError(f"{str(clip.path)!r}: expected a label and a group of text on one line in UTF-8, got "
                            f"{clip.label!r} and {clip.group!r}")
    classes = classes_of((clip.label for clip in clips if clip.label), least)
    spelled, groups = {same(name): name for name in classes}, {same(clip.group): clip.group for clip in reversed(clips)}
    return [replace(clip, label=clip.label and spelled[same(clip.label)], group=groups[same(clip.group)])
            for clip in clips], classes


def _unknown(changes: Mapping[str, str | None], every: Sequence[tuple[Clip, str]]) -> list[str]:
    """A line on the changes of labels that no clip has, as one text may serve several corpora; DataError: all of them."""
    have = {same(text) for clip, meant in every for text in (clip.label or "", meant)}
    unknown = sorted(changes.keys() - have)
    if not unknown:
        return []
    names = ", ".join(sorted({meant for _, meant in every if meant})[:20])
    line = f"--labels: no clip has the label {', '.join(map(repr, unknown))}; they have: {names}"
    if len(unknown) == len(changes):
        raise DataError(line)
    return [line]


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
    """The clips, each in a split, whole groups; and a line on a validation split that was drawn.

    A clip without a split follows its group. Of the others a fifth is drawn; and of the training clips, AFEW's excepted,
    where all clips have splits and none is for validation.
    """
    given = {clip.group: clip.split for clip in clips if clip.group and clip.split}
    clips = [replace(clip, split=clip.split or given.get(clip.group, "")) for clip in clips]
    free = _free(clips)
    if not free:
        return clips, ()
    _, labels = np.unique([f"{clips[k].corpus} {clips[k].label}" for k in free], return_inverse=True)     # a fifth of each
    together = joined([clips[k].group or None for k in free], _contents([clips[k].path for k in free]))
    out = a_fifth(labels, 0, together)                                        # the same for every seed
    for k, val in zip(free, out, strict=True):
        clips[k] = replace(clips[k], split="val" if val else "train")
    return clips, (_told([clips[k] for k in free]),)


def _told(clips: Sequence[Clip]) -> str:
    """The line on clips of which a part was drawn."""
    val = [clip for clip in clips if clip.split == "val"]
    names = sorted({clip.group for clip in val} - {""})
    who = f"those of {len(names)} groups ({shortened(names)})" if names else "drawn by class; groups are not known"
    return f"no split is given for validation: {len(val)} of {len(clips)} clips are the validation split, {who}"


def _free(clips: Sequence[Clip]) -> list[int]:
    """Numbers of the clips of which some may become the validation split."""
    free = [k for k, clip in enumerate(clips) if not clip.split]
    if not free and all(clip.split != "val" for clip in clips):
        free = [k for k, clip in enumerate(clips) if clip.split == "train" and clip.label and clip.corpus != "AFEW"]
        free = free if len({clips[k].group or k for k in free}) > 1 else []
    return free


def _contents(paths: Sequence[Path]) -> list[str | None]:
    """What tells recordings of the same bytes: only those are read of which another has the size; None for the others."""
    sizes = [path.stat().st_size for path in paths]
    often = Counter(sizes)
    return [content_key(path) if size > LEAST and often[size] > 1 else None for path, size in zip(paths, sizes, strict=True)]


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
