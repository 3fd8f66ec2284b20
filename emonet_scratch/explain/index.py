"""An index of the pages of many clips."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from ..errors import DataError
from ..files import read_whole, write_whole
from .page import page, table, wide
from .tell import usual
from .timeline import Row

MARK = b'content="emonet_scratch"'


class Entry(NamedTuple):
    """A clip of an index: the name of its page, "" without one, and its rows, or why there are none."""

    clip: str
    page: str
    rows: Sequence[Row]
    fault: str = ""


def check_index(out: Path) -> None:
    """DataError: there is an index already that is not one of ours."""
    if out.exists() and MARK not in read_whole(out, 2**26):
        raise DataError(f"{str(out)!r} is there already, and not one of ours: name another folder")


def write_index(out: Path, entries: Sequence[Entry], classes: Sequence[str]) -> None:
    """Write the table of clips, by class; buttons sort them by how unsure the answer is, and by name.

    Unsure: the entropy of the mean probabilities of who is in most windows, of its maximum.
    """
    lines = []
    for entry in entries:
        name = f'<a href="{escape(quote(entry.page))}">{escape(entry.clip)}</a>' if entry.page else escape(entry.clip)
        if entry.rows:
            row, p = usual(entry.rows)
            unsure = -float((p * np.log(np.maximum(p, 1e-12))).sum()) / np.log(len(p))
            label = classes[int(p.argmax())] if row.answer.weights else row.answer.label
            people = len({row.person for row in entry.rows} - {0})
            lines.append([name, label, f"{p.max():.2f}", f"{unsure:.2f}", str(people), f"{entry.rows[-1].end:.1f}"])
        else:
            lines.append([name, entry.fault, "", "", "", ""])
    lines.sort(key=lambda line: line[1])
    buttons = "".join(f'<button data-by="{k}"{number} aria-pressed="{str(k == 1).lower()}">{text}</button> '
                      for k, text, number in ((1, "class", ""), (3, "unsure first", " data-number=1"), (0, "name", "")))
    heads = ["clip", "class", "probability", "unsure", "people", "seconds"]
    body = f"<p>{len(entries)} clips; sorted by {buttons}</p>" + wide(table(heads, lines, "clips", raw=[0]), "Clips")
    write_whole(out, page("Clips", body, None, "index.js"))
