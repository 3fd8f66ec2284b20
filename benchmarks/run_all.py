"""All benchmarks, one after the other; their tables go to the screen and into one file.

    python benchmarks/run_all.py --out tables.md                # hours, on a machine that does nothing else
    python benchmarks/run_all.py --quick                        # minutes: shows that every script works
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import TextIO

# script, and which of --threads, --rounds, --skip and --before it takes; all take --quick
SCRIPTS = {"imports.py": ("rounds", "before"),
           "decode.py": ("rounds", "skip", "before"),
           "reading.py": ("rounds",),
           "layers_cpu.py": ("threads", "rounds", "skip", "before"),
           "resnet_cpu.py": ("threads", "rounds", "skip", "before"),
           "lstm_cpu.py": ("threads", "rounds", "skip", "before"),
           "small_epoch.py": ("threads", "rounds", "skip", "before"),
           "lda.py": ("threads", "rounds", "skip", "before"),
           "memory.py": ()}


def run(script: str, arguments: list[str], out: TextIO) -> int:
    """The exit status; what the script prints goes to the screen and to `out`, line by line."""
    title = f"\n# `python {' '.join(['benchmarks/' + script, *arguments])}`\n\n"
    print(title, end="", flush=True)
    out.write(title)
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            out.write(line)
            out.flush()
    if process.returncode:
        out.write(f"\nfailed with exit status {process.returncode}\n")
    return process.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark_tables.md"))
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--threads", nargs="+")
    parser.add_argument("--rounds", nargs=1)
    parser.add_argument("--skip", nargs="+", help="contestants to leave out: words of their names")
    parser.add_argument("--before", nargs=1, metavar="DIR", help="another checkout of the package, to measure beside this")
    parser.add_argument("--quick", action="store_true")
    options, failed = parser.parse_args(), []
    with options.out.open("w", encoding="utf-8") as out:
        for script in options.only:
            chosen = [(name, getattr(options, name)) for name in SCRIPTS[script]]
            given = [word for name, values in chosen if values for word in (f"--{name}", *values)]
            if run(script, [*given, *(["--quick"] if options.quick else [])], out):
                failed.append(script)
    print(f"\ntables: {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
