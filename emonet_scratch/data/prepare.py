"""From a folder in AFEW's layout to splits in memory: decode, collect audio vectors, account for every clip."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DataError
from .afew import Clip, Features, find_clips, load_features, missing_classes
from .batches import Split
from .extract import DEFAULT, EXTRACTORS, vector_of
from .faces import import_cv2, read_face
from .left_out import attempt, usable
from .video import FrameCache, content_key, read_clip


@dataclass
class Dataset:
    """Splits by name, the names of the audio features, the clips that were left out; and the extractor.

    extractor: what made the audio vectors, one of EXTRACTORS, or "files" for files that name none of them; "" without sound.
    """

    splits: dict[str, Split]
    feature_names: tuple[str, ...]
    skipped: list[Clip]
    extractor: str = ""


def prepare(root: str | os.PathLike, wanted: Sequence[str] = ("train", "val"), *, video: bool = True, sound: bool = True,
            frame_size: int = 256, fit: str = "pad", max_frames: int | None = 250, cache: str | os.PathLike | None = None,
            on_error: str = "skip", extractor: str = DEFAULT, log: Callable[[str], None] = print,
            crop: str = "none") -> Dataset:
    """Read the splits `wanted` of the data set at `root`.

    video: decode frames; sound: collect audio vectors, from the data set's feature files or, where it has none at
    all, computed from the sound tracks by `extractor`. With video, a clip without sound has a missing vector, all NaN.
    frame_size, fit, max_frames: as in `read_clip`; crop: "faces" cuts the face out of each clip (see faces.py) and says
    how many clips have none; cache: a folder for decoded frames.

    A clip that lacks what is asked for and a feature file that cannot be used are named; on_error "skip" leaves them
    out, "stop" raises DataError. DataError, too, for a wanted split without clips or without any that can be used.
    """
    if on_error not in ("skip", "stop"):
        raise ValueError(f"on_error must be 'skip' or 'stop', got {on_error!r}")
    faces = video and crop == "faces"
    if faces:
        import_cv2()                                                          # one line, not one for every clip
    clips, everything = _find(root, wanted, log)
    features, see, hear, faceless = None, None, None, []
    if sound:
        features = load_features(root, clips, wanted, on_error, log)
        if features is None:
            log(f"no feature files below {str(root)!r}: computing {len(EXTRACTORS[extractor][1])} audio features from "
                f"sound tracks ({extractor})")
        hear = partial(audio_vector, features=features, extractor=extractor, missing=video)
    if video:
        see = partial(clip_frames, frame_size=frame_size, fit=fit, max_frames=max_frames, crop=crop,
                      cache=FrameCache(cache, optional=True) if cache else None, faceless=faceless)
    readings, skipped = _read_all(everything, see, hear, on_error, log)
    splits = {name: _split(root, name, clips[name], readings) for name in wanted}
    if faces:
        log(f"faces: none found in {len(faceless)} of {len(everything)} clips, of which the whole frames are used")
    if skipped:
        log(f"{len(skipped)} of {len(everything)} clips were left out")
    if not sound:
        return Dataset(splits, (), skipped)
    silent = sum(int(np.isnan(split.audio).all(axis=1).sum()) for split in splits.values())
    if silent:
        log(f"{silent} of {len(everything)} clips have no sound: their audio vectors are missing")
    names = features.names if features else EXTRACTORS[extractor][1]
    return Dataset(splits, names, skipped, extractor_of(features, extractor))


def _find(root: str | os.PathLike, wanted: Sequence[str],
          log: Callable[[str], None]) -> tuple[dict[str, list[Clip]], list[Clip]]:
    """The clips of every split, and those of the wanted ones in a row; DataError where one of these has none."""
    clips = find_clips(root)
    for name in wanted:
        if not clips[name]:
            folders = ", ".join(sorted(repr(p.name) for p in Path(root).iterdir() if p.is_dir())[:8])
            raise DataError(f"{str(root)!r}: expected clips of the {name} split, got none; its folders are {folders}: one "
                            f"has to have {name!r} in its name (see `emonet doctor`)")
    if "train" in wanted and (missing := missing_classes(clips["train"])):
        log(f"warning: the training split has no clip of {', '.join(missing)}: no clip will be rightly called that")
    return clips, [clip for name in wanted for clip in clips[name]]


def _read_all(clips: Sequence[Clip], see: Callable[[Path], np.ndarray] | None, hear: Callable[[Clip], np.ndarray] | None,
              on_error: str, log: Callable[[str], None]) -> tuple[dict[Clip, tuple], list[Clip]]:
    """Of each clip (frames by `see`, vector by `hear`, sha256), many at once; and the clips that are left out."""
    def read(clip: Clip) -> tuple[np.ndarray | None, np.ndarray | None, str]:
        frames = see(clip.path) if see else None
        audio = hear(clip) if hear else None
        return frames, audio, content_key(clip.path) if see else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = zip(clips, pool.map(partial(attempt, read), clips), strict=True)
        bar = tqdm(results, "reading clips", len(clips), unit="clip", leave=False, disable=None)
        try:
            readings = dict(usable(bar, on_error, log))
        finally:
            pool.shutdown(cancel_futures=True)
    return readings, [clip for clip in clips if clip not in readings]


def _split(root: str | os.PathLike, name: str, clips: Sequence[Clip], readings: dict[Clip, tuple]) -> Split:
    """Those of the clips that were read; DataError where none was."""
    used = [clip for clip in clips if clip in readings]
    if not used:
        raise DataError(f"{str(root)!r}: none of the {len(clips)} clips of the {name} split can be used")
    frames, audio, keys = map(list, zip(*(readings[clip] for clip in used), strict=True))
    labels = np.array([-1 if clip.label is None else clip.label for clip in used])
    return Split([clip.id for clip in used], labels, None if frames[0] is None else frames,
                 None if audio[0] is None else np.array(audio), keys)


def clip_frames(path: str | os.PathLike, frame_size: int, fit: str = "pad", max_frames: int | None = None,
                crop: str = "none", cache: FrameCache | None = None, faceless: list | None = None) -> np.ndarray:
    """The frames of one clip as a network with these settings sees them; a path without a face is added to `faceless`."""
    if crop == "none":
        return read_clip(path, frame_size, max_frames=max_frames, fit=fit, cache=cache)
    frames, found = read_face(path, frame_size, max_frames=max_frames, cache=cache)
    if not found and faceless is not None:
        faceless.append(path)
    return frames


def extractor_of(features: Features | None, extractor: str = DEFAULT) -> str:
    """What made the vectors: `extractor` without feature files, else what these say, or "files"."""
    if features is None:
        return extractor
    return features.relation if features.relation in EXTRACTORS else "files"


def audio_vector(clip: Clip, features: Features | None, extractor: str = DEFAULT, missing: bool = False) -> np.ndarray:
    """The (D,) vector of a clip, from the feature files or, without any, from its sound. DataError where it has none.

    missing: a clip without sound, or with a vector of missing values only, is no error: its vector is all NaN.
    """
    name = str(Path(clip.path))
    if features is None:
        vector = vector_of(clip.path, extractor)
        if np.isnan(vector).all() and not missing:
            raise DataError(f"{name!r} has no sound track, and there are no feature files")
        return vector
    if clip.key not in features.vectors:
        raise DataError(f"{name!r} has no audio vector in the feature files")
    if clip.key in features.unclear:
        raise DataError(features.unclear[clip.key])
    vector = features.vectors[clip.key]
    if not np.isfinite(vector).all() and not (missing and np.isnan(vector).all()):
        bad = features.names[int(np.flatnonzero(~np.isfinite(vector))[0])]
        raise DataError(f"{name!r}: its audio vector has no number for the feature {bad!r}")
    return vector
