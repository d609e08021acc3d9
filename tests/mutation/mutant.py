"""A mutant: one place of one file, and what stands there instead."""

from __future__ import annotations

import difflib
from typing import NamedTuple


class Mutant(NamedTuple):
    """``source[start:end]`` of ``file`` (bytes of its text) becomes ``replacement``."""

    file: str
    start: int
    end: int
    replacement: str
    # the line's text and what was done to it: names that stay when lines are added above
    line: str
    change: str
    number: int

    @property
    def name(self) -> str:
        """The file, the line's text and the change."""
        return f"{self.file}: {self.line}: {self.change}"

    def apply(self, source: str) -> str:
        """The mutated text."""
        text = source.encode()
        return (text[: self.start] + self.replacement.encode() + text[self.end :]).decode()

    def diff(self, source: str) -> str:
        """The mutant as a unified diff."""
        before, after = (text.splitlines(keepends=True) for text in (source, self.apply(source)))
        return "".join(difflib.unified_diff(before, after, self.file, self.file, n=1))


class Place(NamedTuple):
    """A mutant before it is named."""

    start: int
    end: int
    replacement: str
    change: str


def named(file: str, source: str, places: list[Place]) -> list[Mutant]:
    """Mutants of a file in the order of their places; equal changes of one line are told apart by a number."""
    text, found, seen = source.encode(), [], set()
    counts: dict[tuple[int, str], int] = {}
    for place in sorted(set(places)):
        if place[:3] in seen or text[place.start : place.end] == place.replacement.encode():
            continue
        seen.add(place[:3])
        number = text.count(b"\n", 0, place.start) + 1
        line = text.split(b"\n")[number - 1].decode().strip()
        counts[number, place.change] = counts.get((number, place.change), 0) + 1
        count = counts[number, place.change]
        change = place.change if count == 1 else f"{place.change} ({count})"
        found.append(Mutant(file, place.start, place.end, place.replacement, line, change, number))
    return found
