"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32 x 32 in ten classes, in every form in which it is handed round.

    cifar-10-python.tar.gz, cifar-10-batches-py/     as published: five pickles to train, one to test
    cifar-10-binary.tar.gz, cifar-10-batches-bin/    as published: one byte for the class, then 3 x 32 x 32 bytes
    ROOT/{train,test}/CLASS/*.png                    an image folder; classes in the order below, or alphabetical
    *.npz                                            {train,test}_{jpeg,offsets,labels}: image k is the file
                                                     jpeg[offsets[k]:offsets[k + 1]]

The pickles are read by an unpickler that builds lists, dictionaries and arrays of bytes only.
"""

import io
import itertools
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32
FILES = {"py": {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
         "bin": {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}


def read_cifar10(path: str | os.PathLike, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(images (N, 32, 32, 3) uint8 RGB, labels (N,) int64) of "train" or "test"; DataError where they are not all there."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    path, name = Path(path), repr(str(path))
    if not path.exists():
        raise DataError(f"CIFAR-10 {name} does not exist")
    read = _folder if path.is_dir() else _packed if path.suffix == ".npz" else _archive
    try:
        images, labels = read(path, split)
    except DataError:
        raise
    except Exception as error:                  # damaged archives, pickles and pictures raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise DataError(f"CIFAR-10 {name}: {split} cannot be read: {reason}") from error
    if not len(images):
        raise DataError(f"CIFAR-10 {name} has no images to {split}")
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _folder(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A folder as published, unpacked, itself or one level below; or one of pictures, a folder a class."""
    for root in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        for kind, files in FILES.items():
            if (root / files["test"][0]).exists():
                return _published(kind, split, lambda name, root=root: (root / name).read_bytes())
    if not (path / split).is_dir():
        raise DataError(f"CIFAR-10 {str(path)!r} has neither {FILES['py']['test'][0]} nor {FILES['bin']['test'][0]} nor "
                        f"a folder {split}")
    classes = sorted(p.name for p in (path / split).iterdir() if p.is_dir())
    order = [c for c in CLASSES if c in classes] if set(classes) <= set(CLASSES) else classes
    found = [(p, order.index(c)) for c in order for p in sorted((path / split / c).iterdir())
             if p.suffix.lower() in PICTURES]
    return _pictures({str(p): p.read_bytes() for p, _ in found}), np.array([label for _, label in found])


def _archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """A .tar.gz as published, read without unpacking."""
    wanted, found = {name for files in FILES.values() for name in files["test"] + files["train"]}, {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = member.name.rsplit("/", 1)[-1]
            if member.isfile() and name in wanted:
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
    return _checked(name, batch[b"data"].array(), np.array(batch.get(b"labels")))


def _checked(name: str, planes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as they are; ValueError unless planes are (N, 3072) and labels (N,) integers 0..9."""
    if planes.ndim != 2 or planes.shape[1] != 3 * SIZE * SIZE or labels.shape != planes.shape[:1]:
        raise ValueError(f"{name} has images of shape {planes.shape} and labels of shape {labels.shape}")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"{name} has labels beyond 0..9")
    return planes, labels


class _Type:
    """What a pickle calls numpy.dtype: only its name is kept."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """What a pickle calls numpy.ndarray: its state, to be looked at before it becomes an array."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array (any shape) uint8; ValueError for another type, before anything is built."""
        _version, shape, kind, fortran, raw = self.state
        if not isinstance(kind, _Type) or kind.name not in ("u1", b"u1") or not isinstance(raw, bytes):
            raise ValueError("an array that is not of bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Batch(pickle.Unpickler):
    """An unpickler for which numpy's array and dtype are the two classes above, and nothing else exists."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return type("Type", (_Type,), {})                                 # its own: a pickle may set attributes on it
        if module == "numpy" and name == "ndarray":
            return type("Array", (_Array,), {})
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: _Array()
        if (module, name) == ("_codecs", "encode"):                           # how Python 3 writes bytes in protocol 2
            return lambda text, *_: str.encode(text, "latin1")
        raise ValueError(f"it asks for {module}.{name}; nothing of it was run")


def _packed(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) of an .npz of JPEG files; ValueError where its parts do not fit."""
    with np.load(path, allow_pickle=False) as file:
        if f"{split}_jpeg" not in file:
            raise DataError(f"CIFAR-10 {str(path)!r} has no {split}_jpeg: it holds {', '.join(file.files)}")
        jpeg, offsets, labels = (file[f"{split}_{part}"] for part in ("jpeg", "offsets", "labels"))
    if len(offsets) != len(labels) + 1 or (np.diff(offsets) <= 0).any() or offsets[0] < 0 or offsets[-1] > len(jpeg):
        raise ValueError(f"{len(labels)} labels and {len(offsets)} offsets into {len(jpeg)} bytes do not belong together")
    parts = {f"image {k}": jpeg[a:b].tobytes() for k, (a, b) in enumerate(itertools.pairwise(offsets))}
    return _pictures(parts), labels


def _pictures(files: dict[str, bytes]) -> np.ndarray:
    """PNG, JPEG or BMP files by name, grey, with a palette or transparency too -> (N, 32, 32, 3) uint8 RGB."""
    images = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
    for k, (name, content) in enumerate(files.items()):
        try:
            picture = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        except Exception as error:              # damaged pictures raise nearly anything
            raise ValueError(f"{name}: cannot identify a picture in it") from error
        if picture.shape[:2] != (SIZE, SIZE):
            raise ValueError(f"{name}: {picture.shape[1]} x {picture.shape[0]} pixels, expected {SIZE} x {SIZE}")
        images[k] = picture
    return images
