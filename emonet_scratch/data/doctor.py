"""What a data set holds and what is wrong with it, in lines that a person reads before training on it."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import DataError
from .afew import SPLITS, Clip, Features, missing_classes, one_class, scan_features
from .clips import Collection, collect
from .left_out import attempt_all
from .near import SAME, picture_print, similarities, sound_print
from .video import PICTURES, SOUND_SUFFIXES, Probe, content_key, read_media

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
    """One clip, read to its end: sha256 of the file, header (None of a sound alone), seconds at FPS, what is gone, if it is
    cut, why its sound cannot be decoded, if it cannot, and what near-duplicates are known by: prints of sound and pictures.
    """

    clip: Clip
    key: str
    header: Probe | None
    seconds: float
    cut: str
    fault: str
    prints: tuple[np.ndarray, np.ndarray]


def examine(data: Collection | str | os.PathLike, read: bool = True) -> Report:
    """Look at all clips of a data set; with `read` every one is decoded and hashed, which takes minutes for AFEW."""
    if not isinstance(data, Collection):
        data = collect([data], strict=False, allow_shared_groups=True)
    report = Report([*data.notes, *data.drawn])
    readings, unreadable = _read_all(data.clips) if read else ([], [])
    corpora = Counter(clip.corpus for clip in data.clips)
    if len(corpora) > 1:
        report.facts.append("corpora: " + ", ".join(f"{name} {n}" for name, n in corpora.items()))
    for split in SPLITS:
        report.facts += _describe(split, data.split(split), data.classes, [r for r in readings if r.clip.split == split])
    report.add("files, clips and folders out of place", data.problems)
    report.add("groups in several splits", data.warnings)
    if missing := missing_classes(data.split("train"), data.classes):
        report.facts.append(f"train: no clip of {', '.join(missing)}")
    report.add("splits of one class only", (
        f"{split}: all {len(data.split(split))} clips are {label}: nothing tells whether others are recognised"
        for split in SPLITS for label in [one_class([clip.label for clip in data.split(split)])] if label is not None))
    report.add("clips that cannot be read", unreadable)
    root = data.roots[0] if len(data.roots) == 1 else Path()
    _check_clips(report, root, readings)
    _check_features(report, root, data.clips, scan_features(data.roots, data.clips, note=report.facts.append))
    return report


def _read_all(clips: Sequence[Clip]) -> tuple[list[Reading], list[str]]:
    """What is read of the clips, and why it is not of the others."""
    results = list(attempt_all(_read, clips, os.cpu_count() or 1))            # the work is done by ffmpeg, not by threads
    return [r for r in results if isinstance(r, Reading)], [str(r) for r in results if isinstance(r, DataError)]


def _read(clip: Clip) -> Reading:
    size = None if clip.path.suffix.lower() in SOUND_SUFFIXES else 16
    key, media = content_key(clip.path), read_media(clip.path, size, FPS, LONGEST * FPS + 1, rate=RATE)
    frames, sound = (0 if a is None else len(a) for a in (media.frames, media.sound))
    if max(frames / FPS, sound / RATE) > LONGEST:
        raise DataError(f"{str(clip.path)!r}: more than {LONGEST} seconds: cut it into clips")
    if size is None and (media.fault or not sound):
        raise DataError(f"{str(clip.path)!r}: {media.fault or 'it has no sound'}")
    cut = _cut(clip.path, media.probe.duration, frames / FPS, sound / RATE) if size else ""
    return Reading(clip, key, media.probe if size else None, max(frames / FPS, sound / RATE if size is None else 0), cut,
                   media.fault, (sound_print(media.sound), picture_print(media.frames)))


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


def _describe(split: str, clips: Sequence[Clip], names: Sequence[str], readings: Sequence[Reading]) -> list[str]:
    """The lines on one split: number of clips and their classes, lengths, sizes of the pictures."""
    if not clips:
        return [f"{split}: no clips"]
    counts = Counter(clip.label for clip in clips)
    classes = ", ".join(f"{name} {counts[name]}" for name in names)
    lines = [f"{split}: {len(clips)} clips: " + (classes if set(counts) != {None} else "without classes")]
    if readings:
        seconds = np.array([reading.seconds for reading in readings])
        low, middle, high = seconds.min(), np.median(seconds), seconds.max()
        lines.append(f"{split}: shortest, median, longest clip {low:.2f}, {middle:.2f}, {high:.2f} seconds: "
                     f"{low * FPS:.0f}, {middle * FPS:g}, {high * FPS:.0f} frames at {FPS} a second")
        sizes = Counter("none" if reading.header is None else _size(reading.header) for reading in readings)
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
    report.add("clips without sound", (
        _name(r.clip, root) for r in readings if r.header and not r.header.has_sound
        and r.clip.path.suffix.lower() not in PICTURES))
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
    report.add("the same recording in several splits, not byte for byte", _near(root, readings))


def _near(root: Path, readings: Sequence[Reading]) -> list[str]:
    """A line for each pair of clips in different splits that are one recording: encoded anew, scaled, trimmed, louder."""
    found: dict[tuple[int, int], str] = {}
    heard = all(len(r.prints[0]) for r in readings)                           # then pictures have nothing to say
    for kind, what in enumerate(("sound",) if heard else ("sound", "pictures")):
        for split, others in (("train", ("val", "test")), ("val", ("test",))):
            sides = [[*{r.key: i for i, r in enumerate(readings) if len(r.prints[kind]) and r.clip.split in side}.values()]
                     for side in ((split,), others)]                          # of equal files one
            for i, j, score in similarities(*([readings[k].prints[kind] for k in side] for side in sides)):
                pair = sides[0][i], sides[1][j]
                if score >= SAME and _says(kind, readings[pair[0]], readings[pair[1]]):
                    a, b = (_name(readings[k].clip, root) for k in pair)
                    found.setdefault(pair, f"{a} = {b}: {what}, {score:.2f}")
    return list(found.values())


def _says(kind: int, a: Reading, b: Reading) -> bool:
    """Whether prints of this kind decide on two clips: where both are heard, sounds do, for people nod and turn alike."""
    return a.key != b.key and (kind == 0 or not (len(a.prints[0]) and len(b.prints[0])))


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
        f"{split} {id!r}: {', '.join(_shown(path, root) for path in paths)}; the first is used"
        for (split, id), paths in sorted(features.duplicates.items())))
    report.add("feature files of another class than the clip", features.disagreements)
    report.add("feature rows without a clip", (
        _shown(path, root) + ("" if name is None else f", row {name!r}")
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
    return _shown(clip.path, root)


def _shown(path: Path, root: Path) -> str:
    return repr(str(path.relative_to(root) if path.is_relative_to(root) else path))
