"""Weights that others trained, read without PyTorch: safetensors, and both kinds of files that `torch.save` writes.

A PyTorch file is a pickle, and a pickle is a program: it may name any function of any module and have it called. The
reader here knows names that make tensors, and refuses every other; it counts what it does for them (pickles.py), reads a
storage once, and builds nothing larger than what the file holds.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from .errors import DataError, WeightsError
from .files import bfloat16, bounded_zip, check_finite, opened, read_tensors
from .pickles import FEW, Dictionary, Unpickler

#: Bytes of a file of weights, and of the pickle in it; names of tensors and of what they are in.
MOST, MOST_PICKLE, MOST_NAMES = 2**29, 2**24, 100_000
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
        with opened(path, MOST) as (file, size):
            start = file.read(9)
            file.seek(0)
            if start[:4] == b"PK\x03\x04":
                found = _read_zip(file, size)
            elif start[:1] == b"\x80":
                found = _read_legacy(file, size)
            elif start[8:9] == b"{":                                          # behind the length of a JSON header
                found, _ = read_tensors(path, MOST)
            else:
                raise ValueError("neither a safetensors file nor one that torch.save wrote")
        return dict(_flatten(found))
    except DataError as error:
        raise WeightsError(f"weights {error}") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:                  # damaged pickles raise nearly anything
        reason = str(error)[:300] or type(error).__name__
        raise WeightsError(f"{str(path)!r} holds no weights that can be read: {reason}") from error


def _flatten(value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in dictionaries of dictionaries, by the keys that lead to them. ValueError: too deep, or in themselves."""
    todo = [("", value)]
    for prefix, inner in todo:                                                # which grows meanwhile
        if len(todo) > MOST_NAMES or len(prefix) > 1000:
            raise ValueError("dictionaries that are nested too deeply")
        if isinstance(inner, np.ndarray):
            yield prefix, inner
        elif isinstance(inner, dict):
            todo += [(f"{prefix}.{key}" if prefix else str(key), part) for key, part in inner.items()
                     if isinstance(part, (np.ndarray, dict))]


def _read_zip(file: BinaryIO, size: int) -> Any:
    """PyTorch 1.6 and later: NAME/data.pkl, and every storage as NAME/data/KEY, not compressed."""
    import zipfile
    with zipfile.ZipFile(bounded_zip(file)) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("a zip archive without the data.pkl of torch.save")
        folder = pickles[0].removesuffix("data.pkl")

        def content(name: str, most: int) -> bytes:
            entry = archive.getinfo(folder + name)
            if entry.compress_type or entry.file_size > most:
                raise ValueError(f"{folder}{name} is compressed, or of more than {most:,} bytes ({entry.file_size:,})")
            return archive.read(entry)
        little = f"{folder}byteorder" not in archive.namelist() or content("byteorder", 16) == b"little"

        def storage(kind: str, key: str, count: int) -> np.ndarray:
            raw = content(f"data/{key}", size)
            if len(raw) != count * _dtype(kind).itemsize:
                raise ValueError(f"storage {key} has {len(raw)} bytes, expected {count} numbers of {kind}")
            return _numbers(raw, kind, little)
        return _Tensors(BytesIO(content("data.pkl", MOST_PICKLE)), size, storage).load()


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """PyTorch before 1.6: pickles of a magic number, a protocol, the system and the object, then the storages it names."""
    stream = BytesIO(file.read(MOST_PICKLE))

    def plain() -> Any:
        return _Tensors(stream, 0, None).load()
    if plain() != LEGACY_MAGIC or plain() != LEGACY_PROTOCOL:
        raise ValueError("a pickle, but not one of torch.save")
    little = bool(plain().get("little_endian", True))
    tensors = _Tensors(stream, size, lambda kind, key, count: np.empty(
        count, "f4" if kind == "BFloat16Storage" else _dtype(kind)))          # they share what comes later
    found, keys = tensors.load(), [key for key in plain() if isinstance(key, str)]
    if missing := tensors.storages.keys() - keys:
        raise ValueError(f"storage {min(missing)} is not in it")
    file.seek(stream.tell())
    for key in dict.fromkeys(keys):
        kind, room = tensors.storages[key]
        count = int.from_bytes(file.read(8), "little" if little else "big")
        raw = file.read(len(room) * _dtype(kind).itemsize)
        if count != len(room) or len(raw) != count * _dtype(kind).itemsize:
            raise ValueError(f"storage {key} ends early")
        room[:] = _numbers(raw, kind, little)
    return found


def _dtype(kind: str) -> np.dtype:
    return np.dtype("u2" if kind == "BFloat16Storage" else STORAGES[kind])


def _numbers(raw: bytes, kind: str, little: bool) -> np.ndarray:
    numbers = np.frombuffer(raw, _dtype(kind).newbyteorder("<" if little else ">")).astype(_dtype(kind), copy=False)
    return bfloat16(numbers) if kind == "BFloat16Storage" else numbers


class _Tensors(Unpickler):
    """An unpickler that can build numbers, strings, lists, dictionaries and tensors, and nothing else.

    storage: gives the numbers of (kind, key, count), and is asked once for each; together they have at most `size` bytes.
    """

    known: ClassVar = {
        "collections.OrderedDict": Dictionary,
        "torch._utils._rebuild_tensor": lambda *a: _tensor(*a[:4]),
        "torch._utils._rebuild_tensor_v2": lambda *a: _tensor(*a[:4]),
        "torch._utils._rebuild_tensor_v3": lambda *a: _tensor(_view(a[0], a[6]), *a[1:4]),
        "torch._utils._rebuild_parameter": lambda data, *_: _checked(data),
        "torch.Size": lambda sizes: tuple(int(n) for n in sizes[:FEW]),
        "torch.storage.UntypedStorage": "UntypedStorage",
    } | {f"torch.{kind}": kind for kind in STORAGES} | {kind: kind for kind in UNSIGNED}

    def __init__(self, stream: BinaryIO, size: int, storage: Callable[[str, str, int], np.ndarray] | None) -> None:
        super().__init__(stream, encoding="utf-8")
        self._size, self._storage, self.storages = size, storage, {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and f"torch.{name}" not in self.known and re.match(r"(float|complex|bits|q?u?int)\d", name):
            raise ValueError(f"it holds numbers of type {name}, which NumPy does not have: save them as float32")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> np.ndarray:
        name, kind, key, _, count, *view = pid if isinstance(pid, tuple) else ()
        if self._storage is None or name != "storage" or [type(part) for part in (kind, key, count)] != [str, str, int]:
            raise ValueError("a reference that names no storage of numbers")
        if any(view):
            raise ValueError("views of storages (PyTorch before 0.4) are not read")
        if key not in self.storages:
            self._size -= count * _dtype(kind).itemsize
            if self._size < 0 or count < 0:
                raise ValueError(f"storages of more numbers than the file has bytes for, such as {key} of {count}")
            self.storages[key] = kind, self._storage(kind, key, count)
        if self.storages[key][0] != kind or len(self.storages[key][1]) != count:
            raise ValueError(f"storage {key} has two types or sizes")
        return self.storages[key][1].view()


def _view(storage: Any, kind: Any) -> np.ndarray:
    if not isinstance(kind, str):                                             # a key that is nested may not be hashed
        raise ValueError("a tensor of a type without a name")
    return _checked(storage).view(UNSIGNED[kind])


def _checked(data: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise ValueError("a parameter without a tensor")
    return data


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """The view of a storage that a tensor is; it may not reach beyond it, nor be larger."""
    if not (isinstance(storage, np.ndarray) and storage.ndim == 1 and isinstance(size, (tuple, list))
            and isinstance(stride, (tuple, list)) and len(size) == len(stride) <= FEW
            and all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))):
        raise ValueError("a tensor without storage, size or stride")
    count, last = math.prod(size), offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise ValueError(f"a tensor of size {tuple(size)} that is larger than its storage")
    if not count:
        return np.empty(size, storage.dtype)
    return np.ndarray(size, storage.dtype, storage, offset * storage.itemsize, [s * storage.itemsize for s in stride])


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


def _to_ours(ours: str, name: str, array: np.ndarray) -> np.ndarray:
    """(F, C, K, K) to (K, K, C, F), and (M, D) to (D, M), unless `ours` is ""; float32. ValueError: no finite numbers."""
    axes = (2, 3, 1, 0) if ours and array.ndim == 4 else (1, 0) if ours == "dense.W" else range(array.ndim)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is of type {array.dtype}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array.transpose(*axes), np.float32)
    check_finite({name: array})
    return array


def read_resnet(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(arguments for ResNet, its state_dict) from a file of a CIFAR ResNet's weights, whatever its names are wrapped in.

    Known are the names of torchvision and of the usual CIFAR implementations: conv1, bn1, layer1.0.conv1, ..., linear or
    fc, downsample or shortcut; and our own. WeightsError where it is another network.
    """
    found = {name: a for name, a in read_weights(path).items() if not name.endswith("num_batches_tracked")}
    try:
        ours = {name.removeprefix("weights/"): name for name in found}
        own = "features.conv.W" in ours
        if not own:
            first = min((name for name in found if re.fullmatch(r"(.*\.)?conv1\.weight", name)), key=len, default=None)
            if first is None:
                raise ValueError("it has no conv1.weight")
            prefix = first.removesuffix("conv1.weight")
            ours = {_translate(name.removeprefix(prefix)): name for name in found if name.startswith(prefix)}
        if sum(found[name].size for name in ours.values()) > os.path.getsize(path):
            raise ValueError("they have more numbers than the file has bytes")
        state = {mine: _to_ours("" if own else mine, name, found[name]) for mine, name in ours.items()}
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
            "shortcut": "projection" if any(".shortcut." in name for name in state) else "pad", "rng": Bounded(state)}


class Bounded(np.random.Generator):
    """Draws the first numbers of a network into which `state` will be loaded, and no more of them than that holds.

    So what a file declares is compared with what is in it before it takes memory.
    """

    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers, self.draws = sum(a.size for a in state.values()), 2 * len(state)

    def standard_normal(self, size: tuple[int, ...]) -> np.ndarray:
        """As that of NumPy. ValueError: more than there is to be loaded."""
        self.numbers, self.draws = self.numbers - math.prod(size), self.draws - 1
        if self.numbers < 0 or self.draws < 0:
            raise ValueError("the network that it declares is larger than what it holds")
        return super().standard_normal(size)
