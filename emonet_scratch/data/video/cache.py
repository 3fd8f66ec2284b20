"""Decoded clips on disk, found again by what a clip holds and how it was decoded."""

import errno
import hashlib
import json
import math
import os
import warnings
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np

from ...errors import DataError
from ...files import faults_of, regular_file, remove_leftovers, write_whole
from .ffmpeg import PathLike, ffmpeg_version

CACHE_VERSION = 2          # raise it whenever the same settings decode to other pixels
BLOCK_BYTES = 2**20        # a file is read in blocks of this size
HEAD_BYTES = 128           # NumPy's header of an array of up to four axes
MAX_BYTES = 3 * 2**28      # what the pictures of a clip may take in memory


def content_key(path: PathLike) -> str:
    """The sha256 of a file's bytes in hexadecimal, read in blocks. DataError: no regular file, empty."""
    digest = hashlib.sha256()
    name = regular_file(path)
    with faults_of(path), open(name, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class Stored:
    """An array (T, ...) in a file: no memory and no handle is held for it, rows are read when they are asked for.

    It is indexed along the first axis, by an integer, a slice or integers; np.asarray reads all of it. DataError where the
    file has gone meanwhile or was cut.
    """

    def __init__(self, file: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.file, self.dtype, self.shape, self.ndim = file, dtype, shape, len(shape)
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        wanted = np.arange(len(self))[index]
        numbers, rows = wanted.ravel(), np.empty((wanted.size, self.row_bytes), np.uint8)
        in_a_row = len(numbers) > 1 and (np.diff(numbers) == 1).all()
        with faults_of(self.file), open(self.file, "rb", 0) as file:
            for k, part in ((numbers[0], rows),) if in_a_row else zip(numbers, rows, strict=True):
                file.seek(HEAD_BYTES + self.row_bytes * int(k))
                if file.readinto(part) != part.nbytes:
                    raise DataError(f"{self.file!r} was cut while it was in use: start again, it is made anew then")
        return rows.view(self.dtype).reshape(wanted.shape + self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)


Frames = Stored | np.ndarray


class FrameCache:
    """Decoded clips on disk, one file each: an .npy array with a CRC-32 of everything before it as last 4 bytes.

    Keyed by what the clip holds and how it was decoded, so that a renamed clip is found and a changed one is not.
    A file appears whole (temporary name, then rename), so any number of processes may share the folder. A file
    that is short or damaged counts as absent. A full disk gives one warning; decoding goes on, in memory. So does a folder
    that cannot be made, if the cache is `optional`.
    """

    def __init__(self, folder: PathLike, optional: bool = False):
        self.folder = os.path.abspath(os.fsdecode(folder))
        self.writable = True
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            if not optional:
                raise DataError(f"{self.folder!r}: cannot be made the frame cache ({error.strerror})") from None
            self._refused(error)
        remove_leftovers(self.folder)

    def key(self, path: PathLike, **settings: object) -> str:
        """sha256 of content, settings, versions of format and ffmpeg, in hexadecimal. DataError as those."""
        return self.key_of(content_key(path), **settings)

    def key_of(self, content: str, **settings: object) -> str:
        """The key of a file with this `content_key`."""
        text = json.dumps([content, settings, CACHE_VERSION, ffmpeg_version()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, key: str, row: tuple[int, ...], dtype: Any = np.uint8, least: int = 1,
             most: int | None = None) -> Stored | None:
        """The array of `key`, (T, *row), `least` <= T <= `most`; None where it is absent, damaged, another, over MAX_BYTES.

        Nothing that the file says is believed: it has to begin as `store` begins an array of this type and of that many
        rows of this shape as the file has bytes for.
        """
        name, dtype = self._file(key), np.dtype(dtype)
        with suppress(DataError), faults_of(name), open(regular_file(name), "rb") as file:
            rest = os.fstat(file.fileno()).st_size - 4
            T, over = divmod(rest - HEAD_BYTES, math.prod(row) * dtype.itemsize)
            known = not over and least <= T <= (most or T) and rest <= MAX_BYTES + HEAD_BYTES
            if not known or file.read(HEAD_BYTES) != (head := _head(np.broadcast_to(np.zeros((), dtype), (T, *row)))):
                return None
            crc = zlib.crc32(head)
            for start in range(HEAD_BYTES, rest, BLOCK_BYTES):
                crc = zlib.crc32(file.read(min(BLOCK_BYTES, rest - start)), crc)
            if crc.to_bytes(4, "little") == file.read(4):
                return Stored(name, dtype, (T, *row))
        return None

    def store(self, key: str, clip: np.ndarray) -> bool:
        """Writes `clip`; True when it is there. False, with a warning the first time, when the disk refuses."""
        if not self.writable:
            return False
        clip = np.ascontiguousarray(clip)
        crc = zlib.crc32(clip, zlib.crc32(head := _head(clip)))
        try:
            write_whole(self._file(key), head, clip.data, crc.to_bytes(4, "little"))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):     # which is not the fault of the folder
                raise
            self._refused(error)
        return self.writable

    def _refused(self, error: OSError) -> None:
        """Go on without, and say so once."""
        self.writable = False
        warnings.warn(f"{self.folder!r}: the cache cannot be written ({error.strerror}); going on "
                      "without: what is not in it yet stays in memory and is computed again next time", stacklevel=3)

    def keep(self, key: str, clip: np.ndarray) -> Frames:
        """Stores `clip` and gives it back as `load` does; `clip` itself where the disk refuses."""
        found = self.load(key, clip.shape[1:], clip.dtype, 0) if self.store(key, clip) else None
        return clip if found is None else found

    def _file(self, key: str) -> str:
        return os.path.join(self.folder, key + ".npy")


def _head(array: np.ndarray) -> bytes:
    """What an .npy file has in front of the numbers of an array, in the order of C."""
    head = BytesIO()
    described = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(head, described | {"fortran_order": False})
    return head.getvalue()
