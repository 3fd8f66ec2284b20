"""Weights that others trained, read without PyTorch: safetensors, and both kinds of files that `torch.save` writes.

A PyTorch file is a pickle, and a pickle is a program: it may name any function of any module and have it called. The
reader here knows six names, all of which make tensors, and refuses every other; what it gives them to call is made anew
for every file.
"""

import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import WeightsError
from .files import bfloat16, read_tensors

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

STORAGES = {"DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8",
            "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
            "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16", "UntypedStorage": "u1"}
UNSIGNED = {"torch.uint16": "u2", "torch.uint32": "u4", "torch.uint64": "u8"}               # views of an UntypedStorage


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All tensors of a file of weights by name, as NumPy arrays (bfloat16 as float32).

    Nested dictionaries give names joined by dots; what is no tensor (a score, an epoch) is left out.
    Raises WeightsError, also for types that NumPy does not have (float8, quantised, complex halves).

    >>> sorted(read_weights("resnet20-12fca82f.th"))[:2]                        # doctest: +SKIP
    ['state_dict.module.bn1.bias', 'state_dict.module.bn1.num_batches_tracked']
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            file.seek(0)
            if start[:4] == b"PK\x03\x04":
                found = _read_zip(file)
            elif start[:1] == b"\x80":
                found = _read_legacy(file)
            elif start[8:9] == b"{":                                          # behind the length of a JSON header
                found, _ = read_tensors(path)
            else:
                raise ValueError("neither a safetensors file nor one that torch.save wrote")
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except Exception as error:                  # damaged pickles raise nearly anything
        reason = str(error) or type(error).__name__
        raise WeightsError(f"{str(path)!r} holds no weights that can be read: {reason}") from error
    return dict(_flatten("", found))


def _flatten(prefix: str, value: Any) -> list[tuple[str, np.ndarray]]:
    if isinstance(value, np.ndarray):
        return [(prefix, value)]
    if not isinstance(value, dict):
        return []
    return [pair for key, inner in value.items() for pair in _flatten(f"{prefix}.{key}" if prefix else str(key), inner)]


def _read_zip(file: BinaryIO) -> Any:
    """PyTorch 1.6 and later: NAME/data.pkl, and every storage as NAME/data/KEY, not compressed."""
    import zipfile
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("a zip archive without the data.pkl of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        little = f"{folder}byteorder" not in archive.namelist() or archive.read(f"{folder}byteorder") == b"little"

        def storage(kind: str, key: str, count: int) -> np.ndarray:
            entry = archive.getinfo(f"{folder}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != count * _itemsize(kind):
                raise ValueError(f"storage {key} has {entry.file_size} bytes, expected {count} numbers of {kind}")
            return _numbers(archive.read(entry), kind, little)
        with archive.open(pickles[0]) as stream:
            return _Tensors(stream, storage).load()


def _read_legacy(file: BinaryIO) -> Any:
    """PyTorch before 1.6: pickles of a magic number, a protocol, the system and the object, then the storages it names."""
    def plain() -> Any:
        return _Tensors(file, None).load()
    if plain() != LEGACY_MAGIC or plain() != LEGACY_PROTOCOL:
        raise ValueError("a pickle, but not one of torch.save")
    little = bool(plain().get("little_endian", True))
    size, rooms = os.fstat(file.fileno()).st_size, {}

    def storage(kind: str, key: str, count: int) -> np.ndarray:
        if count * _itemsize(kind) > size:
            raise ValueError(f"storage {key} of {count} numbers is larger than the file")
        if key not in rooms:                                                  # tensors may share one, and it comes later
            rooms[key] = kind, np.empty(count, "f4" if kind == "BFloat16Storage" else STORAGES[kind])
        return rooms[key][1]
    found = _Tensors(file, storage).load()
    for key in plain():
        kind, room = rooms[key]
        count = int.from_bytes(file.read(8), "little" if little else "big")
        raw = file.read(count * _itemsize(kind))
        if count != len(room) or len(raw) != count * _itemsize(kind):
            raise ValueError(f"storage {key} ends early")
        room[:] = _numbers(raw, kind, little)
    return found


def _itemsize(kind: str) -> int:
    return 2 if kind == "BFloat16Storage" else np.dtype(STORAGES[kind]).itemsize


def _numbers(raw: bytes, kind: str, little: bool) -> np.ndarray:
    order = "<" if little else ">"
    if kind == "BFloat16Storage":
        return bfloat16(raw, order)
    dtype = np.dtype(STORAGES[kind])
    return np.frombuffer(raw, dtype.newbyteorder(order)).astype(dtype)


class _Tensors(pickle.Unpickler):
    """An unpickler that can build numbers, strings, lists, dictionaries and tensors, and nothing else."""

    def __init__(self, file: BinaryIO, storage: Callable[[str, str, int], np.ndarray] | None) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

        class Dictionary(dict):
            """OrderedDict's place: a class of this file's own, because a pickle may set attributes on what it is given."""
        self._known = {
            "collections.OrderedDict": Dictionary,
            "torch._utils._rebuild_tensor": lambda *a: _tensor(*a[:4]),
            "torch._utils._rebuild_tensor_v2": lambda *a: _tensor(*a[:4]),
            "torch._utils._rebuild_tensor_v3": lambda *a: _tensor(a[0].view(UNSIGNED[a[6]]), *a[1:4]),
            "torch._utils._rebuild_parameter": lambda data, *_: _checked(data),
            "torch.Size": lambda sizes: tuple(int(n) for n in sizes),
            "torch.storage.UntypedStorage": "UntypedStorage",
        } | {f"torch.{kind}": kind for kind in STORAGES} | {kind: kind for kind in UNSIGNED}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._known:
            if module == "torch" and re.match(r"(float|complex|bits|q?u?int)\d", name):
                raise ValueError(f"it holds numbers of type {name}, which NumPy does not have: save them as float32")
            raise ValueError(f"it asks for {module}.{name}, which is no tensor; nothing of it was run")
        return self._known[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> np.ndarray:
        if self._storage is None or not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"
                                         and pid[1] in STORAGES and isinstance(pid[4], int) and pid[4] >= 0):
            raise ValueError("a reference that names no storage of numbers")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("views of storages (PyTorch before 0.4) are not read")
        return self._storage(pid[1], str(pid[2]), pid[4])


def _checked(data: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise ValueError("a parameter without a tensor")
    return data


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The view of a storage that a tensor is; it may not reach beyond it, nor be larger."""
    numbers = (offset, *size, *stride)
    if not (isinstance(storage, np.ndarray) and storage.ndim == 1 and len(size) == len(stride)
            and all(isinstance(n, int) and n >= 0 for n in numbers)):
        raise ValueError("a tensor without storage, size or stride")
    count, last = math.prod(size), offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise ValueError(f"a tensor of size {tuple(size)} that is larger than its storage")
    if not count:
        return np.empty(size, storage.dtype)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, [s * storage.itemsize for s in stride], writeable=False)


# ---- CIFAR ResNets: PyTorch's names and layouts to ours ----

NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
BLOCK = r"layer([123])\.(\d+)\."
NAMES = [(r"conv1\.weight", "features.conv.W"), (r"bn1\.(\w+)", "features.bn.{}"),
         (BLOCK + r"(conv[12])\.weight", "features.stage{}.{}.body.{}.W"),
         (BLOCK + r"(bn[12])\.(\w+)", "features.stage{}.{}.body.{}.{}"),
         (BLOCK + r"(?:downsample|shortcut)\.0\.weight", "features.stage{}.{}.shortcut.conv.W"),
         (BLOCK + r"(?:downsample|shortcut)\.1\.(\w+)", "features.stage{}.{}.shortcut.bn.{}"),
         (r"(?:linear|fc)\.weight", "dense.W"), (r"(?:linear|fc)\.bias", "dense.b")]


def _translate(name: str) -> str:
    for pattern, ours in NAMES:
        if match := re.fullmatch(pattern, name):
            return ours.format(*(NORM.get(group, group) for group in match.groups()))
    raise ValueError(f"{name} is no part of a CIFAR ResNet")


def _to_ours(name: str, array: np.ndarray) -> np.ndarray:
    """(F, C, K, K) to (K, K, C, F), and (M, D) to (D, M); float32."""
    axes = (2, 3, 1, 0) if array.ndim == 4 else (1, 0) if name == "dense.W" else range(array.ndim)
    return np.ascontiguousarray(array.transpose(*axes), np.float32)


def read_resnet(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(arguments for ResNet, its state_dict) from a file of a CIFAR ResNet's weights, whatever its names are wrapped in.

    Known are the names of torchvision and of the usual CIFAR implementations: conv1, bn1, layer1.0.conv1, ..., linear or
    fc, downsample or shortcut; and our own. WeightsError where it is another network.
    """
    found = {name: a for name, a in read_weights(path).items() if not name.endswith("num_batches_tracked")}
    try:
        own = {name.removeprefix("weights/"): a for name, a in found.items()}
        if "features.conv.W" in own:
            return _arguments(own), own
        first = min((name for name in found if re.fullmatch(r"(.*\.)?conv1\.weight", name)), key=len, default=None)
        if first is None:
            raise ValueError("it has no conv1.weight")
        prefix = first.removesuffix("conv1.weight")
        ours = {_translate(name.removeprefix(prefix)): a for name, a in found.items() if name.startswith(prefix)}
        state = {name: _to_ours(name, a) for name, a in ours.items()}
        return _arguments(state), state
    except (ValueError, IndexError) as error:
        raise WeightsError(f"{str(path)!r} holds {len(found)} tensors, but no CIFAR ResNet: {error}") from error


def _arguments(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """What ResNet has to be called with for such a state."""
    blocks = {name.split(".")[2] for name in state if name.startswith("features.stage1.")}
    if "dense.W" not in state or not blocks:
        raise ValueError("it has no classifier" if blocks else "it has no layer1")
    return {"depth": 6 * len(blocks) + 2, "num_classes": state["dense.W"].shape[1],
            "width": state["features.conv.W"].shape[3],
            "shortcut": "projection" if any(".shortcut." in name for name in state) else "pad"}
