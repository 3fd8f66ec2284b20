"""Feature files as openSMILE writes them: ARFF (Weka's format) and CSV with `;`, tabs or `,` between the values.

A column is one of four things, told by its name and type, in both formats. Names are compared without case, blanks, dots,
dashes and underscores (`frame_time`, `Unnamed: 0`):

    name      the first column of NAMES that is there, or else the first string column: which recording the row describes
    label     `class`, `emotion` or `label` with any type but numeric, or else the last nominal column
    skipped   what SKIPPED names: times, row numbers, who speaks, which split, targets (a class's name: predictions);
              a numeric class column; any further text
    feature   every other numeric column, with a range (`numeric [0,1]`) or without; a missing value `?` is NaN

A row number (pandas' first column, unnamed) is the name only where it is a text. `Table.skipped` has what is skipped.

Sources: https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/ for the format and its
escapes; openSMILE's cArffSink and cCsvSink for what it puts in (a dummy class column, `'unknown'` as name);
opensmile-python for CSV with `,` (columns file, start, end in front).
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from ..files import faults_of, regular_file, write_whole

#: Columns that say which recording a row is of, the surest first; "index", a row number or a text without a heading, last.
NAMES = ("name file filename filepath path wav wavfile audio clip clipname clipid video videoname videoid utterance "
         "utteranceid fileid id index").split()
#: More than this is no feature file, or one to be divided: so that no file takes more memory than there is.
LINE_BYTES, MOST_COLUMNS, MOST_VALUES = 2**21, 2**16, 2**26
#: Columns that openSMILE puts in front of its features: one row a frame, a segment or a file.
MARKS = {"frameindex", "frametime", "framelength", "start", "end"}
BOOKKEEPING = set("starttime endtime time timestamp begin stop onset offset t0 t1 frame frames nframes "
                  "fps samplerate samplingrate idx row rownumber rowid subject subjectid speaker speakerid actor actorid "
                  "person personid session sessionid segment segmentid split fold partition group gender sex age".split())
TARGETS = {name.lower() for name in CLASSES} | set("arousal valence dominance confidence target targets y labels emotionid "
                                                   "emotionlabel classid labelid".split())
SKIPPED = MARKS | BOOKKEEPING | TARGETS | set(NAMES)
CLASS_NAMES = {"class", "emotion", "label"}
RESERVED = SKIPPED | CLASS_NAMES            # names that no feature has
NUMERIC = {"numeric", "real", "integer", "int", "float", "double"}
ESCAPES = {"\\": "\\\\", "'": "\\'", '"': '\\"', "%": "\\%", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNESCAPES = {escape: character for character, escape in ESCAPES.items()}
QUOTED = r"""'([^'\\]*(?:\\.[^'\\]*)*)'|"([^"\\]*(?:(?:\\.|"")[^"\\]*)*)\""""        # no step, and no memory, a character
ATTRIBUTE = re.compile(rf"@attribute\s+(?:{QUOTED}|([^\s{{'\"][^\s{{]*))\s*(.*)", re.IGNORECASE | re.DOTALL)
CELL = {c: re.compile(rf"{blank}*(?:(?:{QUOTED}){blank}*|([^{c}]*))({c}|\Z)", re.DOTALL)
        for c, blank in ((";", r"\s"), ("\t", r"[^\S\t]"), (",", r"\s"))}


class Row(NamedTuple):
    """One recording: its name and class, None where missing, and its features, (D,) float64."""

    name: str | None
    label: str | None
    vector: np.ndarray


@dataclass
class Table:
    """A feature file: D feature names and one vector (D,) a row, in the order of the file; and the columns left out."""

    relation: str
    names: tuple[str, ...]
    rows: list[Row]
    skipped: tuple[str, ...] = ()


class Columns(NamedTuple):
    """Which column is what; `features` holds the positions of the D features."""

    count: int
    name: int | None
    label: int | None
    features: tuple[int, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...]


class _Fault(Exception):
    """(line number counted from 0, what is wrong): the reader adds the name of the file."""


def read_features(path: str | os.PathLike) -> Table:
    """Read an ARFF or CSV file, told by its suffix; DataError for any other."""
    readers = {".arff": read_arff, ".csv": read_csv}
    suffix = Path(path).suffix.lower()
    if suffix not in readers:
        raise DataError(f"{os.fspath(path)!r}: expected a feature file, .arff or .csv, got the suffix {suffix!r}")
    return readers[suffix](path)


def read_arff(path: str | os.PathLike) -> Table:
    """Read an ARFF file: any number of rows, features (D,) float64 each.

    Keywords in any case, comments, blank lines and CRLF are read; sparse rows `{...}` are not.
    Raises DataError with file, line, what was expected and what came.
    """
    with _lines(path) as lines:
        head = []
        while (more := next(lines, None)) and more[1].strip().lower() != "@data" and len(head) < 2 * MOST_COLUMNS:
            head.append(more[1])
        relation, columns = _header(tuple(head))
        if not more or len(head) == 2 * MOST_COLUMNS:
            end = f"{len(head)} lines without" if more else "the end of the file"
            raise _Fault(len(head) - 1, f"expected a line '@data' and rows below it, got {end}")
        return Table(relation, columns.names, _rows(lines, columns, ","), columns.skipped)


def read_csv(path: str | os.PathLike) -> Table:
    """Read openSMILE's CSV, values separated by `;`, tabs or `,`: (D,) float64 a row; DataError as in `read_arff`.

    Without a header line (one whose second cell is no number) the columns are taken to be name, frameTime
    and features, as openSMILE writes them, and the features are named column_3, column_4, ...
    """
    with _lines(path) as lines:
        separator, columns, values = _csv_columns(lines)
        return Table("", columns.names, _rows(values, columns, separator), columns.skipped)


def is_feature_table(text: str) -> bool:
    """Whether a CSV file with these first lines is for `read_csv`, damaged or not.

    With `;` any is. With tabs or `,` one that bears openSMILE's marks, and numbers below its head: names such as
    loudness_sma3_amean, or the columns file, start, end without a class: most tables of that kind are none of features.
    """
    try:
        separator, columns, values = _csv_columns(enumerate(text.splitlines()))
        marked = columns.label is None and any(_plain(name) in MARKS for name in columns.skipped)
        return separator == ";" or ((marked or any("_sma" in name for name in columns.names))
                                    and bool(_rows(values, columns, separator)))
    except _Fault:
        return ";" in text.partition("\n")[0]


def _csv_columns(lines: Iterator[tuple[int, str]]) -> tuple[str, Columns, Iterator[tuple[int, str]]]:
    """(separator, columns, the lines of values) of a CSV file."""
    filled = ((i, line) for i, line in lines if line.strip())
    first, head = next(filled, (0, ""))
    two = list(islice(filled, 1))
    separator, cells, headless = _csv_head(head, first)
    values = [] if headless or not two else _cells(two[0][1], separator, two[0][0])
    texts = {*NAMES[:-1], *CLASS_NAMES} | {"index" for cell, value in zip(cells, values, strict=False)
                                           if _plain(cell) == "index" and not _is_number(value or "0")}
    kinds = ["string" if _plain(cell) in texts else "numeric" for cell in cells]
    columns = _columns(list(zip(cells, kinds, strict=True)), first)
    return separator, columns, chain([(first, head)] if headless else [], two, filled)


def _csv_head(head: str, number: int) -> tuple[str, list[str], bool]:
    """(separator, names of the columns, whether these are not in the file but openSMILE's) by the first line."""
    separator = next((c for text in (re.sub(QUOTED, "", head), head) for c in CELL if c in text), ";")
    cells = [cell or "index" for cell in _cells(head, separator, number)]
    if len(cells) < 2:
        raise _Fault(number, f"expected values separated by ';', tabs or ',', got {_clip(head)}")
    numbered = _plain(cells[0]) in NAMES and cells[1:] == [str(i) for i in range(len(cells) - 1)]     # by pandas
    if _is_number(cells[1]) and not numbered:
        return separator, ["name", "frameTime"] + [f"column_{i + 1}" for i in range(2, len(cells))], True
    return separator, cells, False


def write_arff(path: str | os.PathLike, relation: str, names: Sequence[str],
               rows: Iterable[tuple[str | None, str | int | None, Sequence[float]]],
               classes: Sequence[str] = CLASSES) -> None:
    """Write rows of (name, class or its number or None, D features) so that `read_arff` gives them back exactly.

    DataError for a row of another length, an unknown class, a feature named like a column that readers
    skip, a NUL in a text, or a disk that does not take the file; then nothing is written.
    """
    shown = f"{os.fspath(path)!r}: cannot write"
    reserved = [name for name in names if _plain(name) in RESERVED]
    if reserved:
        raise DataError(f"{shown} a feature named {reserved[0]!r}, which readers skip: rename it")
    out = [f"@relation {_quote(relation)}", "", "@attribute name string"]
    out += [f"@attribute {_quote(name)} numeric" for name in names]
    out += [f"@attribute class {{{','.join(map(_quote, classes))}}}", "", "@data"]
    for name, label, vector in rows:
        if isinstance(label, int | np.integer) and 0 <= label < len(classes):
            label = classes[label]
        if label is not None and label not in classes:
            raise DataError(f"{shown} row {name!r}: expected a class of {', '.join(classes)}, got "
                            f"{np.asarray(label).item()!r}")
        if len(vector) != len(names):
            raise DataError(f"{shown} row {name!r}: expected {len(names)} features, got {len(vector)}")
        out.append(",".join(["?" if name is None else _quote(name, always=True), *_values(vector),
                             "?" if label is None else _quote(label)]))
    if any("\0" in line for line in out):
        raise DataError(f"{shown} a name that holds a NUL character: rename it")
    _write_lines(path, out)


def write_csv(path: str | os.PathLike, names: Sequence[str], rows: Iterable[tuple[str, Sequence[float]]]) -> None:
    """Write rows of (name, D features), values separated by `;`, so that `read_csv` gives them back exactly.

    DataError for a name that a line cannot hold, and for a disk that does not take the file; then nothing is written.
    """
    out = [";".join(["name", *names])]
    for name, vector in rows:
        if any(c in name for c in "\n\r\0"):
            raise DataError(f"{os.fspath(path)!r}: cannot write the name {name!r} into a line: rename it, or write .arff")
        out.append(";".join([_quote(name, always=True), *_values(vector)]))
    _write_lines(path, out)


def _values(vector: Sequence[float]) -> list[str]:
    """The shortest texts that read back as the same numbers; `?` for NaN, a missing value."""
    return ["?" if np.isnan(v) else repr(float(v)) for v in vector]


def _write_lines(path: str | os.PathLike, lines: Sequence[str]) -> None:
    """The lines as a file, whole or not at all; DataError for a disk that does not take it."""
    try:
        write_whole(path, "\n".join([*lines, ""]).encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DataError(f"{os.fspath(path)!r}: cannot write: {error.strerror}") from None


@contextmanager
def _lines(path: str | os.PathLike) -> Iterator[Iterator[tuple[int, str]]]:
    """The lines of a text file, numbered, without their ends; a _Fault raised over them gets the file's name."""
    try:
        with faults_of(path), open(regular_file(path), "rb") as file:
            yield _numbered(file)
    except _Fault as fault:
        raise DataError(f"{os.fspath(path)!r} line {fault.args[0] + 1}: {fault.args[1]}") from None


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Bytes that are not UTF-8 survive as surrogates, as they do in names of files."""
    blank = True
    for i, line in enumerate(chain(iter(partial(file.readline, LINE_BYTES + 1), b""), [b""])):
        if len(line) > LINE_BYTES:
            raise _Fault(i, f"expected at most {LINE_BYTES} bytes in a line, got more: no feature file")
        if b"\0" in line:
            raise _Fault(i, "expected text, got binary data: no feature file")
        text = line.removeprefix(b"\xef\xbb\xbf" if i == 0 else b"").decode("utf-8", "surrogateescape")
        blank = blank and not text.strip()
        if blank and not line:
            raise _Fault(0, "expected a feature file, got an empty one: extract it again")
        yield i, text.removesuffix("\n").removesuffix("\r")


@lru_cache(maxsize=4)
def _header(lines: tuple[str, ...]) -> tuple[str, Columns]:
    """Relation and columns of an ARFF header. Kept, because a data set repeats one header in every file."""
    relation, attributes = "", []
    for i, line in enumerate(lines):
        line = line.strip()
        keyword = line.split(None, 1)[0].lower() if line else "%"
        if keyword.startswith("%"):
            continue
        if keyword == "@relation":
            relation = next(iter(_cells(line[len("@relation"):], ",", i))) or ""
        elif keyword == "@attribute":
            match = ATTRIBUTE.fullmatch(line)
            if not match or not match[4]:
                raise _Fault(i, f"expected '@attribute NAME TYPE', got {_clip(line)}")
            name = match[3] if match[3] is not None else _unescape(match[1] if match[1] is not None else match[2])
            attributes.append((name, "nominal" if match[4][0] == "{" else re.match(r"\w*", match[4])[0].lower()))
        else:
            raise _Fault(i, f"expected @relation, @attribute or @data, got {_clip(line)}: is this an ARFF file?")
    return relation, _columns(attributes, len(lines) - 1)


def _plain(name: str) -> str:
    """The name of a column as it is compared; pandas' own names for a row number are all "index"."""
    bare = re.sub(r"([\s_]+|[\s_]*[(\[])(s|ms|sec|seconds|hz)[)\]]?$", "", name.strip().lower())           # a unit
    plain = re.sub(r"[\s_.:-]+", "", bare) or name.strip()
    return re.sub(r"^((unnamed|level)\d+|#)$", "index", plain)


def _columns(attributes: list[tuple[str, str]], line: int) -> Columns:
    """What each (name, type) column holds, as the head of this file says."""
    plain, kinds = [_plain(name) for name, _ in attributes], [kind for _, kind in attributes]
    features = tuple(i for i, kind in enumerate(kinds) if kind in NUMERIC and plain[i] not in RESERVED)
    if len(attributes) > MOST_COLUMNS:
        raise _Fault(line, f"expected at most {MOST_COLUMNS} columns, got {len(attributes)}")
    if not features:
        raise _Fault(line, f"expected a numeric feature column, got none among {len(attributes)} columns")
    name = _name_column(plain, kinds)
    label = _label_column(plain, kinds, name)
    used = {*features, name, label}
    skipped = tuple(attributes[i][0] for i in range(len(plain)) if i not in used)
    return Columns(len(attributes), name, label, features, tuple(attributes[i][0] for i in features), skipped)


def _name_column(plain: list[str], kinds: list[str]) -> int | None:
    """The text column whose name is first in NAMES; without any, the first string column of no reserved name."""
    texts = [i for i, kind in enumerate(kinds) if kind not in NUMERIC]
    strings = [i for i in texts if kinds[i] != "nominal" and plain[i] not in RESERVED]
    named = [i for i in texts if plain[i] in NAMES]
    return min(named, key=lambda i: NAMES.index(plain[i]), default=next(iter(strings), None))


def _label_column(plain: list[str], kinds: list[str], name: int | None) -> int | None:
    """The last text column that is named like a class; without any column of such a name, the last nominal one."""
    if CLASS_NAMES & set(plain):
        return max((i for i, kind in enumerate(kinds) if kind not in NUMERIC and plain[i] in CLASS_NAMES), default=None)
    return max((i for i, kind in enumerate(kinds) if kind == "nominal" and i != name), default=None)


def _rows(lines: Iterator[tuple[int, str]], columns: Columns, separator: str) -> list[Row]:
    """The rows of these lines, blank ones and comments left out; _Fault where there is none, or too many for the memory."""
    rows, number = [], 0
    for number, line in lines:
        if line.strip()[:1] not in ("", "%"):
            rows.append(_row(line, number, columns, separator))
            if len(rows) * (columns.count + 64) > MOST_VALUES:
                raise _Fault(number, f"expected at most {MOST_VALUES} values in a file, got more: divide it")
    if not rows:
        raise _Fault(number, "expected at least one row of values, got none: extract the features again")
    return rows


def _row(line: str, number: int, columns: Columns, separator: str) -> Row:
    """One line of values by its columns; _Fault for a sparse row, too few or too many values, and a text for a number."""
    if line.lstrip()[0] == "{":
        raise _Fault(number, "expected a row of values, got a sparse row '{...}': save it as a dense ARFF file")
    cells = _cells(line, separator, number)
    if len(cells) != columns.count:
        raise _Fault(number, f"expected {columns.count} values, one for each column, got {len(cells)}: "
                             "the file may be cut short or two rows run together; extract it again")
    values = [cells[k] for k in columns.features]
    try:
        vector = np.array([np.nan if value is None else float(value) for value in values])
        if any("_" in value for value in values if value):      # Python reads 1_000 as a number
            raise ValueError
    except ValueError:
        k = next(k for k in columns.features if cells[k] is not None and not _is_number(cells[k]))
        raise _Fault(number, f"column {k + 1}: expected a number or '?', got {_clip(cells[k])}") from None
    name, label = (None if k is None else cells[k] for k in (columns.name, columns.label))
    return Row(name, label, vector)


def _cells(line: str, separator: str, number: int) -> list[str | None]:
    """The values of a line, unquoted; None for a `?` that stands bare."""
    cells, end, last_quote = [], 0, max(line.rfind("'"), line.rfind('"'))
    while end <= last_quote:
        match = CELL[separator].match(line, end)
        single, double, bare, stop = match.groups()
        if bare is None:
            cells.append(_unescape(double.replace('""', '"') if single is None else single))
        else:
            bare = bare.strip()
            quoted = bare[:1] in ("'", '"')
            if quoted and (len(bare) < 2 or bare[0] != bare[-1]):
                raise _Fault(number, f"expected a closing quote, got {_clip(bare)}")
            # older openSMILE quotes a name without escaping what is in it: 'it's'
            cells.append(bare[1:-1] if quoted else None if bare == "?" else bare)
        if not stop:
            return cells
        end = match.end()
    return cells + [None if cell == "?" else cell for cell in map(str.strip, line[end:].split(separator))]


def _quote(text: str, always: bool = False) -> str:
    """A text as a value of a file: bare where that is safe, else in single quotes with Weka's escapes."""
    if not always and re.fullmatch(r"[A-Za-z0-9_.\[\]()+-]+", text):
        return text
    return "'" + "".join(ESCAPES.get(character, character) for character in text) + "'"


def _unescape(text: str) -> str:
    """Weka's escapes undone. A text with any other backslash was never escaped, and stays: a Windows path."""
    if re.search(r"""(?<!\\)(?:\\\\)*\\(?![\\'"%nrt])""", text):
        return text
    return re.sub(r"""\\[\\'"%nrt]""", lambda match: UNESCAPES[match[0]], text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _clip(text: str) -> str:
    """The text for a message, 40 characters at most."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
