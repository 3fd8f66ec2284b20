"""Decoded clips on disk, found again by what a clip holds and how it was decoded."""

import hashlib
import json
import os
import warnings
import zlib
from io import BytesIO

import numpy as np

from ...errors import DataError
from ...files import regular_file, remove_leftovers, write_whole
from .ffmpeg import PathLike, ffmpeg_version

CACHE_VERSION = 2          # raise it whenever the same settings decode to other pixels
BLOCK_BYTES = 2**20        # a file is read in blocks of this size


def content_key(path: PathLike) -> str:
    """The sha256 of a file's bytes in hexadecimal, read in blocks. DataError: no regular file, empty."""
    digest = hashlib.sha256()
    name = regular_file(path)
    try:
        with open(name, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{os.fsdecode(path)!r}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


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

    def load(self, key: str) -> np.ndarray | None:
        """The array of `key`, read-only, mapped from disk; None where it is absent or damaged."""
        file = self._file(key)
        try:
            raw = np.memmap(file, np.uint8, "r")
            if zlib.crc32(raw[:-4]).to_bytes(4, "little") != raw[-4:].tobytes():
                return None
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None

    def store(self, key: str, clip: np.ndarray) -> bool:
        """Writes `clip`; True when it is there. False, with a warning the first time, when the disk refuses."""
        if not self.writable:
            return False
        clip = np.ascontiguousarray(clip)
        head = BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(clip))
        crc = zlib.crc32(clip, zlib.crc32(head.getvalue()))
        try:
            write_whole(self._file(key), head.getvalue(), clip.data, crc.to_bytes(4, "little"))
        except OSError as error:
            self._refused(error)
        return self.writable

    def _refused(self, error: OSError) -> None:
        """Go on without, and say so once."""
        self.writable = False
        warnings.warn(f"{self.folder!r}: the cache cannot be written ({error.strerror}); going on "
                      "without: what is not in it yet stays in memory and is computed again next time", stacklevel=3)

    def keep(self, key: str, clip: np.ndarray) -> np.ndarray:
        """Stores `clip` and gives it back as `load` does; `clip` itself where the disk refuses."""
        found = self.load(key) if self.store(key, clip) else None
        return clip if found is None else found

    def _file(self, key: str) -> str:
        return os.path.join(self.folder, key + ".npy")
