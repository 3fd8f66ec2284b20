"""What the documentation shows is what happens, and what it names is there."""

import ast
import contextlib
import importlib
import inspect
import io
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from emonet_scratch import cli, layers, losses, models, optim
from emonet_scratch.data import sound
from emonet_scratch.data.extract import EXTRACTORS
from emonet_scratch.kernels import takes
from emonet_scratch.version import __version__

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "kernels" / "README.md",
         ROOT / "kernels" / "steps" / "README.md", ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "emonet_scratch").glob("*/*.md"))]
#: Files that commands write, or that others have: named in the documentation, not in the repository.
MADE = {"compare.json", "config.json", "confusion.png", "crossvalidation.json", "curves.png", "reliability.png",
        "results.json", "settings.json", "page.png", "last.safetensors", "best.safetensors", "x.arff"}


def pages(*without):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if page.name not in without]


def prose(page):
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def blocks(page, kind=r"\w*"):
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def spans(page):
    """What stands between single backticks."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def commands(page):
    """Lines of fenced and indented blocks, continued ones joined, and spans: whatever may be a command."""
    indented = "\n".join(line[4:] for line in prose(page).splitlines() if line.startswith("    "))
    text = "\n".join([*blocks(page, "(?:bash|sh)?"), indented]).replace("\\\n", " ")
    return [line.split("#")[0] for line in text.splitlines()] + spans(page)


def links(page):
    """(text, target) of every link, by reference or not."""
    text = prose(page)
    targets = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    text = re.sub(r"^\[[^\]]+\]: \S+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`\n]+`", lambda code: code[0].replace("[", "<").replace("]", ">"), text)    # `a[i]` is no link
    found = re.findall(r"\[([^\[\]]*)\]\(([^)\s]+)\)", text)
    found += [(name, targets[key or name]) for name, key in re.findall(r"\[([^\[\]]+)\](?:\[([^\[\]]*)\])?(?!\()", text)
              if (key or name) in targets]
    return found


@cache
def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@cache
def functions_in(path):
    return {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def check_link(page, target):
    """Nothing is said of the web."""
    if target.startswith(("http://", "https://")):
        return
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists(), f"{page.name} links to {target}"
    assert not anchor or anchor in anchors(there), f"{page.name} links to {target}: there are {sorted(anchors(there))}"


def test_the_gradient_check_of_the_readme_prints_what_it_says():
    code, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    number = r"-?\d+\.\d+"                                                    # rounding differs between machines
    shape = re.sub(number, "#", output.strip())
    assert re.sub(number, "#", done.stdout.strip()) == shape
    for a, b in zip(re.findall(number, output), re.findall(number, done.stdout), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-6)


@pytest.mark.parametrize("page", [p for p in pages("README.md") if blocks(p.values[0], "python")])
def test_blocks_of_python_run(page):
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page):
    for _, target in links(page):
        check_link(page, target)


def test_anchors_and_references_are_read_as_github_reads_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# `a` and [b](c.md): it's d\n\n[there](#a), [e.h], [x][e.h], `f[0]` (no link)\n\n[e.h]: ../e.h\n")
    assert anchors(page) == {"a-and-b-its-d"}
    assert links(page) == [("b", "c.md"), ("there", "#a"), ("e.h", "../e.h"), ("x", "../e.h")]
    with pytest.raises(AssertionError, match="links to #a"):
        check_link(page, "#a")


@pytest.mark.parametrize("page", pages("CHANGELOG.md"))
def test_paths_exist(page):
    """A span that reads as a file or a folder of this repository is one, from the root, the package or beside the page."""
    bases = [page.parent, *(ROOT / name for name in ("", "emonet_scratch", "kernels/cpu", "kernels/cuda", "benchmarks"))]
    for span in spans(page):
        if not re.fullmatch(r"[\w.*/-]+(\.(py|pyi|md|c|h|cu|cuh|json|toml|yml|safetensors|npz|png|arff)|/)", span):
            continue
        if span in MADE or span.startswith("runs/"):
            continue
        found = any(list(base.glob(span.rstrip("/"))) for base in bases)
        assert found or ("/" not in span and any(ROOT.glob(f"emonet_scratch/**/{span}"))), f"{page.name} names {span}"


@pytest.mark.parametrize("page", pages())
def test_named_tests_exist(page):
    for file, name in re.findall(r"(tests/\w+\.py)::(\w+)", page.read_text(encoding="utf-8")):
        assert name in functions_in(ROOT / file), f"{page.name} names {file}::{name}"


@pytest.mark.parametrize("page", pages())
def test_pages_name_no_place_of_one_machine(page):
    assert not re.search(r"(?<![\w.])/(tmp|work|home|root|mnt|Users)/", page.read_text(encoding="utf-8"))


# ---- the command line ----

@cache
def options_of(*command):
    """What `emonet COMMAND --help` lists; without a command, the commands."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
    if not command:
        return set(re.findall(r"^    ([a-z][a-z-]+)", text.getvalue(), re.MULTILINE))
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.getvalue())) | {"--help"}


@cache
def options_of_script(path):
    """The same of an example or a benchmark."""
    run = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run.stdout))


def is_option_of_something(option):
    scripts = (path for folder in ("examples", "benchmarks") for path in sorted((ROOT / folder).glob("*.py")))
    return any(option in options_of(command) for command in options_of()) or any(
        option in options_of_script(path) for path in scripts)


def test_the_reader_of_help_finds_commands_and_options():
    assert {"train", "evaluate", "import-weights"} <= options_of()
    assert {"--resume", "--clips-per-class"} <= options_of("train") and "--resume" not in options_of("predict")


@pytest.mark.parametrize("page", pages("CHANGELOG.md"))
def test_commands_and_options_exist(page):
    for line in commands(page):
        options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)
        command = re.search(r"\bemonet ([a-z][a-z-]+)", line)
        script = re.search(r"\b(?:examples|benchmarks|docs/figures)/\w+\.py", line)
        if command:
            assert command[1] in options_of(), f"{page.name}: {line}"
            wrong = set(options) - options_of(command[1])
        elif script:
            wrong = set(options) and set(options) - options_of_script(ROOT / script[0])
        elif line.startswith("--"):
            wrong = {option for option in options if not is_option_of_something(option)}
        else:
            continue                                                          # pip, git, ffmpeg and the like
        assert not wrong, f"{page.name}: {line}: there is no {', '.join(sorted(wrong))}"


# ---- the table of docs/concepts.md ----

def concepts():
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)[2:]
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def resolve(code):
    """(object, its file) of `module.name` in the package."""
    module, name = code.split(".")
    value = getattr(importlib.import_module(f"emonet_scratch.{module}"), name)
    return value, Path(inspect.getsourcefile(inspect.unwrap(value)))


@pytest.mark.parametrize("row", concepts(), ids=lambda row: row[0])
def test_every_cell_of_the_concepts_leads_somewhere(row):
    page = ROOT / "docs" / "concepts.md"
    _, derivation, code, kernel, tests = row
    value, file = resolve(code.strip("`"))
    targets = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    (where, inline, key), = re.findall(r"\[([^\]]+)\](?:\(([^)]+)\)|\[(\w+)\])", derivation)
    check_link(page, inline or targets[key])
    if where == "docstring":
        assert (page.parent / targets[key]).resolve() == file and len(value.__doc__) > 50
    for name in re.findall(r"\[([\w.]+)\](?!\()", kernel):
        assert name == Path(targets[name]).name and (page.parent / targets[name]).exists(), name
    assert kernel == "-" or re.search(r"\.(h|cu)\]", kernel)
    assert re.fullmatch(r"(`tests/\w+\.py::\w+` ?)+", tests)                  # they exist: see test_named_tests_exist


def test_every_concept_of_the_core_has_a_row():
    known = {row[2].strip("`") for row in concepts()}
    files = [path.stem for path in Path(layers.__file__).parent.glob("*.py") if path.stem != "__init__"]
    wanted = {f"layers.{name}" for file in files
              for name, value in vars(importlib.import_module(f"emonet_scratch.layers.{file}")).items()
              if inspect.isclass(value) and issubclass(value, layers.Layer) and value is not layers.Layer}
    for module, helpers in ((losses, set()), (optim, {"Optimizer"})):
        wanted |= {f"{module.__name__.split('.')[-1]}.{name}" for name, value in vars(module).items() if name[0] != "_"
                   and getattr(value, "__module__", "") == module.__name__ and callable(value) and name not in helpers}
    assert wanted <= known, f"docs/concepts.md has no row for {', '.join(sorted(wanted - known))}"


def test_every_kernel_stands_beside_its_definition():
    """What is marked `@definition`, what the kernels take, what they register, and what the table names, are the same."""
    marked = set()
    for path in (ROOT / "emonet_scratch").rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        for scope in [module, *(node for node in module.body if isinstance(node, ast.ClassDef))]:
            inside = f"{scope.name}." if scope is not module else ""
            marked |= {inside + node.name for node in scope.body
                       if "definition" in [getattr(d, "id", "") for d in getattr(node, "decorator_list", ())]}
    assert marked == set(takes.TABLE)
    launch = "".join(path.read_text(encoding="utf-8") for path in Path(takes.__file__).parent.rglob("*.py"))
    assert [name for name in takes.TABLE if f'.kernel("{name}"' not in launch] == []
    cells = {row[2].strip("`").split(".")[1]: row[3] for row in concepts()}
    for name in takes.TABLE:
        for row in {"Optimizer.step": ("SGD", "Adam")}.get(name, (name,)):
            assert cells[row] != "-", f"docs/concepts.md says that {row} has no kernel"


def test_the_matrices_of_winograd_are_those_of_the_kernel():
    """The kernel's one-dimensional maps, read as Python and applied to unit vectors, beside the page's matrices."""
    source = (ROOT / "kernels" / "cpu" / "winograd.h").read_text(encoding="utf-8")

    def matrix(name, size, result):
        body = re.search(rf"void {name}\(.*?\) {{.*?\n(.*?)\n}}", source, re.DOTALL)[1]
        body = re.sub(r"(\d)\.f", r"\1.0", body).replace("0.25f", "0.25").replace("vec ", "").replace(", ", "; ")
        columns = []
        for unit in np.eye(size):
            names = {"d": unit, "m": unit, "g": unit} | {result: np.zeros(6)}
            exec("\n".join(line.strip() for line in body.split(";")), names)
            columns.append(names[result])
        return np.array(columns).T

    page = ROOT / "docs" / "concepts.md"
    code = next(block for block in blocks(page, "python") if "points" in block)
    exec(code, derived := {})
    printed = re.search(r"^    B\^T = .*?\n\n", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[0]
    numbers = re.sub(r"\S+ =|1/24 \*", "", printed).strip().splitlines()
    rows = [list(map(float, re.findall(r"-?\d+", line))) for line in numbers]
    B_T, G = np.array([row[:6] for row in rows]), np.array([row[6:9] for row in rows]) / 24
    A_T = np.array([row[9:] for row in rows[:4]])
    for shown, computed, kernel in ((B_T, derived["B"].T, matrix("input_1d", 6, "o")),
                                    (G, derived["G"], matrix("filter_1d", 3, "u")),
                                    (A_T, derived["A"].T, matrix("output_1d", 6, "y")[:4])):
        assert np.allclose(shown, computed) and np.allclose(shown, kernel)


# ---- other tables ----

def test_the_table_of_presets_is_complete():
    """Every field in which the presets `paper` and `default` differ is in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    paper, default = models.EmoNetConfig.preset("paper"), models.EmoNetConfig()
    for name in vars(default):
        if getattr(paper, name) != getattr(default, name):
            assert f"`{name}`" in text, name


@pytest.mark.parametrize("folder", ["cpu", "cuda"])
def test_every_source_of_a_kernel_is_explained(folder):
    text = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    rows = " ".join(re.findall(r"^\|([^|]*)\|", text, re.MULTILINE))
    missing = [path.name for path in sorted((ROOT / "kernels" / folder).iterdir())
               if path.suffix in (".c", ".h", ".cu", ".cuh") and not re.search(rf"(?<!\w){re.escape(path.name)}\b", rows)]
    assert not missing, f"kernels/README.md has no row for {', '.join(missing)}"


def test_the_changelog_begins_with_what_is_not_released_and_dates_the_rest():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)", heading).groups() for heading in headings[1:]]
    assert released[0][0] == __version__ and sorted(released, key=lambda r: r[1], reverse=True) == released


def test_every_extractor_of_audio_features_is_explained():
    text = (ROOT / "docs" / "audio.md").read_text(encoding="utf-8")
    for path in Path(sound.__file__).parent.glob("[!_]*.py"):
        name = getattr(importlib.import_module(f"emonet_scratch.data.sound.{path.stem}"), "EXTRACTOR", None)
        assert name is None or name in EXTRACTORS, f"{path.name}: data/extract.py does not know {name}"
    assert [name for name in EXTRACTORS if f"`{name}`" not in text] == []


# ---- what GitHub reads ----

def test_the_hosted_checks_are_those_of_ci_run():
    hosted = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job, = hosted["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert "python3 -m venv" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "Python 3.10 to 3.13" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_templates_of_issues_are_forms(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form["blank_issues_enabled"] is True
        return
    assert form["name"] and form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert fields and len({part["id"] for part in fields}) == len(fields)
    assert all(part["type"] in ("input", "textarea") and part["attributes"]["label"] for part in fields)
