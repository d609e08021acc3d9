"""What a file says of one picture, whatever its form."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pargo_mllm.data.sources.json_rows import JsonRow, parse_json
from pargo_mllm.data.sources.opening import open_regular

NO_NUMBERS = "regions whose box is no four numbers"
AGAIN = "regions that are listed again"


@dataclass(frozen=True)
class Told:
    """What is said of a picture.

    Args:
        regions: each as a line of a region file has it (see :mod:`pargo_mllm.data.sources.region_lines`), perhaps with the
            ``frame`` of its box; or why it is none. One of them stands for a picture whose regions are no list.
        image: the picture's name, as it is said; "" where only its number is known.
        stems: what its file's name may be without folder and extension, where ``image`` is not known.
        size: width and height that the numbers refer to; None for the picture's own.
        problem: why nothing that is said of it can be used.
    """

    regions: list[dict[str, Any] | str]
    image: str = ""
    stems: tuple[str, ...] = ()
    size: tuple[float, float] | None = None
    problem: str | None = None


def each_once(rows: Iterable[Any], read: Callable[[Any], dict[str, Any] | str]) -> list[dict[str, Any] | str]:
    """What rows of one picture say; a row that repeats another in everything is :data:`AGAIN`."""
    seen = set()
    found: list[dict[str, Any] | str] = []
    for row in rows:
        try:
            said = json.dumps(row, sort_keys=True)
        except RecursionError:
            # nested as deep as can just be read, it is no row
            found.append(read(row))
            continue
        found.append(AGAIN if said in seen and isinstance(row, dict) else read(row))
        seen.add(said)
    return found


@dataclass
class Gathered:
    """Where the rows of each picture lie in a file that has them in any order: 16 bytes a row."""

    file: Path
    keys: dict[str, int] = field(default_factory=dict)
    pictures: array = field(default_factory=lambda: array("I"))
    starts: array = field(default_factory=lambda: array("Q"))
    sizes: array = field(default_factory=lambda: array("I"))

    @classmethod
    def of(cls, file: Path, rows: Iterable[JsonRow], key: Callable[[Any], str]) -> Gathered:
        """Reads a file through."""
        found = cls(file)
        for row in rows:
            found.pictures.append(found.keys.setdefault(key(row.value), len(found.keys)))
            found.starts.append(row.start)
            found.sizes.append(len(row.text))
        return found

    def __iter__(self) -> Iterator[tuple[str, list[Any]]]:
        """Each picture's key and the values of its rows, in the order in which they are first named."""
        if not self.keys:
            return
        order = np.argsort(np.array(self.pictures, dtype=np.int64), kind="stable")
        ends = np.cumsum(np.bincount(np.array(self.pictures, dtype=np.int64), minlength=len(self.keys)))
        with open_regular(self.file) as opened:
            for key, first, last in zip(self.keys, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                texts = (os.pread(opened.fileno(), self.sizes[row], self.starts[row]) for row in order[first:last].tolist())
                yield key, [parse_json(text, f"{self.file}") for text in texts]
