"""One self-contained page: what is in it is in the file, nothing is fetched, and every text of a user is escaped."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def page(title: str, body: str, data: Any = None, script: str = "") -> bytes:
    """The file: `body` is HTML, `data` JSON for the script of that name beside this file."""
    return template("page.html", title=escape(title), style=source("page.css"), body=body,
                    data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
                    script=source(script) if script else "").encode("utf-8", "replace")


def template(name: str, **parts: str) -> str:
    """A file beside this one, with its $names filled in."""
    return Template(source(name)).substitute(parts)


def source(name: str) -> str:
    """The text of a file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str = "", raw: Sequence[int] = ()) -> str:
    """A table of texts, of which those in the columns `raw` are HTML already."""
    def cell(k: int, text: str) -> str:
        return text if k in raw else escape(text)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{cell(k, text)}</td>' for k, text in enumerate(row))}</tr>" for row in rows)
    return f'<table{f" id={name}" if name else ""}><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def wide(content: str, name: str) -> str:
    """Content that may be wider than the page, to be scrolled with keys, too; name: what it is, for who hears it."""
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}">{content}</div>'


def picture(title: str, alt: str, content: str) -> str:
    """A heading and the picture of a data URI."""
    return f'<h2>{escape(title)}</h2><img class="whole" alt="{escape(alt)}" src="{content}">'


def media(content: str, name: str, kind: str = "video") -> str:
    """A player of a data URI."""
    return f'<{kind} controls src="{content}" aria-label="{escape(name)}"></{kind}>' if content else ""


def uri(kind: str, content: bytes) -> str:
    """A data URI of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(pixels: np.ndarray, size: int, quality: int = 70) -> str:
    """A picture (H, W, 3) uint8, its larger side at most `size`, as a data URI."""
    image, content = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((size, size))
    image.save(content, "JPEG", quality=quality)
    return uri("image/jpeg", content.getvalue())


def smaller(png: bytes) -> str:
    """A drawn picture, with 64 colours, as a data URI."""
    content = io.BytesIO()
    Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB").quantize(64).save(content, "PNG", optimize=True)
    return uri("image/png", content.getvalue())


def thinned(items: Sequence, most: int) -> list:
    """At most so many of them, evenly."""
    if len(items) <= most:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, most).round().astype(int)]
