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
from peers import arguments, machine, quartiles

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


def probe(line: str) -> list[float] | str:
    """[seconds of the import, bytes resident after it], or why there are none."""
    done = subprocess.run([sys.executable, "-c", PROBE.format(line=line)], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def main() -> None:
    options = arguments(__doc__, threads=False)
    machine()
    found: dict[str, list] = {line: [] for line in LINES}
    for line in LINES:
        if isinstance(reason := probe(line), str):
            print(f"{line}: left out ({reason})")
            del found[line]
    for _ in range(options.rounds):
        for line, values in found.items():
            values.append(probe(line))
    ours = np.array(found[LINES[0]])
    print("\n### Summary\n\n| | seconds | over ours | MiB | over ours |\n| --- | --- | --- | --- | --- |")
    for line, values in found.items():
        values = np.array(values)
        middle = np.median(values, 0) / np.median(ours, 0)
        ratios = [quartiles(values[:, k] / ours[:, k], middle=middle[k]) for k in (0, 1)]
        print(f"| `{line}` | {quartiles(values[:, 0], '.3f')} | {ratios[0]} | {quartiles(values[:, 1] / 2**20, '.0f')} | "
              f"{ratios[1]} |")


if __name__ == "__main__":
    main()
