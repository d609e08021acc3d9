"""Files of rows that strangers wrote: JSON, JSON Lines, tables with tabs or commas, xlsx, parquet.

What a file is, its content says where its name does not: POPE's ``.json`` holds lines, and SEED's lines end in commas.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading import json_files, tables
from pargo_mllm.evaluation.reading.text_files import begins, text_lines

_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One record of a file.

    Args:
        values: by column or key.
        where: "FILE, line 7" (or row, or entry), for messages.
        table: whether an empty cell may be an empty text: tables cannot tell it from no value.
    """

    values: Mapping[str, Any]
    where: str
    table: bool = False

    def first(self, *names: str) -> Any:
        """The value of the first of these names that the record has and that is not None; None where it has none of them."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def text(self, *names: str) -> str:
        """The same as text, as the file writes it.

        Raises:
            ScoringError: if the record has none of them, or it is no text and no number.
        """
        name = next((name for name in names if self.values.get(name) is not None), None)
        if name is None:
            empty = [name for name in names if name in self.values]
            if empty:
                raise ScoringError(f"{self.where}: {empty[0]!r} has no value.")
            has = ", ".join(repr(str(name)) for name in list(self.values)[:12]) or "nothing"
            raise ScoringError(f"{self.where}: it has no {' or '.join(map(repr, names))}; it has {has}.")
        value = self.values[name]
        if isinstance(value, str):
            return value
        if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value)):
            return str(value)
        raise ScoringError(f"{self.where}: {name!r} is {_kind(value)}, no text and no number.")

    def answer(self, *names: str) -> str:
        """What a model said: the same, but of a table an empty cell is the empty answer, for a table cannot write it otherwise.

        Raises:
            ScoringError: as :meth:`text`.
        """
        if self.table and self.first(*names) is None and any(name in self.values for name in names):
            return ""
        return self.text(*names)


def read_rows(file: Path) -> Iterator[Row]:
    """The records of a file, one at a time.

    A shard of parquet, ``test-00000-of-00003.parquet``, stands for all shards of its split.

    Raises:
        ScoringError: for a file that cannot be read, with the line where the fault is; and for one without a record.
    """
    empty = True
    for row in _rows(file):
        empty = False
        yield row
    if empty:
        raise ScoringError(f"{file}, line 1: it holds no record.")


def read_json(file: Path) -> Any:
    """The one value that a JSON file holds; NaN in it is None.

    Raises:
        ScoringError: for a file that cannot be read, with the line where the fault is.
    """
    return json_files.json_value(file)


def rows_of(values: Any, where: str) -> list[Row]:
    """Records that stand inside of another value, as in ``{"results": [...]}``.

    Args:
        values: a list of objects.
        where: "FILE, 'results'", for messages.

    Raises:
        ScoringError: if it is something else.
    """
    if not isinstance(values, list):
        raise ScoringError(f"{where}: it is {_kind(values)}, no list of objects.")
    return [_row(value, f"{where}, entry {number}") for number, value in enumerate(values, start=1)]


def read_lines(file: Path) -> list[str]:
    """The lines of a text file without their ends; a byte order mark is no text.

    Raises:
        ScoringError: for a file that cannot be read or is no UTF-8, with the line.
    """
    return [line.removesuffix("\n").removesuffix("\r") for line in text_lines(file)]


def found(data: Path, *patterns: str) -> Path:
    """``data`` itself, where it is a file; or the one file of the folder, or below it, that fits one of the patterns.

    The first pattern that a file fits decides; a file of the folder itself goes before one that lies deeper. The shards of a
    split are one, named by the first of them.

    Raises:
        ScoringError: if none fits, or several of one pattern do: it lists them, for one to be given as ``--data``.
    """
    if data.is_file():
        return data
    if not data.is_dir():
        raise ScoringError(f"{data} is neither a file nor a folder.")
    files = sorted(_below(data))
    for pattern in patterns:
        fitting = [file for file in files if file.match(pattern)]
        candidates = list(dict.fromkeys(tables.split_of(file) for file in fitting if file.parent == data))
        candidates = candidates or list(dict.fromkeys(tables.split_of(file) for file in fitting))
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise ScoringError(
                f"{data} has {len(candidates)} files of the form {pattern}: {_listed(candidates, data)}; give one of them."
            )
    wanted = " or ".join(patterns)
    holds = f"it holds {_listed(files, data)}" if files else "it is empty"
    raise ScoringError(f"{data} has no file {wanted}, in it or below it; {holds}.")


def _rows(file: Path) -> Iterator[Row]:
    if file.is_dir():
        file = found(file, "*.parquet")
    begin, ending = begins(file), file.suffix.lower()
    if begin.startswith(b"PAR1"):
        yield from (Row(values, f"{shard}, row {number}") for shard, number, values in tables.parquet(file))
    elif begin.startswith(b"PK\x03\x04"):
        yield from (Row(values, f"{file}, row {number}", table=True) for number, values in tables.spreadsheet(file))
    elif ending in (".tsv", ".csv"):
        separator = "\t" if ending == ".tsv" else ","
        yield from (Row(values, f"{file}, line {number}", table=True) for number, values in tables.separated(file, separator))
    elif ending in (".xlsx", ".parquet"):
        raise ScoringError(f"{file}, line 1: it is no {ending} file, whatever its name says.")
    else:
        yield from (_row(value, f"{file}, line {number}") for number, value in json_files.json_records(file))


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ScoringError(f"{where}: it is {_kind(value)}, no object with keys and values.")
    return Row(value, where)


def _kind(value: Any) -> str:
    if isinstance(value, tables.Formula):
        return f"a formula ({value.text[:40]}), which only a sheet can compute; save it as a text"
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", bytes: "bytes", str: "a text"}
    if isinstance(value, float) and not math.isfinite(value):
        return "an infinite number"
    return kinds.get(type(value)) or f"a {type(value).__name__} ({str(value)[:40]})"


def _below(folder: Path) -> Iterator[Path]:
    """The files of a folder and below it, but not the hidden ones. Links are followed, no folder is read twice."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            seen.add(real)
            yield from (Path(place) / name for name in files if not name.startswith("."))


def _listed(files: list[Path], folder: Path) -> str:
    names = [str(file.relative_to(folder)) for file in files]
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
