"""EmoNet: frames through a ResNet and an LSTM, audio descriptors through dense layers, fused into
emotions.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from .. import layers
from ..backend import Array, array_module, device_of, generator, to_device
from ..errors import WeightsError
from ..layers.input import IMAGENET_MEAN, IMAGENET_STD
from ..watch import summary
from .config import EmoNetConfig
from .resnet import TRUNKS, ResNet


class EmoNet(layers.Layer):
    """The paper's network, with every choice in `config`, and `audio_features` inputs to the audio branch.

    logits, cache = model.forward(frames, lengths, audio)
    dframes, daudio = model.backward(dlogits, cache)

    load_trunk=False leaves the trunk random whatever config.trunk says, for a network whose parameters are
    loaded next.

    frames (B, H, W, 3) uint8, or (B, D) trunk features from `trunk_features`: all clips' frames, clip after
    clip; lengths (N,) frames of each clip, with sum B; audio (N, audio_features); logits (N, 7), in the order
    Angry, Disgust, Fear, Happy, Neutral, Sad, Surprise. What a model without one of the modalities does not
    use is ignored.

        video     Normalize -> ResNet trunk -> pool or flatten -> LSTM -> last hidden state of each layer
        audio     3 x (Dense, ReLU, Dropout)
        fusion    concatenate -> Dense, ReLU, Dropout -> Dense, ReLU, Dropout -> Dense
        shortcut  audio -> Dense, added to the logits (config.audio_shortcut): 0 at first, LDA's rule when
                  training starts
    """

    def __init__(self, config: EmoNetConfig, audio_features: int = 6, rng: np.random.Generator | None = None,
                 load_trunk: bool = True, num_classes: int = 7) -> None:
        rng = rng or generator()
        self.config = config
        self.audio_features = audio_features if "audio" in config.modalities or config.trunk_statistics else 0
        self.shortcut: layers.Dense | None = None
        fused = 0
        if "video" in config.modalities:
            resnet = ResNet(config.trunk_depth, width=config.trunk_width, rng=rng)
            places = ((config.frame_size + 3) // 4) ** 2 if config.trunk_pooling == "flatten" else 1
            D = resnet.num_features * places                                  # two strides of 2, rounding up
            pool = layers.GlobalAveragePool() if config.trunk_pooling == "average" else layers.Flatten()
            norm = {"norm": layers.BatchNorm(D)} if config.feature_norm else {}
            trunk = layers.Sequential(normalize=layers.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                                      resnet=resnet.features, pool=pool, **norm)
            self.trunk = layers.Chunked(trunk, config.frames_per_chunk)
            self.pad = layers.PadSequences()
            H = config.lstm_size
            self.lstm = layers.LSTM(D, H, config.lstm_layers, config.forget_bias, config.truncate, rng)
            fused += H * (config.lstm_layers if config.lstm_output == "all" else 1)
        if self.audio_features:
            self.audio = _dense_stack((audio_features, *config.audio_layers), config.dropout, rng)
            fused += config.audio_layers[-1]
        self.fusion = _dense_stack((fused, *config.fusion_layers, num_classes), config.dropout, rng,
                                   open_end=not config.relu_on_logits)
        if config.audio_shortcut and self.audio_features:
            self.shortcut = layers.Dense(audio_features, num_classes, rng)
            self.shortcut.W.value[...] = 0
            # The rest begins as a small correction, like a residual branch with a scale of 0 (Goyal et al.
            # 2017, 5.1).
            *_, last = (layer for _, layer in self.fusion.children() if isinstance(layer, layers.Dense))
            last.W.value *= 0.1
        if load_trunk:
            self.load_trunk()
        self.train()

    def __repr__(self) -> str:
        return f"EmoNet({'+'.join(self.config.modalities)})"

    def load_trunk(self) -> Path | None:
        """Put the weights that `config.trunk` names into the trunk; the file, or None where it is to stay
        random.
        """
        found = trunk_weights(self.config)
        if found is None:
            return None
        self.trunk.layer.resnet.load_state_dict(found[1])
        return found[0]

    def train(self, mode: bool = True) -> EmoNet:
        """As for every layer; but a frozen trunk, or one with trunk_norm="running", keeps its fixed
        statistics.
        """
        super().train(mode)
        fixed = self.config.freeze_trunk or self.config.trunk_norm == "running"
        if "video" in self.config.modalities and fixed:
            self.trunk.eval()
        return self

    def trunk_features(self, frames: Array) -> Array:
        """(B, H, W, 3) uint8 -> (B, D), chunk by chunk, as `forward` accepts them in place of frames."""
        size = self.config.frames_per_chunk or 64
        parts = [self.trunk.layer.forward(frames[i:i + size])[0] for i in range(0, len(frames) or 1, size)]
        return array_module(*parts).concatenate(parts)

    def forward(self, frames: Array | None, lengths: Any, audio: Array | None) -> tuple[Array, Any]:
        caches: dict[str, Any] = {}
        branches = []
        if "video" in self.config.modalities:
            branches.append(self._video_forward(frames, lengths, caches))
        if self.audio_features:
            y, caches["audio"] = self.audio.forward(audio)
            branches.append(y)
        logits, caches["fusion"] = self.fusion.forward(array_module(*branches).concatenate(branches, axis=1))
        if self.shortcut is not None:
            direct, caches["shortcut"] = self.shortcut.forward(audio)
            logits = logits + direct
        return logits, caches

    def backward(self, dlogits: Array, cache: Any) -> tuple[Array | None, Array | None]:
        """(dframes, daudio), each in the shape of what came in; None for a modality not used and for bytes.
        """
        dx = self.fusion.backward(dlogits, cache["fusion"])
        dframes, daudio = None, None
        if "video" in self.config.modalities:
            dframes, dx = self._video_backward(dx, cache)
        if self.audio_features:
            daudio = self.audio.backward(dx, cache["audio"])
        if self.shortcut is not None:
            daudio = daudio + self.shortcut.backward(dlogits, cache["shortcut"])
        return dframes, daudio

    def _video_forward(self, frames: Array, lengths: Any, caches: dict[str, Any]) -> Array:
        """Frames to the final hidden states of each clip, (N, L H) of all layers or (N, H) of the top one."""
        x = frames
        if frames.ndim == 4 and self.config.freeze_trunk:
            x = self.trunk_features(frames)
        elif frames.ndim == 4:
            x, caches["trunk"] = self.trunk.forward(frames)
        x, caches["pad"] = self.pad.forward(x, lengths)
        (_, (h, _)), caches["lstm"] = self.lstm.forward(x, lengths)
        states = h if self.config.lstm_output == "all" else h[-1:]            # (L or 1, N, H)
        return states.transpose(1, 0, 2).reshape(len(lengths), -1)

    def _video_backward(self, dx: Array, cache: Any) -> tuple[Array | None, Array]:
        """(dframes, what of dx belongs to the other branches)"""
        L, H = len(self.lstm.cells), self.lstm.H
        N = len(dx)
        used = L if self.config.lstm_output == "all" else 1
        xp = array_module(dx)
        dh = xp.zeros((L, N, H), dx.dtype)
        dh[L - used:] = dx[:, :used * H].reshape(N, used, H).transpose(1, 0, 2)
        dsteps, _ = self.lstm.backward(None, (dh, xp.zeros_like(dh)), cache["lstm"])
        dframes = self.pad.backward(dsteps, cache["pad"])
        if "trunk" in cache:
            dframes = self.trunk.backward(dframes, cache["trunk"])
        return dframes, dx[:, used * H:]

    def summary(self, clips: int = 1, frames: int = 1) -> None:
        """Print layers, shapes, parameters, bytes of activations and FLOPs for clips of so many frames."""
        size, device = self.config.frame_size, device_of(self.parameters()[0].value)
        x = to_device(np.zeros((clips * frames, size, size, 3), np.uint8), device)
        audio = to_device(np.zeros((clips, self.audio_features), np.float32), device)
        print(summary(self, x, np.full(clips, frames), audio))


def trunk_weights(config: EmoNetConfig) -> tuple[Path, dict[str, np.ndarray]] | None:
    """The file that `config.trunk` names and the state of the trunk in it; None for a random trunk and
    without video.

    WeightsError where the file cannot be read or is of another depth, width or kind.
    """
    if "video" not in config.modalities or config.trunk == "random":
        return None
    path = TRUNKS.get(config.trunk) or Path(config.trunk)
    theirs = ResNet.from_torch(path)
    ours = ResNet(config.trunk_depth, width=config.trunk_width).features
    try:
        ours.load_state_dict(theirs.features.state_dict())
    except ValueError as error:
        raise WeightsError(f"trunk={config.trunk}: {theirs!r} of width {theirs.num_features // 4} is no "
                           f"trunk for trunk_depth={config.trunk_depth}, trunk_width={config.trunk_width}; "
                           f"trunk=random needs no file") from error
    return path, ours.state_dict()


def _dense_stack(sizes: tuple[int, ...], dropout: float, rng: np.random.Generator,
                 open_end: bool = False) -> layers.Sequential:
    """Dense, ReLU, Dropout for each pair of neighbouring sizes; open_end: the last Dense stands alone."""
    parts: dict[str, layers.Layer] = {}
    for k, (D, M) in enumerate(itertools.pairwise(sizes), 1):
        dense = parts[f"dense{k}"] = layers.Dense(D, M, rng)
        if open_end and k == len(sizes) - 1:
            dense.W.value *= 0.5**0.5                                         # no ReLU behind it: N(0, 1 / D)
        else:
            parts[f"relu{k}"] = layers.ReLU()
            parts[f"dropout{k}"] = layers.Dropout(dropout, int(rng.integers(2**63)))
    return layers.Sequential(**parts)
