"""Official lists that are LLaVA's records already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.sources.json_rows import DAMAGED
from pargo_mllm.data.sources.llava import ABSOLUTE, LINES
from pargo_mllm.data.sources.llava_records import NO_TURNS, TURNS, UnusableRecord, check_media, picture_names
from pargo_mllm.data.sources.record_forms import as_llava

SEVERAL = "records with several pictures"


def records(
    rows: Iterator[Any], folder: str, below: str = "", form: Callable[[Any], Any] = as_llava
) -> Iterator[Entry | Skipped]:
    """An entry of each record. One without an id is ``row-7``, by its number from 0; the second and third of an id are ``id-2``
    and ``id-3``, or the next that no record before has.

    Args:
        folder: that the names of pictures lead from, below the source; "" for the source itself.
        below: where they shall lie below ``images/``.
        form: gives a record as LLaVA has it, or raises UnusableRecord.
    """
    ids = _Ids()
    for number, row in enumerate(rows):
        id = ids.own(_id(row, number))
        yield Skipped(id, LINES) if row is DAMAGED else record(id, row, folder, below, form)


def record(id: str, row: Any, folder: str, below: str, form: Callable[[Any], Any]) -> Entry | Skipped:
    """An entry of one record."""
    try:
        row = form(row)
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
    picture = Picture.file(*(f"{place}/{names[0]}" if place else names[0] for place in (folder, below))) if names else None
    return Entry(id, picture, turns)


def _id(row: Any, number: int) -> str:
    id = row.get("id") if isinstance(row, dict) else None
    return str(id) if isinstance(id, (str, int)) and not isinstance(id, bool) and id != "" else f"row-{number}"


class _Ids:
    """Ids that are given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        # of an id that comes again, the number that is tried next
        self._next: dict[str, int] = {}

    def own(self, id: str) -> str:
        """The id, or with a number behind it one that nobody before has."""
        told, number = id, self._next.get(id, 2)
        while told in self._given:
            told, number = f"{id}-{number}", number + 1
        if told != id:
            self._next[id] = number
        self._given.add(told)
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
