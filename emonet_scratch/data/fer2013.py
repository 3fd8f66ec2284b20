"""FER2013 (Goodfellow et al. 2013): 35,887 grey faces of 48 x 48 in seven classes, and what ten people say of each.

    *.npz                              {train,val,test}_{png,offsets,labels,votes}: face k is the file
                                       png[offsets[k]:offsets[k + 1]]
    fer2013.csv or icml_face_data.csv  as published: emotion, pixels, Usage; votes from a fer2013new.csv beside it
    ROOT/{train,val,test}/CLASS/*.png  class folders, without votes

The votes are those of FER+ (Barsoum et al. 2016, Training deep networks for facial expression recognition with
crowd-sourced label distribution, arXiv:1608.01041), columns VOTES; of the labels of FER2013 itself one in three is another.
"""

import csv
import io
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from ..files import LACKS, read_whole
from .packs import MOST_PICTURE, PICTURES, pictures, read_pack

SIZE, MOST = 48, 2**29
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
#: Where the classes are among the columns of votes, and what numbers they have in the published table.
COLUMNS = [VOTES.index(name) for name in ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")]
PUBLISHED = np.array([CLASSES.index(name) for name in ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")])
USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


class Faces(NamedTuple):
    """images (N, 48, 48, 3) uint8, grey; labels (N,) of CLASSES; votes (N, 10) of VOTES, -1 where they are not known."""

    images: np.ndarray
    labels: np.ndarray
    votes: np.ndarray

    def voted(self) -> tuple[np.ndarray, np.ndarray]:
        """(images, probabilities (n, 7) float32) of the faces whose most frequent vote is one of CLASSES.

        Probabilities are the shares of the votes for these. Without any votes in the data set, labels are what is sure.
        """
        images, labels, votes = self.majority()
        if (votes < 0).all():
            return images, np.eye(len(CLASSES), dtype=np.float32)[labels]
        counts = votes[:, COLUMNS].astype(np.float32)
        return images, counts / counts.sum(axis=1, keepdims=True)

    def majority(self) -> "Faces":
        """The faces whose most frequent vote (of equals the first of VOTES) is one of CLASSES, which is their label then.

        All of them, with their own labels, where the data set has no votes.
        """
        if (self.votes < 0).all():
            return self
        top = self.votes.argmax(axis=1)
        chosen = (self.votes.min(axis=1) >= 0) & (self.votes.max(axis=1) > 0) & np.isin(top, COLUMNS)
        return Faces(self.images[chosen], np.argsort(COLUMNS)[top[chosen]], self.votes[chosen])


def read_fer2013(path: str | os.PathLike, split: str) -> Faces:
    """The faces of "train", "val" or "test"; DataError where they are not all there."""
    if split not in USAGE:
        raise ValueError(f"split must be one of {', '.join(USAGE)}, got {split!r}")
    path = Path(path)
    read = _folder if path.is_dir() else _packed if path.suffix == ".npz" else _table
    try:
        with warnings.catch_warnings():                                       # of Pillow, about odd pictures
            warnings.simplefilter("ignore")
            faces = read(path, split)
        if not (len(faces.images) == len(faces.labels) and faces.votes.shape == (len(faces.images), len(VOTES))):
            raise ValueError(f"{len(faces.images)} faces, labels {faces.labels.shape} and votes {faces.votes.shape}")
        if not len(faces.images) or faces.labels.min() < 0 or faces.labels.max() >= len(CLASSES):
            raise ValueError("no faces, or labels beyond 0..6")
    except DataError:
        raise
    except Exception as error:                  # damaged archives and pictures raise nearly anything
        if isinstance(error, OSError) and error.errno in LACKS:
            raise
        reason = (str(error)[:300] or type(error).__name__).splitlines()[0]
        raise DataError(f"FER2013 {str(path)!r}: {split} cannot be read: {reason}") from error
    return faces


def _packed(path: Path, split: str) -> Faces:
    images, labels, votes = read_pack(path, split, "png", ["labels", "votes"], SIZE, MOST)
    return Faces(images, labels.astype(np.int64), votes.astype(np.int64))


def _table(path: Path, split: str) -> Faces:
    """The published table, and FER+'s beside it, row by row."""
    rows = list(csv.DictReader(io.StringIO(read_whole(path, MOST).decode("utf-8-sig"))))
    rows = [{key.strip(): value for key, value in row.items() if key} for row in rows]
    beside = path.with_name("fer2013new.csv")
    votes = np.full((len(rows), len(VOTES)), -1)
    if beside.exists():
        every = list(csv.DictReader(io.StringIO(read_whole(beside, MOST).decode("utf-8-sig"))))
        votes = np.array([[int(row[name]) for name in VOTES] for row in every])
        votes[votes.sum(axis=1) == 0] = -1
        if len(votes) != len(rows):
            raise ValueError(f"{len(rows)} faces, but {len(votes)} rows of votes in {beside.name}")
    chosen = [k for k, row in enumerate(rows) if row["Usage"] == USAGE[split]]
    grey = np.array([np.fromstring(rows[k]["pixels"], np.uint8, sep=" ") for k in chosen]).reshape(-1, SIZE, SIZE, 1)
    labels = PUBLISHED[[int(rows[k]["emotion"]) for k in chosen]]
    return Faces(np.repeat(grey, 3, axis=3), labels, votes[chosen])


def _folder(path: Path, split: str) -> Faces:
    names = {name.lower(): k for k, name in enumerate(CLASSES)}
    folders = [folder for folder in sorted((path / split).iterdir()) if folder.name.lower() in names]
    found = [(file, names[folder.name.lower()]) for folder in folders for file in sorted(folder.iterdir())
             if file.suffix.lower() in PICTURES]
    images = pictures(len(found), ((str(file), read_whole(file, MOST_PICTURE)) for file, _ in found), SIZE)
    return Faces(images, np.array([label for _, label in found], np.int64), np.full((len(found), len(VOTES)), -1))
