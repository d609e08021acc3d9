"""OCRBench: a thousand questions on what is written, a point each.

Official file: ``OCRBench.json``, ``[{"dataset_name", "type", "id", "image_path", "question", "answers"}]``; predictions are
the same rows with ``predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, accuracy, each
from pargo_mllm.evaluation.reading.answers import (
    Pictures,
    answers_of,
    as_number,
    carried,
    identity,
    numbered,
    records,
    right,
    said,
    submission,
    texts,
)
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers.texts import holds

_FORMULAS = ("HME100k", "Handwritten Mathematical Expression Recognition")


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    rows = records(found(data, "OCRBench*.json", "*.tsv", "*.parquet", "*.json"))
    pictures = Pictures(data, rows)
    return numbered(
        _item(row, identity(row, number), texts(row, "answers", "answer"), pictures.of(row)) for number, row in enumerate(rows)
    )


def predictions(path: Path) -> list[Prediction]:
    """The official rows with ``predict``, VLMEvalKit's tables with ``prediction``, LLaVA's lines."""
    return carried(said(row, number, _own) for number, row in enumerate(records(path)))


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``score``, a point for each right answer (1000 questions, at most 1000); ``accuracy`` is its share, ``parts`` by type."""
    return {"score": int(sum(mark.value for mark in marks)), **accuracy(marks)}


def _own(row: Row, number: str) -> Item | None:
    answers = right(row)
    return None if answers is None else _item(row, number, answers, {})


def _item(row: Row, number: str, answers: list[str] | None, shown: dict[str, Any]) -> Item:
    set_name = row.text("dataset_name", "dataset") if row.first("dataset_name", "dataset") is not None else ""
    part = row.text("type", "question_type", "category") if row.first("type", "question_type", "category") else ""
    question = row.text("question") if row.first("question") is not None else ""
    # formulas are told by their source, or where a table leaves that out by their type
    formula = set_name == _FORMULAS[0] if set_name else part == _FORMULAS[1]
    return Item(number, question, answers, part=part, details={"formula": formula, "set": set_name}, **shown)


def _mark(one: Answered) -> tuple[float, str]:
    return float(holds(one.text, answers_of(one.item), one.item.details["formula"])), one.text


def _entry(item: Item, text: str) -> dict[str, Any]:
    about = {"dataset_name": item.details["set"]} if item.details["set"] else {}
    row = {**about, "type": item.part, "id": as_number(item.id), "image_path": item.picture, "question": item.question}
    return {**row, "answers": item.answer, "predict": text}


ALL = (
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        prompt="{question}",
        read=read,
        predictions=predictions,
        rules=(Rule("official", each(_mark), figures),),
        submission=submission("ocrbench_predictions.json", _entry),
        max_new_tokens=64,
    ),
)
