"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32 x 32 in ten classes, in every form in which it is handed round.

    cifar-10-python.tar.gz, cifar-10-batches-py/     as published: five pickles to train, one to test
    cifar-10-binary.tar.gz, cifar-10-batches-bin/    as published: one byte for the class, then 3 x 32 x 32 bytes
    ROOT/{train,test}/CLASS/*.png                    an image folder; classes in the order below, or alphabetical
    *.npz                                            {train,test}_{jpeg,offsets,labels}: image k is the file
                                                     jpeg[offsets[k]:offsets[k + 1]]

The pickles are read by an unpickler that builds lists, dictionaries and arrays of bytes only.
"""

import gzip
import io
import operator
import os
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError
from ..files import LACKS, opened, read_whole
from ..pickles import Made, Unpickler
from .packs import MOST_PICTURE, PICTURES, pictures, read_pack

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32
FILES = {"py": {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
         "bin": {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}}
MOST_FILE, MOST_ARCHIVE = 2**26, 2**28      # bytes of one file of a split, of an archive unpacked


def read_cifar10(path: str | os.PathLike, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 32, 32, 3) uint8 RGB, labels (N,) int64) of "train" or "test"; DataError where they are not all there."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    path, name = Path(path), repr(str(path))
    if not path.exists():
        raise DataError(f"CIFAR-10 {name} does not exist")
    read = _folder if path.is_dir() else _packed if path.suffix == ".npz" else _archive
    try:
        with warnings.catch_warnings():                                       # of Pillow, about odd pictures
            warnings.simplefilter("ignore")
            images, labels = read(path, split)
    except DataError:
        raise
    except Exception as error:                  # damaged archives, pickles and pictures raise nearly anything
        if isinstance(error, OSError) and error.errno in LACKS:
            raise
        reason = (str(error)[:300] or type(error).__name__).splitlines()[0].rstrip(":")
        raise DataError(f"CIFAR-10 {name}: {split} cannot be read: {reason}") from error
    if not len(images):
        raise DataError(f"CIFAR-10 {name} has no images to {split}")
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _folder(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A folder as published, unpacked, itself or one level below; or one of pictures, a folder a class."""
    for root in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        for kind, files in FILES.items():
            if (root / files["test"][0]).exists():
                return _published(kind, split, lambda name, root=root: read_whole(root / name, MOST_FILE))
    if not (path / split).is_dir():
        raise DataError(f"CIFAR-10 {str(path)!r} has neither {FILES['py']['test'][0]} nor {FILES['bin']['test'][0]} nor "
                        f"a folder {split}")
    classes = sorted(p.name for p in (path / split).iterdir() if p.is_dir())
    order = [c for c in CLASSES if c in classes] if set(classes) <= set(CLASSES) else classes
    found = [(p, order.index(c)) for c in order for p in sorted((path / split / c).iterdir())
             if p.suffix.lower() in PICTURES]
    return (pictures(len(found), ((str(p), read_whole(p, MOST_PICTURE)) for p, _ in found), SIZE),
            np.array([label for _, label in found]))


def _archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A .tar.gz as published, or its .tar, read without unpacking to disk."""
    wanted, found = {name for files in FILES.values() for name in files["test"] + files["train"]}, {}
    with opened(path, MOST_ARCHIVE) as (file, _):
        zipped = file.peek(2)[:2] == b"\x1f\x8b"
        content = (gzip.open(file) if zipped else file).read(MOST_ARCHIVE + 1)
    if len(content) > MOST_ARCHIVE:
        raise ValueError(f"expected at most {MOST_ARCHIVE:,} bytes unpacked, got more")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if member.isfile() and not member.issparse() and name in wanted and member.size <= MOST_FILE:
                found[name] = tar.extractfile(member).read()
    for kind, files in FILES.items():
        if files["test"][0] in found:
            return _published(kind, split, found.__getitem__)
    raise DataError(f"CIFAR-10 {str(path)!r} is an archive without {FILES['py']['test'][0]} and {FILES['bin']['test'][0]}")


def _published(kind: str, split: str, read: Callable[[str], bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The files of a split in one of the published forms, "py" or "bin": images (N, 32, 32, 3) uint8, labels (N,)."""
    parts = [(_batch_py if kind == "py" else _batch_bin)(name, read(name)) for name in FILES[kind][split]]
    planes, labels = (np.concatenate(p) for p in zip(*parts, strict=True))
    return planes.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1), labels


def _batch_bin(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Planes (N, 3072) and labels (N,), both uint8, of a file of 3,073 bytes a record; ValueError for another length."""
    record = 1 + 3 * SIZE * SIZE
    if not content or len(content) % record:
        raise ValueError(f"{name} has {len(content)} bytes, no multiple of {record}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _checked(name, rows[:, 1:], rows[:, 0])


def _batch_py(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """As `_batch_bin`, of a pickle; ValueError where it holds anything but images and labels."""
    batch = _Batch(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(batch, dict) or not isinstance(batch.get(b"data"), _Array):
        raise ValueError(f"{name} holds no images")
    labels = np.fromiter(map(operator.index, batch.get(b"labels") or ()), np.int64)
    return _checked(name, batch[b"data"].array(), labels)


def _checked(name: str, planes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as they are; ValueError unless planes are (N, 3072) and labels (N,) integers 0..9."""
    if planes.ndim != 2 or planes.shape[1] != 3 * SIZE * SIZE or labels.shape != planes.shape[:1]:
        raise ValueError(f"{name} has images of shape {planes.shape} and labels of shape {labels.shape}")
    if labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < len(CLASSES))).all():
        raise ValueError(f"{name} has labels beyond 0..9")
    return planes, labels


class _Type(Made):
    """What a pickle calls numpy.dtype: only its name is kept."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name


class _Array(Made):
    """What a pickle calls numpy.ndarray: its state, to be looked at before it becomes an array."""

    def array(self) -> np.ndarray:
        """The array (any shape) uint8; ValueError for another type, before anything is built."""
        _version, shape, kind, fortran, raw = self.state
        if not isinstance(kind, _Type) or kind.name not in ("u1", b"u1") or not isinstance(raw, bytes):
            raise ValueError("an array that is not of bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Batch(Unpickler):
    """An unpickler for which numpy's array and dtype are the two classes above, and nothing else exists."""

    known: ClassVar = {
        "numpy.dtype": _Type, "numpy.ndarray": _Array, "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
        "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
        "_codecs.encode": lambda text, *_: str.encode(text, "latin1")}        # how Python 3 writes bytes in protocol 2


def _packed(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) of an .npz of JPEG files; ValueError where its parts do not fit."""
    images, labels = read_pack(path, split, "jpeg", ["labels"], SIZE, MOST_ARCHIVE)
    return images, _checked(f"{split}_labels", images.reshape(-1, 3 * SIZE * SIZE), labels)[1]
