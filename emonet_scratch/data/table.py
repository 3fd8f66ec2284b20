"""A table of clips, a row each: path and label, and if wanted split, group and features."""

import csv
import io
import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import DataError
from ..files import read_whole

COLUMNS = ("path", "label", "split", "group", "features")
MOST = 2**25        # bytes of a table: some 300,000 clips
NO_TEXT = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")     # but a path may have any bytes


def is_clip_table(path: Path) -> bool:
    """Whether a file begins with the header of a table of clips."""
    with suppress(OSError):
        if path.is_file():
            with open(path, "rb") as file:
                head = file.readline(2**16).decode("utf-8-sig", "replace")
            return set(COLUMNS[:2]) <= {name.strip(' "\r\n').casefold() for name in re.split("[,;\t]", head)}
    return False


def read_table(path: str | os.PathLike) -> list[tuple[int, dict[str, str]]]:
    """(number of the row, {column: text without blanks around}) of a CSV file with a header; of COLUMNS only.

    Separated by comma, semicolon or tab, UTF-8 with or without a byte order mark. DataError, with row and column: no such
    columns, a row of another length, an empty path, what is no text.
    """
    path, shown = Path(path), repr(os.fspath(path))
    content = read_whole(path, MOST)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{shown} row 1: expected UTF-8, got UTF-16: save it as UTF-8")
    text = content.decode("utf-8-sig", "surrogateescape")
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip().casefold() for name in next(rows, [])]
        if lacking := [name for name in COLUMNS[:2] if name not in names]:
            raise DataError(f"{shown} row 1: expected columns named path and label, separated by comma, semicolon or tab, "
                            f"got no {lacking[0]} among {', '.join(repr(name[:40]) for name in names[:8])}")
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise DataError(f"{shown} row 1: the column {twice[0]} is there twice")
        found = [(number, _cells(f"{shown} row {number}", names, row)) for number, row in enumerate(rows, 2)
                 if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{shown} near row {rows.line_num}: {error}") from None
    if not found:
        raise DataError(f"{shown}: expected a row for every clip below the header, got none")
    return found


def _cells(where: str, names: list[str], row: list[str]) -> dict[str, str]:
    """{column: text} of a row."""
    if len(row) != len(names):
        raise DataError(f"{where}: expected {len(names)} values, one for each column, got {len(row)}")
    cells = {name: cell.strip() for name, cell in zip(names, row, strict=True) if name in COLUMNS}
    if not cells["path"]:
        raise DataError(f"{where}, column path: expected the name of a file, got nothing")
    for name, text in cells.items():
        if name not in ("path", "features") and NO_TEXT.search(text):
            raise DataError(f"{where}, column {name}: expected text on one line in UTF-8, got {text[:80]!r}")
    return cells
