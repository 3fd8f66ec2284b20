"""The shape of the house: which way imports point, what stands without what, how large, how tangled, how packed."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import size

ROOT = Path(__file__).parents[1]
NAME = "emonet_scratch"

# Each room with the rooms that it may import, itself among them; nobody imports kernels but the package's __init__, and
# testing only who writes tests.
ROOMS = {
    "ground": ({"version", "errors", "emotions", "choices", "files", "pickles", "weights", "differences", "shards"},
               {"ground"}),
    "switches": ({"backend", "dispatch"}, {"ground"}),
    "layers": ({"layers"}, {"ground", "switches", "layers"}),
    "maths": ({"losses", "optim", "lda", "gradcheck"}, {"ground", "switches", "layers", "watch"}),
    "watch": ({"watch"}, {"ground", "switches", "layers", "watch"}),
    "models": ({"models"}, {"ground", "switches", "layers", "watch", "models"}),
    "kernels": ({"kernels"}, {"ground", "switches", "layers", "maths", "kernels"}),
    "data": ({"data"}, {"ground", "data"}),
    "training": ({"training"}, {"ground", "switches", "layers", "maths", "watch", "models", "data", "training"}),
    "studies": ({"studies"}, {"ground", "switches", "layers", "maths", "watch", "models", "data", "training", "studies"}),
    "testing": ({"testing"}, {"ground", "switches", "layers", "maths", "watch", "testing"}),
    "classics": ({"classics"}, {"ground", "layers", "maths", "models", "data", "training", "studies", "classics"}),
    "export": ({"export"}, {"ground", "layers", "models", "training", "export"}),
    "explain": ({"explain"}, {"ground", "switches", "layers", "maths", "models", "data", "training", "explain"}),
    "cli": ({"cli", "__main__"}, {"ground", "switches", "models", "data", "training", "studies", "classics", "explain",
                               "export", "cli"}),
}
CORE = size.files_of(size.ROOMS["core"][0])


def module_name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool, modules: set[str]) -> set[str]:
    """The modules of the package that a source imports, anywhere in it: at the top, in functions, for types only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = module.split(".")[:len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names}
    return (found & modules) - {module}


def graph_of(package: Path) -> dict[str, set[str]]:
    files = {module_name(f, package): f for f in package.rglob("*.py")}
    return {m: imports(f.read_text(encoding="utf-8"), m, f.name == "__init__.py", set(files)) for m, f in files.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """A way round for every set of modules that import each other."""
    found, done = [], set()

    def follow(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module):], module])
        elif module not in done:
            for other in sorted(graph[module]):
                follow(other, [*way, module])
            done.add(module)
    for module in sorted(graph):
        follow(module, [])
    return found


def room_of(module: str) -> str:
    top = module.split(".")[1]
    return next(room for room, (members, _) in ROOMS.items() if top in members)


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that do not point downwards."""
    return [f"{module} imports {other}" for module, others in graph.items() if module != NAME for other in others
            if other == NAME or room_of(other) not in ROOMS[room_of(module)][1]]


GRAPH = graph_of(size.PACKAGE)


def test_no_module_imports_itself_by_a_detour():
    assert circles(GRAPH) == []


def test_imports_point_one_way():
    assert upward(GRAPH) == []


def test_ranks_are_asked_for_by_the_command_line_alone():
    users = [module for module, others in GRAPH.items() if f"{NAME}.training.ranks" in others]
    assert users == [f"{NAME}.cli.options"]


def test_optional_rooms_are_asked_for_by_the_command_line_alone():
    for room, where in (("classics", {f"{NAME}.cli"}), ("export", {f"{NAME}.cli", f"{NAME}.cli.export"})):
        users = {module for module, others in GRAPH.items() for other in others if room_of(other) == room}
        assert {module for module in users if room_of(module) != room} == where


def test_circles_and_upward_arrows_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    modules = {NAME, f"{NAME}.layers", f"{NAME}.layers.base", f"{NAME}.layers.lstm", f"{NAME}.kernels", f"{NAME}.training"}
    lazy = "def f():\n    from ..kernels import takes\nif 0:\n    from .base import Layer\nimport emonet_scratch.training\n"
    found = imports(lazy, f"{NAME}.layers.lstm", False, modules)
    assert found == {f"{NAME}.kernels", f"{NAME}.layers.base", f"{NAME}.training"}
    assert imports("from . import lstm, __doc__", f"{NAME}.layers", True, modules) == {f"{NAME}.layers.lstm"}
    assert upward({f"{NAME}.layers.lstm": found}) == [f"{NAME}.layers.lstm imports {m}" for m in found if "base" not in m]
    assert upward({f"{NAME}.data.afew": {NAME}}) == [f"{NAME}.data.afew imports {NAME}"]


def test_the_core_needs_numpy_and_scipy_only():
    needed = set()
    for file in CORE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            needed |= {name.split(".")[0] for name in names}
    assert needed - set(sys.stdlib_module_names) - {"typing_extensions"} == {"numpy", "scipy"}


def private_uses(source: str) -> list[str]:
    """Names with one underscore in front that come from another module of the package."""
    tree, modules, found = ast.parse(source), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(NAME)):
            found += [alias.name for alias in node.names if alias.name[0] == "_" and alias.name[:2] != "__"]
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.islower()}
    defined = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[:2] != "__":
            owner = node.value
            if not (isinstance(owner, ast.Name) and (owner.id in ("self", "cls") or owner.id not in modules | defined)):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("file", sorted(size.PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(size.PACKAGE)))
def test_no_module_uses_the_private_names_of_another(file):
    own = {node.attr for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
           and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")}
    own |= {node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if hasattr(node, "name")}
    found = [use for use in private_uses(file.read_text(encoding="utf-8")) if use.rpartition(".")[2] not in own]
    assert found == []


def test_private_uses_would_be_found():
    assert private_uses("from ..training import trainer\nfrom .base import _x\ntrainer._step(1)\nself._own()\n") == [
        "_x", "trainer._step"]
    assert private_uses("def f(trainer):\n    trainer._step()\n") == ["trainer._step"]


def packed(source: str) -> list[int]:
    """Lines that assign three values and more to as many names at once; what is taken apart may have many parts."""
    def names(target: ast.expr) -> int:
        return sum(map(names, target.elts)) if isinstance(target, (ast.Tuple, ast.List)) else 1
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple) and any(isinstance(t, ast.Tuple) and names(t) > 2 for t in node.targets)]


@pytest.mark.parametrize("file", CORE, ids=lambda f: str(f.relative_to(size.PACKAGE)))
def test_the_core_is_not_packed(file):
    source = file.read_text(encoding="utf-8")
    assert packed(source) == []
    assert [k for k, line in enumerate(source.splitlines(), 1) if len(line) > 110] == []


def test_packed_lines_would_be_found():
    assert packed("a, b, c = 1, 2, 3\nN, H, W, C = x.shape\n(N, D), K = x.shape, 2\na, b = 1, 2\n") == [1, 3]


def test_no_function_is_tangled():
    """Cyclomatic complexity (McCabe 1976) of at most 15, as radon counts it."""
    visitors = pytest.importorskip("radon.complexity", reason="radon is not installed")
    worst = {f"{file.name}: {block.name}": block.complexity for file in size.PACKAGE.rglob("*.py")
             for block in visitors.cc_visit(file.read_text(encoding="utf-8")) if block.letter in "FM"}
    assert {name: c for name, c in worst.items() if c > 15} == {} and max(worst.values()) > 5
    branches = "".join(f"    if x == {k}: return {k}\n" for k in range(15))
    assert visitors.cc_visit(f"def f(x):\n{branches}")[0].complexity == 16


def test_every_room_keeps_to_its_budget(capsys):
    assert size.main() == 0, capsys.readouterr().out


def test_lines_of_code_are_counted_without_docstrings_comments_and_blanks():
    text = '"""Doc."""\n\n# why\nx = 1  # note\n\n\ndef f():\n    """Doc\n    more."""\n    return """a\n\nb"""\n'
    assert size.lines_of_code(text) == 5


def test_the_definitions_stand_without_the_kernels(tmp_path):
    """The package without its folder kernels/ passes the suite of the definitions."""
    for folder in (NAME, "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so", "build"))
    shutil.rmtree(tmp_path / NAME / "kernels")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    tests = [f"tests/test_{name}.py" for name in ("layers", "lstm", "losses", "optim", "gradcheck", "models")]
    environment = {k: v for k, v in os.environ.items() if k != "EMONET_KERNELS"} | {"PYTHONPATH": str(tmp_path)}
    code = f"import {NAME}; from {NAME} import dispatch; print({NAME}.__file__, dispatch.why(), sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
                         check=True)
    assert run.stdout.splitlines() == [str(tmp_path / NAME / "__init__.py"),
                                       "CPU kernels: not in this installation; the definitions run"]
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], cwd=tmp_path,
                         env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]


def test_optional_rooms_are_not_imported_before_they_are_asked_for():
    code = "import sys, emonet_scratch.cli; sys.exit(any(name.startswith('emonet_scratch.explain') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
