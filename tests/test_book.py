"""The book: every chapter's code runs in order and prints what the page says; its links and pictures are there."""

import contextlib
import io
import json
import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "docs" / "book").glob("[0-9]*.md"))
NUMBER = r"-?\d+\.?\d*(?:e[+-]?\d+)?"


def parts(page):
    """(kind, text) of every block of a chapter: "python", "python exercise", "text"."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(python|python exercise|text)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def same(printed, expected):
    """The same words, and the same numbers to their last digit but one: processors round differently."""
    words = [re.sub(NUMBER, "#", text).split() for text in (printed, expected)]
    assert words[0] == words[1]
    for a, b in zip(re.findall(NUMBER, printed), re.findall(NUMBER, expected), strict=True):
        digits = len(b.partition("e")[0].partition(".")[2])
        power = float(f"1e{b.partition('e')[2] or 0}")
        assert abs(float(a) - float(b)) <= 1.01 * power * 10**-digits * (digits > 0), (a, b)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_runs_and_prints_what_it_says(page):
    space, printed, started = {"__name__": page.stem}, None, time.process_time()
    for kind, text in parts(page):
        if kind == "text":
            assert printed is not None, "an output without code before it"
            same(printed, text)
            printed = None
        else:
            assert not printed, f"the page does not show what was printed: {printed}"
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, str(page), "exec"), space)
            printed = out.getvalue()
    assert not printed
    assert time.process_time() - started < 60


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_has_all_that_chapters_have(page):
    text = page.read_text(encoding="utf-8")
    assert re.match(rf"# {int(page.stem[:2])} \w", text) and "**The question.**" in text
    assert any(kind == "python exercise" for kind, _ in parts(page)) and "## Exercise" in text
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    assert re.search(r"!\[[^]]+\]\(\.\./images/\w+\.png\)", text)
    assert max(map(len, text.splitlines())) <= 220


def test_a_chapter_is_a_notebook_too(tmp_path):
    """Jupytext makes one of it; its cells, run in order, do what the page does."""
    jupytext = pytest.importorskip("jupytext", reason="the extra `docs` is not installed")
    page = CHAPTERS[0]
    jupytext.write(jupytext.read(page), tmp_path / "chapter.ipynb")
    notebook = json.loads((tmp_path / "chapter.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    out, space = io.StringIO(), {"__name__": "notebook"}
    with contextlib.redirect_stdout(out):
        for cell in cells:
            exec(compile(cell, "chapter.ipynb", "exec"), space)
    assert len(cells) == sum(kind != "text" for kind, _ in parts(page))
    same(out.getvalue(), "".join(text for kind, text in parts(page) if kind == "text"))


def test_the_reader_of_outputs_sees_what_differs():
    same("a 0.123 and 7", "a 0.124 and 7")
    for other in ("a 0.126 and 7", "b 0.124 and 7", "a 0.124 and 8", "a 0.124"):
        with pytest.raises((AssertionError, ValueError)):
            same("a 0.124 and 7", other)
