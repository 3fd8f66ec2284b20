"""The rows of `emonet compare --classics`: models that are fitted on the training split and say classes of other clips."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.folds import groups_of
from ..data.left_out import attempt_all, usable
from ..data.prepare import WORKERS, Dataset
from ..data.sound import is10
from ..data.video import read_sound
from ..errors import DataError
from ..studies.late_fusion import find_weights, fuse, fuse_across_folds
from ..training.projection import AudioProjection
from ..training.run import dataset
from ..training.settings import Settings
from .activity import Activity
from .belief import BeliefNet
from .graphs import describe, patch_graphs
from .mouths import BagOfMouths
from .tubes import FaceTubes
from .two_class_lda import EveryPair, OneAgainstRest

DRAWS = 1_200_000               # of weights, a third of them uniform: 400,000, as in the paper
SIZE = 96                       # pixels of a face
NOTHING_HEARD = np.empty((0, 2 * len((*is10.DESCRIPTORS, *is10.VOICED_DESCRIPTORS))), np.float32)


@dataclass
class Material:
    """What the models read of N clips: faces, N arrays (T, 96, 96, 3) uint8; sounds, N arrays (T, 76): the descriptors of
    is10.py every 10 ms and their changes, T = 0 without sound; audio (N, D), standardised; labels (N,): numbers of
    classes; groups (N,)."""

    faces: list[np.ndarray]
    sounds: list[np.ndarray]
    audio: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def hear(path: Path) -> np.ndarray:
    """(T, 76) of the sound of a clip, T = 0 where it has no sound track; DataError where that cannot be read."""
    sound = read_sound(path, is10.RATE)
    if sound is None:
        return NOTHING_HEARD
    smooth, _ = is10.descriptors(is10.samples(sound, is10.RATE))
    return np.concatenate([smooth, is10.delta(smooth)], axis=1).astype(np.float32)


def read(settings: Settings, data: Dataset, names: tuple[str, ...], projection: AudioProjection,
         log: Callable[[str], None]) -> dict[str, Material]:
    """{name of a split: its clips that are in `data`, read again as the classics want them}, in the order of `data`."""
    clips = settings.collection()
    pictures = dataset(replace(settings, config=settings.config.replace(frame_size=SIZE)), names, log, clips)
    found = {}
    for name in names:
        own, seen = data.splits[name], pictures.splits[name]
        faces = dict(zip(seen.ids, seen.frames, strict=True))
        paths = {clip.id: clip.path for clip in clips.split(name)}
        read_all = zip(own.ids, attempt_all(hear, [paths[id] for id in own.ids], WORKERS), strict=True)
        sounds = dict(usable(read_all, settings.on_error, log))
        nothing = np.empty((0, SIZE, SIZE, 3), np.uint8)
        found[name] = Material([np.asarray(faces.get(id, nothing)) for id in own.ids],
                               [sounds.get(id, NOTHING_HEARD) for id in own.ids],
                               projection.standardise(own.audio), own.labels, groups_of(own))
        for kind, there in (("shows a face", found[name].faces), ("can be heard", found[name].sounds)):
            if not any(map(len, there)):
                raise DataError(f"none of the {len(own)} clips of the {name} split {kind}: leave --classics out")
    return found


def rows(settings: Settings, data: Dataset, split: str, projection: AudioProjection,
         log: Callable[[str], None]) -> tuple[dict[str, np.ndarray], list[str]]:
    """({name of a row: classes (N,) of the clips of `split`}, notes): arguments as `studies.compare` gives them.

    Weights of the fusion are found on the validation split: for its own clips on four fifths that have none of their group.
    """
    material = read(settings, data, tuple(dict.fromkeys(("train", "val", split))), projection, log)
    known, codes = np.unique(material["train"].labels, return_inverse=True)
    train, shown, K = replace(material["train"], labels=codes), material[split], len(data.splits[split].classes)
    alone = {}                                                                # what is in no fusion: classes (N,)
    for name, model in (("audio, class or rest", OneAgainstRest()), ("audio, every pair", EveryPair())):
        log(f"classics: {name}")
        alone[name] = known[model.fit(train.audio, codes).predict(shown.audio)]
    log("classics: video, after Yao")
    graphs = patch_graphs(train.faces, codes, train.groups, settings.seed)
    looks = np.array([describe(clip).ravel() for clip in shown.faces])
    alone = {"video, after Yao": known[graphs.predict(looks)]} | alone
    said: dict[str, dict[str, np.ndarray]] = {}
    for name, found in probabilities(train, {other: material[other] for other in dict.fromkeys(("val", split))},
                                     len(known), settings.seed, log).items():
        said[name] = {other: np.full((len(p), K), 1e-6) for other, p in found.items()}
        for other, p in found.items():
            said[name][other][:, known] += p                                  # a class without training clips is never said
    log("classics: weights of the fusion")
    val, shown_p = (np.stack([p[other] for p in said.values()]) for other in ("val", split))      # (4, N, K)
    labels, seed = material["val"].labels, settings.seed
    fused = (fuse_across_folds(val, labels, seed, material["val"].groups, DRAWS) if split == "val" else
             fuse(shown_p, find_weights(val, labels, seed, DRAWS)))
    predicted = {name: p.argmax(axis=1) for name, p in zip(said, shown_p, strict=True)}
    notes = ["late fusion, EmoNets: the four models above it, weights for each class from "
             + ("the other four fifths of these clips" if split == "val" else "the validation split"),
             "classics: fitted on the training split alone; see docs/classics.md"]
    if settings.config.crop != "faces":
        notes.append("classics: whole frames take the place of faces; --crop faces cuts faces out")
    return predicted | {"late fusion, EmoNets": fused.argmax(axis=1)} | alone, notes


def probabilities(train: Material, others: dict[str, Material], K: int, seed: int,
                  log: Callable[[str], None]) -> dict[str, dict[str, np.ndarray]]:
    """{model of EmoNets: {name of one of `others`: (N, K)}}"""
    said = {}
    for name, reads, fit in (
            ("video, face tubes", "faces", lambda: FaceTubes(K, seed).fit(train.faces, train.labels, train.groups)),
            ("video, mouths", "faces", lambda: BagOfMouths(K, seed=seed).fit(train.faces, train.labels)),
            ("video, activity", "faces", lambda: Activity(K, seed=seed).fit(train.faces, train.labels, train.groups)),
            ("audio, belief net", "sounds", lambda: BeliefNet(K, seed=seed).fit(train.sounds, train.labels))):
        log(f"classics: {name}")
        model = fit()
        said[name] = {other: model.predict_proba(getattr(material, reads)) for other, material in others.items()}
    return said
