"""Draw the tables of docs/why_it_did_not_converge.md: python docs/figures/why.py -> docs/images/why.png

The 162 trainings behind them take hours; `examples/why_it_did_not_converge.py` does them and draws its own copy, with a
dot for each seed. The tables have the means of the seeds only.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from emonet_scratch.emotions import CLASSES
from emonet_scratch.training.metrics import chance_and_majority
from emonet_scratch.training.report import save_figure

DOCS = Path(__file__).parents[1]
sys.path.append(str(DOCS.parent / "examples"))
from why_it_did_not_converge import figure  # noqa: E402


def read_walks(text: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of a markdown text that have a title in bold above them: {title: rows as `figure` takes them}."""
    walks: dict[str, list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("**") and line.endswith("**"):
            rows = walks.setdefault(line.strip("*"), [])
        elif line.startswith("| ") and len(cells) == 6 and cells[0] not in ("field", "---"):
            field = "" if cells[0] == "start" else cells[0]
            rows.append({"field": field, "value": cells[1], "val_loss": float(cells[3]), "val_accuracy": float(cells[4])})
    return walks


def main(images: Path = DOCS / "images") -> None:
    walks = read_walks((DOCS / "why_it_did_not_converge.md").read_text(encoding="utf-8"))
    labels = np.repeat(np.arange(len(CLASSES)), 20)                           # 20 validation clips of each class
    save_figure(images / "why.png", figure, walks, *chance_and_majority(labels))


if __name__ == "__main__":
    main()
