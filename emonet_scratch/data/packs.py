"""Pictures of one size and what is known of them: in the columns of an .npz, or in files."""

import io
import itertools
import math
import os
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from ..files import bounded_zip, opened

PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}
#: Bytes of one column of an .npz and of a picture; pictures.
MOST_COLUMN, MOST_PICTURE, MOST_IMAGES = 2**26, 2**20, 60_000


def read_pack(path: str | os.PathLike, split: str, kind: str, more: Sequence[str], size: int, most: int) -> list[np.ndarray]:
    """[images (N, size, size, 3) uint8, each of the columns split_more] of an .npz of pictures.

    Its columns split_kind and split_offsets hold the files, picture k being kind[offsets[k]:offsets[k + 1]]. most: bytes of
    the archive. ValueError: it lacks a column, or they do not belong together.
    """
    names = [f"{split}_{part}" for part in (kind, "offsets", *more)]
    with opened(path, most) as (file, _), zipfile.ZipFile(bounded_zip(file)) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        if lacking := [name for name in names if name not in held]:
            raise ValueError(f"it has no {lacking[0]}: it holds {', '.join(held[:9])}")
        files, offsets, *columns = (_column(archive, f"{name}.npy") for name in names)
    if files.dtype != np.uint8 or files.ndim != 1:
        raise ValueError(f"{names[0]} is of type {files.dtype} and shape {files.shape}, expected bytes")
    N, ends = len(columns[0]), np.array([-1, *offsets.ravel(), len(files) + 1], np.int64)
    if {len(offsets) - 1, *map(len, columns)} != {N} or (ends[1:] <= ends[:-1]).any():
        raise ValueError(f"{N} {more[0]} and {len(offsets)} offsets into {len(files)} bytes do not belong together")
    parts = ((f"image {k}", files[a:b].tobytes()) for k, (a, b) in enumerate(itertools.pairwise(offsets)))
    return [pictures(N, parts, size), *columns]


def _column(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of integers of an .npz. ValueError: too large, another thing, or of another length than it says."""
    if archive.getinfo(name).file_size > MOST_COLUMN:
        raise ValueError(f"{name} has more than {MOST_COLUMN:,} bytes")
    content = io.BytesIO(archive.read(name))
    np.lib.format.read_magic(content)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(content)
    raw = content.read()
    if dtype.kind not in "iu" or fortran or not shape or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"{name} is of type {dtype} and shape {shape} in {len(raw):,} bytes, no row of integers")
    return np.frombuffer(raw, dtype).reshape(shape)


def pictures(count: int, files: Iterable[tuple[str, bytes]], size: int) -> np.ndarray:
    """PNG, JPEG or BMP files and their names, grey, with a palette or transparency too -> (N, size, size, 3) uint8 RGB."""
    if count > MOST_IMAGES:
        raise ValueError(f"{count:,} pictures, expected at most {MOST_IMAGES:,}")
    images = np.empty((count, size, size, 3), np.uint8)
    for k, (name, content) in enumerate(files):
        try:
            picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "BMP"))
            if picture.size == (size, size):
                images[k] = np.array(picture.convert("RGB"))
        except Exception as error:              # damaged pictures raise nearly anything
            raise ValueError(f"{name}: cannot identify a picture in it") from error
        if picture.size != (size, size):
            raise ValueError(f"{name}: {picture.size[0]} x {picture.size[1]} pixels, expected {size} x {size}")
    return images
