"""All benchmarks, one after the other; their tables go to the screen and into one file.

    python benchmarks/run_all.py --out tables.md                # hours, on a machine that does nothing else
    python benchmarks/run_all.py --quick                        # minutes: shows that every script works
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

# script, whether it takes --threads, --rounds and --skip, and the options that make it quick
SCRIPTS = [("imports.py", "rounds", ["--quick"]), ("decode.py", "rounds skip", ["--quick"]),
           ("layers_cpu.py", "threads rounds skip", ["--quick"]), ("resnet_cpu.py", "threads rounds skip", ["--quick"]),
           ("lstm_cpu.py", "threads rounds skip", ["--quick"]), ("small_epoch.py", "threads rounds skip", ["--quick"]),
           ("lda.py", "rounds", ["--clips", "60", "--features", "80", "--rounds", "2"]),
           ("memory.py", "", ["--lengths", "4", "--size", "32"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmark_tables.md"))
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", default=[name for name, _, _ in SCRIPTS])
    parser.add_argument("--threads", nargs="+")
    parser.add_argument("--rounds", nargs=1)
    parser.add_argument("--skip", nargs="+", help="contestants to leave out: words of their names")
    parser.add_argument("--quick", action="store_true")
    options, failed = parser.parse_args(), []
    with options.out.open("w", encoding="utf-8") as out:
        for script, takes, quick in SCRIPTS:
            if script not in options.only:
                continue
            chosen = [(name, getattr(options, name)) for name in takes.split()]
            given = [word for name, values in chosen if values for word in (f"--{name}", *values)]
            shown = ["benchmarks/" + script, *given, *(quick if options.quick else [])]
            command = [sys.executable, str(Path(__file__).with_name(script)), *shown[1:]]
            lines = [f"\n# `python {' '.join(shown)}`\n\n"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                while lines or (lines := process.stdout.readlines(1)):
                    for line in lines:
                        print(line, end="", flush=True)
                        out.write(line)
                    out.flush()
                    lines = []
            if process.returncode:
                failed.append(script)
                out.write(f"\nfailed with exit status {process.returncode}\n")
    print(f"\ntables: {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
