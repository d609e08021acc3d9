"""Sheets (xlsx) that servers and harnesses take predictions in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_sheet(rows: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """A sheet of one record a row, its columns those of the first; texts stay texts, also those that look like a formula.

    A character that a sheet cannot hold becomes U+FFFD.
    """
    from openpyxl import Workbook
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    book = Workbook()
    sheet = book.active
    columns = list(rows[0]) if rows else []
    table: list[list[Any]] = [columns, *([row.get(name) for name in columns] for row in rows)]
    for number, values in enumerate(table, start=1):
        for place, value in enumerate(values, start=1):
            cell = sheet.cell(number, place)
            if isinstance(value, str):
                text = value.encode("utf-8", "replace").decode()
                cell.value = ILLEGAL_CHARACTERS_RE.sub("\ufffd", text)
                cell.data_type = "s"
            else:
                cell.value = value
    file.parent.mkdir(parents=True, exist_ok=True)
    book.save(file)
    return file
