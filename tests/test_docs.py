"""What the documentation shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emonet_scratch import models

ROOT = Path(__file__).parents[1]


def test_the_gradient_check_of_the_readme_prints_what_it_says():
    code, output = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    number = r"-?\d+\.\d+"                                                    # rounding differs between machines
    shape = re.sub(number, "#", output.strip())
    assert re.sub(number, "#", done.stdout.strip()) == shape
    for a, b in zip(re.findall(number, output), re.findall(number, done.stdout), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-6)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_table_of_presets_is_complete():
    """Every field in which the presets `paper` and `default` differ is in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    paper, default = models.EmoNetConfig.preset("paper"), models.EmoNetConfig()
    for name in vars(default):
        if getattr(paper, name) != getattr(default, name):
            assert f"`{name}`" in text, name
