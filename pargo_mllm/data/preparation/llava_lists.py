"""Official lists that are LLaVA's records already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.sources.json_rows import DAMAGED
from pargo_mllm.data.sources.llava import ABSOLUTE, LINES
from pargo_mllm.data.sources.llava_records import NO_TURNS, TURNS, UnusableRecord, check_media, picture_names
from pargo_mllm.data.sources.record_forms import as_llava

SEVERAL = "records with several pictures"


def records(rows: Iterator[Any], folder: str) -> Iterator[Entry | Skipped]:
    """An entry of each record; one without an id is ``row-7``, a second one of an id ``id-7``, by its number.

    Args:
        folder: that the names of pictures lead from, below the source; "" for the source itself.
    """
    seen: set[str] = set()
    for number, row in enumerate(rows):
        id = _id(row, number, seen)
        seen.add(id)
        yield Skipped(id, LINES) if row is DAMAGED else record(id, row, folder)


def record(id: str, row: Any, folder: str) -> Entry | Skipped:
    """An entry of one record."""
    try:
        row = as_llava(row)
    except UnusableRecord as error:
        return Skipped(id, error.reason)
    turns = turns_of(row)
    if turns is None:
        return Skipped(id, NO_TURNS)
    try:
        # of what a record has beside its picture nothing is left afterwards
        check_media(row, *(turn["value"] for turn in turns if turn["from"] != "gpt"))
        names = picture_names(row)
    except UnusableRecord as error:
        return Skipped(id, error.reason)
    if len(names) > 1:
        return Skipped(id, SEVERAL)
    if names and names[0].startswith("/"):
        return Skipped(id, ABSOLUTE)
    picture = Picture.file(f"{folder}/{names[0]}" if folder else names[0], names[0]) if names else None
    return Entry(id, picture, turns)


def _id(row: Any, number: int, seen: set[str]) -> str:
    id = row.get("id") if isinstance(row, dict) else None
    told = str(id) if isinstance(id, (str, int)) and not isinstance(id, bool) and id != "" else f"row-{number}"
    # nobody else's, whatever ids there are
    while told in seen:
        told = f"{told}-{number}"
    return told


def turns_of(row: Any) -> tuple[dict[str, str], ...] | None:
    """The turns of a record, with what LLaVA has in them alone; None where there are none."""
    turns = next((row[key] for key in TURNS if key in row), None) if isinstance(row, dict) else None
    if not isinstance(turns, list) or not turns:
        return None
    told = []
    for turn in turns:
        if not (isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)):
            return None
        told.append({"from": turn["from"], "value": turn["value"]})
    return tuple(told)
