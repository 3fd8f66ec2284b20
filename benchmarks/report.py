"""What was measured, as Markdown.

"over ours" and "ours vs ..." are seconds of the peer over seconds of ours, "before / after" those of the checkout that
--before names over ours: above 1, ours is faster. A ratio is that of the medians; its quartiles, in brackets, are those of
the ratios within each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from peers import Measured, difference

Columns = dict[str, Callable[[Measured], str]]


class Work(NamedTuple):
    """What one call does, from the shapes: floating-point operations, and bytes that have to move at the least."""

    flops: float = 0.0
    bytes: float = 0.0


class Peak(NamedTuple):
    """What the machine can do: a large float32 matrix product and a large copy (read and write), a second."""

    flops: float
    bytes: float


def quartiles(values: np.ndarray, digits: str = ".2f", middle: float | None = None) -> str:
    """ "median (lower..upper)" """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{median if middle is None else middle:{digits}} ({low:{digits}}..{high:{digits}})"


def ratio(peer: Measured, ours: Measured) -> str:
    """Of the medians, and the quartiles of the ratios of each round."""
    return quartiles(peer.seconds / ours.seconds, middle=peer.median / ours.median)


def markdown(title: str, heads: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table under its title."""
    heads = list(heads)
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


NAME_AND_TIME: Columns = {"": lambda m: m.contestant.name,
                          "ms": lambda m: quartiles(1e3 * m.seconds, ".3g" if m.median < 1 else ".0f")}


def rates(work: Work, top: Peak) -> Columns:
    """What a contestant does in a second, and how much that is of the machine's peak."""
    return {"GFLOP/s": lambda m: f"{work.flops / m.median / 1e9:.1f}",
            "of sgemm": lambda m: f"{work.flops / m.median / top.flops:.2f}",
            "GB/s": lambda m: f"{work.bytes / m.median / 1e9:.1f}",
            "of copy": lambda m: f"{work.bytes / m.median / top.bytes:.2f}"}


def table(title: str, found: Sequence[Measured], work: Work | None = None, top: Peak | None = None,
          unit: tuple[str, float] | None = None) -> None:
    """Print all contestants. unit: ("frames", how many a call makes) adds a column frames/s."""
    ours = found[0]
    columns = NAME_AND_TIME | {"over ours": lambda m: "1" if m is ours else ratio(m, ours)}
    if unit:
        columns[f"{unit[0]}/s"] = lambda m: f"{unit[1] / m.median:.0f}"
    if work and top:
        columns |= rates(work, top)
    columns["cores busy"] = lambda m: f"{m.busy:.1f}"

    def differ(m: Measured, name: str) -> str:
        return "-" if m is ours or name not in m.answer else f"{difference(m.answer[name], ours.answer[name]):.0e}"
    columns |= {f"{name} differ": lambda m, name=name: differ(m, name) for name in ours.answer}
    markdown(title, columns, ([cell(m) for cell in columns.values()] for m in found))


#: Columns of a summary: the kinds whose seconds are divided, and the kinds that they are divided by.
AGAINST_PYTORCH = {"ours vs eager": (["eager"], ["ours"]),
                   "vs torch.compile": (["compile"], ["ours"]),
                   "vs strongest float32": (["eager", "compile", "float32"], ["ours"]),
                   "vs bf16": (["bf16"], ["ours"]),
                   "ours in bf16 vs bf16": (["bf16"], ["ours bf16"]),
                   "in bf16 vs strongest float32": (["eager", "compile", "float32"], ["ours bf16"]),
                   "in bf16 vs ours": (["ours"], ["ours bf16"]),
                   "NumPy definitions vs eager": (["eager"], ["definitions"])}
BEFORE = {"before / after": (["before"], ["ours"]),
          "before / after, definitions": (["definitions before"], ["definitions"])}


def summarise(rows: Sequence[tuple[str, Sequence[Measured]]],
              ratios: dict[str, tuple[list[str], list[str]]] = AGAINST_PYTORCH) -> None:
    """Print one table of all works, (title, contestants) each; a column that nothing was measured for is left out.

    Of several contestants of the same kinds the fastest counts, and is named where it could be one of several kinds.
    """
    ratios = ratios | BEFORE
    cells = {head: [_summary_cell(found, *kinds) for _, found in rows] for head, kinds in ratios.items()}
    shown = {head: column for head, column in cells.items() if set(column) != {"-"}}
    if shown:
        markdown("Summary", ["work", *shown], zip((title for title, _ in rows), *shown.values(), strict=True))


def _summary_cell(found: Sequence[Measured], slower: list[str], faster: list[str]) -> str:
    a, b = _best(found, slower), _best(found, faster)
    if a is None or b is None:
        return "-"
    return ratio(a, b) + (f" {a.contestant.name}" if len(slower) > 1 else "")


def _best(found: Sequence[Measured], kinds: list[str]) -> Measured | None:
    return min((m for m in found if m.contestant.kind in kinds), key=lambda m: m.median, default=None)
