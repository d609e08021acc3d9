"""Grades of files, and figures of several runs: what benchmarks with a judge share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pargo_mllm.evaluation.benchmark import Item, Mark, Prediction, ScoringError, mean
from pargo_mllm.evaluation.reading.rows import Row


def grade_number(value: Any, where: str, highest: float) -> float | None:
    """A grade as a file has it, 0 to ``highest``; None for one that is missing: no value, or -1, as LLaVA writes it.

    Raises:
        ScoringError: for what is no number, and for one outside.
    """
    if value is None:
        return None
    try:
        grade = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        grade = math.nan
    if grade == -1:
        return None
    if not 0 <= grade <= highest:
        raise ScoringError(f"{where}: the grade is {str(value)[:80]!r}, no number from 0 to {highest:g}.")
    return grade


def said_or_graded(row: Row, item: Item, graded: bool) -> Prediction:
    """A prediction of a row, with what the row says of its question; that of a row of grades may be without its text."""
    names = ("prediction", "text")
    question = row.first("question", "prompt")
    return Prediction(
        text="" if graded and not set(names) & set(row.values) else row.answer(*names),
        where=row.where,
        id=item.id,
        question=question if isinstance(question, str) else None,
        item=item,
    )


def unique_ids(rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """The same rows.

    Raises:
        ScoringError: for an id that comes twice.
    """
    first: dict[str, str] = {}
    for number, row in rows:
        if number in first:
            raise ScoringError(f"{row.where}: the id {number!r} comes twice; it is in {first[number]} already.")
        first[number] = row.where
        yield number, row


def in_runs(marks: Sequence[Mark]) -> list[list[Any]]:
    """The grades of each run, in the order of the marks."""
    return [list(run) for run in zip(*(mark.extra["grades"] for mark in marks), strict=True)]


def spread(runs: Sequence[float]) -> float:
    """The standard deviation of runs, over their number."""
    middle = mean(runs)
    return math.sqrt(mean((run - middle) ** 2 for run in runs))
