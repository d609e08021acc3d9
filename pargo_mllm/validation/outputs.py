"""What a validation must not write over: the data that it looks at, and files that somebody else wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.validation.division import DividedSet, ValidationError
from pargo_mllm.validation.findings import KINDS
from pargo_mllm.validation.pieces import ListPiece, ShardPiece

_LINE = 2**16


def check_outputs(findings: Path | None, page: Path | None, parts: Sequence[DividedSet], against: Iterable[str]) -> None:
    """See that nothing is lost where findings and a page will be written.

    Raises:
        ValidationError: if one is a file of the data or of an evaluation, lies in a folder of theirs, is the other one, or, for
            findings, holds something else already.
    """
    asked = {option: file for option, file in (("--findings", findings), ("--html", page)) if file is not None}
    if findings is not None and page is not None and _same(findings, page):
        raise ValidationError(f"--findings and --html are both {page}: give each its own file.")
    evaluated = [Path(one.partition("=")[2] or one) for one in against] + [Path(one) for one in against]
    for option, file in asked.items():
        for own in (*_files(parts), *evaluated):
            if _same(file, own):
                raise ValidationError(f"{option} {file} is {own}, which is only read here: give another file.")
        for folder in _folders(parts):
            if _lies_in(file, folder):
                raise ValidationError(f"{option} {file} lies among the data in {folder}: give a file elsewhere.")
    if findings is not None and not _is_ours(findings):
        raise ValidationError(f"--findings {findings} is there and holds no findings: remove it, or give another file.")


def _files(parts: Iterable[DividedSet]) -> Iterator[Path]:
    for part in parts:
        yield part.path
        yield (part.path if part.path.is_dir() else part.path.parent) / ABOUT
        yield from dict.fromkeys(piece.file for piece in part.pieces if isinstance(piece, ListPiece | ShardPiece))


def _folders(parts: Iterable[DividedSet]) -> Iterator[Path]:
    """Those that hold nothing but data: a list's own folder may hold other things beside it."""
    for part in parts:
        if part.path.is_dir():
            yield part.path
        beside = {part.path.parent.resolve()} if part.form == "list" else set()
        yield from {
            piece.images for piece in part.pieces if isinstance(piece, ListPiece) and piece.images.resolve() not in beside
        }


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return os.path.abspath(one) == os.path.abspath(other)


def _lies_in(file: Path, folder: Path) -> bool:
    # where a name stands, and where a link that it is leads
    places = (file.parent.resolve() / file.name, file.resolve())
    return any(place.is_relative_to(folder.resolve()) for place in places)


def _is_ours(file: Path) -> bool:
    """Whether nothing is there, or nothing but findings; pipes and devices hold nothing."""
    if not file.is_file():
        return not file.is_dir()
    try:
        with open(file, "rb") as opened:
            line = opened.readline(_LINE)
        told = json.loads(line) if line else {"kind": next(iter(KINDS)), "data": "", "severity": ""}
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("kind") in KINDS and {"data", "severity"} <= told.keys()
