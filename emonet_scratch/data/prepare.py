"""From a collection of clips to splits in memory: decode, collect audio vectors, account for every clip."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, NoPicturesError
from ..shards import ALONE, Alone
from .afew import Clip, Features, load_features
from .batches import Split, merged
from .blas import one_blas_thread
from .clips import Collection, collect
from .extract import DEFAULT, EXTRACTORS, base_of, made_by
from .faces import SEARCH, import_cv2, read_face
from .folds import groups_of
from .left_out import attempt, attempt_all, usable
from .sound.is10 import RATE
from .sound.vary import vary
from .video import SOUND_SUFFIXES, FrameCache, Frames, Media, content_key, read_media

NOTHING = Media(None, None, None, "")
WORKERS = 1 + (os.cpu_count() or 1)     # threads: while ffmpeg decodes for one, the vector of another is computed


@dataclass
class Dataset:
    """Splits by name, names of the audio features, clips that were left out, the extractor, warnings as of Collection.

    extractor: what made the audio vectors, one of EXTRACTORS and the version of ffmpeg (see `made_by`), or "files" for files
    that name none of them; "" without sound.
    """

    splits: dict[str, Split]
    feature_names: tuple[str, ...]
    skipped: list[Clip]
    extractor: str = ""
    warnings: tuple[str, ...] = ()


def prepare(data: Collection | str | os.PathLike, wanted: Sequence[str] = ("train", "val"), *, video: bool = True,
            sound: bool = True, frame_size: int = 256, fit: str = "pad", max_frames: int | None = 250,
            cache: str | os.PathLike | None = None, on_error: str = "skip", extractor: str = DEFAULT,
            log: Callable[[str], None] = print, crop: str = "none", varied: int = 0, ranks: Alone = ALONE) -> Dataset:
    """Read the splits `wanted` of a data set, a collection of clips or the one source of one.

    video: decode frames; sound: collect audio vectors, from the data set's feature files or, where it has none at
    all, computed from the sound tracks by `extractor`. With video, a clip without sound, or with sound that cannot be
    decoded, has a missing vector, all NaN; the latter are named.
    frame_size, fit, max_frames: as in `read_clip`; crop: "faces" cuts the face out of each clip (see faces.py) and says
    how many clips have none; cache: a folder for decoded frames and computed vectors; varied: how many vectors of each sound
    as it might have been taken elsewhere (see sound/vary.py) are computed, too. A sound file has no frames.
    ranks: who else reads these: each decodes a part of the clips into the cache, which they share, before all read it.

    A clip that lacks what is asked for and a feature file that cannot be used are named; on_error "skip" leaves them
    out, "stop" raises DataError. DataError, too, for a wanted split without clips or without any that can be used.
    """
    if on_error not in ("skip", "stop"):
        raise ValueError(f"on_error must be 'skip' or 'stop', got {on_error!r}")
    faces = video and crop == "faces"
    if faces:
        import_cv2()                                                          # one line, not one for every clip
    if not isinstance(data, Collection):
        data = collect([data])
    clips, everything = _find(data, wanted)
    features, shown = None, ", ".join(repr(str(root)) for root in data.roots)
    if sound:
        features = load_features(data.roots, data.clips, wanted, on_error, log)
        if features is not None and not features.vectors:
            log("no row of the feature files is of one of the clips: none of them is used")
            features = None
        if features is None:
            log(f"no feature files below {shown}: computing {len(EXTRACTORS[extractor][1])} audio features from "
                f"sound tracks ({extractor})")
    pictures = dict(frame_size=frame_size, fit=fit, max_frames=max_frames, crop=crop) if video else None
    reader = Reader(pictures, sound, features, extractor, FrameCache(cache, optional=True) if cache else None,
                    on_error == "stop", varied)
    readings, skipped = _read_all(everything, reader, on_error, log, ranks)
    splits = {name: _split(data, shown, name, clips[name], readings) for name in wanted}
    _account(readings, skipped, faces, log)
    if not sound:
        return Dataset(splits, (), skipped, warnings=data.warnings)
    names = features.names if features else EXTRACTORS[extractor][1]
    return Dataset(splits, names, skipped, extractor_of(features, extractor), (*data.warnings, *_shared(splits)))


def _shared(splits: Mapping[str, Split]) -> list[str]:
    """A line where clips of two splits have the same bytes or the same audio vector, which no name of a group tells."""
    whole = merged(splits)
    of = np.repeat(list(splits), [len(split) for split in splits.values()])
    groups = groups_of(replace(whole, groups=None))
    twice = [g for g in np.unique(groups) if len(set(of[groups == g])) > 1]
    names = [" = ".join(f"{of[i]} {whole.ids[i]!r}" for i in np.flatnonzero(groups == g)[:3]) for g in twice[:1]]
    return [f"{len(twice)} recordings are in several splits, such as {names[0]}: scores do not hold"] if twice else []


def _find(data: Collection, wanted: Sequence[str]) -> tuple[dict[str, list[Clip]], list[Clip]]:
    """The clips of the wanted splits, and all of them in a row; DataError where one of these has none."""
    clips = {name: data.split(name) for name in wanted}
    for name in wanted:
        if not clips[name]:
            shown = ", ".join(repr(str(root)) for root in data.roots)
            raise DataError(f"{shown}: expected clips of the {name} split, got none: a folder has to have "
                            f"{name!r} in its name, or a row of the table in its column split (see `emonet doctor`)")
    return clips, [clip for name in wanted for clip in clips[name]]


@dataclass(frozen=True)
class Reading:
    """What was read of a clip: frames (T, H, W, 3) uint8, perhaps in a file, its audio vector (D,), sha256 of the
    file; each only if asked for.

    fault: why its sound cannot be decoded, "" where it can or where there is none. face: whether a face was found, if any
    was looked for. varied (K, D): vectors of the varied sound. sights: what a trunk has seen in the frames, where it has.
    """

    frames: Frames | None = None
    audio: np.ndarray | None = None
    key: str = ""
    fault: str = ""
    face: bool = True
    varied: np.ndarray | None = None
    sights: np.ndarray | None = None


@dataclass(frozen=True)
class Reader:
    """Reads what a network sees and hears of a clip, in one start of ffmpeg, or from the cache.

    pictures: frame_size, fit, max_frames, crop as of `prepare`; None: they are not looked at, and no more is sound without
    `sound`. features: vectors from files; without, they are computed by `extractor`.
    strict: a clip without a vector of use in the files is an error beside pictures, too.
    """

    pictures: Mapping[str, Any] | None
    sound: bool
    features: Features | None = None
    extractor: str = DEFAULT
    cache: FrameCache | None = None
    strict: bool = False
    varied: int = 0

    def __call__(self, clip: Clip) -> Reading:
        """DataError: pictures that cannot be read; without pictures, a clip that has no vector.

        With pictures, a clip whose sound is missing or cannot be decoded, or that has no vector of use in the feature
        files, has a vector that is all NaN.
        """
        given, fault = None, ""
        if self.sound and self.features is not None:
            try:
                given = audio_vector(clip, self.features, missing=bool(self.pictures))
            except DataError as error:
                if not self.pictures or self.strict:
                    raise
                given, fault = np.full(len(self.features.names), np.nan), str(error)
            if not self.pictures:
                return Reading(audio=given)
        reading = self._read(clip.path, listen=self.sound and given is None)
        if self.sound and not self.pictures and np.isnan(reading.audio).all():
            raise DataError(f"{str(clip.path)!r}: {reading.fault}" if reading.fault else
                            f"{str(clip.path)!r} has no sound track, and there are no feature files")
        return reading if given is None else replace(reading, audio=given, fault=fault)

    def _read(self, path: Path, listen: bool) -> Reading:
        content = content_key(path)
        key = self._key(content, extractor=self.extractor, **{"varied": self.varied} if self.varied else {})
        names = EXTRACTORS[self.extractor][1]
        size = (1 + self.varied) * len(names)
        known = self.cache.load(key, (), np.float64, size, size) if self.cache and listen else None
        audio = np.full(size, np.inf) if known is None else np.asarray(known)
        whole = np.isfinite(audio).all() or np.isnan(audio).all()
        rate = RATE if listen and not whole else None
        media, frames, face = self._see(path, content, rate)
        if rate:
            audio = np.full(size, np.nan) if media.sound is None else self._vectors(media.sound, content)
            if self.cache and not media.fault:
                self.cache.store(key, audio)
        own, *others = audio.reshape(-1, 1, len(names))
        heard = (own[0], np.concatenate(others) if others else None) if listen else (None, None)
        return Reading(frames, heard[0], content if self.pictures else "", media.fault, face, heard[1])

    def _vectors(self, sound: np.ndarray, content: str) -> np.ndarray:
        """Of the sound, and of its variations, which follow from the content of its file, in a row: ((1 + varied) D,)."""
        seeds = [[k, int(content[:12], 16)] for k in range(self.varied)]
        others = (vary(sound, np.random.default_rng(seed), RATE) for seed in seeds)
        return np.concatenate([EXTRACTORS[self.extractor][0](x) for x in (sound, *others)])

    def _see(self, path: Path, content: str, rate: int | None) -> tuple[Media, Frames | None, bool]:
        """(what ffmpeg has read, with sound if there is a rate; frames; whether a face was found)."""
        if not self.pictures:
            return _hear(path, rate), None, True
        size = self.pictures["frame_size"]
        nothing = np.empty((0, size, size, 3), np.uint8)
        if self.sound and path.suffix.lower() in SOUND_SUFFIXES:
            return _hear(path, rate), nothing, False
        try:
            return self._look(path, content, rate)
        except NoPicturesError:
            if not self.sound:
                raise
            return _hear(path, rate), nothing, False

    def _look(self, path: Path, content: str, rate: int | None) -> tuple[Media, Frames | None, bool]:
        size, most, fit = (self.pictures[name] for name in ("frame_size", "max_frames", "fit"))
        if self.pictures["crop"] == "faces":
            media = read_media(path, SEARCH, max_frames=most, rate=rate) if rate else NOTHING
            return media, *read_face(path, size, max_frames=most, cache=self.cache, frames=media.frames)
        key = self._key(content, size=size, max_frames=most, fit=fit)
        frames = self.cache.load(key, (size, size, 3), most=most) if self.cache else None
        if frames is not None:
            media = attempt(_hear, path, rate)
            return Media(None, None, None, str(media)) if isinstance(media, DataError) else media, frames, True
        media = read_media(path, size, max_frames=most, fit=fit, rate=rate)
        return media, self.cache.keep(key, media.frames) if self.cache else media.frames, True

    def _key(self, content: str, **settings: Any) -> str:
        return self.cache.key_of(content, **settings) if self.cache else ""


def _hear(path: Path, rate: int | None) -> Media:
    return read_media(path, rate=rate) if rate else NOTHING


def _read_all(clips: Sequence[Clip], read: Reader, on_error: str, log: Callable[[str], None],
              ranks: Alone = ALONE) -> tuple[dict[Clip, Reading], list[Clip]]:
    """The readings of the clips, many at once; and the clips that are left out."""
    if read.cache and ranks.size > 1:
        _read_all([clips[k] for k in ranks.owned(len(clips))], read, "skip", lambda line: None)
        ranks.wait()
    with one_blas_thread(), closing(attempt_all(read, clips, WORKERS)) as results:
        readings = dict(usable(zip(clips, results, strict=True), on_error, log))
    for clip, reading in readings.items():
        if reading.fault:
            name = repr(str(clip.path))
            log(f"without sound: {'' if name in reading.fault else f'{name}: '}{reading.fault}")
    return readings, [clip for clip in clips if clip not in readings]


def _account(readings: dict[Clip, Reading], skipped: Sequence[Clip], faces: bool, log: Callable[[str], None]) -> None:
    """How many clips lack what."""
    number = len(readings) + len(skipped)
    faceless = sum(not reading.face for reading in readings.values())
    faulty = sum(bool(reading.fault) for reading in readings.values())
    silent = sum(r.audio is not None and np.isnan(r.audio).all() for r in readings.values()) - faulty
    for applies, line in (
            (faces, f"faces: none found in {faceless} of {number} clips, which are without pictures to the networks"),
            (skipped, f"{len(skipped)} of {number} clips were left out"),
            (faulty, f"{faulty} of {number} clips have no sound or vector that can be read: "
             f"their audio vectors are missing"),
            (silent, f"{silent} of {number} clips have no sound: their audio vectors are missing")):
        if applies:
            log(line)


def _split(data: Collection, shown: str, name: str, clips: Sequence[Clip], readings: dict[Clip, Reading]) -> Split:
    """Those of the clips that were read; DataError where none was."""
    used = [clip for clip in clips if clip in readings]
    if not used:
        raise DataError(f"{shown}: none of the {len(clips)} clips of the {name} split can be used")
    frames, audio, keys = ([getattr(readings[clip], name) for clip in used] for name in ("frames", "audio", "key"))
    return Split([clip.id for clip in used], np.array([data.number(clip) for clip in used]),
                 None if frames[0] is None else frames, None if audio[0] is None else np.array(audio), keys,
                 [clip.group for clip in used], [clip.corpus for clip in used], data.classes,
                 None if readings[used[0]].varied is None else np.array([readings[clip].varied for clip in used]))


def extractor_of(features: Features | None, extractor: str = DEFAULT) -> str:
    """What made the vectors: `extractor` and this ffmpeg without feature files, else what these say, or "files"."""
    if features is None:
        return made_by(extractor)
    return features.relation if base_of(features.relation) in EXTRACTORS else "files"


def audio_vector(clip: Clip, features: Features, missing: bool = False) -> np.ndarray:
    """The (D,) vector of a clip, from the feature files. DataError where it has none.

    missing: a vector of missing values only is no error.
    """
    name = str(Path(clip.path))
    if clip.key not in features.vectors:
        raise DataError(f"{name!r} has no audio vector in the feature files")
    if clip.key in features.unclear:
        raise DataError(features.unclear[clip.key])
    vector = features.vectors[clip.key]
    if not np.isfinite(vector).all() and not (missing and np.isnan(vector).all()):
        bad = features.names[int(np.flatnonzero(~np.isfinite(vector))[0])]
        raise DataError(f"{name!r}: its audio vector has no number for the feature {bad!r}")
    return vector
