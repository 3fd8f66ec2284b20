"""Pickles of strangers: the part of that language which makes numbers, texts, lists, tuples and dictionaries.

A pickle is a program, and Python's unpickler believes it: counts, sizes, and that what it builds can be hashed, copied and
let go. Here every operation is counted, and what takes longer than it is long in the file counts for more; keys are such as
are hashed at once; what no file of arrays needs is refused before it is done. For that the operations have to be ours: the
reader stands on the unpickler that Python has in Python (`pickle._Unpickler`), not on the one in C.
"""

import pickle
from collections.abc import Iterable
from typing import Any, ClassVar

#: Operations of one pickle: some 35,000 tensors, or 500,000 labels.
MOST = 2**20
#: In a tuple that is a key, in a size of a tensor.
FEW = 64
#: PUT and DICT of protocol 0; INST, OBJ, NEWOBJ and EXT, which make objects; integers of gigabytes; sets; buffers.
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
    for key, value in items:
        parts = key if isinstance(key, tuple) else (key,)
        if not isinstance(target, dict) or len(parts) > FEW or not all(
                abs(part) < 2**60 if isinstance(part, int) else isinstance(part, (str, bytes, float)) for part in parts):
            raise ValueError("a dictionary with keys that are no names or numbers")
        target[key] = value


def _counted(code: int, operation: Any) -> Any:
    def run(self: "Unpickler") -> None:
        self.left -= 1
        if self.left < 0 or operation is None:
            raise ValueError(f"damaged, or more than arrays: {f'over {MOST:,} operations' if operation else bytes([code])}")
        operation(self)
    return run


class Unpickler(pickle._Unpickler):
    """The reader; known: what it may name. Who inherits it says what a persistent_load is. Any Exception: damaged."""

    left = MOST
    known: ClassVar[dict[str, Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What the file means by a name."""
        if f"{module}.{name}" not in self.known:
            raise ValueError(f"it asks for {module}.{name}, which is no array; nothing of it was run")
        return self.known[f"{module}.{name}"]

    def load_reduce(self) -> None:
        """Call what `find_class` gave."""
        arguments = tuple(self.stack.pop()[:FEW])
        self.left -= sum(len(a) // (32 if isinstance(a, str) else 1) for a in arguments
                         if isinstance(a, (tuple, list, dict, str)))
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
        _fill(self.stack[-3], [(self.stack.pop(-2), self.stack.pop())])

    dispatch: ClassVar = {code: _counted(code, operation) for code, operation in (
        dict.fromkeys(range(256)) | pickle._Unpickler.dispatch | {ord("R"): load_reduce, ord("b"): load_build,
        ord("u"): load_setitems, ord("s"): load_setitem} | dict.fromkeys(REFUSED)).items()}
