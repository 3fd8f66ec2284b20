"""Do the tests see a wrong formula? `python -m tests.mutants --count 200 --seed 0`; exit 1 where a mutant survives.

A mutant is the package with one small change in layers, losses, optim, lda or gradcheck: an operator, a dropped term, a
sign, a slice or a number by one, an axis, a transpose, a comparison, `=` for `+=`, a statement removed, neighbours swapped
(gates, outputs, arguments), a mask left out, another dtype. The narrowest tests of its module run first (`STAGES`), the
definitions before the kernels, up to the first that fails. Which mutants are drawn follows from the seed and each mutant's
own text, so that a change elsewhere draws the same ones again.

Mutants that no test can tell from the original stand with the reason in equivalent_mutants.txt. An entry that fits no code
any more is an error, so the list does not outlive what it is about.

Tests run on a copy of the tree, each in a fork of one process that has NumPy, SciPy and pytest in memory, with a limit of
time and memory. The copy is not changed: an import hook compiles the mutated module.
"""

import argparse
import ast
import contextlib
import copy
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "emonet_scratch"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
SECONDS = 240               # of one stage: the slowest takes 20 on an idle core
MEMORY = 12 << 30           # of address space

OFF, ON = "off", "on"       # EMONET_KERNELS
KERNELS = [(ON, ["tests/test_kernels_sequence.py"]), (ON, ["tests/test_kernels.py"])]
FIRST, DEVICES = (OFF, ["tests/test_initial.py"]), (OFF, ["tests/test_backend.py"])
LSTM = (OFF, ["tests/test_lstm.py"])
GRADCHECK = [(OFF, ["tests/test_gradcheck.py", f"{PACKAGE}/gradcheck.py"]), (OFF, ["tests/test_layers.py"])]
LAYERS = [(OFF, ["tests/test_layers.py"]), LSTM, FIRST,
          (OFF, ["tests/test_models.py"]), (OFF, ["tests/test_gradcheck.py"]), DEVICES]

#: What is mutated, and what sees it: EMONET_KERNELS and the arguments of pytest, in this order. A folder has the stages of
#: all its modules, after those of `NARROW`.
STAGES: dict[str, list[tuple[str, list[str]]]] = {
    "layers": LAYERS + KERNELS,
    "losses.py": [(OFF, ["tests/test_losses.py", f"{PACKAGE}/losses.py"]), DEVICES, FIRST,
                  *KERNELS[:1]],
    "optim.py": [(OFF, ["tests/test_optim.py", f"{PACKAGE}/optim.py"]), (ON, ["tests/test_optim.py"]), DEVICES,
                 FIRST, *KERNELS[:1]],
    "lda.py": [(OFF, ["tests/test_lda.py"])],
} | dict.fromkeys(("gradcheck.py", "differences.py", "watch/pair.py"), GRADCHECK)

#: Before all others.
NARROW = {"layers/lstm.py": [LSTM]} | {
    f"layers/{name}.py": [(OFF, ["tests/test_layers.py", "-k", words])] for name, words in (
        ("activation", "relu"), ("base", "state or device or parameters or wrong"), ("conv2d", "conv2d"),
        ("batch_norm", "batch_norm"), ("chunked", "chunk"), ("dense", "dense"), ("dropout", "dropout"),
        ("input", "normalize or pad_sequences"), ("pooling", "pooling"), ("residual", "residual or pad_shortcut"),
        ("sequential", "sequential"))}


# ---- what is changed ----

@dataclass(frozen=True)
class Mutant:
    """One change: where, the statement (of a compound one, its head) before and after, and how to make it again."""

    file: str               # below the package
    function: str           # qualified name, "" at the top of the module
    before: str
    after: str
    line: int
    place: int              # the node, counted as `places` finds it
    variant: int            # of those that `variants` makes of it

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays when lines move."""
        return self.file, self.function, self.before, self.after

    def __str__(self) -> str:
        return f"{PACKAGE}/{self.file}:{self.line}: {self.function}\n    - {self.before}\n    + {self.after}"


@dataclass
class Place:
    """A node that can be replaced: holder.field, or holder.field[index]."""

    holder: ast.AST
    field: str
    index: int | None
    node: ast.AST
    statement: ast.stmt     # that it is a part of, or is
    function: str

    def put(self, node: ast.AST) -> None:
        """Set another node here."""
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "exc", "bases", "ctx", "msg"}
SKIPPED_NODES = (ast.JoinedStr, ast.Import, ast.ImportFrom)


def places(tree: ast.AST) -> list[Place]:
    """Every node of a module that may be changed: no texts, messages, types or `__repr__`."""
    found: list[Place] = []

    def visit(holder: ast.AST, statement: ast.stmt | None, function: str) -> None:
        for field, value in ast.iter_fields(holder):
            if field in SKIPPED_FIELDS:
                continue
            for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or isinstance(node, SKIPPED_NODES):
                    continue
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    continue                                                  # a docstring
                if isinstance(node, ast.keyword) and node.arg == "strict":
                    continue                                                  # of zip: what it checks holds anyhow
                if getattr(node, "name", "") in ("__repr__", "__str__") or ast.unparse(node).startswith("if TYPE_CHECKING"):
                    continue
                within = node if isinstance(node, ast.stmt) else statement
                name = function
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    name = f"{function}.{node.name}".lstrip(".")
                node.__dict__.update(_even(holder, field))
                if within is not None:
                    found.append(Place(holder, field, index, node, within, name))
                visit(node, within, name)
    visit(tree, None, "")
    return found


def _even(holder: ast.AST, field: str) -> dict[str, bool]:
    """Marks what does not count in its holder: abs(a - b), (a - b)**2, axis=(0, 1), x in (a, b), reshape(-1)."""
    unknown = isinstance(holder, ast.UnaryOp) and ast.unparse(holder) == "-1" and hasattr(holder, "even")
    squared = isinstance(holder, ast.BinOp) and isinstance(holder.op, ast.Pow) and field == "left"
    size = isinstance(holder, ast.Call) and ast.unparse(holder.func) in ("abs", "np.abs")
    reshaped = isinstance(holder, ast.Call) and field == "args" and ast.unparse(holder.func).endswith(".reshape")
    order = isinstance(holder, ast.keyword) and holder.arg == "axis"
    order |= isinstance(holder, ast.Compare) and field == "comparators" and isinstance(holder.ops[0], (ast.In, ast.NotIn))
    return {"even": True} if squared or size or order or reshaped or unknown else {}


ARITHMETIC = {ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult],
              ast.FloorDiv: [ast.Mult, ast.Mod], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult], ast.BitAnd: [ast.BitOr],
              ast.BitOr: [ast.BitAnd], ast.BitXor: [ast.BitOr]}
COMPARISONS = {ast.Lt: [ast.LtE, ast.Gt], ast.LtE: [ast.Lt, ast.GtE], ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt, ast.LtE],
               ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
               ast.NotIn: [ast.In]}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "zeros": "ones", "zeros_like": "ones_like", "ones": "zeros",
         "argmax": "argmin", "float32": "float64", "float64": "float32", "maximum": "minimum", "minimum": "maximum",
         "mean": "sum", "sum": "mean"}
PASS_THROUGH = {"abs", "max", "min", "mask", "tanh", "exp", "log", "sqrt", "reversed", "sorted", "maximum", "minimum",
                "clip", "ascontiguousarray", "to_device", "cosine", "sign"}
SYMMETRIC = {"min", "max", "minimum", "maximum", "vdot"}
METHODS = {"copy", "swapaxes", "transpose", "sum", "mean", "max", "min", "any", "all", "astype", "reshape", "ravel"}


def variants(node: ast.AST) -> list[ast.AST]:
    """Everything that this node, and no part of it, is changed to; new nodes that may share parts with the old one."""
    return [new for rule in RULES for new in rule(node)]


def _operators(node: ast.AST) -> Iterator[ast.AST]:
    """Other operators, dropped terms and operands swapped; a sign, a `not`; `and` for `or`, and a part left out."""
    if isinstance(node, ast.BinOp):
        for other in ARITHMETIC.get(type(node.op), []):
            yield ast.BinOp(node.left, other(), node.right)
        if isinstance(node.op, (ast.Sub, ast.Div, ast.MatMult, ast.Pow)) and not hasattr(node, "even"):
            yield ast.BinOp(node.right, node.op, node.left)
        yield from (node.left, node.right)
    if isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield node.operand
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for k in range(len(node.values)):
            rest = node.values[:k] + node.values[k + 1:]
            yield ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]


def _comparisons(node: ast.AST) -> Iterator[ast.AST]:
    """Each comparison turned, sharpened or relaxed; either end of a chain left out."""
    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield ast.Compare(node.left, [*node.ops[:k], other(), *node.ops[k + 1:]], node.comparators)
        if len(node.ops) > 1:
            yield ast.Compare(node.left, node.ops[:-1], node.comparators[:-1])
            yield ast.Compare(node.comparators[0], node.ops[1:], node.comparators[1:])
    if isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    if isinstance(node, (ast.If, ast.While)):
        yield type(node)(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def _numbers(node: ast.AST) -> Iterator[ast.AST]:
    """Integers by one, other numbers by a quarter, True for False; slices by one at each end, or without that end."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int) and not hasattr(node, "even"):
            yield ast.Constant(node.value + 1)
            if node.value:
                yield ast.Constant(node.value - 1)
        elif isinstance(node.value, float):
            yield ast.Constant(node.value * 1.25)
    if isinstance(node, ast.Slice):
        one = ast.Constant(1)
        for field, op in (("lower", ast.Add()), ("upper", ast.Sub())):
            end = getattr(node, field)
            changed = [None, ast.BinOp(end, op, one)] if end is not None else [one if field == "lower" else ast.Constant(-1)]
            for new in changed:
                if not isinstance(end, ast.Constant) or new is None:
                    yield ast.Slice(**{"lower": node.lower, "upper": node.upper, "step": node.step} | {field: new})
        if node.step is not None:
            yield ast.Slice(node.lower, node.upper, None)


def _axes(node: ast.AST) -> Iterator[ast.AST]:
    """Keywords left out, axes changed, the dtype of a new array left out, transposes left out."""
    if isinstance(node, ast.Call):
        for k in [k for k, keyword in enumerate(node.keywords) if keyword.arg != "strict"]:
            yield ast.Call(node.func, node.args, node.keywords[:k] + node.keywords[k + 1:])
        if len(node.args) > 1 and ast.unparse(node.args[-1]).endswith(("dtype", "float32", "float64")):
            yield ast.Call(node.func, node.args[:-1], node.keywords)
    if isinstance(node, ast.keyword) and node.arg == "axis":
        if isinstance(node.value, ast.Tuple):
            for k in range(len(node.value.elts)):
                yield ast.keyword("axis", ast.Tuple(node.value.elts[:k] + node.value.elts[k + 1:], ast.Load()))
        else:
            yield ast.keyword("axis", ast.Constant(1 if ast.unparse(node.value) == "0" else 0))
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value


def _calls(node: ast.AST) -> Iterator[ast.AST]:
    """Functions left out, so that an argument passes as it is; their opposites; arguments, elements and targets swapped."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in PASS_THROUGH:
            yield from [a for a in node.args if not isinstance(a, (ast.Starred, ast.GeneratorExp))][:2]
        if name == "where" and len(node.args) == 3:
            yield from node.args[1:]
            yield ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], [])
        if isinstance(node.func, ast.Attribute) and name in METHODS and ast.unparse(node.func.value) not in ("np", "xp"):
            yield node.func.value
        for args in _swapped(node.args) if name not in SYMMETRIC else ():
            yield ast.Call(node.func, args, node.keywords)
    if isinstance(node, (ast.Tuple, ast.List)) and not hasattr(node, "even"):
        for elts in _swapped(node.elts):
            yield type(node)(elts, node.ctx)
    if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield ast.Name(NAMES[node.id], node.ctx)
    if isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        yield ast.Attribute(node.value, NAMES[node.attr], node.ctx)


def _swapped(nodes: list[ast.expr]) -> Iterator[list[ast.expr]]:
    """The list with two neighbours in each other's place."""
    for k in range(len(nodes) - 1):
        yield [*nodes[:k], nodes[k + 1], nodes[k], *nodes[k + 2:]]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """`=` for `+=`, and the opposite of it; a statement removed."""
    if isinstance(node, ast.AugAssign):
        yield ast.Assign([copy.deepcopy(node.target)], node.value)
        for other in ARITHMETIC.get(type(node.op), []):
            yield ast.AugAssign(node.target, other(), node.value)
    if isinstance(node, ast.Assign):                              # of new names: whatever reads them would fail
        targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
        read = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
        removable = any(not isinstance(target, ast.Name) or target.id in read for target in targets)
    else:
        removable = isinstance(node, (ast.AugAssign, ast.Expr)) or (isinstance(node, ast.If) and not node.orelse)
    if removable:
        yield ast.Pass()


RULES: list[Callable[[ast.AST], Iterator[ast.AST]]] = [_operators, _comparisons, _numbers, _axes, _calls, _statements]


def head(statement: ast.stmt) -> str:
    """The statement on one line; of a compound one what stands before its body."""
    if isinstance(statement, ast.Pass):
        return "(removed)"
    if hasattr(statement, "body"):
        statement = copy.copy(statement)
        statement.body = [ast.Pass()]
        for field in ("orelse", "handlers", "finalbody", "decorator_list"):
            if hasattr(statement, field):
                setattr(statement, field, [])
        return ast.unparse(ast.fix_missing_locations(statement)).removesuffix("    pass").strip()
    return ast.unparse(statement)


def mutants(file: str, source: str) -> list[Mutant]:
    """All of them, of the text of one file of the package; those that read alike count once."""
    tree = ast.parse(source)
    found: dict[tuple[str, ...], Mutant] = {}
    for k, place in enumerate(places(tree)):
        for v, new in enumerate(variants(place.node)):
            statement = new if isinstance(place.node, ast.stmt) else place.statement
            before = head(place.statement)
            place.put(new)
            with contextlib.suppress(ValueError, TypeError, AttributeError):  # not every neighbour can be swapped
                after = head(ast.fix_missing_locations(statement))
                if after != before:
                    mutant = Mutant(file, place.function, before, after, place.statement.lineno, k, v)
                    found.setdefault(mutant.key, mutant)
            place.put(place.node)
    return list(found.values())


def mutated(mutant: Mutant, source: str) -> ast.Module:
    """The tree of the file with this one change."""
    tree = ast.parse(source)
    place = places(tree)[mutant.place]
    new = variants(place.node)[mutant.variant]
    place.put(ast.copy_location(new, place.node))
    return ast.fix_missing_locations(tree)


def files() -> list[str]:
    """Every file that is mutated, below the package."""
    package = ROOT / PACKAGE
    found = [f for name in STAGES for f in sorted((package / name).glob("*.py")) or [package / name]]
    return [f.relative_to(package).as_posix() for f in found if f.name != "__init__.py"]


def drawn(all_: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of them: the order follows from the seed and each mutant's own text."""
    def rank(mutant: Mutant) -> bytes:
        return hashlib.sha256("\n".join([str(seed), *mutant.key]).encode()).digest()
    return sorted(all_, key=rank)[:count]


def equivalent(text: str) -> dict[tuple[str, str, str, str], str]:
    """{key: reason} of a list as equivalent_mutants.txt is written; ValueError for a paragraph that is no entry."""
    entries = {}
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        if len(lines) < 4 or not lines[1].startswith("- ") or not lines[2].startswith("+ "):
            raise ValueError(f"{EQUIVALENT.name} wants file and function, '- before', '+ after' and a reason, got {lines}")
        file, _, function = lines[0].partition(" ")
        entries[file, function, lines[1][2:], lines[2][2:]] = " ".join(lines[3:]).strip()
    return entries


# ---- who sees it ----

class Hook(importlib.abc.MetaPathFinder):
    """A plugin of pytest that imports one module of the package in `root` from a changed tree in place of its file."""

    def __init__(self, mutant: Mutant, root: Path) -> None:
        path = root / PACKAGE / mutant.file
        tree = mutated(mutant, path.read_text(encoding="utf-8"))

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> object:
                return compile(tree, str(path), "exec")
        self.name = f"{PACKAGE}.{mutant.file.removesuffix('.py').replace('/', '.')}"
        self.path, self.loader = path, Loader(self.name, str(path))

    def pytest_configure(self) -> None:
        """Before pytest's own hook, which reads the files that it is given by name."""
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The module's, for this name only."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self.loader)


def stages(file: str, function: str = "") -> list[tuple[str, list[str]]]:
    """Of a function of one file, narrowest first."""
    own = STAGES.get(file) or STAGES[file.split("/")[0]]
    first = [FIRST] if FIRST in own and function.endswith("__init__") else []
    return list({str(stage): stage for stage in first + NARROW.get(file, []) + own}.values())


def start(root: Path, mutant: Mutant | None, kernels: str, arguments: list[str], log: Path) -> int:
    """Fork a process that runs these tests on the package in `root` with this change; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        os.setsid()                                                           # so that all of it can be ended
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(root)
        os.environ.update(EMONET_KERNELS=kernels, PYTHONPATH=str(root))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path[:] = [str(root), *[p for p in sys.path if Path(p or ".").resolve() not in (ROOT, root)]]
        for name in [n for n in sys.modules if n.split(".")[0] in ("tests", PACKAGE)]:
            del sys.modules[name]
        import pytest
        options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--rootdir", str(root), *arguments]
        code = int(pytest.main(options, plugins=[] if mutant is None else [Hook(mutant, root)]))
        sys.stdout.flush()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(code)


@dataclass
class Run:
    """A mutant, or the original, on its way through the stages."""

    mutant: Mutant | None
    stages: list[tuple[str, list[str]]]
    log: Path
    stage: int = 0
    began: float = 0.0
    killed: str = ""        # by which stage, or by the limit of time
    seconds: float = 0.0

    def end_of_log(self) -> str:
        """What pytest said last."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


def finish(run: Run, status: int | None) -> bool:
    """Note how a stage ended, None: it ran out of time; whether another has to run. RuntimeError where there was no test."""
    code = 1 if status is None or os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    run.seconds += time.monotonic() - run.began
    if code in (4, 5):                                            # of pytest: wrong arguments; no test
        raise RuntimeError(f"pytest {run.stages[run.stage]} ends with {code}:\n{run.end_of_log()}")
    if code:
        run.killed = " ".join(run.stages[run.stage][1]) + (" (out of time)" if status is None else "")
        return False
    run.stage += 1
    return run.stage < len(run.stages)


def judge(root: Path, runs: list[Run], processes: int, seconds: float = SECONDS) -> Iterator[Run]:
    """Each of them when it is done: `processes` at a time."""
    waiting, at_work = runs[::-1], {}

    def begin(run: Run) -> None:
        run.began = time.monotonic()
        at_work[start(root, run.mutant, *run.stages[run.stage], run.log)] = run
    try:
        while waiting or at_work:
            while waiting and len(at_work) < processes:
                begin(waiting.pop())
            done = {pid: status for pid in at_work for found, status in [os.waitpid(pid, os.WNOHANG)] if found}
            for pid, run in at_work.items():
                if pid not in done and time.monotonic() - run.began > seconds:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    done[pid] = None
            for pid, status in done.items():
                run = at_work.pop(pid)
                if finish(run, status):
                    begin(run)
                else:
                    yield run
            time.sleep(0.02)
    finally:
        for pid in at_work:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of the package and its tests, so that the tree may be edited meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        for name in (PACKAGE, "tests", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def warm(root: Path) -> None:
    """Import what takes long and holds nothing of the package; one thread for each process."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(root / "hypothesis")
    sys.pycache_prefix = str(root / "compiled")
    for name in ("numpy", "scipy.linalg", "pytest", "hypothesis", "hypothesis.extra.pytestplugin", "sklearn.covariance",
                 "sklearn.discriminant_analysis", "torch", "torch._dynamo"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from hypothesis import Phase, settings
    settings.register_profile("mutants", deadline=None, derandomize=True, max_examples=10, report_multiple_bugs=False,
                              phases=[Phase.explicit, Phase.generate])        # any failure will do, and few examples
    os.environ["HYPOTHESIS_PROFILE"] = "mutants"
    gc.freeze()                                                               # no child looks through all that


def survivors(tried: list[Mutant], processes: int, say: Callable[[str], None]) -> list[Mutant]:
    """Those that no test sees; RuntimeError where the tests fail without any change."""
    with copied() as root:
        warm(root)
        logs = root / "logs"
        logs.mkdir()
        needed = {str(stage): stage for m in tried for stage in stages(m.file, m.function)}
        for run in judge(root, [Run(None, [s], logs / f"original{k}") for k, s in enumerate(needed.values())], processes):
            if run.killed:
                raise RuntimeError(f"the original fails {run.killed}:\n{run.end_of_log()}")
            say(f"original {run.seconds:5.1f} s  {' '.join(run.stages[0][1])}")
        found = []
        runs = [Run(m, stages(m.file, m.function), logs / str(k)) for k, m in enumerate(tried)]
        for done, run in enumerate(judge(root, runs, processes), 1):
            say(f"{done}/{len(runs)} {run.seconds:5.1f} s  {run.killed or 'SURVIVES'}\n  {run.mutant}")
            if not run.killed:
                found.append(run.mutant)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Draw, run, print; 0 where no mutant survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="how many mutants (200)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at a time (one a core)")
    parser.add_argument("--only", default="", help="mutants whose file, function or change holds this")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    parser.add_argument("--verbose", action="store_true", help="print who kills each")
    args = parser.parse_args(arguments)
    everything = [m for f in files() for m in mutants(f, (ROOT / PACKAGE / f).read_text(encoding="utf-8"))]
    known = equivalent(EQUIVALENT.read_text(encoding="utf-8"))
    stale = known.keys() - {m.key for m in everything}
    for file, function, before, after in sorted(stale):
        print(f"{EQUIVALENT.name}: no such mutant any more:\n{file} {function}\n- {before}\n+ {after}\n")
    chosen = drawn([m for m in everything if args.only in str(m)], args.count, args.seed)
    if args.list:
        print(*chosen, sep="\n")
        return int(bool(stale))
    began = time.monotonic()
    tried = [m for m in chosen if m.key not in known]
    alive = survivors(tried, args.processes, lambda line: print(line, flush=True) if args.verbose else None)
    for mutant in alive:
        print(f"survives: {mutant}")
    print(f"{len(chosen)} of {len(everything)} mutants, seed {args.seed}: {len(tried) - len(alive)} killed, "
          f"{len(chosen) - len(tried)} equivalent, {len(alive)} survive; {(time.monotonic() - began) / 60:.0f} min")
    return int(bool(alive or stale))


if __name__ == "__main__":
    sys.exit(main())
