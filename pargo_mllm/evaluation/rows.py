"""Files of rows that strangers wrote: JSON, JSON Lines, tables with tabs or commas, xlsx, parquet.

What a file is, its content says where its name does not: POPE's ``.json`` holds lines, and SEED's lines end in commas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Args:
        values: by column or key.
        where: "FILE, line 7" (or row, or entry), for messages.
    """

    values: Mapping[str, Any]
    where: str

    def first(self, *names: str) -> Any:
        """The value of the first of these names that the record has and that is not None; None where it has none of them."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def text(self, *names: str) -> str:
        """The same as text, as the file writes it.

        Raises:
            ScoringError: if the record has none of them, or it is no text and no number.
        """
        raise NotImplementedError


def read_rows(file: Path) -> Iterator[Row]:
    """The records of a file, one at a time.

    Raises:
        ScoringError: for a file that cannot be read, with the line where the fault is.
    """
    raise NotImplementedError


def read_lines(file: Path) -> list[str]:
    """The lines of a text file without their ends; a byte order mark is no text.

    Raises:
        ScoringError: for a file that cannot be read or is no UTF-8, with the line.
    """
    raise NotImplementedError


def found(data: Path, *patterns: str) -> Path:
    """``data`` itself, where it is a file; or the one file of the folder, or below it, that fits one of the patterns.

    Raises:
        ScoringError: if none fits, or several of one pattern do: it lists them, for one to be given as ``--data``.
    """
    raise NotImplementedError


class PictureFolder:
    """The pictures of a benchmark's folder, found by the names that its files give them.

    Args:
        data: the folder, or a file in it.
    """

    def __init__(self, data: Path):
        self.root = data if data.is_dir() else data.parent

    def opens(self, name: str):
        """What opens the RGB picture of that name: as the files name it below the folder, or anywhere below it.

        It raises :class:`pargo_mllm.data.pictures.PictureError` when it is called and there is none, or several.
        """
        raise NotImplementedError


def held_picture(value: Any, name: str):
    """What opens a picture that a row itself holds, with what tells it apart (a digest): base64 text (VLMEvalKit's tables),
    bytes, or ``{"bytes": …, "path": …}`` (the hub's parquet).

    Returns:
        ``(key, opens)``.
    """
    raise NotImplementedError
