"""DocVQA: questions on scanned documents.

Official file: ``val_v1.0_withQT.json``, ``{"data": [{"questionId", "question", "question_types", "image", "answers"}]}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, each, mean
from pargo_mllm.evaluation.reading.answers import (
    SHORT,
    Pictures,
    answers_of,
    as_number,
    carried,
    identity,
    records,
    right,
    said,
    submission,
    texts,
)
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers.texts import anls


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    rows = records(found(data, "val*.json", "*.json", "*.tsv", "validation*.parquet", "*.parquet"))
    pictures = Pictures(data, rows)
    return [_item(row, identity(row), texts(row, "answers", "answer"), pictures.of(row)) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """Submissions ``[{"questionId", "answer"}]``, LLaVA's lines, and rows with the right answers beside ``prediction``."""
    return carried(said(row, number, _own) for number, row in enumerate(records(path), start=1))


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``anls``, the set's own measure; ``accuracy`` is the same number, for the set publishes no other; ``parts`` by type of
    question, of which a question may have several."""
    by_type: dict[str, list[float]] = {}
    for mark in marks:
        for name in mark.item.details.get("types", ()):
            by_type.setdefault(name, []).append(mark.value)
    whole = mean(mark.value for mark in marks)
    return {"anls": whole, "accuracy": whole, "parts": {name: mean(values) for name, values in by_type.items()}}


def _own(row: Row, number: str) -> Item | None:
    answers = right(row)
    return None if answers is None else _item(row, number, answers, {})


def _item(row: Row, number: str, answers: list[str] | None, shown: dict[str, Any]) -> Item:
    types = texts(row, "question_types") if row.first("question_types") else []
    question = row.text("question") if row.first("question") is not None else ""
    return Item(number, question, answers, details={"types": tuple(types or ())}, **shown)


def _mark(one: Answered) -> tuple[float, str]:
    return anls(one.text, answers_of(one.item)), one.text


ALL = (
    Benchmark(
        name="docvqa",
        title="DocVQA",
        prompt=SHORT,
        read=read,
        predictions=predictions,
        rules=(Rule("anls-0.5", each(_mark), figures),),
        submission=submission("docvqa_results.json", lambda item, text: {"questionId": as_number(item.id), "answer": text}),
        headline="anls",
        max_new_tokens=32,
    ),
)
