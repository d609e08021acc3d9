"""ChartQA: questions on charts, half of them by people.

Official files: ``test_human.json`` and ``test_augmented.json``, ``[{"imgname", "query", "label"}]``, pictures in ``png``. They
have no ids: a question is its file's part and its number in it, from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Prediction, Rule, accuracy, each
from pargo_mllm.evaluation.reading.answers import SHORT, answers_of, carried, right, said_in_words, texts
from pargo_mllm.evaluation.reading.records import Pictures, identity, records, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers.texts import close
from pargo_mllm.evaluation.writing.submissions import asked, json_list


def read(data: Path) -> list[Item]:
    """The questions of both official files, or of one; of VLMEvalKit's table or of the hub's parquet."""
    files = sorted(data.rglob("test_human.json")) + sorted(data.rglob("test_augmented.json")) if data.is_dir() else [data]
    if not files:
        files = [found(data, "*.tsv", "test*.parquet", "*.parquet", "*.json")]
    items = []
    for file in files:
        rows, pictures = rows_with_pictures(data, records(file))
        items += [_item(row, number, file, pictures) for number, row in enumerate(rows)]
    return items


def predictions(path: Path) -> list[Prediction]:
    """Rows with ``prediction`` beside ``label``, as eval writes them; Qwen-VL's ``[{"answer", "annotation"}]``; LLaVA's."""
    return carried(said_in_words(row, number, _own) for number, row in enumerate(records(path), start=1))


def _part(row: Row, file: Path | None = None) -> str:
    named = row.text("type", "split") if row.first("type", "split") is not None else file.stem if file else ""
    return next((part for part in ("human", "augmented") if part in named), named if row.first("type", "split") else "")


def _item(row: Row, number: int, file: Path, pictures: Pictures) -> Item:
    part = _part(row, file)
    name = row.first("imgname")
    return Item(
        id=identity(row, "question_id", "index", "id")
        if row.first("question_id", "index", "id") is not None
        else f"{part}/{number}",
        question=row.text("query", "question"),
        answer=texts(row, "label", "answer"),
        part=part,
        **pictures.of(row, name if isinstance(name, str) else ""),
    )


def _own(row: Row, number: str) -> Item | None:
    answers = right(row)
    if answers is None:
        return None
    question = row.first("query", "question")
    picture = row.first("imgname")
    return Item(
        number,
        question if isinstance(question, str) else "",
        answers,
        picture=picture if isinstance(picture, str) else "",
        part=_part(row),
    )


def _mark(one: Answered) -> tuple[float, str]:
    return float(any(close(one.text, answer) for answer in answers_of(one.item))), one.text


def _entry(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    right = {} if item.answer is None else {"label": item.answer[0] if len(item.answer) == 1 else item.answer}
    kind = {"type": item.part} if item.part else {}
    return {"question_id": item.id, "imgname": item.picture, "query": item.question, **right, **kind, "prediction": one.text}


ALL = (
    Benchmark(
        name="chartqa",
        title="ChartQA",
        prompt=SHORT,
        read=read,
        predictions=predictions,
        rules=(Rule("relaxed", each(_mark), accuracy),),
        submission=json_list("chartqa_predictions.json", _entry),
    ),
)
