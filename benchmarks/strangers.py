"""What our networks and their peers are worth on people that they have not seen, on the same folds of the same clips.

    python benchmarks/strangers.py EMODB --modalities audio --out runs/emodb
    python benchmarks/strangers.py JAVA_SED --out runs/java_sed --hog --preset small --set crop=faces frame_size=48

Ours: `emonet cross-validate DATA --leave-one-group-out` with the same settings; what is there in --out is gone on with.
Peers, fitted on all clips of the other groups, also those by which ours choose epoch and temperature:

    linear SVM   scikit-learn's StandardScaler and LinearSVC, as they are, of the same audio vectors
    LDA alone    our LDA of the same vectors, shrinkage by folds inside
    HOG + LDA    the mean histogram of oriented gradients (Dalal and Triggs 2005, by OpenCV) of the faces of a clip

A difference to ours comes with the 95 % interval of a bootstrap over groups, in which both are drawn together.
"""

from __future__ import annotations

import argparse
import json
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from emonet_scratch import LDA
from emonet_scratch.data.batches import Split
from emonet_scratch.data.faces import read_face
from emonet_scratch.data.folds import groups_of
from emonet_scratch.data.video import FrameCache
from emonet_scratch.models import EmoNetConfig
from emonet_scratch.studies.cross_validate import cross_validate, everything
from emonet_scratch.training import Settings
from emonet_scratch.training.metrics import DRAWS, bootstrap_interval
from emonet_scratch.training.projection import AudioProjection
from emonet_scratch.training.settings import MODALITIES


def linear_svm(train: Split, test: Split) -> np.ndarray:
    """(N,) classes of the test clips."""
    return make_pipeline(StandardScaler(), LinearSVC()).fit(train.audio, train.labels).predict(test.audio)


def lda_alone(train: Split, test: Split) -> np.ndarray:
    """(N,) classes of the test clips."""
    fitted = AudioProjection(None, "cv", 6.0, 0).fit(train.audio, train.labels, groups_of(train), train.classes)
    return fitted.lda.predict(fitted.standardise(test.audio))


def hog_of(faces: np.ndarray) -> np.ndarray:
    """(1764,) of faces (T, 64, 64, 3): the mean over frames of 9 orientations in blocks of 16 pixels."""
    import cv2

    hog = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)
    return np.mean([hog.compute(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)) for face in np.asarray(faces)[::2]], axis=0)


def peers(data: Split, fold: np.ndarray, hogs: np.ndarray | None) -> dict[str, np.ndarray]:
    """{peer: (N,) classes of the clips}, each fitted on the clips of the other folds (N,)."""
    said = {name: np.zeros(len(data), int) for name in ("linear SVM", "LDA alone", *(["HOG + LDA"] * (hogs is not None)))}
    for k in np.unique(fold):
        out = np.flatnonzero(fold == k)
        train, test = data.take(np.flatnonzero(fold != k)), data.take(out)
        said["linear SVM"][out], said["LDA alone"][out] = linear_svm(train, test), lda_alone(train, test)
        if hogs is not None:
            said["HOG + LDA"][out] = LDA().fit(hogs[fold != k], train.labels).predict(hogs[out])
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="as of emonet cross-validate")
    parser.add_argument("--modalities", nargs="+", choices=list(MODALITIES), default=list(MODALITIES))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--labels", default="")
    parser.add_argument("--hog", action="store_true", help="also HOG and LDA of faces (extra `faces`)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")                                           # LinearSVC does not converge in 1,000 steps
    fields = {}
    for item in options.set:
        name, _, value = item.partition("=")
        with suppress(ValueError):
            value = json.loads(value)
        fields[name] = value
    sources = tuple(str(Path(path).absolute()) for path in options.data)
    cache = str(options.out.absolute().parent / "cache")
    settings = Settings(sources, EmoNetConfig.preset(options.preset).replace(**fields), tuple(options.modalities),
                        options.seed, cache=cache, labels=options.labels)
    print(cross_validate(settings, options.out, None), flush=True)

    found = [json.loads(path.read_text()) for path in sorted(options.out.glob("fold-*.json"))]
    ids = [id for one in found for id in one["ids"]]
    fold, group = (np.concatenate(kind) for kind in zip(*(
        (np.full(len(one["ids"]), k), one["group"]) for k, one in enumerate(found)), strict=True))
    data = everything(replace(settings, modalities=("audio",)), lambda line: None)[1]
    data = data.take([data.ids.index(id) for id in ids])
    hogs = None
    if options.hog:
        paths = {clip.id: clip.path for clip in settings.collection().clips}
        hogs = np.array([hog_of(read_face(paths[id], 64, max_frames=250, cache=FrameCache(cache))[0]) for id in ids])
    right = {name: p == data.labels for name, p in peers(data, fold, hogs).items()}
    ours = {name: np.array([row for one in found for row in one["probabilities"][name]]).argmax(1) == data.labels
            for name in options.modalities}
    print(f"\n{len(data)} clips, {len(np.unique(group))} groups, {len(data.classes)} classes; differences to ours with the "
          f"95 % interval of {DRAWS} paired bootstraps over groups\n")
    print("| | accuracy | " + " | ".join(f"{name} minus it" for name in ours) + " |\n| --- | --- |" + " --- |" * len(ours))
    for name, correct in {**ours, **right}.items():
        low, high = bootstrap_interval(correct, group)
        cells = [f"{correct.mean():.3f} ({low:.3f} to {high:.3f})"]
        for mine in ours.values():
            difference = mine.astype(float) - correct
            low, high = bootstrap_interval(difference, group)
            cells.append("" if mine is correct else f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
