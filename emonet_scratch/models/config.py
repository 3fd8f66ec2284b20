"""Everything that can be chosen about an EmoNet and its training: one field a choice, and three presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .. import choices
from ..choices import COUNT, NATURAL, NUMBER, OPTIONAL_COUNT, SWITCH, Rule, choice, number, one_of, whole


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 64 and all(map(SIZE.holds, value))


SIZE = Rule(lambda value: whole(value) and value <= 4096, "an integer from 1 to 4096")
LAYERS = Rule(lambda value: whole(value) and value <= 64, "an integer from 1 to 64")
STAGES = Rule(lambda value: whole(value, 0) and value <= 3, "0, 1, 2 or 3")
DEPTH = Rule(lambda value: whole(value) and value in range(8, 1203, 6), "6n + 2 (8, 14, 20, ... 1202)")
TRUNK = Rule(lambda value: isinstance(value, str) and value != "",
             '"pretrained", "faces", "random" or a path')
SIZES = Rule(lambda value: _sizes(value) and len(value) > 0, "a list of 1 to 64 integers from 1 to 4096")
OPTIONAL_SIZES = Rule(_sizes, "a list of up to 64 integers from 1 to 4096")
SHRINKAGE = Rule(lambda value: value is None or value in ("auto", "cv") or (number(value) and value <= 1),
                 '"cv", "auto", null or a number in [0, 1]')
MODALITIES = Rule(lambda value: value in (("audio",), ("video",), ("audio", "video"), ("video", "audio")),
                  "a list of audio, video or both, each at most once")


@dataclass(frozen=True)
class EmoNetConfig:
    """Everything that can be chosen, one field a choice: the network, what it sees, how it is trained.

    The field values here are the preset `default`; `EmoNetConfig.preset("paper")` is the network and training
    of the paper, `"small"` trains on two CPU cores in minutes. An ablation is a loop over fields:
    `config.replace(clip_norm=None)`.
    """

    # what the network sees
    modalities: tuple[str, ...] = choice(("audio", "video"), MODALITIES)
    frame_size: int = choice(256, SIZE)                 # pixels: frames are frame_size x frame_size
    # The face of each clip (extra `faces`), or whole frames.
    crop: str = choice("none", one_of("none", "faces"))
    fit: str = choice("pad", one_of("pad", "crop"))     # the whole picture, letterboxed, or its centre square
    frames: int | None = choice(50, OPTIONAL_COUNT)     # sampled from a clip; None: all of them
    max_frames: int | None = choice(250, OPTIONAL_COUNT)    # read of a clip, at 25 frames a second
    # Flip, crop and brightness jitter, the same for all frames of a clip.
    augment: bool = choice(True, SWITCH)
    # video
    # On CIFAR-10 (ResNet.pretrained), on "faces", "random", or a file of weights.
    trunk: str = choice("pretrained", TRUNK)
    trunk_depth: int = choice(20, DEPTH)
    trunk_width: int = choice(16, SIZE)
    # 64 numbers a frame; the paper's 262,144.
    trunk_pooling: str = choice("average", one_of("average", "flatten"))
    # Of pooled features, so that what differs between clips is O(1).
    feature_norm: bool = choice(True, SWITCH)
    # Batch norm learns its statistics, or is fixed.
    trunk_norm: str = choice("running", one_of("batch", "running"))
    trunk_lr: float = choice(0.1, NUMBER)       # factor on lr for a trunk that is not random
    frozen_stages: int = choice(0, STAGES)      # 1: the stem keeps its values, 2: and stage 1, 3: and stage 2
    freeze_trunk: bool = choice(False, SWITCH)  # no gradient into the trunk; its features are kept on disk
    # Mean and range over time of a frozen trunk's features by quarters, through LDA, beside the audio's.
    trunk_statistics: bool = choice(False, SWITCH)
    frames_per_chunk: int | None = choice(8, OPTIONAL_COUNT)
    lstm_size: int = choice(256, SIZE)
    lstm_layers: int = choice(3, LAYERS)
    # Whose last state goes on; the paper's is that of the top.
    lstm_output: str = choice("all", one_of("all", "top"))
    forget_bias: float = choice(1.0, NUMBER)
    truncate: int | None = choice(None, OPTIONAL_COUNT)
    # audio
    lda_components: int | None = choice(None, OPTIONAL_COUNT)               # None: classes - 1
    lda_shrinkage: str | float | None = choice("cv", SHRINKAGE)             # "auto": Ledoit and Wolf's
    # Folds: training clips are projected by LDA of the others; 0: of all.
    lda_cross_fit: int = choice(5, NATURAL)
    # Of a training clip's sound, as other microphones and rooms would have it: what differs is no emotion.
    sound_variants: int = choice(2, NATURAL)
    # Standard deviations at which features are cut off.
    audio_clip: float | None = choice(6.0, choices.OPTIONAL_POSITIVE)
    audio_layers: tuple[int, ...] = choice((64, 64, 64), SIZES)
    # LDA's own rule is added to the logits; layers learn the rest.
    audio_shortcut: bool = choice(True, SWITCH)
    # fusion
    fusion_layers: tuple[int, ...] = choice((128, 64), OPTIONAL_SIZES)      # and a last one, a unit a class
    relu_on_logits: bool = choice(False, SWITCH)    # ReLU and dropout behind the last dense layer, too
    # Of a training clip's audio, and of its frames: clips without sound or face are nothing new.
    modality_dropout: float = choice(0.1, choices.SHARE)
    # The paper: .5; five of those in a row starve both branches.
    dropout: float = choice(0.3, choices.SHARE)
    # training
    optimizer: str = choice("adam", one_of("adam", "sgd"))
    lr: float = choice(1e-3, NUMBER)
    momentum: float = choice(0.9, choices.SHARE)            # of sgd
    weight_decay: float = choice(1e-2, NUMBER)      # decoupled in adam, added to the gradient in sgd
    schedule: str = choice("one_cycle", one_of("constant", "step", "cosine", "one_cycle"))
    warmup: int = choice(0, NATURAL)                # steps
    clip_norm: float | None = choice(1.0, choices.OPTIONAL_POSITIVE)
    label_smoothing: float = choice(0.0, choices.SHARE)
    class_weights: bool = choice(True, SWITCH)    # by the inverse of each class's share of the training split
    batch_size: int = choice(16, COUNT)
    shards: int = choice(1, SIZE)   # parts of a batch whose gradients are computed apart, for any ranks
    epochs: int = choice(20, COUNT)
    # Sets of `frames` frames of a longer clip whose probabilities are averaged.
    test_windows: int = choice(3, SIZE)
    # Epochs without a better validation loss before the end.
    patience: int | None = choice(None, OPTIONAL_COUNT)

    def __post_init__(self) -> None:
        choices.check_choices(self)
        if self.trunk_statistics and not (self.freeze_trunk and self.trunk_pooling == "average"):
            raise ValueError('trunk_statistics wants freeze_trunk=true and trunk_pooling="average"')

    def replace(self, **fields: Any) -> EmoNetConfig:
        """A copy with some fields changed. An unknown field is an error that lists the known ones."""
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(fields.keys() - known):
            raise ValueError(f"EmoNetConfig has no field {unknown[0]!r}; it has: {', '.join(sorted(known))}")
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return dataclasses.replace(self, **fields)

    @classmethod
    def preset(cls, name: str) -> EmoNetConfig:
        """ "paper": as published; "default": what is known to work instead; "small": minutes on two CPU
        cores.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls().replace(**PRESETS[name])


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # S_W of 1582 features and fewer clips has no inverse; a shrinkage of .0001 gives the paper's equations a
    # meaning.
    "paper": dict(
        frames=None, augment=False, trunk_pooling="flatten", feature_norm=False, lstm_output="top",
        forget_bias=0.0, lda_components=512, lda_shrinkage=1e-4, lda_cross_fit=0, sound_variants=0,
        audio_clip=None, audio_shortcut=False, relu_on_logits=True, dropout=0.5, modality_dropout=0.0,
        optimizer="sgd", lr=1e-6, momentum=0.0, weight_decay=0.0, schedule="constant", clip_norm=None,
        class_weights=False, trunk_lr=1.0, test_windows=1),
    "small": dict(
        frame_size=32, fit="crop", frames=4, max_frames=75, trunk="random", trunk_depth=8, trunk_width=8,
        trunk_pooling="flatten", trunk_norm="batch", frames_per_chunk=None, lstm_size=32,
        audio_layers=(32, 32, 32), audio_shortcut=False, fusion_layers=(64, 32), dropout=0.1,
        sound_variants=0, modality_dropout=0.0, lr=2e-3, schedule="cosine", batch_size=8, epochs=10,
        test_windows=1),
}
