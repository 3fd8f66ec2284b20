"""The oldest release of everything that pyproject.toml gives a lower bound, as pip takes it: `python -m tests.oldest`."""

import re
from pathlib import Path

import tomllib


def oldest() -> list[str]:
    """"numpy==1.24" for "numpy>=1.24,<3"; what has no lower bound, or is for some systems only, is left out."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + extras["test"] + extras["faces"] + extras["search"]
    return list(dict.fromkeys(re.sub(">=([^,]+).*", r"==\1", line) for line in asked if ">=" in line and ";" not in line))


if __name__ == "__main__":
    print("\n".join(oldest()))
