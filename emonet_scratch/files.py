"""Reading files of strangers, writing a file whole or not at all, arrays by name in a file."""

import csv
import io
import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError


def regular_file(path: str | os.PathLike) -> str:
    """The absolute name of a regular file that can be opened and is not empty. DataError: anything else.

    A pipe or a device could block for ever or never end, so that is asked before the file is opened.
    """
    name = os.fsdecode(path)
    try:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            kind = "directory" if stat.S_ISDIR(mode) else "device or pipe"
            raise DataError(f"{name!r}: expected a regular file, got a {kind}")
        with open(name, "rb") as file:
            if not file.read(1):
                raise DataError(f"{name!r}: the file is empty")
    except FileNotFoundError:
        raise DataError(f"{name!r}: no such file") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:    # ValueError: a null byte in the name
        raise DataError(f"{name!r}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None
    return os.path.abspath(name)


def write_whole(path: str | os.PathLike, *parts: bytes | memoryview) -> None:
    """Put `parts`, one after the other, at `path`: a reader finds the old file or the new one, whole, whatever happens.

    A temporary file beside it is written, flushed to the disk and renamed; it is removed if that fails. OSError
    (full disk, no permission) is passed on with the name of `path`.
    """
    path = Path(path)
    temporary = path.parent / f".part-{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_csv(path: str | os.PathLike, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, the first of which names the columns, as comma-separated values, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_tensors(path: str | os.PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays by name, and texts by name, as a safetensors file, whole or not at all. Equal arguments, equal bytes."""
    from safetensors.numpy import save
    write_whole(path, save({name: np.asarray(a, order="C") for name, a in arrays.items()}, metadata))


#: The types of safetensors that NumPy has, and BF16.
SAFETENSORS = set("BOOL U8 I8 U16 I16 U32 I32 U64 I64 F16 F32 F64 C64 BF16".split())


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a safetensors file, bfloat16 as float32. ValueError where it is damaged, none, or of other types."""
    from safetensors import SafetensorError, deserialize, safe_open
    try:
        with safe_open(path, "numpy") as file:
            types, metadata = {name: file.get_slice(name).get_dtype() for name in file.keys()}, file.metadata() or {}
            if lacking := [name for name, kind in types.items() if kind not in SAFETENSORS]:
                raise ValueError(f"tensor {lacking[0]!r} is of type {types[lacking[0]]}, which NumPy does not have: "
                                 f"save it as float32")
            arrays = {name: file.get_tensor(name) for name, kind in types.items() if kind != "BF16"}
        raws = deserialize(Path(path).read_bytes()) if "BF16" in types.values() else []
        return arrays | {name: bfloat16(raw["data"]).reshape(raw["shape"])
                         for name, raw in raws if raw["dtype"] == "BF16"}, metadata
    except SafetensorError as error:
        raise ValueError(f"damaged, or no safetensors file ({error})") from error


def bfloat16(raw: bytes, order: str = "<") -> np.ndarray:
    """The numbers of these bytes as float32, of which bfloat16 is the upper half."""
    return (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
