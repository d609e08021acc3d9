"""JSON that strangers wrote: the rows of a long list, the values of a long object, or lines, one at a time, in flat memory."""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm.auto import tqdm

from pargo_mllm.data.corpus import CorpusError, shown
from pargo_mllm.data.sources.opening import no_text, open_regular
from pargo_mllm.errors import UserError

# characters
CHUNK = 2**20
MAX_ROW = 2**24
_WHITE = " \t\n\r"
# the empty text is in it as well: the end of the window
_OF_NUMBERS = "0123456789.eE+-"
_MARK_OF_ORDER = "\ufeff"
AS_LIST = "where it is one list of all records, end the file's name with .json"
# the value of a line that is no JSON
DAMAGED = object()


@dataclass(frozen=True)
class JsonRow:
    """One element of a list: the byte of the file it begins at, its bytes, and what they say."""

    start: int
    text: bytes
    value: Any


def json_rows(file: str | os.PathLike) -> Iterator[JsonRow]:
    """The elements of the list that a JSON file holds. A bar shows how far it is where it takes longer.

    Raises:
        CorpusError: if the file cannot be read, is no JSON list in UTF-8, or an element is longer than :data:`MAX_ROW`.
    """
    with _reading(Path(file), "a JSON list") as (opened, bar):
        for row in _elements(_Text(opened)):
            yield row
            bar.update(row.start + len(row.text) - bar.n)


def json_members(file: str | os.PathLike) -> Iterator[tuple[str, Any]]:
    """The names and values of the object that a JSON file holds; a name that stands twice comes twice.

    Raises:
        CorpusError: if the file cannot be read, is no JSON object in UTF-8, or a value is longer than :data:`MAX_ROW`.
    """
    with _reading(Path(file), "a JSON object") as (opened, bar):
        text = _Text(opened)
        for number, name in enumerate(_names(text)):
            row = text.element(number)
            yield name, row.value
            bar.update(row.start + len(row.text) - bar.n)


def json_list_of(file: str | os.PathLike, key: str) -> Iterator[JsonRow]:
    """The elements of the list that the object in a JSON file has under ``key``; its other lists are read over.

    Raises:
        CorpusError: if the file cannot be read, is no JSON object in UTF-8 with such a list, or an element, or a value that is
            no list, is longer than :data:`MAX_ROW`.
    """
    with _reading(Path(file), "a JSON object") as (opened, bar):
        text, others, found = _Text(opened), [], False
        for number, name in enumerate(_names(text)):
            if text.next_mark(consume=False) != "[":
                text.element(number)
                others.append(name)
                continue
            text.next_mark()
            for row in _listed(text):
                if name == key:
                    yield row
                bar.update(row.start + len(row.text) - bar.n)
            found = found or name == key
            others.append(name)
        if not found:
            raise ValueError(f"it has no list {key!r}; it has {', '.join(map(shown, others[:8])) or 'nothing'}")


def json_lines(file: str | os.PathLike) -> Iterator[JsonRow]:
    """The lines of a JSON Lines file; a line that is no JSON in UTF-8 has the value :data:`DAMAGED`, an empty one is none.

    Raises:
        CorpusError: if the file cannot be read, or a line is longer than :data:`MAX_ROW`.
    """
    with _reading(Path(file), "JSON Lines") as (opened, bar):
        start = number = 0
        while line := opened.readline(MAX_ROW + 1):
            if len(line) > MAX_ROW:
                hint = f"; {AS_LIST}" if number == 0 and begins_list(line) else ""
                raise ValueError(f"line {number} is longer than {MAX_ROW:,} bytes{hint}")
            if line.strip():
                try:
                    value = json.loads(line.decode("utf-8-sig" if start == 0 else "utf-8"))
                except (ValueError, RecursionError):
                    value = DAMAGED
                yield JsonRow(start, line, value)
            start, number = start + len(line), number + 1
            bar.update(len(line))


def begins_list(line: bytes) -> bool:
    """Whether a file's first line opens a JSON list, of which a file of lines is none."""
    return line.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


@contextmanager
def _reading(path: Path, what: str) -> Iterator[tuple[IO[bytes], tqdm]]:
    """A file that is read through with a bar, and whose errors name it."""
    try:
        with (
            io.BufferedReader(open_regular(path)) as opened,
            tqdm(
                total=path.stat().st_size, desc=f"reading {path.name}", unit="B", unit_scale=True, delay=2, dynamic_ncols=True
            ) as bar,
        ):
            if why := no_text(opened.peek(8)[:8]):
                raise ValueError(why)
            yield opened, bar
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise CorpusError(f"{path} cannot be read as {what}: {as_said(error)}") from error


def parse_json(text: bytes, name: str) -> Any:
    """What JSON in UTF-8 says.

    Raises:
        CorpusError: naming ``name``, if it is none.
    """
    try:
        return json.loads(as_text(text))
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{name} cannot be read as JSON: {as_said(error)}") from error


def as_text(content: bytes) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        ValueError: if it is none, or empty.
    """
    why = no_text(content[:8]) or (None if content.strip() else "it is empty")
    if why:
        raise ValueError(why)
    try:
        return content.decode().removeprefix(_MARK_OF_ORDER)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} is no UTF-8: save it as UTF-8") from error


def as_said(error: Exception) -> str:
    """What is wrong with a text, and where, as Python found it."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return f"{error}"
    return f"line {error.lineno:,}, column {error.colno:,}: {error.msg}"


def _elements(text: _Text) -> Iterator[JsonRow]:
    """The elements of a list that is the whole text."""
    opening = text.first_mark()
    if opening != "[":
        _refuse_empty(opening)
        lines = "; where each line is a record of its own, end the file's name with .jsonl" if opening == "{" else ""
        raise ValueError(f"it begins with {opening!r}, not with '['{lines}")
    yield from _listed(text)
    if text.next_mark():
        raise ValueError(f"{text.where(-1)}: something follows the list's end")


def _refuse_empty(opening: str) -> None:
    if not opening:
        raise ValueError("it is empty")


def _listed(text: _Text) -> Iterator[JsonRow]:
    """The elements of a list behind its ``[``; its ``]`` is read too."""
    for number in _separated(text, "]"):
        yield text.element(number)


def _names(text: _Text) -> Iterator[str]:
    """The names of an object that is the whole text; whoever takes one reads its value before the next is asked for."""
    opening = text.first_mark()
    if opening != "{":
        _refuse_empty(opening)
        raise ValueError(f"it begins with {opening!r}, not with '{{'")
    for number in _separated(text, "}"):
        name = text.element(number).value
        mark = text.next_mark()
        if not isinstance(name, str) or mark != ":":
            raise ValueError(f"element {number} is no name with ':' behind it")
        yield name
    if text.next_mark():
        raise ValueError(f"{text.where(-1)}: something follows the object's end")


def _separated(text: _Text, end: str) -> Iterator[int]:
    """Numbers of what stands between commas up to ``end``; whoever takes one reads what stands there."""
    if text.next_mark(consume=False) == end:
        text.next_mark()
        return
    number = 0
    while True:
        yield number
        mark = text.next_mark()
        if mark == end:
            return
        if not mark:
            raise ValueError(f"it ends behind element {number}: a part of it is missing")
        if mark != ",":
            raise ValueError(f"{text.where(-1)}: element {number} is followed by {mark!r}, not by ',' or {end!r}")
        number += 1


class _Text:
    """A window of the file's text that moves on."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        # what is read and not yet consumed begins at `place` of `buffer`, at byte `offset` of the file
        self._buffer, self._place, self._offset, self._ended = "", 0, 0, False
        # bytes that were read, and line ends in front of the buffer
        self._read, self._lines = 0, 0

    def first_mark(self) -> str:
        """The first character of the text that is no white space, behind a byte order mark."""
        mark = self.next_mark()
        return self.next_mark() if mark == _MARK_OF_ORDER else mark

    def next_mark(self, consume: bool = True) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._place < len(self._buffer) and self._buffer[self._place] in _WHITE:
                self._advance(1, 1)
            if self._place < len(self._buffer):
                mark = self._buffer[self._place]
                if consume:
                    self._advance(1, len(mark.encode()))
                return mark
            if not self._more():
                return ""

    def element(self, number: int) -> JsonRow:
        """The value that begins here, or behind white space."""
        self.next_mark(consume=False)
        while True:
            problem = None
            try:
                value, end = self._json.raw_decode(self._buffer, self._place)
            except ValueError as error:
                problem = error
            # a number may go on behind the window, or in what stands there ("0" of "0." parses); all else that is cut does not
            if problem is None and (self._ended or self._buffer[end : end + 1] not in _OF_NUMBERS):
                start, text = self._offset, self._buffer[self._place : end].encode()
                self._advance(end - self._place, len(text))
                return JsonRow(start, text, value)
            if len(self._buffer) - self._place > MAX_ROW:
                raise ValueError(
                    f"element {number} is longer than {MAX_ROW:,} characters, or no JSON; it begins on {self.where()}"
                )
            if not self._more():
                raise ValueError(f"element {number}{self._told(problem)}")

    def where(self, ahead: int = 0) -> str:
        """The line and the byte of the file, the one counted from 1 and the other from 0, so many characters from here."""
        place = self._place + ahead
        line = self._lines + self._buffer.count("\n", 0, place) + 1
        first, last = sorted((self._place, place))
        size = len(self._buffer[first:last].encode())
        return f"line {line:,} (byte {self._offset + (size if ahead > 0 else -size):,})"

    def _told(self, problem: ValueError | None) -> str:
        """What is wrong with the value that begins here."""
        # a number of more digits than Python reads has no place of its own
        if not isinstance(problem, json.JSONDecodeError):
            return f": {self.where()}: {problem}" if problem else ""
        is_cut = not self._buffer[problem.pos :].strip() or problem.msg.startswith("Unterminated string")
        if self._ended and is_cut:
            return f", which begins on {self.where()}, does not end: a part of the file is missing"
        return f": {self.where(problem.pos - self._place)}: {problem.msg}"

    def _advance(self, characters: int, size: int) -> None:
        self._place += characters
        self._offset += size

    def _more(self) -> bool:
        """Read on: as much as there is again, so that an element which is tried anew costs no more than twice its length."""
        if self._ended:
            return False
        rest = self._buffer[self._place :]
        self._lines += self._buffer.count("\n", 0, self._place)
        chunk = self._file.read(max(CHUNK, len(rest)))
        self._ended = not chunk
        kept = len(self._decoder.getstate()[0])
        try:
            decoded = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {self._read - kept + error.start:,} is no UTF-8: save it as UTF-8") from error
        self._read += len(chunk)
        self._buffer, self._place = rest + decoded, 0
        return True
