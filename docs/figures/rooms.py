"""Draw the rooms of the package, floor by floor: python docs/figures/rooms.py -> docs/images/rooms.png

A room is a module or a package at the top level. What a room imports is read off the syntax trees, and its floor follows:
one above the highest room that it imports. Nothing is typed here but the names of the core. The doors, `__init__` and
`__main__`, are counted and not drawn.
"""

import ast
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from emonet_scratch.training.report import BLUE, GREEN, INK, MUTED, VERMILION, save_figure

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tests.size import lines_of_code  # noqa: E402

PACKAGE = ROOT / "emonet_scratch"
CORE = ("backend", "dispatch", "layers", "losses", "optim", "lda", "gradcheck", "models")

WIDTH, HEIGHT, BEND, GAP = 1.7, 0.56, 0.2, 0.3          # of a box, of an arrow that passes a floor, between the two

Links = dict[tuple[str, str], bool]     # {(room, room that it imports): only inside functions?}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name of a module of this package, inside a function?) for each import in the file, wherever it stands."""
    here = path.relative_to(ROOT).with_suffix("").parts

    def walk(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[:len(here) - node.level] if node.level else ()
            base = ".".join((*above, node.module) if node.module else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if is_module(whole) else base, lazy
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy or isinstance(node, ast.FunctionDef))

    for name, lazy in walk(ast.parse(path.read_text(encoding="utf-8")), False):
        if name.split(".")[0] == PACKAGE.name:
            yield name, lazy


def is_module(name: str) -> bool:
    """Is this dotted name a file or a folder with Python in it?"""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def find_rooms() -> dict[str, list[Path]]:
    """{room: its files}."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        rooms.setdefault(path.relative_to(PACKAGE).with_suffix("").parts[0], []).append(path)
    return {name: files for name, files in rooms.items() if not name.startswith("__")}


def find_links(rooms: dict[str, list[Path]]) -> Links:
    """Which room imports which."""
    links: Links = {}
    for room, files in rooms.items():
        for name, lazy in (found for path in files for found in imports(path)):
            other = name.split(".")[1] if "." in name else ""
            if other in rooms and other != room:
                links[room, other] = links.get((room, other), True) and lazy
    return links


def reach(rooms: dict[str, Any], links: Links) -> dict[str, set[str]]:
    """{room: all rooms that it imports, itself or through others}. A room that reaches itself is in a circle."""
    below = {room: {b for a, b in links if a == room} for room in rooms}
    for through in rooms:                                                     # Warshall 1962
        for room in rooms:
            if through in below[room]:
                below[room] |= below[through]
    return below


def find_floors(below: dict[str, set[str]]) -> dict[str, int]:
    """{room: 0 if it imports no other, else one more than the highest room below it}. A circle shares a floor."""
    floors: dict[str, int] = {}
    for room in sorted(below, key=lambda room: len(below[room])):             # what is below has fewer below itself
        under = [floors[other] for other in below[room] if room not in below[other]]
        floors[room] = 1 + max(under, default=-1)
    return floors


def shown(links: Links, below: dict[str, set[str]]) -> Links:
    """The links without those that a way through another room implies; all of those in a circle."""
    def needed(a: str, b: str) -> bool:
        return a in below[b] or not any(b in below[c] for x, c in links if x == a and c != b and a not in below[c])
    return {(a, b): lazy for (a, b), lazy in links.items() if needed(a, b)}


def find_paths(links: Links, floors: dict[str, int]) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """{link: what its arrow passes from floor to floor}: a room (name,) at each end, bends (room, other, floor) between."""
    return {(a, b): [(a,), *((a, b, str(floor)) for floor in range(floors[a] - 1, floors[b], -1)), (b,)] for a, b in links}


def place(floors: dict[str, int], paths: dict[Any, list[tuple[str, ...]]]) -> dict[tuple[str, ...], float]:
    """x of every room and bend: on each floor in the order of the means of what their arrows lead to (Sugiyama 1981)."""
    storeys: list[list[tuple[str, ...]]] = [[] for _ in range(max(floors.values()) + 1)]
    for room, floor in floors.items():
        storeys[floor].append((room,))
    near: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in paths.values():
        for bend in path[1:-1]:
            storeys[int(bend[2])].append(bend)
        for upper, lower in itertools.pairwise(path):
            near.setdefault(upper, []).append(lower)
            near.setdefault(lower, []).append(upper)
    x = {}
    for _ in range(20):
        for storey in (*storeys, *reversed(storeys)):
            storey.sort(key=lambda one: mean([x[other] for other in near.get(one, []) if other in x]))
            widths = [WIDTH if len(one) == 1 else BEND for one in storey]
            left = -(sum(widths) + GAP * (len(widths) - 1)) / 2
            for one, width in zip(storey, widths, strict=True):
                x[one] = left + width / 2
                left += width + GAP
    return x


def mean(values: list[float]) -> float:
    """0 of no values."""
    return sum(values) / len(values) if values else 0.0


def route(paths: dict[Any, list[tuple[str, ...]]], x: dict[tuple[str, ...], float],
          floors: dict[str, int]) -> dict[Any, list[tuple[float, float]]]:
    """The points of each arrow. Arrows at one side of a box are spread along it, in the order of where they lead."""
    ends: dict[Any, list[tuple[float, Any]]] = {}
    for link, path in paths.items():
        ends.setdefault((path[0], "bottom"), []).append((x[path[1]], link))
        ends.setdefault((path[-1], "top"), []).append((x[path[-2]], link))
    port = {(link, side): x[one] + WIDTH * ((k + 1) / (len(there) + 1) - 0.5)
            for (one, side), there in ends.items() for k, (_, link) in enumerate(sorted(there))}
    points = {}
    for (a, b), path in paths.items():
        bends = [(x[one], int(one[2]) + way * HEIGHT / 2) for one in path[1:-1] for way in (1, -1)]
        start = port[(a, b), "bottom"], floors[a] - HEIGHT / 2
        points[a, b] = [start, *bends, (port[(a, b), "top"], floors[b] + HEIGHT / 2)]
    return points


def draw(figure_class: Any) -> Any:
    """Boxes with their lines of code, and arrows down to what they import."""
    rooms = find_rooms()
    links = find_links(rooms)
    below = reach(rooms, links)
    floors = find_floors(below)
    links = shown(links, below)
    paths = find_paths(links, floors)
    x = place(floors, paths)
    lines = {path: lines_of_code(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    size = {room: sum(lines[path] for path in files) for room, files in rooms.items()}
    figure = figure_class(figsize=(11, 9), layout="constrained")
    axes = figure.add_subplot()
    for (a, b), points in route(paths, x, floors).items():
        look = {"color": VERMILION if a in below[b] else INK, "linestyle": "--" if links[a, b] else "-"}
        axes.plot(*zip(*points[:-1], strict=True), linewidth=1, **look)
        axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **look})
    for room, floor in floors.items():
        colour = colour_of(room, floor)
        axes.add_patch(FancyBboxPatch((x[room,] - WIDTH / 2, floor - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0",
                                      facecolor=(colour, 0.15), edgecolor=colour))
        axes.text(x[room,], floor + 0.09, room, ha="center", va="center", fontsize=11, weight="bold", color=INK)
        axes.text(x[room,], floor - 0.14, f"{size[room]:,} line{'s' * (size[room] != 1)}", ha="center", va="center",
                  color=INK)
    figure.legend(handles=legend(links, below, sum(size[room] for room in CORE)), loc="outside lower center", ncols=2,
                  frameon=False)
    axes.set_title(f"The rooms of {PACKAGE.name}: {sum(lines.values()):,} lines of code, without docstrings, comments and "
                   "blank lines", color=INK)
    axes.autoscale_view()
    axes.axis("off")
    return figure


def legend(links: Links, below: dict[str, set[str]], core: int) -> list[Any]:
    """What the colours and lines mean that are there. core: its lines of code."""
    words = {GREEN: f"the core, {core:,} lines", BLUE: "around the core",
             MUTED: "ground floor: imports nothing of the package"}
    marks: list[Any] = [Patch(facecolor=(colour, 0.15), edgecolor=colour, label=text) for colour, text in words.items()]
    marks.append(Line2D([], [], color=INK, label="imports; what an arrow through another room implies is left out"))
    if any(links.values()):
        marks.append(Line2D([], [], color=INK, linestyle="--", label="imports inside a function"))
    if any(room in below[room] for room in below):
        marks.append(Line2D([], [], color=VERMILION, label="imports in a circle"))
    return marks


def colour_of(room: str, floor: int) -> str:
    """As the legend says."""
    if room in CORE:
        return GREEN
    return MUTED if floor == 0 else BLUE


def main(images: Path = ROOT / "docs" / "images") -> None:
    save_figure(images / "rooms.png", draw)


if __name__ == "__main__":
    main()
