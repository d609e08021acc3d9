"""A page of HTML in one file: its pictures are in it, and whatever it is told is text, never markup."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from pargo_mllm.errors import UserError
from pargo_mllm.files import write_whole

_STYLE = """
:root { color-scheme: light; --ink: #1d2433; --faint: #667085; --rule: #d9dee7; --accent: #1f4e8c; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; background: #fff; min-height: 100vh; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
p.lead { color: var(--faint); margin: 0 0 1.6rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { text-align: right; padding: .42rem .7rem; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
tr.baseline th, tr.baseline td { color: var(--faint); font-weight: 400; }
tr.first th, tr.first td { border-top: 2px solid var(--rule); }
td.best { font-weight: 700; color: var(--accent); }
.scroll { overflow-x: auto; }
img { width: 100%; height: auto; border: 1px solid var(--rule); border-radius: 6px; margin: .4rem 0; }
li { margin: .3rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
svg { width: 100%; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem; }
.card { border: 1px solid var(--rule); border-radius: 8px; padding: .8rem; font-size: .9rem; }
.card dl { grid-template-columns: max-content 1fr; gap: .1rem .8rem; }
.card dd { white-space: pre-wrap; }
summary { cursor: pointer; color: var(--accent); }
"""

_JPEG = b"\xff\xd8"


_HEAD = "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='generator' content='pargo'>"


class PageError(UserError):
    """A file that stands where a page would be written, and is somebody's own."""


def check_page(file: Path) -> None:
    """Find out, before the work, whether a page may be written there: nothing stands there, or a page that was written here.

    Raises:
        PageError: if not.
    """
    check_written(file, _HEAD, "page")


def check_written(file: Path, begins: str, what: str) -> None:
    """Find out whether a file may be written: it is absent or empty, or begins as what is written here does.

    Raises:
        PageError: if not; it calls the file a ``what``.
    """
    if not os.path.lexists(file):
        return
    if file.is_dir():
        raise PageError(f"{file} is a folder; a {what} is a file.")
    found = None
    # a pipe would be waited for
    if file.is_file():
        try:
            with open(file, "rb") as opened:
                found = opened.read(len(begins))
        except OSError as error:
            raise PageError(f"{file} cannot be read: {error.strerror or error}.") from error
    if found not in (b"", begins.encode()):
        raise PageError(f"{file} is no {what} of pargo, and is not written over; give another name.")


def write_page(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Write a page of these parts; it shows its pictures wherever it is moved."""
    page = (
        f"{_HEAD}<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
    write_whole(path, page)
    return path


def text(value: Any) -> str:
    """A value as text of a page. What cannot be printed, halves of characters among it, is spelled out."""
    printable = "".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in str(value))
    return escape(printable, quote=True)


def table(header: Iterable[str], rows: Iterable[str]) -> str:
    """A table of rows of HTML, below a line of names."""
    head = "".join(f"<th scope='col'>{text(name)}</th>" for name in header)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def bullets(title: str, sentences: Iterable[str]) -> str:
    """A heading and a list below it; nothing where there are no sentences."""
    lines = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f"<h2>{text(title)}</h2><ul>{lines}</ul>" if lines else ""


def definitions(entries: Mapping[str, Any]) -> str:
    """Names with their values."""
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in entries.items())}</dl>"


def picture(file: Path | bytes, description: str) -> str:
    """A PNG or a JPEG, or its bytes, inside the page."""
    content = file if isinstance(file, bytes) else file.read_bytes()
    kind = "jpeg" if content.startswith(_JPEG) else "png"
    return f"<img alt='{text(description)}' src='data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}'>"


def unfolds(title: str, part: str) -> str:
    """A part that is shown when its title is clicked."""
    return f"<details><summary>{text(title)}</summary>{part}</details>"
