"""DocVQA: questions on scanned documents.

Official file: ``val_v1.0_withQT.json``, ``{"data": [{"questionId", "question", "question_types", "image", "answers"}]}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, each, mean
from pargo_mllm.evaluation.reading.answers import SHORT, answers_of, carried, right, said_in_words, texts
from pargo_mllm.evaluation.reading.records import identity, records, rows_with_pictures, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers.texts import anls
from pargo_mllm.evaluation.writing.submissions import as_number, asked, json_list


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    rows, pictures = rows_with_pictures(
        data, records(found(data, "val*.json", "*.json", "*.tsv", "validation*.parquet", "*.parquet"))
    )
    return [_item(row, identity(row), texts(row, "answers", "answer"), pictures.of(row)) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """Submissions ``[{"questionId", "answer"}]``, LLaVA's lines, and rows with the right answers beside ``prediction``."""
    return carried(said_in_words(row, number, _own) for number, row in enumerate(records(path), start=1))


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
    return Item(number, text_or_empty(row, "question"), answers, details={"types": tuple(types or ())}, **shown)


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
        submission=json_list("docvqa_results.json", lambda one: {"questionId": as_number(asked(one).id), "answer": one.text}),
        headline="anls",
        max_new_tokens=32,
    ),
)
