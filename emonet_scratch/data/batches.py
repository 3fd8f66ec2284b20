"""Splits in memory and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emotions import CLASSES
from .video import Frames, augment, sample_frames


@dataclass
class Split:
    """The clips of one split, N of them.

    ids: names; labels (N,) integers, -1 where unknown; frames: N arrays (T, H, W, 3) uint8, or (T, D) features of a
    frozen trunk, perhaps in files, or None; audio (N, D) or None; keys: a hash of each clip's content; groups: who or
    what is in each clip and must not be on both sides of a split, "" where that is not known; corpora: where each is from;
    classes: what labels count; varied (N, K, D): vectors of the sound as it might have been taken elsewhere, or None; looks
    (N, L): statistics over time of the frames' features, or None; heard: how many of the first columns of a projected audio
    are the sound's, None for all.
    """

    ids: list[str]
    labels: np.ndarray
    frames: list[Frames] | None = None
    audio: np.ndarray | None = None
    keys: list[str] | None = None
    groups: list[str] | None = None
    corpora: list[str] | None = None
    classes: tuple[str, ...] = CLASSES
    varied: np.ndarray | None = None
    looks: np.ndarray | None = None
    heard: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Sequence[int]) -> Split:
        """The clips with these numbers."""
        def of(values: list | None) -> list | None:
            return None if values is None else [values[i] for i in index]
        audio, varied, looks = (None if a is None else a[index] for a in (self.audio, self.varied, self.looks))
        return Split(of(self.ids), self.labels[index], of(self.frames), audio, of(self.keys), of(self.groups),
                     of(self.corpora), self.classes, varied, looks, self.heard)


def merged(splits: Mapping[str, Split]) -> Split:
    """All clips of some splits of one data set in one; ids that are in several begin with the names of their splits."""
    parts = list(splits.values())
    ids = [id for part in parts for id in part.ids]
    if len(set(ids)) < len(ids):
        ids = [f"{name}-{id}" for name, part in splits.items() for id in part.ids]

    def of(name: str) -> list | None:
        values = [getattr(part, name) for part in parts]
        return None if any(v is None for v in values) else [x for v in values for x in v]
    audio, varied = (None if (rows := of(name)) is None else np.array(rows) for name in ("audio", "varied"))
    return Split(ids, np.concatenate([part.labels for part in parts]), of("frames"), audio, of("keys"), of("groups"),
                 of("corpora"), parts[0].classes, varied)


@dataclass
class Batch:
    """What a model takes: frames (B, H, W, 3) or (B, D) of all clips in a row or None, lengths (N,), audio, labels (N,)."""

    frames: np.ndarray | None
    lengths: np.ndarray | None
    audio: np.ndarray | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, first: int, end: int) -> Batch:
        """The clips from number `first` up to `end`."""
        frames, lengths = self.frames, self.lengths
        if frames is not None and lengths is not None:
            ends = np.cumsum(lengths)
            frames, lengths = frames[ends[first] - lengths[first]:ends[end - 1]], lengths[first:end]
        return Batch(frames, lengths, None if self.audio is None else self.audio[first:end], self.labels[first:end])


@dataclass
class Draw:
    """A batch of which no frame has been read yet: its labels (N,), and its `part(first, end)`, a Batch of these clips."""

    labels: np.ndarray
    part: Callable[[int, int], Batch]

    def __len__(self) -> int:
        return len(self.labels)


def batches(split: Split, batch_size: int, frames: int | None, **options: Any) -> Iterator[Batch]:
    """The batches that `draws`, with these options, would give, read."""
    return (draw.part(0, len(draw)) for draw in draws(split, batch_size, frames, **options))


def draws(split: Split, batch_size: int, frames: int | None, *, seed: int = 0, epoch: int = 0,
          training: bool = False, jitter: bool = False, start: int = 0, window: int = 0,
          windows: int = 1, modality_dropout: float = 0.0) -> Iterator[Draw]:
    """Batch `start` and all later ones of an epoch.

    training: clips in the random order of (seed, epoch), `frames` random frames of each clip (None: all), jittered if
    asked for; with the probability `modality_dropout` without audio, zeros in its place, and with the same one without
    frames, none in their place; never without both. Otherwise clips in their own order and evenly spaced frames, those of
    one of `windows` (see `sample_frames`).
    Every random number is a function of (seed, epoch, clip), so an epoch entered in the middle goes on as if it had never
    stopped, and part of a batch is what it is in the whole.
    """
    def read(chosen: np.ndarray) -> Batch:
        clips, audio = None, None if split.audio is None else split.audio[chosen]
        if split.frames is not None:
            clips = [_draw(split.frames[i], frames, np.random.default_rng([seed, epoch, i]) if training else None, jitter,
                           window, windows) for i in chosen]
        if training and modality_dropout:
            random = np.array([np.random.default_rng([seed, epoch, i, 1]).uniform() for i in chosen])
            deaf, blind = random < modality_dropout, random > max(modality_dropout, 1 - modality_dropout)
            clips, audio = _masked(clips, audio, split.heard, deaf, blind)
        return Batch(None if clips is None else np.concatenate(clips),
                     None if clips is None else np.array([len(c) for c in clips]), audio, split.labels[chosen])

    order = np.random.default_rng([seed, epoch]).permutation(len(split)) if training else np.arange(len(split))
    for k in range(start * batch_size, len(split), batch_size):
        chosen = order[k:k + batch_size]
        yield Draw(split.labels[chosen], lambda first, end, chosen=chosen: read(chosen[first:end]))


def _masked(clips: list[np.ndarray] | None, audio: np.ndarray | None, heard: int | None, deaf: np.ndarray,
            blind: np.ndarray) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
    """The clips without frames, and without what was made of them, where blind (N,), and without sound where deaf (N,).

    audio: vectors of which the first `heard` columns are the sound's. A clip that has one of the two only keeps it.
    """
    if clips is not None and audio is not None:
        sound = audio[:, :heard]
        deaf, blind = deaf & np.array([len(clip) > 0 for clip in clips]), blind & sound.any(axis=1)
    if clips is not None:
        clips = [clip[:0] if unseen else clip for clip, unseen in zip(clips, blind, strict=True)]
    if audio is not None:
        audio = audio.copy()
        audio[deaf, :heard] = 0
        audio[blind, audio.shape[1] if heard is None else heard:] = 0
    return clips, audio


def _draw(clip: Frames, frames: int | None, rng: np.random.Generator | None, jitter: bool, window: int,
          windows: int) -> np.ndarray:
    """The frames of one clip that a batch takes, all where `frames` is None; (T, H, W, 3) are jittered if asked for."""
    clip = np.asarray(clip) if frames is None else clip[sample_frames(len(clip), frames, rng, window, windows)]
    return augment(clip, rng) if jitter and rng is not None and clip.ndim == 4 else clip
