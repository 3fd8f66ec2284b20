"""FER2013 in the forms in which it is handed round, and what ten people said of each face."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from emonet_scratch.data.fer2013 import COLUMNS, PUBLISHED, SIZE, USAGE, VOTES, read_fer2013
from emonet_scratch.emotions import CLASSES
from emonet_scratch.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (9, SIZE, SIZE), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 3, 4])
COUNTS = np.zeros((9, 10), int)
COUNTS[np.arange(7), COLUMNS] = 7                              # seven votes for the label,
COUNTS[:7, VOTES.index("contempt")] = 3                        # three for what is no class
COUNTS[7, VOTES.index("NF")] = 10                              # no face
COUNTS[8] = -1                                                 # not known
SPLITS = {"train": slice(0, 9), "val": slice(0, 3), "test": slice(2, 9)}


def png(picture):
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


def packed(path, **changes):
    columns = {}
    for split, part in SPLITS.items():
        files = [png(picture) for picture in GREY[part]]
        columns |= {f"{split}_png": np.frombuffer(b"".join(files), np.uint8),
                    f"{split}_offsets": np.cumsum([0, *map(len, files)]), f"{split}_labels": LABELS[part].astype(np.uint8),
                    f"{split}_votes": COUNTS[part].astype(np.int8)}
    np.savez(path, **{name: value for name, value in (columns | changes).items() if value is not None})
    return path


def table(path, votes=True):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", " pixels", " Usage"])
        for split, part in SPLITS.items():
            for picture, label in zip(GREY[part], LABELS[part], strict=True):
                writer.writerow([list(PUBLISHED).index(label), " ".join(map(str, picture.ravel())), USAGE[split]])
    if votes:
        with open(path.with_name("fer2013new.csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Usage", "Image name", *VOTES])
            for split, part in SPLITS.items():
                writer.writerows([USAGE[split], "x.png", *np.maximum(row, 0)] for row in COUNTS[part])
    return path


def folders(root):
    for split, part in SPLITS.items():
        for k, (picture, label) in enumerate(zip(GREY[part], LABELS[part], strict=True)):
            folder = root / split / CLASSES[label].lower()
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{k}.png").write_bytes(png(picture))
    return root


def test_the_classes_are_those_of_the_table_and_of_the_votes():
    """As published: 0 angry, 1 disgust, 2 fear, 3 happy, 4 sad, 5 surprise, 6 neutral."""
    assert [CLASSES[k] for k in PUBLISHED] == ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"]
    assert [VOTES[k] for k in COLUMNS] == ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]


@pytest.mark.parametrize("form", [lambda path: packed(path / "f.npz"), lambda path: table(path / "fer2013.csv")])
@pytest.mark.parametrize("split", SPLITS)
def test_every_face_has_its_label_and_votes(form, split, tmp_path):
    faces, part = read_fer2013(form(tmp_path), split), SPLITS[split]
    assert np.array_equal(faces.images, np.repeat(GREY[part, ..., None], 3, axis=3)) and faces.images.dtype == np.uint8
    assert np.array_equal(faces.labels, LABELS[part]) and np.array_equal(faces.votes, COUNTS[part])


def test_class_folders_have_no_votes(tmp_path):
    faces = read_fer2013(folders(tmp_path), "train")
    assert sorted(faces.labels) == sorted(LABELS) and (faces.votes == -1).all()
    images, targets = faces.voted()
    assert len(images) == 9 and np.array_equal(targets, np.eye(7)[faces.labels])


def test_faces_that_people_agree_on_are_kept_with_the_shares_of_the_classes(tmp_path):
    faces = read_fer2013(packed(tmp_path / "f.npz"), "train")
    images, targets = faces.voted()
    assert np.array_equal(images, faces.images[:7]) and np.array_equal(targets, np.eye(7)) and targets.dtype == np.float32
    mixed = faces._replace(votes=np.where(np.arange(9)[:, None] == 0, [[1, 0, 0, 2, 5, 0, 0, 2, 0, 0]], COUNTS))
    assert np.allclose(mixed.voted()[1][0], [5 / 8, 0, 0, 0, 1 / 8, 2 / 8, 0])
    assert np.array_equal(faces.majority().labels, np.arange(7)) and np.array_equal(faces.majority().images, images)
    tied = faces._replace(votes=np.where(np.arange(9)[:, None] == 0, [[4, 0, 0, 0, 4, 0, 0, 2, 0, 0]], COUNTS))
    assert tied.majority().labels[0] == 4                                     # neutral stands before anger in VOTES


def test_a_table_without_votes(tmp_path):
    assert (read_fer2013(table(tmp_path / "fer2013.csv", votes=False), "test").votes == -1).all()


@pytest.mark.parametrize("changes, reason", [
    ({"train_votes": None}, "no train_votes"), ({"train_labels": np.full(9, 7, np.uint8)}, "labels beyond"),
    ({"train_votes": np.zeros((9, 9), np.int8)}, "votes"), ({"train_offsets": np.zeros(10, int)}, "do not belong together"),
    ({"train_png": np.zeros(900_000, np.uint8)}, "image 0")])
def test_a_pack_that_does_not_fit_is_one_line(changes, reason, tmp_path):
    with pytest.raises(DataError, match=reason) as caught:
        read_fer2013(packed(tmp_path / "f.npz", **changes), "train")
    assert "\n" not in str(caught.value) and "f.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"\0" * 99, b"emotion,pixels\n", b"emotion,pixels,Usage\n0,1 2 3,Training\n",
                                     b"emotion,pixels,Usage\nx,1,Training\n"])
def test_a_table_that_is_none_is_one_line(content, tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(content)
    with pytest.raises(DataError, match="train cannot be read") as caught:
        read_fer2013(tmp_path / "fer2013.csv", "train")
    assert "\n" not in str(caught.value)


def test_the_votes_have_to_be_of_these_faces(tmp_path):
    table(tmp_path / "fer2013.csv")
    (tmp_path / "fer2013new.csv").write_text(",".join(["Usage", "Image name", *VOTES]) + "\nTraining,x" + ",1" * 10 + "\n")
    with pytest.raises(DataError, match="19 faces, but 1 rows of votes"):
        read_fer2013(tmp_path / "fer2013.csv", "train")


def test_the_packed_copy(real_data):
    """28,709 / 3,589 / 3,589 faces; of the test split 3,518 are of the seven by their votes."""
    faces = read_fer2013(real_data / "fer2013" / "fer2013_png.npz", "test")
    images, targets = faces.voted()
    assert len(faces.images) == 3589 and len(images) == len(targets) == 3518
    assert (targets.argmax(axis=1) == faces.labels[(faces.votes.min(axis=1) >= 0) & np.isin(
        faces.votes.argmax(axis=1), COLUMNS)]).mean() > 0.6                   # FER2013's own labels agree about so often
