"""The mutator itself: what each rule makes; a planted mutant is found, the original is not; the list of exceptions."""

import ast
import sys
from pathlib import Path

import pytest

from tests import mutants as m


def made(source):
    """{after} of all mutants of a text."""
    return {x.after for x in m.mutants("layers/x.py", source)}


@pytest.mark.parametrize("source, expected", [
    ("y = a + b", {"y = a - b", "y = a", "y = b"}),
    ("y = a - b", {"y = a + b", "y = b - a", "y = a", "y = b"}),
    ("y = abs(a - b)", {"y = abs(a + b)", "y = abs(a)", "y = abs(b)", "y = a - b"}),
    ("y = a @ b.T", {"y = a @ b", "y = b.T @ a", "y = a", "y = b.T"}),
    ("y = -a", {"y = a"}),
    ("y = not a", {"y = a"}),
    ("y = a and b", {"y = a or b", "y = a", "y = b"}),
    ("y = a < b", {"y = a <= b", "y = a > b"}),
    ("y = 0 <= a < 1", {"y = 0 < a < 1", "y = 0 >= a < 1", "y = 0 <= a <= 1", "y = 0 <= a > 1", "y = 0 <= a", "y = a < 1",
                        "y = 1 <= a < 1", "y = 0 <= a < 2", "y = 0 <= a < 0"}),
    ("y = a is None", {"y = a is not None"}),
    ("y = b if a else c", {"y = b", "y = c"}),
    ("y = max(a, b)", {"y = min(a, b)", "y = a", "y = b"}),
    ("y = f(a, b)", {"y = f(b, a)"}),
    ("y = a.reshape(-1, D)", {"y = a", "y = a.reshape(1, D)", "y = a.reshape(D, -1)"}),
    ("y = a in ('u', 'v')", {"y = a not in ('u', 'v')"}),
    ("y = 0.8", {"y = 1.0"}),
    ("y = True", {"y = False"}),
    ("y = a[:H]", {"y = a[1:H]", "y = a[:]", "y = a[:H - 1]"}),
    ("y = a[H:2]", {"y = a[:2]", "y = a[H + 1:2]", "y = a[H:]", "y = a[H:3]", "y = a[H:1]"}),
    ("y = a[::s]", {"y = a[1::s]", "y = a[:-1:s]", "y = a[:]"}),
    ("y = a.sum(axis=0)", {"y = a.sum(axis=1)", "y = a.sum()", "y = a.mean(axis=0)", "y = a"}),
    ("y = a.sum(axis=(0, 1))", {"y = a.sum(axis=(1,))", "y = a.sum(axis=(0,))", "y = a.sum()", "y = a.mean(axis=(0, 1))",
                                "y = a", "y = a.sum(axis=(1, 1))", "y = a.sum(axis=(0, 2))", "y = a.sum(axis=(0, 0))"}),
    ("y = np.zeros(n, x.dtype)", {"y = np.zeros(n)", "y = np.zeros(x.dtype, n)", "y = np.ones(n, x.dtype)"}),
    ("y = np.float32", {"y = np.float64"}),
    ("y = mask(a, ends)", {"y = a", "y = ends", "y = mask(ends, a)"}),
    ("y = xp.where(a, b, 0)", {"y = b", "y = 0", "y = xp.where(a, 0, b)", "y = xp.where(b, a, 0)", "y = xp.where(a, b, 1)"}),
    ("y = [di, df, dg]", {"y = [df, di, dg]", "y = [di, dg, df]"}),
    ("h, c = f(x)", {"c, h = f(x)"}),
    ("y += a", {"y = a", "y -= a", "(removed)"}),
    ("y[a] = b", {"(removed)"}),
    ("x = f(x)", {"(removed)"}),
    ("y = f(x)", set()),
    ("f(x)", {"(removed)"}),
    ("if a:\n    raise E(1 + 1)", {"if not a:", "(removed)"}),
    ("def f(a=1e-5):\n    'one'\n    return a", {"def f(a=1.25e-05):"}),
    ("def __repr__(self):\n    return 1 + 1", set()),
    ("y = f'{a + 1}'", set()), ("y: list[int]", set()), ("import a", set())])
def test_every_rule_does_what_it_says(source, expected):
    assert made(source) == expected


def test_a_mutant_is_made_again_as_it_reads():
    """Each one of a whole file: by its place and variant, and nothing else is changed."""
    file = "layers/lstm.py"
    source = (m.ROOT / m.PACKAGE / file).read_text(encoding="utf-8")
    found = m.mutants(file, source)
    assert len(found) > 500 and len({x.key for x in found}) == len(found)
    original = ast.unparse(ast.parse(source)).splitlines()
    for mutant in found[::25]:
        tree = m.mutated(mutant, source)
        text = ast.unparse(tree).splitlines()
        changed = [line.strip() for line in text if line not in original]
        assert len(changed) <= 1 and abs(len(text) - len(original)) <= 3
        assert not changed or changed[0] == ("pass" if mutant.after == "(removed)" else mutant.after.splitlines()[0])
        compile(tree, file, "exec")


def test_the_same_ones_are_drawn_again_though_lines_move():
    source = "def f(a, b):\n    y = a + b\n    return y * 2\n"
    moved = "import os\n\n\n" + source + "\n\ndef g(c):\n    return c - 1\n"
    one, two = (m.drawn(m.mutants("optim.py", text), 100, 3) for text in (source, moved))
    assert [x.key for x in two if x.function == "f"] == [x.key for x in one] and len(two) > len(one) > 6
    assert [x.key for x in m.drawn(m.mutants("optim.py", source), 100, 4)] != [x.key for x in one]
    assert m.drawn(m.mutants("optim.py", source), 2, 3) == one[:2]


def test_every_module_of_the_formulas_is_mutated():
    assert {"layers/lstm.py", "layers/base.py", "losses.py", "optim.py", "lda.py", "gradcheck.py"} <= set(m.files())
    for file in m.files():
        paths = [path for _, arguments in m.stages(file) for path in arguments if path.endswith(".py")]
        assert paths and all((m.ROOT / path).is_file() for path in paths)


def test_the_list_of_exceptions_is_read_and_fits_the_code(capsys):
    entries = m.equivalent("# a list\n\nlayers/x.py A.f\n- y = a\n+ y = b\nbecause\nof this\n\nlda.py \n- c\n+ d\nso\n")
    assert entries == {("layers/x.py", "A.f", "y = a", "y = b"): "because of this", ("lda.py", "", "c", "d"): "so"}
    with pytest.raises(ValueError, match="wants file and function"):
        m.equivalent("layers/x.py A.f\n- y = a\n+ y = b\n")
    assert m.main(["--list", "--count", "3"]) == 0, capsys.readouterr().out


def test_an_exception_that_fits_no_code_any_more_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(m, "EQUIVALENT", tmp_path / "list.txt")
    m.EQUIVALENT.write_text("optim.py Adam._update\n- m = v\n+ m = 2\nno such line\n")
    assert m.main(["--list", "--count", "1"]) == 1
    assert "no such mutant any more:\noptim.py Adam._update\n- m = v\n+ m = 2" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(sys.modules["os"], "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_planted_mutant_is_killed_the_original_is_not_and_time_runs_out(tmp_path):
    """On a package of one file, whose test calls it by name and by import."""
    (tmp_path / m.PACKAGE).mkdir()
    (tmp_path / "tests").mkdir()
    for file in ("tests/__init__.py", f"{m.PACKAGE}/__init__.py"):
        (tmp_path / file).touch()
    source = "def f(a, b):\n    while a < 0:\n        a = a + 1\n    return a + b + (a > 9)\n"
    (tmp_path / m.PACKAGE / "lda.py").write_text(source)
    (tmp_path / "tests" / "test_f.py").write_text(f"from {m.PACKAGE}.lda import f\ndef test():\n    assert f(-1, 3) == 3\n")
    stages = [(m.OFF, ["tests/test_f.py", f"{m.PACKAGE}/lda.py"]), (m.OFF, ["tests/test_f.py"])]
    found = {x.after: x for x in m.mutants("lda.py", source)}
    wanted = [None, found["return a - b + (a > 9)"], found["return a + b + (a >= 9)"], found["a = a - 1"]]
    runs = [m.Run(mutant, stages, Path(tmp_path, f"log{k}")) for k, mutant in enumerate(wanted)]
    assert len(list(m.judge(tmp_path, runs[:3], 2))) == 3 and list(m.judge(tmp_path, runs[3:], 2, seconds=2)) == runs[3:]
    original, wrong, same, endless = runs
    assert (original.killed, original.stage, same.killed, same.stage) == ("", 2, "", 2)
    assert wrong.killed == " ".join(stages[0][1]) and endless.killed.endswith("(out of time)")
    assert (tmp_path / m.PACKAGE / "lda.py").read_text() == source
    with pytest.raises(RuntimeError, match="ends with 4"):
        list(m.judge(tmp_path, [m.Run(None, [(m.OFF, ["tests/test_absent.py"])], tmp_path / "log")], 1))


def test_examples_in_docstrings_are_run(pytestconfig):
    assert pytestconfig.getoption("doctestmodules") and m.PACKAGE in pytestconfig.getini("testpaths")
