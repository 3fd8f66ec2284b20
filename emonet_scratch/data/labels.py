"""From the labels of data to classes: renamed, merged and dropped as the user says, in one order."""

import unicodedata
from collections.abc import Iterable, Mapping

from ..emotions import CLASSES
from ..errors import DataError

MOST = 100          # classes


def same(name: str) -> str:
    """A label as it is compared: composed, without case and without blanks around."""
    return unicodedata.normalize("NFC", name).strip().casefold()


KNOWN = {same(name): name for name in CLASSES}


def parse_labels(text: str) -> dict[str, str | None]:
    """What becomes of labels: {label, compared by `same`: new name, or None for those that are dropped}.

    >>> parse_labels("calm=Neutral, -contempt")
    {'calm': 'Neutral', 'contempt': None}
    """
    changes: dict[str, str | None] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        old, equals, new = item.partition("=")
        if not equals and item[0] == "-":
            old, new = item[1:], ""
        if not same(old) or (equals and not new.strip()) or not (equals or item[0] == "-"):
            raise DataError(f"--labels: expected OLD=NEW to rename or -OLD to drop, got {item!r}")
        if same(old) in changes:
            raise DataError(f"--labels: {old.strip()!r} is there twice")
        changes[same(old)] = new.strip() if equals else None
    return changes


def rename(label: str, meant: str, changes: Mapping[str, str | None]) -> str | None:
    """The class of a label as it was read, which means `meant`; None where it is dropped."""
    for name in (label, meant):
        if same(name) in changes:
            new = changes[same(name)]
            return None if new is None else KNOWN.get(same(new), new)
    return KNOWN.get(same(meant), unicodedata.normalize("NFC", meant).strip())


def classes_of(labels: Iterable[str], least: int = 2) -> tuple[str, ...]:
    """The classes of these labels, each once, in the order of `same`. DataError: fewer than `least`, more than MOST."""
    names: dict[str, str] = {}
    for label in labels:
        names.setdefault(same(label), label)
    if not least <= len(names) <= MOST:
        raise DataError(f"expected {least} to {MOST} classes, got {len(names)} "
                        f"({', '.join(list(names.values())[:5]) or 'none'})")
    return tuple(names[key] for key in sorted(names))
