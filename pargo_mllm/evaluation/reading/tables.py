"""Tables that strangers wrote: tabs or commas with quotes, xlsx, parquet with its shards."""

from __future__ import annotations

import csv
import glob
import math
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading.text_files import opened, text_lines

# characters of a field: pictures are in them
_LONGEST_FIELD = 2**31 - 1
# bytes of an xlsx file's parts, unpacked: a small file can hold any number of them
_LARGEST_SHEET = 2**30
# what pandas writes into a table of text where a cell has no value and somebody made it text
_NO_VALUE = ("", "nan", "NaN")
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]{16})?\.parquet")
# rows and bytes of parquet at a time: rows hold pictures
_BATCH = 32
_BUFFER = 2**20


@dataclass(frozen=True)
class Formula:
    """A cell that a sheet computes; what it shows is not in the file for certain, so nobody takes it for a text."""

    text: str


def separated(file: Path, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table of text, each with the line that it begins at; an empty cell is None.

    A field that begins with a quotation mark goes on to the next single one, over tabs and line ends; two stand for one.

    Raises:
        ScoringError: with the line, for a row with more or fewer fields than the first line has names, and a quote without end.
    """
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield from _separated(file, separator)
    finally:
        csv.field_size_limit(before)


def _separated(file: Path, separator: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(text_lines(file), delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            problem = "a field without quotation marks has a line end in it" if "new-line" in str(error) else str(error)
            raise ScoringError(
                f"{file}, line {line}: the row that begins here cannot be read ({problem}); a field that begins with a "
                "quotation mark ends with one, and two stand for each inside it, as pandas and Excel write it."
            ) from error
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = fields
            _check_header(header, f"{file}, line {line}")
            continue
        if len(fields) != len(header):
            name = "tab" if separator == "\t" else "comma"
            hint = f"; a {name} inside of a field wants quotation marks around it" if len(fields) > len(header) else ""
            raise ScoringError(f"{file}, line {line}: it has {len(fields)} fields, and line 1 names {len(header)}{hint}.")
        yield line, {name: None if value in _NO_VALUE else value for name, value in zip(header, fields, strict=True) if name}


def spreadsheet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of an xlsx file's first sheet, each with its number; an empty cell is None, a formula a :class:`Formula`.

    Raises:
        ScoringError: for a file that is none, and a cell with a value in a column without a name.
    """
    from openpyxl import load_workbook

    with opened(file) as content:
        try:
            with zipfile.ZipFile(content) as parts:
                size = sum(part.file_size for part in parts.infolist())
            if size > _LARGEST_SHEET:
                raise ScoringError(f"{file} unpacks to {size:,} bytes; at most {_LARGEST_SHEET:,} are read.")
            content.seek(0)
            with warnings.catch_warnings():
                # of styles that are missing, which no value needs
                warnings.simplefilter("ignore")
                book = load_workbook(content, read_only=True)
            sheet = book.worksheets[0]
            # what some writers say of a sheet's size is wrong
            sheet.reset_dimensions()
            yield from _sheet(file, sheet)
        except ScoringError:
            raise
        # a damaged archive, damaged XML, a part that is missing, a sheet that is a chart
        except Exception as error:
            raise ScoringError(f"{file} cannot be read as an xlsx file: {type(error).__name__}: {error}.") from error


def _sheet(file: Path, sheet: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] | None = None
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        values = [Formula(str(cell.value)) if getattr(cell, "data_type", "") == "f" else cell.value for cell in cells]
        while values and values[-1] is None:
            values.pop()
        if not values:
            continue
        if header is None:
            header = ["" if value is None else str(value) for value in values]
            _check_header(header, f"{file}, row {number}")
            continue
        if len(values) > len(header):
            raise ScoringError(
                f"{file}, row {number}: its cell {len(values)} has a value, and row 1 names {len(header)} columns."
            )
        values += [None] * (len(header) - len(values))
        yield number, {name: value for name, value in zip(header, values, strict=True) if name}


def parquet(file: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """The rows of a parquet file, or of all shards of its split, each with its file and its number in it, from 1; NaN is None.

    Raises:
        ScoringError: for a file that is none, and where shards are missing.
    """
    for shard in shards(file):
        yield from ((shard, number, row) for number, row in _parquet(shard))


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet as reader

    with opened(file) as content:
        number = 0
        try:
            for batch in reader.ParquetFile(content, buffer_size=_BUFFER).iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: _no_nan(value) for name, value in row.items()}
        except (pyarrow.ArrowException, UnicodeDecodeError, OverflowError) as error:
            raise ScoringError(f"{file}, row {number + 1}: it cannot be read as parquet: {error}.") from error


def shards(file: Path) -> list[Path]:
    """All shards of the split that a file is one of, in order, as the hub names them; of a file that is no shard, itself.

    Raises:
        ScoringError: if one is missing.
    """
    named = _SHARD.fullmatch(file.name)
    if named is None:
        return [file]
    count = int(named["count"])
    there = {other.name: other for other in file.parent.iterdir() if other.is_file()}
    # each shard may have a digest behind its number
    known = {
        int(other["number"]): there[name]
        for name in sorted(there)
        if (other := _SHARD.fullmatch(name)) and (other["split"], other["count"]) == (named["split"], named["count"])
    }
    files = [known[number] for number in range(count) if number in known]
    missing = [f"{named['split']}-{number:05d}-of-{named['count']}.parquet" for number in range(count) if number not in known]
    if missing or file not in files:
        raise ScoringError(
            f"{file} is one of {count} shards, and {', '.join(missing[:3]) or 'it'} is not among those that are there."
        )
    return files


def split_of(file: Path) -> Path:
    """What stands for a split: its first shard, or the file where it is no shard."""
    named = _SHARD.fullmatch(file.name)
    if named is None or named["number"] == "00000":
        return file
    first = f"{named['split']}-00000-of-{named['count']}"
    return next(iter(sorted(file.parent.glob(f"{glob.escape(first)}*.parquet"))), file.with_name(f"{first}.parquet"))


def _check_header(header: Sequence[str], where: str) -> None:
    named = [name for name in header if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise ScoringError(f"{where}: two columns are named {twice!r}.")
    if not named:
        raise ScoringError(f"{where}: it names no columns.")


def _no_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
