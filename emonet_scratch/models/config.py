"""Everything that can be chosen about an EmoNet and its training: one field a choice, and three presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _one_of(*allowed: str) -> tuple[Any, str]:
    return (lambda value: isinstance(value, str) and value in allowed), f"one of {', '.join(allowed)}"


# (fields, what must hold for each, in words)
_RULES: list[tuple[str, Any, str]] = [
    ("frame_size", lambda v: _whole(v) and v <= 4096, "an integer from 1 to 4096"),
    ("trunk", lambda v: isinstance(v, str) and v != "", '"pretrained", "random" or a path'),
    ("frozen_stages", lambda v: v in (0, 1, 2, 3) and not isinstance(v, bool), "0, 1, 2 or 3"),
    ("trunk_width lstm_size lstm_layers batch_size epochs test_windows", _whole, "a positive integer"),
    ("frames max_frames frames_per_chunk truncate patience lda_components",
     lambda v: v is None or _whole(v), "null or a positive integer"),
    ("warmup", lambda v: v == 0 or _whole(v), "an integer from 0"),
    ("trunk_depth", lambda v: _whole(v) and v >= 8 and (v - 2) % 6 == 0, "6n + 2 with n >= 1 (8, 14, 20, ...)"),
    ("lr weight_decay forget_bias trunk_lr", _number, "a number from 0"),
    ("dropout modality_dropout momentum label_smoothing", lambda v: _number(v) and v < 1, "a number in [0, 1)"),
    ("clip_norm audio_clip", lambda v: v is None or (_number(v) and v > 0), "null or a positive number"),
    ("lda_shrinkage", lambda v: v is None or v in ("auto", "cv") or (_number(v) and v <= 1),
     '"cv", "auto", null or a number in [0, 1]'),
    ("lda_cross_fit", lambda v: v == 0 or _whole(v), "an integer from 0"),
    ("augment feature_norm freeze_trunk audio_shortcut relu_on_logits class_weights",
     lambda v: isinstance(v, bool), "true or false"),
    ("audio_layers fusion_layers", lambda v: isinstance(v, tuple) and all(map(_whole, v)), "a list of positive integers"),
    ("audio_layers", len, "a list of at least one size"),
    ("modalities", lambda v: isinstance(v, tuple) and sorted(map(str, v)) in (["audio"], ["video"], ["audio", "video"]),
     "a list of audio, video or both, each at most once"),
    ("fit", *_one_of("pad", "crop")),
    ("crop", *_one_of("none", "faces")),
    ("trunk_pooling", *_one_of("average", "flatten")),
    ("trunk_norm", *_one_of("batch", "running")),
    ("lstm_output", *_one_of("all", "top")),
    ("optimizer", *_one_of("adam", "sgd")),
    ("schedule", *_one_of("constant", "step", "cosine", "one_cycle")),
]


@dataclass(frozen=True)
class EmoNetConfig:
    """Everything that can be chosen, one field a choice: the network, what it sees, how it is trained.

    The field values here are the preset `default`; `EmoNetConfig.preset("paper")` is the network and training of the
    paper, `"small"` trains on two CPU cores in minutes. An ablation is a loop over fields:
    `config.replace(clip_norm=None)`.
    """

    # what the network sees
    modalities: tuple[str, ...] = ("audio", "video")
    frame_size: int = 256           # pixels: frames are frame_size x frame_size
    crop: str = "none"              # "faces": the face of each clip (extra `faces`) instead of the whole frame
    fit: str = "pad"                # "pad": the whole picture, letterboxed; "crop": its centre square
    frames: int | None = 50         # sampled from a clip; None: all of them
    max_frames: int | None = 250    # read of a clip, at 25 frames a second
    augment: bool = True            # flip, crop and brightness jitter, the same for all frames of a clip
    # video
    trunk: str = "pretrained"       # "pretrained" on CIFAR-10 (ResNet.pretrained), "random", or a file of weights
    trunk_depth: int = 20
    trunk_width: int = 16
    trunk_pooling: str = "average"  # "average": 64 numbers a frame; "flatten": the paper's 262,144
    feature_norm: bool = True       # batch norm of the pooled features, so that what differs between clips is O(1)
    trunk_norm: str = "running"     # "batch": batch norm learns its statistics; "running": it uses fixed ones
    trunk_lr: float = 0.1           # factor on lr for a trunk that is not random
    frozen_stages: int = 0          # 1: the stem keeps its values, 2: and stage 1, 3: and stage 2
    freeze_trunk: bool = False      # no gradient into the trunk; its features are computed once and kept on disk
    frames_per_chunk: int | None = 8
    lstm_size: int = 256
    lstm_layers: int = 3
    lstm_output: str = "all"        # the last state of "all" layers goes on, or that of the "top" one, as in the paper
    forget_bias: float = 1.0
    truncate: int | None = None
    # audio
    lda_components: int | None = None           # None: classes - 1
    lda_shrinkage: str | float | None = "cv"    # "cv": by cross-validation, "auto": Ledoit and Wolf's, or a number
    lda_cross_fit: int = 5          # folds: training clips are projected by LDA of the other folds; 0: by LDA of all
    audio_clip: float | None = 6.0  # standard deviations at which audio features are cut off
    audio_layers: tuple[int, ...] = (64, 64, 64)
    audio_shortcut: bool = True     # LDA's own rule is added to the logits, and the layers learn what it does not know
    # fusion
    fusion_layers: tuple[int, ...] = (128, 64)  # and a last one of 7 units
    relu_on_logits: bool = False                # ReLU and dropout behind the last dense layer, too
    modality_dropout: float = 0.1   # of a training clip's audio, so that clips without sound are nothing new
    dropout: float = 0.3            # the paper: .5; five of those in a row starve both branches
    # training
    optimizer: str = "adam"         # "adam" or "sgd"
    lr: float = 1e-3
    momentum: float = 0.9           # of sgd
    weight_decay: float = 1e-2      # decoupled in adam, added to the gradient in sgd
    schedule: str = "one_cycle"
    warmup: int = 0                 # steps
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    class_weights: bool = True      # by the inverse of each class's share of the training split
    batch_size: int = 16
    epochs: int = 20
    test_windows: int = 3           # sets of `frames` frames of a longer clip whose probabilities are averaged
    patience: int | None = None     # epochs without a better validation loss before training stops early

    def __post_init__(self) -> None:
        for names, holds, expected in _RULES:
            for name in names.split():
                value = getattr(self, name)
                if not holds(value):
                    raise ValueError(f"{name} must be {expected}, got {value!r}")

    def replace(self, **fields: Any) -> EmoNetConfig:
        """A copy with some fields changed. An unknown field is an error that lists the known ones."""
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"EmoNetConfig has no field {unknown[0]!r}; it has: {', '.join(sorted(known))}")
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return dataclasses.replace(self, **fields)

    @classmethod
    def preset(cls, name: str) -> EmoNetConfig:
        """ "paper": as published; "default": what is known to work instead; "small": minutes on two CPU cores."""
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls().replace(**PRESETS[name])


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # S_W of 1582 features and fewer clips has no inverse; a shrinkage of .0001 gives the paper's equations a meaning.
    "paper": dict(frames=None, augment=False, trunk_pooling="flatten", feature_norm=False, lstm_output="top",
                  forget_bias=0.0, lda_components=512, lda_shrinkage=1e-4, lda_cross_fit=0,
                  audio_clip=None, audio_shortcut=False, relu_on_logits=True, dropout=0.5, modality_dropout=0.0,
                  optimizer="sgd", lr=1e-6, momentum=0.0, weight_decay=0.0, schedule="constant", clip_norm=None,
                  class_weights=False, trunk_lr=1.0, test_windows=1),
    "small": dict(frame_size=32, fit="crop", frames=4, max_frames=75, trunk="random", trunk_depth=8, trunk_width=8,
                  trunk_pooling="flatten", trunk_norm="batch", frames_per_chunk=None, lstm_size=32,
                  audio_layers=(32, 32, 32), audio_shortcut=False, fusion_layers=(64, 32), dropout=0.1,
                  modality_dropout=0.0, lr=2e-3, schedule="cosine", batch_size=8, epochs=10, test_windows=1),
}
