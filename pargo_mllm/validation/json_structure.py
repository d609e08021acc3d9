"""Where the elements of a long JSON list stand, from its brackets, quotes and commas alone: found at the speed of the disk.

Nothing is parsed here. What stands between two commas is an element only if it is JSON, which is seen when it is read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from pargo_mllm.data.sources.json_rows import MAX_ROW
from pargo_mllm.data.sources.opening import open_regular

# of a piece: bytes, about, and records at most
PIECE_BYTES, PIECE_RECORDS = 2**22, 10_000
_CHUNK = 2**22
_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_DEPTH = np.zeros(256, np.int8)
_DEPTH[[ord("["), ord("{")]] = 1
_DEPTH[[ord("]"), ord("}")]] = -1
_IS_STRUCTURE = _DEPTH != 0
_IS_STRUCTURE[_COMMA] = True
# bytes that an element's characters can take
_MOST = 4 * MAX_ROW


class Stretch(NamedTuple):
    """Bytes of a file that hold whole elements; ``end`` is where they stop, and the comma or bracket is not among them."""

    start: int
    end: int


class Borders(NamedTuple):
    """Where the pieces of a list are, and where the list ends: at a closing bracket (``closed``), or with the file."""

    pieces: list[Stretch]
    end: int
    closed: bool
    too_long: bool = False


def list_borders(file: Path, start: int) -> Borders:
    """Pieces of the list whose opening bracket stands in front of byte ``start``."""
    size = os.stat(file).st_size
    pieces: list[Stretch] = []
    inside, escaped, depth = False, False, 1
    offset = begin = last = start
    records = 0
    with (
        io.BufferedReader(open_regular(file), _CHUNK) as opened,
        tqdm(
            total=size, desc=f"dividing {file.name}", unit="B", unit_scale=True, delay=2, dynamic_ncols=True, leave=False
        ) as bar,
    ):
        opened.seek(start)
        while chunk := opened.read(_CHUNK):
            bytes_ = np.frombuffer(chunk, np.uint8)
            quotes, escaped = _quotes(bytes_, escaped)
            places = np.flatnonzero(_IS_STRUCTURE[bytes_])
            places = places[(np.searchsorted(quotes, places) + inside) % 2 == 0]
            inside = bool((len(quotes) + inside) % 2)
            depths = depth + np.cumsum(_DEPTH[bytes_[places]], dtype=np.int64)
            closing = np.flatnonzero(depths == 0)
            if len(closing):
                depths, places = depths[: closing[0] + 1], places[: closing[0] + 1]
            for comma in (places[(depths == 1) & (bytes_[places] == _COMMA)] + offset).tolist():
                records += 1
                if comma - begin >= PIECE_BYTES or records >= PIECE_RECORDS:
                    pieces.append(Stretch(begin, comma))
                    begin, records = comma + 1, 0
                last = comma + 1
            if len(closing):
                end = offset + int(places[-1])
                pieces.append(Stretch(begin, end))
                return Borders(pieces, end, chunk[places[-1] : places[-1] + 1] == b"]")
            depth = int(depths[-1]) if len(depths) else depth
            offset += len(chunk)
            bar.update(len(chunk))
            if offset - last > _MOST:
                pieces += [Stretch(begin, last - 1)] if last > begin else []
                return Borders(pieces, last, False, too_long=True)
    pieces.append(Stretch(begin, offset))
    return Borders(pieces, offset, False)


def line_borders(file: Path, start: int) -> Borders:
    """Pieces of a file of lines."""
    pieces: list[Stretch] = []
    offset = begin = last = start
    records = 0
    with io.BufferedReader(open_regular(file), _CHUNK) as opened:
        opened.seek(start)
        while chunk := opened.read(_CHUNK):
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10)
            if len(ends) and (int(ends[0]) + offset - last > MAX_ROW or int(np.diff(ends).max(initial=0)) > MAX_ROW):
                return Borders([*pieces, *([Stretch(begin, last)] if last > begin else [])], last, False, too_long=True)
            for end in (ends + offset + 1).tolist():
                records += 1
                if end - begin >= PIECE_BYTES or records >= PIECE_RECORDS:
                    pieces.append(Stretch(begin, end))
                    begin, records = end, 0
                last = end
            offset += len(chunk)
            if offset - last > MAX_ROW:
                return Borders([*pieces, *([Stretch(begin, last)] if last > begin else [])], last, False, too_long=True)
    return Borders([*pieces, *([Stretch(begin, offset)] if offset > begin else [])], offset, True)


def elements(content: bytes, lines: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a piece's bytes: where each element, or line, starts and ends, and how many keys it has, int64 ``[elements]`` each.

    Keys are colons outside of texts: right for an element that is JSON.
    """
    bytes_ = np.frombuffer(content, np.uint8)
    quotes, _ = _quotes(bytes_, False)
    if lines:
        borders = np.flatnonzero(bytes_ == 10)
    else:
        places = np.flatnonzero(_IS_STRUCTURE[bytes_])
        places = places[np.searchsorted(quotes, places) % 2 == 0]
        depths = np.cumsum(_DEPTH[bytes_[places]], dtype=np.int64)
        borders = places[(depths == 0) & (bytes_[places] == _COMMA)]
    starts = np.concatenate(([0], borders + 1))
    ends = np.concatenate((borders, [len(content)]))
    colons = np.flatnonzero(bytes_ == _COLON)
    rows = np.searchsorted(starts, colons, side="right") - 1
    # a line in which a quote is missing says nothing of the next one
    before = np.searchsorted(quotes, starts)
    outside = (np.searchsorted(quotes, colons) - before[rows]) % 2 == 0
    return starts, ends, np.bincount(rows[outside], minlength=len(starts))


def count_keys(value: object) -> int:
    """How many keys all objects in a value have together."""
    keys, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            keys += len(one)
            waiting += [item for item in one.values() if isinstance(item, (dict, list))]
        elif isinstance(one, list):
            waiting += [item for item in one if isinstance(item, (dict, list))]
    return keys


def blank_behind(file: Path, start: int) -> int | None:
    """The first byte from ``start`` on that is no white space; None where there is none."""
    with io.BufferedReader(open_regular(file), _CHUNK) as opened:
        opened.seek(start)
        while chunk := opened.read(_CHUNK):
            rest = chunk.lstrip(b" \t\n\r")
            if rest:
                return start + len(chunk) - len(rest)
            start += len(chunk)
    return None


def lines_up_to(content: bytes, places: Iterator[int]) -> Iterator[int]:
    """How many line ends stand in front of each place; places rise."""
    counted = before = 0
    for place in places:
        counted += content.count(b"\n", before, place)
        before = place
        yield counted


def _quotes(bytes_: np.ndarray, escaped: bool) -> tuple[np.ndarray, bool]:
    """Places of quotes that a backslash does not make a sign of a text; and whether one stands open at the end.

    Args:
        escaped: whether one stood open in front.
    """
    quotes = np.flatnonzero(bytes_ == _QUOTE)
    slashes = np.flatnonzero(bytes_ == _BACKSLASH)
    if not len(slashes) and not escaped:
        return quotes, False
    # of each run of backslashes its first one; the run in front of the bytes counts as one at -1
    if escaped:
        slashes = np.concatenate(([-1], slashes))
    first = np.concatenate(([True], np.diff(slashes) != 1))
    begins = np.maximum.accumulate(np.where(first, slashes, -2))
    # whether a run up to this backslash is odd
    odd = (slashes - begins) % 2 == 0
    found = np.searchsorted(slashes, quotes - 1)
    found = np.minimum(found, len(slashes) - 1)
    is_escaped = (slashes[found] == quotes - 1) & odd[found]
    open_at_end = bool(slashes[-1] == len(bytes_) - 1 and odd[-1])
    return quotes[~is_escaped], open_at_end
