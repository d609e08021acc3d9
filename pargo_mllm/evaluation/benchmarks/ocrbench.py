"""OCRBench: a thousand questions on what is written, a point each.

Official file: ``OCRBench.json``, ``[{"dataset_name", "type", "id", "image_path", "question", "answers"}]``; predictions are
the same rows with ``predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, accuracy, each
from pargo_mllm.evaluation.reading.answers import answers_of, carried, numbered, right, said_in_words, texts
from pargo_mllm.evaluation.reading.records import identity, records, rows_with_pictures, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers.texts import holds
from pargo_mllm.evaluation.writing.submissions import as_number, asked, json_list

_FORMULAS = ("HME100k", "Handwritten Mathematical Expression Recognition")


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    file = found(data, "OCRBench*.json", "*.tsv", "*.parquet", "*.json")
    rows, pictures = rows_with_pictures(data, records(file))
    return numbered(
        _item(row, identity(row, otherwise=number), texts(row, "answers", "answer"), pictures.of(row))
        for number, row in enumerate(rows)
    )


def predictions(path: Path) -> list[Prediction]:
    """The official rows with ``predict``, VLMEvalKit's tables with ``prediction``, LLaVA's lines."""
    return carried(said_in_words(row, number, _own) for number, row in enumerate(records(path)))


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``score``, a point for each right answer (1000 questions, at most 1000); ``accuracy`` is its share, ``parts`` by type."""
    return {"score": int(sum(mark.value for mark in marks)), **accuracy(marks)}


def _own(row: Row, number: str) -> Item | None:
    answers = right(row)
    return None if answers is None else _item(row, number, answers, {})


def _item(row: Row, number: str, answers: list[str] | None, shown: dict[str, Any]) -> Item:
    set_name = text_or_empty(row, "dataset_name", "dataset")
    part, question = text_or_empty(row, "type", "question_type", "category"), text_or_empty(row, "question")
    # formulas are told by their source, or where a table leaves that out by their type
    formula = set_name == _FORMULAS[0] if set_name else part == _FORMULAS[1]
    return Item(number, question, answers, part=part, details={"formula": formula, "set": set_name}, **shown)


def _mark(one: Answered) -> tuple[float, str]:
    return float(holds(one.text, answers_of(one.item), one.item.details["formula"])), one.text


def _entry(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    about = {"dataset_name": item.details["set"]} if item.details["set"] else {}
    row = {**about, "type": item.part, "id": as_number(item.id), "image_path": item.picture, "question": item.question}
    return {**row, "answers": item.answer, "predict": one.text}


ALL = (
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        prompt="{question}",
        read=read,
        predictions=predictions,
        rules=(Rule("official", each(_mark), figures),),
        submission=json_list("ocrbench_predictions.json", _entry),
        max_new_tokens=64,
    ),
)
