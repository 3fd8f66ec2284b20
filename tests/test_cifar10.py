"""CIFAR-10 in every form, built here from the same images; damaged files; pickles that ask for more than arrays."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from emonet_scratch.data import DataError
from emonet_scratch.data.cifar10 import CLASSES, FILES, read_cifar10

PER_FILE = 6


@pytest.fixture(scope="module")
def data():
    """{split: (images, labels)}, every class in it."""
    rng = np.random.default_rng(0)
    count = {"train": 5 * PER_FILE, "test": PER_FILE}
    return {split: (rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10) for split, n in count.items()}


def files(data, kind, change=lambda batch: batch):
    """{file name: content} as published."""
    for split, names in FILES[kind].items():
        for name, images, labels in zip(names, *(np.split(a, len(names)) for a in data[split]), strict=True):
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            if kind == "bin":
                yield name, np.hstack([labels[:, None].astype(np.uint8), planes]).tobytes()
            else:
                yield name, pickle.dumps(change({b"data": planes, b"labels": labels.tolist(), b"batch_label": b"x"}), 2)


def write_folder(folder, data, kind):
    folder.mkdir()
    for name, content in files(data, kind):
        (folder / name).write_bytes(content)
    return folder


def write_archive(path, data, kind):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files(data, kind):
            info = tarfile.TarInfo(f"cifar-10-batches-{kind}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def python2(planes, labels):
    """The bytes that Python 2 wrote, and that the published archive holds: strings that are bytes."""
    n, raw = len(planes), planes.tobytes()
    return (b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            + b"K" + bytes([n]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff"
            + b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw + b"tbU\x06labels]("
            + b"".join(b"K" + bytes([label]) for label in labels) + b"eu.")


def test_the_pickles_of_python_2(tmp_path, data):
    images, labels = data["test"]
    (tmp_path / "test_batch").write_bytes(python2(images.transpose(0, 3, 1, 2).reshape(len(images), -1), labels))
    np.testing.assert_array_equal(read_cifar10(tmp_path, "test")[0], images)
    np.testing.assert_array_equal(read_cifar10(tmp_path, "test")[1], labels)


@pytest.mark.parametrize("kind", ["py", "bin"])
def test_as_published(tmp_path, data, kind):
    (tmp_path / "root").mkdir()
    for path in (write_folder(tmp_path / "unpacked", data, kind), write_archive(tmp_path / "c.tar.gz", data, kind),
                 write_folder(tmp_path / "root" / f"cifar-10-batches-{kind}", data, kind).parent):
        for split in ("train", "test"):
            images, labels = read_cifar10(path, split)
            np.testing.assert_array_equal(images, data[split][0])
            np.testing.assert_array_equal(labels, data[split][1])
            assert images.dtype == np.uint8 and labels.dtype == np.int64 and images.flags.c_contiguous


def test_an_image_folder(tmp_path, data):
    for split, (images, labels) in data.items():
        for k, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / split / CLASSES[label] / f"{k:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        (path.parent / "notes.txt").write_text("no picture")
    images, labels = read_cifar10(tmp_path, "train")
    order = np.argsort(data["train"][1], kind="stable")
    np.testing.assert_array_equal(images, data["train"][0][order])
    np.testing.assert_array_equal(labels, data["train"][1][order])


def jpeg(image):
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=75)
    return content.getvalue()


def packed(path, data, **changes):
    arrays = {}
    for split, (images, labels) in data.items():
        parts = [jpeg(image) for image in images]
        arrays |= {f"{split}_jpeg": np.frombuffer(b"".join(parts), np.uint8), f"{split}_labels": labels.astype(np.uint8),
                   f"{split}_offsets": np.cumsum([0, *map(len, parts)])}
    np.savez(path, **(arrays | changes))
    return path


def test_packed_jpeg(tmp_path, data):
    smooth = {split: (np.broadcast_to(np.linspace(0, 255, 32)[:, None], (len(x), 32, 32)).astype(np.uint8)[..., None]
                      .repeat(3, axis=-1), y) for split, (x, y) in data.items()}
    images, labels = read_cifar10(packed(tmp_path / "c.npz", smooth), "test")
    assert abs(images.astype(int) - smooth["test"][0]).max() < 12                    # JPEG is lossy
    np.testing.assert_array_equal(labels, smooth["test"][1])


GREY = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)


@pytest.mark.parametrize(("picture", "options"), [
    (GREY, {}), (GREY, {"bits": 8}), (np.stack([GREY, GREY[::-1]], axis=2), {}), (GREY > 127, {}),
    (np.stack([GREY, GREY, GREY, GREY[::-1]], axis=2), {}), (GREY.astype(np.uint16) % 2 * 65535, {})],
    ids=["grey", "palette", "grey and alpha", "black and white", "alpha", "16 bit"])
def test_any_picture_ends_as_rgb_of_one_byte(tmp_path, picture, options):
    """Transparency is dropped."""
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "test" / "cat" / "a.png", **options)
    images, _ = read_cifar10(tmp_path, "test")
    grey = picture if picture.ndim == 2 else picture[:, :, 0]
    grey = grey if grey.dtype == np.uint8 else np.where(grey > 0, 255, 0)
    assert images.shape == (1, 32, 32, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], np.repeat(grey[:, :, None], 3, axis=2))


def test_a_picture_of_another_size_is_one_line(tmp_path):
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.fromarray(np.zeros((31, 33, 3), np.uint8)).save(tmp_path / "test" / "cat" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: 33 x 31 pixels, expected 32 x 32$"):
        read_cifar10(tmp_path, "test")


class Attack:
    def __reduce__(self):
        import os
        return os.system, ("touch owned",)


def test_a_pickle_that_asks_for_more_is_refused_and_not_run(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "c", data, "py")
    for bad in (lambda b: b | {b"data": Attack()}, lambda b: b | {b"more": Attack()}, lambda b: Attack(),
                lambda b: b | {b"data": np.array([Attack()], object)}):
        for name, content in files(data, "py", bad):
            (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=r"asks for posix\.system, which is no array; nothing of it was run"):
            read_cifar10(folder, "test")
        assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("change, reason", [
    (lambda b: b | {b"data": b[b"data"][:3]}, "labels of shape"),
    (lambda b: b | {b"labels": [11] * PER_FILE}, "beyond 0..9"),
    (lambda b: b | {b"data": b[b"data"].astype(float)}, "not of bytes"), (lambda b: {}, "holds no images"),
    (lambda b: b | {b"data": b[b"data"][:, :9]}, "images of shape"), (lambda b: b | {b"labels": None}, "labels of shape")])
def test_wrong_contents_are_one_line(tmp_path, data, change, reason):
    for name, content in files(data, "py", change):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_cifar10(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_one_line(tmp_path, data):
    archive = write_archive(tmp_path / "c.tar.gz", data, "bin")
    (tmp_path / "cut.tar.gz").write_bytes(archive.read_bytes()[:5000])
    folder = write_folder(tmp_path / "short", data, "bin")
    (folder / "data_batch_3.bin").write_bytes(b"\x00" * 100)
    partial = write_folder(tmp_path / "partial", data, "py")
    (partial / "data_batch_2").unlink()
    (tmp_path / "none").mkdir()
    (tmp_path / "empty" / "train" / "cat").mkdir(parents=True)
    np.savez(tmp_path / "other.npz", x=1)
    broken = packed(tmp_path / "broken.npz", data, train_offsets=np.arange(5 * PER_FILE + 1))
    short = packed(tmp_path / "short.npz", data, train_offsets=np.arange(3))
    for path, reason in [(tmp_path / "cut.tar.gz", "cannot be read"), (folder, "100 bytes, no multiple of 3073"),
                         (partial, "data_batch_2"), (tmp_path / "none", "neither test_batch nor"),
                         (tmp_path / "missing", "does not exist"), (tmp_path / "empty", "no images to train"),
                         (tmp_path / "other.npz", "has no train_jpeg: it holds x"), (broken, "image 0: cannot identify"),
                         (short, "do not belong together"), (__file__, "cannot be read")]:
        with pytest.raises(DataError, match=reason) as caught:
            read_cifar10(path, "train")
        assert "\n" not in str(caught.value) and ("CIFAR-10" in str(caught.value) or path is partial)
    with pytest.raises(ValueError, match="split must be"):
        read_cifar10(folder, "val")


def test_the_packed_copy_of_all_images(real_data):
    images, labels = read_cifar10(real_data / "cifar10" / "cifar10_jpeg.npz", "test")
    lossless = np.load(real_data / "cifar10" / "cifar10_test_lossless_first.npz")
    assert images.shape == (10000, 32, 32, 3) and np.bincount(labels).tolist() == [1000] * 10
    # The copies are in another order; each lossless image has one that is near it.
    first = images.reshape(len(images), -1).astype(np.float32)
    for image, label in zip(lossless["images"][:5], lossless["labels"], strict=False):
        near = ((first - image.reshape(-1)) ** 2).mean(axis=1)
        assert near.min() < 200 and labels[near.argmin()] == label


@pytest.mark.parametrize(("changes", "reason"), [
    ({"test_labels": np.array([0, 1, 2, 3, 4, 99])}, "beyond 0..9"), ({"test_labels": np.arange(6) - 5}, "beyond 0..9"),
    ({"test_labels": np.full(6, np.nan)}, "no row of integers"),
    ({"test_labels": np.zeros(5, int)}, "do not belong together"),
    ({"test_offsets": np.arange(7, dtype=np.uint64)[::-1]}, "do not belong together"),
    ({"test_jpeg": np.zeros(10, "V0")}, "no row of integers"), ({"more": np.zeros(300, np.uint8)}, "more than 256 bytes")])
def test_a_pack_with_wrong_arrays_is_one_line(tmp_path, data, monkeypatch, changes, reason):
    if "more" in changes:
        monkeypatch.setattr("emonet_scratch.data.packs.MOST_COLUMN", 256)
    with pytest.raises(DataError, match=reason):
        read_cifar10(packed(tmp_path / "c.npz", data, **changes), "test")


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n", b"GIF89a"])
def test_only_the_formats_that_are_named_are_read(tmp_path, monkeypatch, content):
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "a.png").write_bytes(content)
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(DataError, match="cannot identify a picture"):
        read_cifar10(tmp_path, "test")


def test_pipes_bombs_and_too_many_pictures_are_one_line(tmp_path, data, monkeypatch):
    folder = write_folder(tmp_path / "c", data, "py")
    (folder / "test_batch").unlink()
    os.mkfifo(folder / "test_batch")
    os.mkfifo(tmp_path / "c.tar.gz")
    for path in (folder, tmp_path / "c.tar.gz"):
        with pytest.raises(DataError, match="expected a regular file"):
            read_cifar10(path, "test")
    monkeypatch.setattr("emonet_scratch.data.cifar10.MOST_ARCHIVE", 10_000)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(DataError, match="at most 10,000 bytes"):
        read_cifar10(tmp_path / "bomb.tar.gz", "test")
    monkeypatch.undo()
    monkeypatch.setattr("emonet_scratch.data.packs.MOST_IMAGES", 5)
    with pytest.raises(DataError, match="6 pictures, expected at most 5"):
        read_cifar10(packed(tmp_path / "c.npz", data), "test")


@pytest.mark.parametrize("labels", [b"](" + b"K\x01" * 5 + b"]e", b"]q\x01h\x01a", b"](G?\xf8\0\0\0\0\0\0e"])
def test_labels_are_a_flat_list_of_integers(tmp_path, data, labels):
    images, numbers = data["test"]
    raw = python2(images.transpose(0, 3, 1, 2).reshape(len(images), -1), numbers)
    (tmp_path / "test_batch").write_bytes(raw[:raw.rindex(b"](")] + labels + b"u.")
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar10(tmp_path, "test")
