"""Pickles of strangers: the part of that language which makes numbers, texts, lists, tuples and dictionaries.

A pickle is a program, and Python's unpickler believes it: counts, sizes, and that what it builds can be hashed, copied and
let go. Here every operation is counted, and what takes longer than it is long in the file counts for more; keys are such as
are hashed at once; what no file of arrays needs is refused before it is done.
"""

import pickle
from collections.abc import Callable, Iterable
from typing import Any

#: Operations of one pickle: some 50,000 tensors, or 500,000 labels.
MOST = 2**21
#: In a tuple that is a key, in a size of a tensor.
FEW = 64
#: PUT and DICT of protocol 0; INST, OBJ, NEWOBJ, NEWOBJ_EX and EXT, which make objects; integers of gigabytes; sets, buffers.
REFUSED = b"pdio\x81\x92\x82\x83\x84\x8b\x8f\x90\x91\x96\x97\x98"


class Made:
    """What a pickle may give a state to, which is kept as it is."""

    state: Any = None


class Dictionary(Made, dict):
    """OrderedDict's place."""

    def __init__(self, items: Iterable[tuple[Any, Any]] = ()) -> None:
        _fill(self, items)


def _fill(target: Any, items: Iterable[tuple[Any, Any]]) -> None:
    """Put items into a dictionary. ValueError: it is none; keys that take long to hash, or collide."""
    if not isinstance(target, dict):
        raise ValueError("items of what is no dictionary")
    for key, value in items:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > FEW or not all(abs(part) < 2**60 if isinstance(part, int)
                                       else isinstance(part, (str, bytes, float, type(None))) for part in parts):
            raise ValueError("a dictionary with keys that are no names or numbers")
        target[key] = value


def _counted(operation: Callable[[Any], None] | None, code: int) -> Callable[[Any], None]:
    def run(self: "Unpickler") -> None:
        self.spend(1)
        if operation is None:
            raise ValueError(f"damaged, or more than arrays in it (operation {bytes([code])!r})")
        operation(self)
    return run


class Unpickler(pickle._Unpickler):
    """The reader; `find_class` and `persistent_load` are for who knows what is in the file. Any Exception: damaged."""

    left = MOST

    def spend(self, number: int) -> None:
        """Count operations. ValueError: too many."""
        self.left -= number
        if self.left < 0:
            raise ValueError(f"a pickle of more than {MOST:,} operations")

    def load_reduce(self) -> None:
        """Call what `find_class` gave."""
        arguments = tuple(self.stack.pop()[:FEW])
        self.spend(sum(len(a) // (32 if isinstance(a, str) else 1) for a in arguments
                       if isinstance(a, (tuple, list, dict, str))))
        self.stack[-1] = self.stack[-1](*arguments)

    def load_build(self) -> None:
        """Give something its state."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def load_setitems(self) -> None:
        """Items of a dictionary, those since the last mark."""
        items = iter(self.pop_mark())
        _fill(self.stack[-1], zip(items, items, strict=True))

    def load_setitem(self) -> None:
        """One item of a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [(key, value)])

    dispatch = {code: _counted(None if code in REFUSED else operation, code) for code, operation in (
        dict.fromkeys(range(256)) | pickle._Unpickler.dispatch
        | {ord("R"): load_reduce, ord("b"): load_build, ord("u"): load_setitems, ord("s"): load_setitem}).items()}
