"""Parquet that strangers wrote: rows, one at a time, in flat memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.sources.opening import open_regular

# rows and bytes at a time: rows hold pictures
_BATCH = 32
_BUFFER = 2**20
NEEDED = "reading parquet needs pyarrow: pip install 'pargo[data]'"


class Row(NamedTuple):
    """A row: its row group, its number in it, from 0, and its values by column."""

    group: int
    number: int
    values: dict[str, Any]


def parquet_columns(file: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        CorpusError: if it is no parquet file, or pyarrow is missing.
    """
    return list(_opened(file).schema_arrow.names)


def parquet_rows(file: Path, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None) -> Iterator[Row]:
    """The rows of a file, in their order; an error counts those that were asked for, from 1.

    Args:
        columns: those that are read; None for all.
        groups: row groups that are read; None for all.

    Raises:
        CorpusError: naming the file, if it is no parquet file, is damaged, or pyarrow is missing.
    """
    opened = _opened(file)
    import pyarrow

    read = 0
    try:
        for group in range(opened.num_row_groups) if groups is None else groups:
            number = 0
            for batch in opened.iter_batches(_BATCH, [group], None if columns is None else list(columns)):
                for values in batch.to_pylist():
                    yield Row(group, number, values)
                    number, read = number + 1, read + 1
    # a text that is no UTF-8, a time that Python has no number for
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise CorpusError(f"{file}, row {read + 1}: it cannot be read as parquet: {_told(error)}.") from error


def _opened(file: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise CorpusError(f"{file}: {NEEDED}.") from None
    try:
        return parquet.ParquetFile(io.BufferedReader(open_regular(file)), buffer_size=_BUFFER)
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error.strerror or _told(error)}.") from error
    except (pyarrow.ArrowException, ValueError) as error:
        raise CorpusError(f"{file}, row 1: it cannot be read as parquet: {_told(error)}.") from error


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
