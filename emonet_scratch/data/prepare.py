"""From a folder in AFEW's layout to splits in memory: decode, collect audio vectors, account for every clip."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DataError
from .afew import Clip, Features, find_clips, load_features, missing_classes
from .batches import Split
from .extract import DEFAULT, EXTRACTORS, vector_of
from .faces import import_cv2, read_face
from .video import FrameCache, content_key, read_clip


@dataclass
class Dataset:
    """Splits by name, the names of the audio features, the clips that were left out: (clip, reason); and the extractor.

    extractor: what made the audio vectors, one of EXTRACTORS, or "files" for files that name none of them; "" without sound.
    """

    splits: dict[str, Split]
    feature_names: tuple[str, ...]
    skipped: list[tuple[Clip, str]]
    extractor: str = ""


def prepare(root: str | os.PathLike, wanted: Sequence[str] = ("train", "val"), *, video: bool = True, sound: bool = True,
            frame_size: int = 256, fit: str = "pad", max_frames: int | None = 250, cache: str | os.PathLike | None = None,
            on_error: str = "skip", extractor: str = DEFAULT, log: Callable[[str], None] = print,
            crop: str = "none") -> Dataset:
    """Read the splits `wanted` of the data set at `root`.

    crop: "faces" cuts the face out of each clip (see faces.py) and says how many clips have none.
    video: decode frames; sound: collect audio vectors, from the data set's feature files or, where it has none at
    all, computed from the sound tracks by `extractor`. With video, a clip without sound has a missing vector, all NaN. A
    clip that lacks what is asked for and a feature file that cannot be used are
    named; on_error "skip" leaves them out, "stop" raises DataError. DataError, too, for a wanted split without clips.
    """
    if crop == "faces" and video:
        import_cv2()                                                          # one line, not one for every clip
    if on_error not in ("skip", "stop"):
        raise ValueError(f"on_error must be 'skip' or 'stop', got {on_error!r}")
    clips = find_clips(root)
    for name in wanted:
        if not clips[name]:
            raise DataError(f"{str(root)!r}: expected clips of the {name} split, got none: see `emonet doctor`")
    if "train" in wanted and (missing := missing_classes(clips["train"])):
        log(f"warning: the training split has no clip of {', '.join(missing)}: no clip will be rightly called that")
    features = load_features(root, clips, wanted, on_error, log) if sound else None
    if sound and features is None:
        log(f"no feature files below {str(root)!r}: computing {len(EXTRACTORS[extractor][1])} audio features from sound "
            f"tracks ({extractor})")
    for line in features.disagreements if features else ():
        log(f"warning: {line}; the folder is believed")
    store, faceless = FrameCache(cache) if cache and video else None, []

    def read(clip: Clip) -> tuple[np.ndarray | None, np.ndarray | None, str] | str:
        """(frames, audio vector, content key), or the reason why there are none."""
        try:
            frames = clip_frames(clip.path, frame_size, fit, max_frames, crop, store, faceless) if video else None
            vector = audio_vector(clip, features, extractor, missing=video) if sound else None
            return frames, vector, content_key(clip.path) if video else ""
        except DataError as error:
            return str(error)

    everything = [clip for name in wanted for clip in clips[name]]
    splits = {name: Split([], np.zeros(0, np.int64), [], [], []) for name in wanted}
    labels: dict[str, list[int]] = {name: [] for name in wanted}
    skipped = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = tqdm(pool.map(read, everything), total=len(everything), unit="clip", desc="reading clips", leave=False,
                       disable=not sys.stderr.isatty())
        for clip, result in zip(everything, results, strict=True):
            if isinstance(result, str):
                if on_error == "stop":
                    pool.shutdown(cancel_futures=True)
                    raise DataError(f"{result} (--on-error skip leaves such clips out)")
                skipped.append((clip, result))
                log(f"left out: {result}")
                continue
            split = splits[clip.split]
            split.ids.append(clip.id)
            labels[clip.split].append(-1 if clip.label is None else clip.label)
            for values, value in zip((split.frames, split.audio, split.keys), result, strict=True):
                values.append(value)
    for name, split in splits.items():
        if not split.ids:
            raise DataError(f"{str(root)!r}: none of the {len(clips[name])} clips of the {name} split can be used")
        split.labels = np.array(labels[name])
        split.frames = split.frames if video else None
        split.audio = np.array(split.audio) if sound else None
    if crop == "faces" and video:
        log(f"faces: none found in {len(faceless)} of {len(everything)} clips, of which the whole frames are used")
    if skipped:
        log(f"{len(skipped)} of {len(everything)} clips were left out")
    silent = sum(int(np.isnan(split.audio).all(axis=1).sum()) for split in splits.values()) if sound else 0
    if silent:
        log(f"{silent} of {len(everything)} clips have no sound: their audio vectors are missing")
    if not sound:
        return Dataset(splits, (), skipped)
    names = features.names if features else EXTRACTORS[extractor][1]
    return Dataset(splits, names, skipped, extractor_of(features, extractor))


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
    vector = features.vectors[clip.key]
    if not np.isfinite(vector).all() and not (missing and np.isnan(vector).all()):
        bad = features.names[int(np.flatnonzero(~np.isfinite(vector))[0])]
        raise DataError(f"{name!r}: its audio vector has no number for the feature {bad!r}")
    return vector
