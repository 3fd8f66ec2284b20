"""What `mkdocs build` needs beside docs/: pages from elsewhere in the repository, the reference, and links that hold there.

mkdocs calls these hooks (https://www.mkdocs.org/dev-guide/plugins/#events). A page of the repository links to files as they
lie in it; on the site, links to pages lead to pages, and of links to other files, which it does not have, the text stays.
"""

import os
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
CORE = """
layers.dense layers.activation layers.conv2d layers.batch_norm layers.pooling layers.dropout layers.residual layers.lstm
layers.sequential layers.input layers.chunked layers.base losses optim lda gradcheck models.resnet models.emonet
models.config testing.drawn testing.contracts
""".split()

#: Pages by their place in the repository, and on the site.
PLACES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
          "kernels/README.md": "kernels.md", "kernels/steps/README.md": "steps.md", "benchmarks/RESULTS.md": "benchmarks.md"}
PLACES |= {f"emonet_scratch/models/{card.name}": f"cards/{card.name}"
           for card in (ROOT / "emonet_scratch/models").glob("*.md")}
PLACES |= {f"docs/{page.relative_to(ROOT / 'docs')}": str(page.relative_to(ROOT / "docs"))
           for kind in ("*.md", "*.png") for page in (ROOT / "docs").rglob(kind)}
PLACES |= {f"emonet_scratch/{name.replace('.', '/')}.py": f"reference/{name}.md" for name in CORE}
HOMES = {site: place for place, site in PLACES.items()}


def title_of(name: str) -> str:
    return re.match(r"#+ *`?([^`\n]*)", (ROOT / name).read_text(encoding="utf-8"))[1]


def on_config(config: Any) -> Any:
    """The menu: the book in its order, then everything else."""
    book = sorted(site for site in HOMES if re.match(r"book/\d", site))
    cards = sorted(site for site in HOMES if site.startswith("cards/"))
    config.nav = [
        {"Start": ["index.md", {"Clips and tables": "data.md"}, {"When, who and why": "explain.md"},
                   {"On several machines": "scale.md"}, {"For others to run": "export.md"}]},
        {"Book": ["book/index.md", *({title_of(HOMES[site]): site} for site in book)]},
        {"Concepts": ["concepts.md", "lda.md", "audio.md", "gradient_checks.md", "why_it_did_not_converge.md",
                      "classics.md"]},
        {"Reference": [{name: f"reference/{name}.md"} for name in CORE]},
        {"Results": ["results.md", "benchmarks.md", {"Cards": cards}, "tried.md"]},
        {"House": ["architecture.md", "proof.md", "security.md", "kernels.md", "steps.md", "contributing.md",
                   "changelog.md"]}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add what lies elsewhere."""
    for place, site in PLACES.items():
        if place.endswith(".md") and not place.startswith("docs/"):
            files.append(File.generated(config, site, content=(ROOT / place).read_text(encoding="utf-8")))
    for name in CORE:
        text = f"# {name}\n\n::: emonet_scratch.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they are on the site; fences with a word behind the language, which are for the tests, without it."""
    site = page.file.src_uri
    home = (ROOT / HOMES.get(site, f"docs/{site}")).parent

    def there(target: str) -> str | None:
        """The same target, from this page of the site; None where the site does not have it."""
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target) or not path:
            return target
        found = PLACES.get(os.path.relpath(home / path, ROOT))
        return None if found is None else os.path.relpath(found, os.path.dirname(site) or ".") + f"#{anchor}" * bool(anchor)

    def inline(match: re.Match[str]) -> str:
        target = there(match[2])
        return f"[{match[1]}]({target})" if target else match[1]

    text = re.sub(r"^```(\w+) \w+$", r"```\1", markdown, flags=re.MULTILINE)
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    known = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", "".join(parts[::2]), re.MULTILINE))
    for k in range(0, len(parts), 2):                                         # between the fences
        for name, target in known.items():
            by, wanted = re.escape(name), there(target)
            parts[k] = re.sub(rf"^\[{by}\]: \S+$", f"[{name}]: {wanted}" if wanted else "", parts[k], flags=re.MULTILINE)
            if wanted is None:
                parts[k] = re.sub(rf"\[([^\]]+)\]\[{by}\]", r"\1", parts[k])
                parts[k] = re.sub(rf"\[{by}\](?![\[(:])", name, parts[k])
        parts[k] = re.sub(r"(?<!!)\[([^\[\]]*(?:\[[^\]]*\])?[^\[\]]*)\]\(([^)\s]+)\)", inline, parts[k])
        parts[k] = re.sub(r"!\[([^\]]*)\]\(([^)\s]+)\)", lambda m: f"![{m[1]}]({there(m[2]) or m[2]})", parts[k])
    return "".join(parts)


class Doctests(griffe.Extension):
    """Examples in docstrings, which have no fence, get one."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"(^>>> .*?)(?=\n\n|\Z)", r"```python\n\1\n```", obj.docstring.value,
                                         flags=re.MULTILINE | re.DOTALL)
