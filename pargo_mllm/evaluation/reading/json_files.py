"""JSON that strangers wrote: one value, a list, lines, lines that end in commas; each record with the line it begins at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading.text_files import text_lines

_WHITE = re.compile(r"[ \t\r\n]*")
# half of a character, as a text that was cut in its middle has; written as an escape, the only way that UTF-8 lets it
_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]")

# of a whole number: whoever takes it for a float gets one
_MOST_DIGITS = 300


class _Twice(ValueError):
    """A key that an object has twice."""


def json_value(file: Path) -> Any:
    """The one value that a JSON file holds. NaN, as pandas writes a cell without value, is None.

    Raises:
        ScoringError: if it holds none or more than one, an object has a key twice, or a text has half of a character.
    """
    text = _text(file)
    scan = _Scan(file, text)
    value = scan.value()
    if scan.mark():
        raise scan.error(
            "something follows the JSON value; where each line is one of its own, the file's name ends with .jsonl"
        )
    return value


def json_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Values one after the other, each with its line: elements of a list, or lines, which may end in commas.

    Raises:
        ScoringError: as :func:`json_value`; for a list that does not end, and for what stands behind it.
    """
    scan = _Scan(file, _text(file))
    listed = scan.mark() == "["
    if listed:
        scan.place += 1
    while (mark := scan.mark()) and mark != "]":
        line = scan.line()
        yield line, scan.value()
        if scan.mark() == ",":
            scan.place += 1
        elif listed and scan.mark() not in ("]", ""):
            raise scan.error("a comma is missing between two elements of the list")
    if listed and not mark:
        raise scan.error("the file ends before its list does: a part of it is missing")
    if mark:
        scan.place += 1
        if not listed or scan.mark():
            raise scan.error("something follows the end of the list" if listed else "a list ends that has not begun")


def _text(file: Path) -> str:
    text = "".join(text_lines(file))
    if not text.strip():
        raise ScoringError(f"{file}, line 1: it is empty.")
    return text


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


class _Scan:
    """Values of a text, one after the other."""

    def __init__(self, file: Path, text: str):
        self.file, self.text, self.place = file, text, 0
        self._counted, self._line = 0, 1
        # NaN is what pandas has for "no value"; whoever wants a number finds that an infinite one is none
        constants = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_int=_whole, parse_constant=constants.__getitem__)

    def mark(self) -> str:
        """The next character that is no white space; empty at the end."""
        found = _WHITE.match(self.text, self.place)
        assert found
        self.place = found.end()
        return self.text[self.place : self.place + 1]

    def line(self) -> int:
        """Of the next character."""
        self._line += self.text.count("\n", self._counted, self.place)
        self._counted = self.place
        return self._line

    def value(self) -> Any:
        self.mark()
        try:
            value, end = self._decoder.raw_decode(self.text, self.place)
        except json.JSONDecodeError as error:
            self.place = max(self.place, min(error.pos, len(self.text)))
            raise self.error(f"it is no JSON: {error.msg}") from error
        except _Twice as error:
            raise self._twice(str(error)) from error
        except RecursionError as error:
            raise self.error("it is nested too deeply") from error
        except ValueError as error:
            raise self.error(f"it cannot be read as JSON: {error}") from error
        if _MAY_BE_HALF.search(self.text, self.place, end):
            self._check_whole(value)
        self.place = end
        return value

    def error(self, problem: str) -> ScoringError:
        return ScoringError(f"{self.file}, line {self.line()}: {problem}.")

    @staticmethod
    def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise _Twice(next(key for key in found if keys.count(key) > 1))
        return found

    def _twice(self, key: str) -> ScoringError:
        written = re.compile(
            re.escape(json.dumps(key)) + r"[ \t\r\n]*:|" + re.escape(json.dumps(key, ensure_ascii=False)) + r"[ \t\r\n]*:"
        )
        lines = [self.text.count("\n", 0, found.start()) + 1 for found in written.finditer(self.text, self.place)]
        if len(lines) < 2:
            return self.error(f"an object has the key {key!r} twice")
        self.place = len(self.text[: self.place])
        return ScoringError(f"{self.file}, line {lines[1]}: the key {key!r} comes twice; it is in line {lines[0]} already.")

    def _check_whole(self, value: Any) -> None:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise self.error(
                f"a text holds half of a character (\\u{ord(half):04x}): it was cut in the middle of one"
            ) from error
