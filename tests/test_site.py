"""The site: built without a warning, every chapter and module on it, nothing from other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


def test_every_chapter_page_card_and_module_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists(), page
    for name in ("index", "cards/fused", "kernels", "reference/layers.lstm", "reference/lda"):
        assert (site / f"{name}.html").exists(), name
    text = (site / "reference/layers.lstm.html").read_text(encoding="utf-8")
    assert "Backpropagation through time" in text and "h_t, c_t = gates(a_t, c_t-1)" in text


def test_nothing_comes_from_other_hosts(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="(https?:)?//', text)
        loaded += re.findall(r'<link[^>]*\brel="(?:stylesheet|preconnect|icon)"[^>]*\bhref="(https?:)?//', text)
        assert not loaded, page


def test_links_of_a_page_that_lies_elsewhere_hold(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="results.html#people"' in text and 'href="cards/fused.html"' in text
    for page in site.rglob("*.html"):
        for target in re.findall(r'<a[^>]*\bhref="([^"#:]+)(?:#[^"]*)?"', page.read_text(encoding="utf-8")):
            found = page.parent / target
            assert found.exists() or (site / target.lstrip("/")).exists(), (page, target)
