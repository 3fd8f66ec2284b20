"""What `import emonet_scratch` costs, against `import torch`: seconds and resident memory.

    python benchmarks/imports.py

Every import runs in a fresh process, in turns; a first, uncounted round brings the files into the page cache. Our
submodules are imported when they are first used, so a line with all public names is there, too. Memory is the most that
was ever resident.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from machine import machine
from peers import arguments
from report import markdown, quartiles

PUBLIC = "from emonet_scratch import layers, losses, models, optim, data, LDA, gradcheck"
LINES = ["import emonet_scratch", PUBLIC, "import torch", "import numpy", "pass"]
PROBE = """
import time
started = time.perf_counter()
{line}
seconds = time.perf_counter() - started
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))   # KiB, of this program alone
print([seconds, peak * 1024])
"""


def probe(line: str, folder: str | None) -> list[float] | str:
    """[seconds of the import, bytes resident after it], or why there are none. `folder`: where the package lies."""
    done = subprocess.run([sys.executable, "-c", PROBE.format(line=line)], cwd=folder, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def main() -> None:
    options = arguments(__doc__, threads=False)
    machine()
    entries = [(f"`{line}`", line, None) for line in LINES]
    if options.before:
        entries[2:2] = [(f"before: `{line}`", line, options.before) for line in LINES[:2]]
    found: dict[str, list] = {name: [] for name, _, _ in entries}
    for name, line, folder in entries:
        if isinstance(reason := probe(line, folder), str):
            print(f"{name}: left out ({reason})")
            del found[name]
    for _ in range(options.rounds):
        for name, line, folder in entries:
            if name in found:
                found[name].append(probe(line, folder))
    measured = {name: np.array(values) for name, values in found.items()}     # (rounds, 2)
    ours = measured[entries[0][0]]

    def over_ours(values: np.ndarray, k: int) -> str:
        return quartiles(values[:, k] / ours[:, k], middle=np.median(values[:, k]) / np.median(ours[:, k]))
    markdown("Summary", ["", "seconds", "over ours", "MiB", "over ours"],
             ([name, quartiles(values[:, 0], ".3f"), over_ours(values, 0), quartiles(values[:, 1] / 2**20, ".0f"),
               over_ours(values, 1)] for name, values in measured.items()))


if __name__ == "__main__":
    main()
