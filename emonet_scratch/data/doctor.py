"""What a data set holds and what is wrong with it, in lines that a person reads before training on it."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from .afew import SPLITS, Clip, Features, missing_classes, one_class, scan, scan_features
from .left_out import attempt_all
from .video import Probe, content_key, read_media

FPS = 25                # lengths are counted in frames at this rate, as the model sees them
RATE = 16000            # samples a second, as for features: what is heard there is heard here
LONGEST = 3600          # seconds: a clip that goes on for longer has time stamps that leap, or is none
SHOWN = 20              # items of one kind that are named; the rest is counted


@dataclass
class Report:
    """`facts` are lines; `findings` are (what is wrong, the items it concerns)."""

    facts: list[str] = field(default_factory=list)
    findings: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """How many items have something wrong; 0 for a clean data set."""
        return sum(len(items) for _, items in self.findings)

    def add(self, what: str, items: Iterable[str]) -> None:
        """Note a finding, unless there is no item."""
        items = list(items)
        if items:
            self.findings.append((what, items))

    def lines(self) -> list[str]:
        """The report as plain text: facts, then findings with their items indented, then the count."""
        lines = list(self.facts)
        for what, items in self.findings:
            lines.append(f"! {what}: {len(items)}")
            lines += [f"    {item}" for item in items[:SHOWN]]
            lines += [f"    and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
        return [*lines, f"problems found: {self.problems}"]


@dataclass
class Reading:
    """One clip, read to its end: sha256 of the file, header, number of frames at FPS, what is gone, if it is cut, and why
    its sound cannot be decoded, if it cannot.
    """

    clip: Clip
    key: str
    header: Probe
    frames: int
    cut: str
    fault: str


def examine(root: str | os.PathLike, read: bool = True) -> Report:
    """Look at everything below root; with `read` every clip is decoded and hashed, which takes minutes for AFEW.

    DataError only where there is nothing to examine: no such folder, no folder that names a split.
    """
    report = Report()
    clips, problems = scan(root)
    every = [clip for split in SPLITS for clip in clips[split]]
    readings, unreadable = _read_all(every) if read else ([], [])
    report.facts.append(f"{os.fspath(root)!r}: {len(every)} clips")
    for split in SPLITS:
        report.facts += _describe(split, clips[split], [r for r in readings if r.clip.split == split])
    report.add("clips and folders out of place", problems)
    if clips["train"]:
        report.add("classes without a training clip", missing_classes(clips["train"]))
    report.add("splits of one class only", (
        f"{split}: all {len(clips[split])} clips are {CLASSES[label]}: nothing tells whether others are recognised"
        for split in SPLITS for label in [one_class([clip.label for clip in clips[split]])] if label is not None))
    report.add("clips that cannot be read", unreadable)
    _check_clips(report, Path(root), readings)
    _check_features(report, Path(root), every, scan_features(root, clips, note=report.facts.append))
    return report


def _read_all(clips: Sequence[Clip]) -> tuple[list[Reading], list[str]]:
    """What is read of the clips, and why it is not of the others."""
    results = list(attempt_all(_read, clips, os.cpu_count() or 1))            # the work is done by ffmpeg, not by threads
    return [r for r in results if isinstance(r, Reading)], [str(r) for r in results if isinstance(r, DataError)]


def _read(clip: Clip) -> Reading:
    key, media = content_key(clip.path), read_media(clip.path, 16, FPS, LONGEST * FPS + 1, rate=RATE)
    if len(media.frames) > LONGEST * FPS:
        raise DataError(f"{str(clip.path)!r}: pictures for more than {LONGEST} seconds: cut it into clips")
    frames, sound = len(media.frames), 0 if media.sound is None else len(media.sound)
    cut = _cut(clip.path, media.probe.duration, frames / FPS, sound / RATE)
    return Reading(clip, key, media.probe, frames, cut, media.fault)


def _cut(path: Path, duration: float, pictures: float, sound: float) -> str:
    """How much of a clip is gone, "" where nothing is: what still decodes is used, so reading it raises no error.

    Of an .avi the file says how many bytes it was to have, and ffmpeg guesses `duration` from those that are there. Other
    headers say how many seconds the longest stream was to have, so a clip is whole if its pictures or its sound have them.
    """
    with open(path, "rb") as file:
        head, size = file.read(8), file.seek(0, os.SEEK_END)
    declared = int.from_bytes(head[4:], "little") + 8
    if head[:4] == b"RIFF" and head[4:] != b"\xff" * 4 and declared > size:      # all ones: a writer that cannot seek
        return f"{size} of {declared} bytes are there, {pictures:.2f} seconds of pictures"
    least = 0.9 * duration - 0.2                     # headers round, and count the silence around compressed sound
    if pictures < least and sound < least:
        return f"{duration:.2f} seconds by its header, {pictures:.2f} seconds of pictures"
    return ""


def _describe(split: str, clips: Sequence[Clip], readings: Sequence[Reading]) -> list[str]:
    """The lines on one split: number of clips and their classes, lengths, sizes of the pictures."""
    if not clips:
        return [f"{split}: no clips"]
    counts = Counter(clip.label for clip in clips)
    classes = ", ".join(f"{name} {counts[label]}" for label, name in enumerate(CLASSES))
    lines = [f"{split}: {len(clips)} clips: " + (classes if set(counts) != {None} else "without classes")]
    if readings:
        frames = np.array([reading.frames for reading in readings])
        low, middle, high = frames.min(), np.median(frames), frames.max()
        lines.append(f"{split}: shortest, median, longest clip {low / FPS:.2f}, {middle / FPS:.2f}, "
                     f"{high / FPS:.2f} seconds: {low}, {middle:g}, {high} frames at {FPS} a second")
        sizes = Counter(_size(reading.header) for reading in readings)
        lines.append(f"{split}: pictures " + ", ".join(f"{size} in {n}" for size, n in sizes.most_common(5))
                     + (f" and {len(sizes) - 5} more sizes" if len(sizes) > 5 else ""))
    return lines


def _size(header: Probe) -> str:
    """Width and height in pixels, as coded and, where that differs, as shown."""
    shown = f"{header.display_width}x{header.display_height}"
    coded = f"{header.width}x{header.height}"
    return coded if coded == shown else f"{coded} (shown as {shown})"


def _check_clips(report: Report, root: Path, readings: Sequence[Reading]) -> None:
    """Clips cut short or without sound, and those that hold the same bytes: between splits they spoil what is measured."""
    report.add("clips cut short", (f"{_name(r.clip, root)}: {r.cut}" for r in readings if r.cut))
    report.add("clips whose sound cannot be decoded", (f"{_name(r.clip, root)}: {r.fault}" for r in readings if r.fault))
    report.add("clips without sound", (_name(r.clip, root) for r in readings if not r.header.has_sound))
    between, within = [], []
    same = defaultdict(list)
    for reading in readings:
        same[reading.key].append(reading.clip)
    for clips in same.values():
        names = " = ".join(_name(clip, root) for clip in clips)
        if len({clip.split for clip in clips}) > 1:
            between.append(names)
        elif len(clips) > 1:
            within.append(names)
    report.add("the same content in several splits", between)
    report.add("the same content twice in one split", within)


def _check_features(report: Report, root: Path, clips: Sequence[Clip], features: Features | None) -> None:
    """Which clips have no vector or several, and the feature files and rows that serve none."""
    if features is None:
        report.facts.append("features: no feature file (.arff, openSMILE's .csv) below this folder")
        return
    have = Counter(clip.split for clip in clips if clip.key in features.vectors and clip.key not in features.unclear)
    report.facts.append(f"features: {len(features.names)} columns; " + ", ".join(
        f"{split} {have[split]} of {sum(clip.split == split for clip in clips)} clips" for split in SPLITS))
    if features.skipped:
        report.facts.append(f"features: columns that are none: {', '.join(map(repr, features.skipped))}")
    report.add("feature files that cannot be used", features.problems)
    report.add("clips with several rows in their feature file", features.unclear.values())
    report.add("clips without features", (_name(c, root) for c in clips if c.key not in features.vectors))
    report.add("clips with several feature files", (
        f"{split} {id!r}: {', '.join(repr(str(path.relative_to(root))) for path in paths)}; the first is used"
        for (split, id), paths in sorted(features.duplicates.items())))
    report.add("feature files of another class than the clip", features.disagreements)
    report.add("feature rows without a clip", (
        repr(str(path.relative_to(root))) + ("" if name is None else f", row {name!r}")
        for path, name in features.unmatched))
    if features.vectors:
        _check_values(report, features)


def _check_values(report: Report, features: Features) -> None:
    """Columns with values that are no numbers, and those that say nothing about the training clips."""
    keys = sorted(features.vectors)
    values = np.stack([features.vectors[key] for key in keys])                          # (clips, D)
    bad = ~np.isfinite(values)
    report.add("feature columns with missing or infinite values", (
        f"{features.names[k]!r}: in {bad[:, k].sum()} of {len(keys)} clips, such as {keys[bad[:, k].argmax()]}"
        for k in np.flatnonzero(bad.any(axis=0))))
    train = values[[key[0] == "train" for key in keys]]
    constant = np.flatnonzero((train == train[:1]).all(axis=0)) if len(train) > 1 else []
    if len(constant):
        names = ", ".join(repr(features.names[k]) for k in constant[:5]) + ", ..." * (len(constant) > 5)
        report.facts.append(f"features: {len(constant)} columns are constant in train: {names}")


def _name(clip: Clip, root: Path) -> str:
    return repr(str(clip.path.relative_to(root)))
