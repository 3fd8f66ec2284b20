"""Predictions as files: the class of each clip, and a table of all."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..emotions import CLASSES
from ..errors import DataError
from ..files import write_whole
from .afew import same_name


def write_predictions(folder: str | os.PathLike, ids: Sequence[str], labels: Sequence[int | str],
                      probabilities: np.ndarray, classes: Sequence[str] = CLASSES) -> None:
    """Write `<id>.txt` with the name of the class, as AFEW's challenge asks, and predictions.csv.

    labels (N,) positions in the C classes or names, probabilities (N, C). The table has the columns id, class and
    one for each class. Every file appears whole or not at all. DataError for lengths that differ, an unknown
    class, an id given twice or one that is no name of a file, and a disk that does not take the files.
    """
    folder, probabilities = Path(folder), np.asarray(probabilities, dtype=float)
    if len(labels) != len(ids) or probabilities.shape != (len(ids), len(classes)):
        raise DataError(f"write_predictions: expected labels ({len(ids)},) and probabilities ({len(ids)}, "
                        f"{len(classes)}) for {len(ids)} ids, got ({len(labels)},) and {probabilities.shape}")
    table, names = io.StringIO(), []
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "class", *classes])
    for id, label, row in zip(ids, labels, probabilities, strict=True):
        if not id or re.search(r"[/\\\0]", id):
            raise DataError(f"write_predictions: expected an id that can name a file, got {id!r}: rename the clip")
        if label not in classes and not (isinstance(label, int | np.integer) and 0 <= label < len(classes)):
            raise DataError(f"write_predictions: {id!r}: expected a class or its number, got {np.asarray(label).item()!r}")
        names.append(label if isinstance(label, str) else classes[label])
        writer.writerow([id, names[-1], *(f"{p:.6f}" for p in row)])
    for id, times in Counter(map(same_name, ids)).items():
        if times > 1:
            raise DataError(f"write_predictions: expected every id once, got {id!r} {times} times: write each split")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for id, name in zip(ids, names, strict=True):
            write_whole(folder / f"{id}.txt", f"{name}\n".encode())
        write_whole(folder / "predictions.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise DataError(f"{str(error.filename)!r}: cannot write: {error.strerror}") from None
