"""What lies at a path, divided into pieces."""

from __future__ import annotations

import codecs
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from pargo_mllm.data.corpus import CorpusError, shown
from pargo_mllm.data.open_corpus import FORMS, is_list, open_corpus
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.data.sources.coco import FolderError, read_coco_folder
from pargo_mllm.data.sources.json_rows import MAX_ROW
from pargo_mllm.data.sources.llava import LIST, picture_folder
from pargo_mllm.data.sources.opening import no_text, open_regular
from pargo_mllm.data.sources.shards import ABOUT, is_shard
from pargo_mllm.errors import UserError
from pargo_mllm.validation.findings import Finding
from pargo_mllm.validation.json_structure import Borders, blank_behind, line_borders, list_borders
from pargo_mllm.validation.pieces import ListPiece, PhotographPiece, Piece, ShardPiece

_BEGINNING = 2**16
_PHOTOGRAPHS = 2000


class ValidationError(UserError):
    """Data that cannot be validated at all; the message says why."""


@dataclass
class DividedSet:
    """A set in pieces.

    Args:
        path: as it was asked for.
        form: "list", "shards" or "photographs".
        pieces: in their order.
        found: what is wrong with its files, beside what pieces say.
        behind: found behind the last piece, where the pieces before it can all be read.
        lines: line ends in front of the first piece.
    """

    path: Path
    form: str
    pieces: list[Piece]
    found: list[Finding] = field(default_factory=list)
    behind: list[Finding] = field(default_factory=list)
    lines: int = 0


def part_of(source: str | os.PathLike, image_root: Path | None = None) -> DividedSet:
    """What a path holds.

    Raises:
        ValidationError: if it holds nothing that is trained on, or cannot be read.
    """
    if isinstance(source, str) and Scenes.parse(source) is not None:
        raise ValidationError(f"{source}: scenes are generated, and there is nothing to validate.")
    path = Path(source)
    try:
        return _part_of(path, image_root)
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise ValidationError(f"{shown(str(path))} cannot be the name of a file.") from error


def _part_of(path: Path, image_root: Path | None) -> DividedSet:
    listed = path / LIST if path.is_dir() and os.path.lexists(path / LIST) and os.path.lexists(path / ABOUT) else path
    if is_list(listed) and os.path.lexists(listed):
        if image_root is not None and not image_root.is_dir():
            raise ValidationError(f"--image-root {image_root} is no folder; give the one that the names in {path} lead from.")
        root = None if image_root is None else os.path.abspath(image_root)
        return _list_part(listed, image_root or picture_folder(listed), root)
    if image_root is not None:
        raise ValidationError(f"--image-root says where a LLaVA list has its pictures; {path} is none: leave it out.")
    shards = [file for file in path.iterdir() if is_shard(file)] if path.is_dir() else []
    if os.path.lexists(path / "captions.json") or ((path / "images").is_dir() and not shards):
        return _photographs_part(path)
    if is_shard(path) and os.path.lexists(path):
        shards = [path]
    if shards:
        return DividedSet(path, "shards", [ShardPiece(shard) for shard in sorted(shards)])
    # it says what is there instead
    try:
        open_corpus(path, 2)
    except CorpusError as error:
        raise ValidationError(f"{error}") from error
    raise ValidationError(f"{path} is of a form that is not validated; data must be {FORMS}.")


def _list_part(file: Path, images: Path, root: str | None) -> DividedSet:
    part = DividedSet(file, "list", [])
    with open_regular(file) as opened:
        head = opened.read(_BEGINNING)
    start = 0
    if head.startswith(codecs.BOM_UTF8):
        part.found.append(Finding("byte_order_mark", "its first three bytes", file.name, byte=0))
        start = len(codecs.BOM_UTF8)
    if b"\r\n" in head:
        part.found.append(Finding("carriage_returns", "its first lines", file.name, byte=head.index(b"\r\n")))
    first = blank_behind(file, start)
    other = no_text(head)
    if first is None or other is not None:
        part.found.append(Finding("not_a_list", other or "it is empty", file.name))
        return part
    with open_regular(file) as opened:
        mark = os.pread(opened.fileno(), 1, first)
    lines = file.suffix.lower() == ".jsonl"
    if lines and mark == b"[":
        part.found.append(Finding("list_in_lines", "it begins with '['", file.name, byte=first))
    if not lines and mark == b"{":
        if not _is_line(file, first):
            part.found.append(Finding("not_a_list", "it holds one object, not a list of records", file.name, byte=first))
            return part
        part.found.append(Finding("lines_in_json", "it begins with '{'", file.name, byte=first))
    elif not lines and mark != b"[":
        beginning = shown(mark.decode("utf-8", "replace"))
        part.found.append(Finding("not_a_list", f"it begins with {beginning!r}, not with '['", file.name, byte=first))
        return part
    in_lines = mark == b"{" if not lines else mark != b"["
    borders = line_borders(file, start) if in_lines else list_borders(file, first + 1)
    if not in_lines and len(borders.pieces) == 1 and blank_behind(file, first + 1) == borders.end and borders.closed:
        # an empty list
        borders = Borders([], borders.end, True)
    part.pieces = [ListPiece(file, images, root, one.start, one.end, in_lines) for one in borders.pieces]
    part.lines = 0 if in_lines else head.count(b"\n", 0, first)
    part.behind = _behind(file, borders, in_lines)
    return part


def _behind(file: Path, borders: Borders, lines: bool) -> list[Finding]:
    if borders.too_long:
        detail = f"what begins at byte {borders.end:,} is longer than {MAX_ROW:,} characters"
        return [Finding("file_broken", detail, file.name, byte=borders.end)]
    if lines:
        return []
    if not borders.closed:
        size = os.path.getsize(file)
        at_end = borders.end >= size
        detail = "it ends before its list does: a part of it is missing" if at_end else "a bracket closes that none has opened"
        return [Finding("file_broken", f"byte {borders.end:,}: {detail}", file.name, byte=borders.end)]
    rest = blank_behind(file, borders.end + 1)
    return [] if rest is None else [Finding("trailing", f"byte {rest:,} follows the list's end", file.name, byte=rest)]


def _is_line(file: Path, start: int) -> bool:
    """Whether the first line is an object of its own."""
    with open_regular(file) as opened:
        content = os.pread(opened.fileno(), MAX_ROW, start)
    try:
        return isinstance(json.loads(content.split(b"\n", 1)[0]), dict) and content.count(b"\n") > 0
    except (ValueError, RecursionError):
        return False


def _photographs_part(path: Path) -> DividedSet:
    try:
        folder = read_coco_folder(path)
    except FolderError as error:
        return DividedSet(path, "photographs", [], [Finding("file_broken", shown(str(error), 400), "captions.json")])
    photographs = [(image.name, image.path, image.captions) for image in folder.images]
    pieces: list[Piece] = [
        PhotographPiece(path, tuple(photographs[at : at + _PHOTOGRAPHS])) for at in range(0, len(photographs), _PHOTOGRAPHS)
    ]
    found = [
        Finding("entry_left_out" if kind in ("images", "captions") else "extra_left_out", reason, kind, count=count)
        for kind, tally in folder.tallies.items()
        for reason, count in tally.skipped.items()
    ]
    return DividedSet(path, "photographs", pieces, found)
