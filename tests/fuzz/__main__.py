"""Damaged and hostile input: `python -m tests.fuzz --count 200000 --seed 1`; exit 1 where a case ends badly.

A case is a file, or a folder, of a kind that the package reads, and the command that reads it, in a process of its own that
may have 1 GB of memory, 10 seconds (a file of gigabytes more) and 64 files (child.py). It ends well with an answer or with
one line that says what is wrong; it ends badly with a traceback, a signal, a limit, a warning of a library, or something
that a terminal would obey.
What ends badly is kept below --keep, and named once for each kind of input and of end.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.cases import Case, cases
from tests.fuzz.child import outcome, seconds_for
from tests.fuzz.honest import load_base, make_base

BATCH = 500                     # examples of one call of Hypothesis, which remembers all of them


def fuzz(count: int, first: int, keep: Path, only: str = "") -> Counter[tuple[str, str]]:
    """{(kind, end): how often} of those of `count` cases that ended badly; the first of each is kept below `keep`."""
    bad: Counter[tuple[str, str]] = Counter()
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="emonet-fuzz-") as name:
        root = Path(name)
        (root / "base").mkdir()
        if wrong := outcome_of_base(root / "base"):
            raise RuntimeError(wrong)
        strategy = cases(load_base(root / "base"))
        if only:
            strategy = strategy.filter(lambda case: only in case.kind)

        def check(case: Case) -> None:
            folder = root / "case"
            folder.mkdir()
            case.write(folder)
            seen[case.kind.partition(",")[0]] += 1
            if end := outcome(case.work, folder, seconds_for(folder)):
                if not bad[case.kind, end]:
                    shutil.rmtree(folder / "data", ignore_errors=True)
                    kept = keep / f"{len(bad):03}"
                    shutil.rmtree(kept, ignore_errors=True)
                    folder.rename(kept)
                    print(f"{kept}: {case.kind}: {end}", flush=True)
                bad[case.kind, end] += 1
            shutil.rmtree(folder, ignore_errors=True)
        for k, start in enumerate(range(0, count, BATCH)):
            seed(first * 10**6 + k)(settings(
                max_examples=min(BATCH, count - start), deadline=None, database=None, derandomize=False,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck))(given(strategy)(check)))()
        if others := {p.name for p in root.iterdir()} - {"base"}:
            bad["files", f"written outside: {others}"] += 1
    print(", ".join(f"{kind} {n}" for kind, n in sorted(seen.items())))
    return bad


def outcome_of_base(folder: Path) -> str:
    """Make the honest files; what is wrong with that."""
    process = os.fork()
    if process == 0:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            make_base(folder)
            os._exit(0)
        finally:
            os._exit(1)
    return "the honest files cannot be made" if os.waitpid(process, 0)[1] else ""


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 where all cases ended well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--only", default="", metavar="WORD", help="kinds with WORD in their names")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where cases go that end badly")
    options = parser.parse_args(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    bad = fuzz(options.count, options.seed, options.keep, options.only)
    for (kind, end), n in sorted(bad.items()):
        print(f"{n:6} {kind}: {end}")
    print(f"{options.count} cases in {time.monotonic() - started:.0f} seconds, {sum(bad.values())} ended badly")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
