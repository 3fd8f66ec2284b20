"""The pictures: every script of docs/figures draws in a small size; baselines, colours and places are as they should be."""

import importlib.util
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from emonet_scratch.studies import compare, search
from emonet_scratch.training import report

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SMALL = {"network": {"frame_size": 16}, "synthetic": {"size": (24, 32)},
         "saliency": {"clips": 64, "epochs": 1}, "classics": {"number": 3},
         "deeper": {"depths": (20,), "size": 8, "batch": 4}}


def script(name):
    spec = importlib.util.spec_from_file_location(f"figure_{name}", FIGURES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(path.stem for path in FIGURES.glob("*.py")))
def test_a_script_draws_the_picture_of_its_name(name, tmp_path):
    script(name).main(tmp_path, **SMALL.get(name, {}))
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (FIGURES.parent / "images" / f"{name}.png").exists()


def labels_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_curves_show_chance_and_the_majority_class():
    rows = [{"epoch": 1, "split": split, "loss": 1.0, "accuracy": 0.5} for split in ("train", "val")]
    figure = report.curves_figure(Figure, {"audio": rows}, 1 / 4, 0.4)
    loss, accuracy = figure.axes
    assert [line.get_ydata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [math.log(4)]
    assert {line.get_ydata()[0] for line in accuracy.lines} == {0.5, 0.25, 0.4}
    assert {"chance, ln 4 = 1.386", "chance, 0.250", "majority class, 0.400"} <= set(labels_of(figure))
    assert "chance and majority class, 0.250" in labels_of(report.curves_figure(Figure, {"audio": rows}, 1 / 4, 1 / 4))


def test_the_comparison_draws_the_chance_of_the_classes_that_are_there():
    rows = [{"method": name, "accuracy": 0.5, "interval": (0.4, 0.6)} for name in (compare.REFERENCE, "audio, LDA")]
    axes, = compare._figure(Figure, rows, 1 / 3, 0.4).axes
    assert [line.get_xdata()[0] for line in axes.lines[-2:]] == [1 / 3, 0.4]
    text = compare.table(rows=[{**row, "macro_f1": 0.5} for row in rows], chance=1 / 3, majority=0.4)
    assert [line.split() for line in text.splitlines()[-2:]] == [["chance", "0.333"], ["majority", "class", "0.400"]]


def test_trials_with_the_same_value_stand_side_by_side():
    rule = SimpleNamespace(choices=("adam", "sgd"))
    trials = [SimpleNamespace(number=k, params={"optimizer": "sgd" if k % 3 else "adam"}, distributions={"optimizer": rule})
              for k in range(20)]
    places = search._places(Figure().add_subplot(), "optimizer", trials)
    assert len(set(places)) == 20
    assert [round(place) for place in places] == [int(k % 3 > 0) for k in range(20)]


def test_the_tables_of_the_walks_are_read():
    why = script("why")
    walks = why.read_walks((FIGURES.parent / "why_it_did_not_converge.md").read_text(encoding="utf-8"))
    assert len(walks) == 5 and [len(rows) for rows in walks.values()] == [6, 23, 23, 2, 3]
    for name, rows in walks.items():
        assert [row["field"] == "" for row in rows] == [name != "the paper's runs", *[False] * (len(rows) - 1)]
        assert all(0 <= row["val_accuracy"] <= 1 < 5 > row["val_loss"] > 0 for row in rows)
    assert walks["from paper to default"][-1]["val_loss"] == walks["from default to paper"][0]["val_loss"]


def test_rooms_and_floors_of_a_planted_package(tmp_path, monkeypatch):
    """Imports at the top, inside a function, of a package's module, and in a circle."""
    rooms = script("rooms")
    files = {"ground.py": '"""Doc."""\nX = 1\n', "low.py": "from . import ground\n", "other.py": "from .low import x\n",
             "lazy.py": "def f():\n    from .other import y  # late\n    return y\n",
             "top/__init__.py": "from ..low import x\nimport house.lazy\n", "top/part.py": "from ..ring_a import z\n",
             "ring_a.py": "from .ring_b import z\n", "ring_b.py": "def f():\n    import house.ring_a\n"}
    for name, text in files.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    monkeypatch.setattr(rooms, "PACKAGE", tmp_path / "house")
    found = rooms.find_rooms()
    links = rooms.find_links(found)
    assert {link for link, lazy in links.items() if lazy} == {("lazy", "other"), ("ring_b", "ring_a")}
    assert {link for link, lazy in links.items() if not lazy} == {
        ("low", "ground"), ("other", "low"), ("top", "low"), ("top", "lazy"), ("top", "ring_a"), ("ring_a", "ring_b")}
    below = rooms.reach(found, links)
    assert {room for room in found if room in below[room]} == {"ring_a", "ring_b"}
    assert rooms.find_floors(below) == {"ground": 0, "low": 1, "other": 2, "lazy": 3, "top": 4, "ring_a": 0, "ring_b": 0}
    assert set(links) - set(rooms.shown(links, below)) == {("top", "low")}    # top -> lazy -> other -> low says it


# What dichromats see of linear RGB: Vienot, Brettel and Mollon 1999 for red and green, Machado et al. 2009 for blue.
EYES = {"all cones": np.eye(3),
        "no red": [[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.0040, -0.0040, 1]],
        "no green": [[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]],
        "no blue": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]}


@pytest.mark.parametrize("eye", EYES)
def test_colours_are_told_apart(eye):
    """In CIELAB a distance of 2.3 can just be seen (Mahy et al. 1994); five times that is easy."""
    def lab(colour):
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        seen = np.clip(np.array(EYES[eye]) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for a, b in itertools.combinations((report.VERMILION, report.BLUE, report.GREEN, report.INK), 2):
        assert np.linalg.norm(lab(a) - lab(b)) > 5 * 2.3, (a, b)
