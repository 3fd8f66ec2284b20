"""Reading files of strangers, writing a file whole or not at all, one writer at a time, arrays by name in a file."""

import codecs
import csv
import errno
import io
import json
import logging
import os
import platform
import re
import secrets
import stat
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO, TextIO

import numpy as np

from .errors import DataError

try:
    import fcntl
except ImportError:                                                           # Windows
    fcntl = None  # type: ignore[assignment]


#: What a machine lacks (handles, memory, room, permission) is not the fault of the data that is read on it.
LACKS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}


@contextmanager
def faults_of(path: str | os.PathLike) -> Iterator[None]:
    """What the system says against `path` in the body becomes a DataError; what the machine lacks stays an OSError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{os.fsdecode(path)!r}: no such file") from None
    except OSError as error:
        if error.errno in LACKS:
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error
        raise DataError(f"{os.fsdecode(path)!r}: cannot be opened or read ({error.strerror or error})") from None


def regular_file(path: str | os.PathLike) -> str:
    """The absolute name of a regular file that can be opened and is not empty. DataError: anything else; OSError: see LACKS.

    A pipe or a device could block for ever or never end, so that is asked before the file is opened.
    """
    name = os.fsdecode(path)
    if not is_path(name):
        raise DataError(f"{name!r}: cannot be opened (a null byte, or half a character, in its name)")
    with faults_of(path):
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            kind = "directory" if stat.S_ISDIR(mode) else "device or pipe"
            raise DataError(f"{name!r}: expected a regular file, got a {kind}")
        with open(name, "rb") as file:
            if not file.read(1):
                raise DataError(f"{name!r}: the file is empty")
    return os.path.abspath(name)


def is_path(text: str) -> bool:
    """Whether the system can be asked for this name: it holds no null byte and no half of a character."""
    return re.search(r"[\0\ud800-\udc7f\udd00-\udfff]", text) is None


@contextmanager
def opened(path: str | os.PathLike, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file of at most `most` bytes, and its size. DataError: larger, all holes, anything else; OSError: LACKS."""
    with faults_of(path), open(regular_file(path), "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_size > most:
            raise DataError(f"{os.fsdecode(path)!r}: expected at most {most:,} bytes, got {found.st_size:,}")
        if found.st_size > max(2**26, 16 * 512 * getattr(found, "st_blocks", most)):
            raise DataError(f"{os.fsdecode(path)!r}: nearly all of its {found.st_size:,} bytes are holes")
        yield file, found.st_size


def read_whole(path: str | os.PathLike, most: int = 2**24) -> bytes:
    """The bytes of a regular file, of which there may be `most`. DataError: more, or anything else; OSError: see LACKS."""
    with opened(path, most) as (file, _):
        return file.read(most)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says. ValueError: it is none, or nested more than 50 deep, which no recursion shall meet."""
    try:
        level = [found := json.loads(text)]
        for _ in range(50):
            level = [part for whole in level if isinstance(whole, dict | list)
                     for part in (whole.values() if isinstance(whole, dict) else whole)]
        if level:
            raise RecursionError
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    return found


class Lock:
    """A file that one process at a time holds; the system lets go of it when the process ends, however it ends.

    It is flock, which counts between machines as well where they share a folder over NFS (Linux from 2.6.12 on). held is
    False where there is no such lock, on Windows and on file systems without it: nobody is kept out there.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.held, self.file = Path(path), False, None

    def acquire(self, wait: bool = True) -> bool:
        """Hold the file, which is made if it is not there; False where another does and `wait` is False."""
        while True:
            try:
                self.file = open(self.path, "ab", opener=regular)
            except PermissionError:                                           # of another user, who may have been killed
                self.file = open(self.path, "rb", opener=regular)
            try:
                if fcntl:
                    fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    self.held = True
            except BlockingIOError:
                self.release()
                return False
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self.file.fileno()), self.path.stat()):
                    return True
            self.release()                                                    # who held it before has removed it

    def release(self) -> None:
        """Let go of it."""
        with suppress(OSError):                                               # a full disk, which a write has reported
            if self.file:
                self.file.close()
        self.held = False

    __enter__ = acquire

    def __exit__(self, *error: object) -> None:
        self.release()


def regular(path: str, flags: int) -> int:
    """An opener of regular files: no link is followed to what may be somebody's, no pipe is waited for."""
    handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "expected a regular file", path)
    return handle


_mine: set[tuple[str, int]] = set()             # folders that are owned, each with the thread that does


@contextmanager
def owned(folder: str | os.PathLike, new: bool = False) -> Iterator[Path]:
    """Have a folder, made if it is not there, to oneself while the body runs: who writes into one enters this first.

    new: one that nobody has, `folder` or the first of `folder`-2, `folder`-3, ... that can be made. What killed writers
    left in it is removed; a folder that was made and is still empty at the end is removed, too. A thread that owns a
    folder may enter again. DataError, before anything is touched, where another has it: it names the process.
    """
    folder = Path(folder)
    name, made = folder.name, [path for path in (folder, *folder.parents) if not path.exists()]
    for k in count(2):
        try:
            folder.mkdir(parents=True, exist_ok=not new)
            break
        except FileExistsError:
            if not new:
                raise
            folder = folder.with_name(f"{name}-{k}")
            made = [folder]
    key = os.path.realpath(folder), get_ident()
    if key in _mine:
        yield folder
        return
    try:
        with _holding(folder / ".lock", folder):
            _mine.add(key)
            yield folder
    finally:
        _mine.discard(key)
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def owned_file(path: str | os.PathLike, wait: bool = False) -> Iterator[bool]:
    """Have the name `path` to oneself while the body runs: who makes a file, or a folder as a whole, enters this first.

    wait: for another who has it. Gives whether there are such locks here. DataError where another has it.
    """
    path = Path(path)
    with _holding(path.with_name(f".{path.name}.lock"), path, wait) as held:
        yield held


@contextmanager
def _holding(file: Path, shown: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the file, which says who does, until the body is done; DataError where another has it and `wait` is False."""
    lock = Lock(file)
    try:
        free = lock.acquire(wait)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(shown)) from error
    if not free:
        holder = ""
        with suppress(OSError, DataError):
            holder = read_whole(file, 300).decode(errors="replace")
        raise DataError(f"{str(shown)!r} is in use by {holder or 'another process'}: wait until that is done, or name "
                        f"another place")
    ours = False
    try:
        with open(file, "rb") as there:
            ours = b"process ".startswith(there.read(8))
        if not ours:
            raise DataError(f"{str(file)!r} is no lock of ours: move it elsewhere, or name another place")
        with suppress(OSError):                                               # a full disk
            lock.file.truncate(0)
            lock.file.write(f"process {os.getpid()} on {platform.node()}".encode())
            lock.file.flush()
        remove_leftovers(file.parent)
        yield lock.held
    finally:
        with suppress(OSError):
            if ours:
                file.unlink()
        lock.release()


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what killed processes left half written in `folder`; what a living one writes is locked, and stays."""
    for part in Path(folder).glob(".part-" + 16 * "[0-9a-f]"):
        lock = Lock(part)
        with suppress(OSError):
            if lock.acquire(wait=False) and lock.held:
                part.unlink()
        lock.release()


def write_whole(path: str | os.PathLike, *parts: bytes | memoryview) -> None:
    """Put `parts`, one after the other, at `path`: a reader finds the old file or the new one, whole, whatever happens.

    A temporary file beside it is written, flushed to the disk and renamed; it is removed if that fails, and by
    `remove_leftovers` if the process is killed. OSError (full disk, no permission) is passed on with the name of `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "expected a regular file", str(path))
    part = Lock(path.parent / f".part-{secrets.token_hex(8)}")
    try:
        part.acquire()
        for content in parts:
            part.file.write(content)
        part.file.flush()
        os.fsync(part.file.fileno())
        if not part.held:                                                     # Windows renames closed files only
            part.release()
        os.replace(part.path, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            part.path.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        part.release()


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
#: Bytes of a file of tensors, of one with BF16, which is read as a whole, and of the header before them.
MOST_TENSORS, MOST_BF16, MOST_HEADER = 2**32, 2**28, 2**23


def bounded_zip(file: BinaryIO) -> BinaryIO:
    """The same opened file. ValueError: a zip archive with a table of contents that would take memory."""
    import zipfile
    # private, but ZipFile reads the whole table before it can be asked
    if (end := zipfile._EndRecData(file)) and end[5] > MOST_HEADER:
        raise ValueError(f"a zip archive with {end[5]:,} bytes of names, expected at most {MOST_HEADER:,}")
    file.seek(0)
    return file


def read_tensors(path: str | os.PathLike, most: int = MOST_TENSORS,
                 wanted: Callable[[str], bool] = lambda name: True) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays, metadata) of a safetensors file, bfloat16 as float32; wanted: which arrays, by name.

    ValueError: damaged, none, a type NumPy lacks; DataError: no regular file, or larger than `most` bytes; OSError: LACKS.
    """
    from safetensors import SafetensorError, deserialize, safe_open
    with opened(path, most) as (file, _):
        if (length := int.from_bytes(file.read(8), "little")) > MOST_HEADER:
            raise ValueError(f"damaged, or no safetensors file (a header of {length:,} bytes, not up to {MOST_HEADER:,})")
    try:
        with safe_open(path, "numpy") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys() if wanted(name)}
            if lacking := [name for name, kind in types.items() if kind not in SAFETENSORS]:
                raise ValueError(f"tensor {lacking[0]!r} is of type {types[lacking[0]]}, which NumPy does not have: "
                                 f"save it as float32")
            arrays = {name: file.get_tensor(name) for name, kind in types.items() if kind != "BF16"}
            metadata = file.metadata() or {}
        raws = deserialize(read_whole(path, MOST_BF16)) if "BF16" in types.values() else []
        return arrays | {name: bfloat16(np.frombuffer(raw["data"], "<u2")).reshape(raw["shape"])
                         for name, raw in raws if types.get(name) == "BF16"}, metadata
    except SafetensorError as error:
        raise ValueError(f"damaged, or no safetensors file ({error})") from error


def bfloat16(raw: np.ndarray) -> np.ndarray:
    """These 16-bit numbers as float32, of which bfloat16 is the upper half."""
    wide = raw.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def check_finite(arrays: dict[str, np.ndarray]) -> None:
    """ValueError, with the name, where an array holds a NaN or an infinity."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name!r} holds numbers that are not finite")


def shown(path: str | os.PathLike) -> str:
    """A name as it goes into a line of text: itself, or in quotes and escaped where it would break the line."""
    name = os.fsdecode(path)
    return name if name.isprintable() else repr(name)


def on_one_line(text: str) -> str:
    """The text with everything escaped that would break the line, or move the cursor of a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(text: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print at once what may hold words of strangers, with all escaped but printable characters, tabs and ends of lines."""
    print("".join(c if c in "\t\n" or "\ud800" <= c <= "\udfff" else on_one_line(c) for c in text), end=end,
          file=stream or sys.stdout, flush=True)


def warn(message: Warning | str, *where: Any) -> None:
    """Say a warning, of a library or of our own, in a line of its own on stderr. It stands in for warnings.showwarning."""
    say(f"emonet: warning: {' '.join(str(message).split())[:1000]}", stream=sys.stderr)


def print_anything() -> None:
    """From now on stdout and stderr take any text: bytes that were in a name come back, what cannot be said is escaped.

    Warnings come as one line each, and what libraries log does not come.
    """
    warnings.showwarning = warn
    logging.getLogger().addHandler(logging.NullHandler())                     # of fonts and caches: nobody can act upon it
    codecs.register_error("anything", _anything)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="anything")


def _anything(error: UnicodeEncodeError) -> tuple[str | bytes, int]:
    """An error handler for encoding: surrogateescape where it can, else backslashreplace, a character at a time."""
    code = ord(error.object[error.start])
    error.end = error.start + 1
    return (bytes([code - 0xDC00]), error.end) if 0xDC80 <= code <= 0xDCFF else codecs.backslashreplace_errors(error)
