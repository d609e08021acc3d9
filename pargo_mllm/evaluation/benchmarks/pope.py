"""POPE: whether an object is in a COCO picture; about half of the questions are on objects that are not.

Official files: ``coco_pope_random.json``, ``…_popular`` and ``…_adversarial``, JSON lines in spite of the name:
``{"question_id", "image", "text", "label"}``. A folder with several of them is all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Prediction, Rule, ScoringError, by_part, each, mean
from pargo_mllm.evaluation.reading.choices import yes_or_no
from pargo_mllm.evaluation.reading.records import Pictures, identity, rows_with_pictures, said, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.scorers import yes_no
from pargo_mllm.evaluation.writing.submissions import asked, json_lines

_CATEGORY = re.compile(r"(random|popular|adversarial)")


def read(data: Path) -> list[Item]:
    """The questions of the official files, of VLMEvalKit's table or of the hub's parquet."""
    labels = sorted(data.rglob("*pope*.json*")) if data.is_dir() else [data]
    labels = [file for file in labels if file.suffix in (".json", ".jsonl")]
    if labels:
        pictures = Pictures(data)
        return [_official(row, file, len(labels) > 1, pictures) for file in labels for row in read_rows(file)]
    rows, pictures = rows_with_pictures(data, read_rows(found(data, "*POPE*.tsv", "*.tsv", "*.parquet")))
    return [_held(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """LLaVA's lines ``{"question_id", "prompt", "text"}``, its authors' ``{"question", "answer"}``, and with ``image``."""
    return [_said(row) for row in read_rows(path)]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy``, ``precision``, ``recall`` and ``f1``, "yes" being positive; ``yes_ratio``, how often it was said;
    ``counts`` and, where questions have a category, ``parts``, their accuracies."""
    counts = yes_no.counts((mark.item.answer, mark.read) for mark in marks)
    accuracy, ratio = mean(mark.value for mark in marks), mean(mark.read == "yes" for mark in marks)
    return {"accuracy": accuracy, **yes_no.rates(counts), "yes_ratio": ratio, "counts": counts, "parts": by_part(marks)}


def _mark(one: Answered) -> tuple[float, str]:
    read = yes_no.pope(one.text)
    return float(read == one.item.answer), read


def _official(row: Row, file: Path, several: bool, pictures: Pictures) -> Item:
    category = _CATEGORY.search(file.name)
    part = category[0] if category else ""
    number = identity(row, "question_id")
    name = row.text("image")
    return Item(
        id=f"{part or file.stem}/{number}" if several else number,
        question=row.text("text"),
        answer=yes_or_no(row, "label"),
        part=part,
        **pictures.named(name),
    )


def _held(row: Row, pictures: Pictures) -> Item:
    source = row.first("image_source")
    name = source if not isinstance(source, str) or "." in source else f"{source}.jpg"
    return Item(
        # the hub counts its questions anew in each category
        id=identity(row, "id", "index", "question_id"),
        question=row.text("question"),
        answer=yes_or_no(row, "answer"),
        part=text_or_empty(row, "category"),
        **pictures.of(row, name or ""),
    )


def _said(row: Row) -> Prediction:
    if row.first("question", "prompt") is None and row.first("label") is not None:
        raise ScoringError(f"{row.where}: it is a question with its label, no prediction; give its file as --answers.")
    item = None
    # VLMEvalKit's tables have the right answer as "answer"
    right = "answer" if "prediction" in row.values and "label" not in row.values else "label"
    if row.first(right) is not None:
        picture = row.first("image")
        item = Item(
            id=identity(row, "question_id", "index", "id"),
            question=row.text("question", "prompt"),
            answer=yes_or_no(row, right),
            picture=picture if isinstance(picture, str) and len(picture) < 256 else "",
            part=text_or_empty(row, "category"),
        )
    return said(row, "prediction", "text", "response", "answer", item=item)


def _line(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    line = {"question_id": item.id, "image": item.picture, "question": item.question, "text": one.text, "label": item.answer}
    return {**line, "category": item.part} if item.part else line


ALL = (
    Benchmark(
        name="pope",
        title="POPE",
        prompt="{question}\nAnswer the question using a single word or phrase.",
        read=read,
        predictions=predictions,
        rules=(Rule("official", each(_mark), figures),),
        submission=json_lines("pope.jsonl", _line),
        also=("f1", "yes_ratio"),
    ),
)
