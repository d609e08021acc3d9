"""VQAv2: open questions on COCO pictures, answered by ten people each.

Official files: ``v2_OpenEnded_mscoco_val2014_questions.json`` and ``v2_mscoco_val2014_annotations.json``, pictures of COCO.
Either of them alone is read too: questions without annotations can be asked, annotations alone can be scored against.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Prediction, Rule, ScoringError, accuracy, each
from pargo_mllm.evaluation.reading.answers import SHORT, answers_of, carried, right, said_in_words, texts
from pargo_mllm.evaluation.reading.records import Pictures, identity, records, rows_with_pictures, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers import vqa
from pargo_mllm.evaluation.writing.submissions import as_number, asked, json_list


def read(data: Path) -> list[Item]:
    """The questions of the official files, of a table or of the hub's parquet."""
    file = found(data, "*annotations*.json", "*uestions*.json", "*.tsv", "*.parquet", "*.json")
    rows, pictures = rows_with_pictures(data, records(file))
    beside = {}
    if data.is_dir() and "annotations" in file.name:
        beside = {identity(row): row for row in records(found(data, "*uestions*.json"))}
        missing = next((row for row in rows if identity(row) not in beside), None)
        if missing is not None:
            raise ScoringError(f"{missing.where}: no question has the id {identity(missing)!r} that it answers.")
    return [_item(row, beside.get(identity(row), row), pictures, _subset(file)) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """VQA results ``[{"question_id", "answer"}]``, LLaVA's lines, and rows with people's answers beside ``prediction``."""
    return carried(said_in_words(row, number, own_item) for number, row in enumerate(records(path), start=1))


def own_item(row: Row, number: str) -> Item | None:
    """The question of a prediction that has people's answers beside it."""
    answers = right(row)
    if answers is None:
        return None
    question = row.first("question")
    return Item(number, question if isinstance(question, str) else "", answers, part=_part(row))


def _subset(file: Path) -> str:
    return next(
        (name for name in ("train2014", "val2014", "test2015") if name in file.name),
        "test2015" if "test" in file.name else "val2014",
    )


def _part(row: Row) -> str:
    return text_or_empty(row, "answer_type")


def _item(row: Row, told: Row, pictures: Pictures, subset: str) -> Item:
    picture = told.first("image_id")
    # a COCO picture by its number
    coco = isinstance(picture, int) and not isinstance(picture, bool)
    name = f"COCO_{subset}_{picture:012d}.jpg" if coco else picture if isinstance(picture, str) else ""
    return Item(
        id=identity(row),
        question=text_or_empty(told, "question"),
        answer=texts(row, "answers", "answer"),
        part=_part(row),
        **pictures.of(row, name),
    )


def mark(one: Answered, always: bool) -> tuple[float, str]:
    """VQA accuracy, and the answer as it is compared."""
    answers = answers_of(one.item)
    if len(answers) < 2:
        raise ScoringError(
            f"{one.where or f'question {one.item.id}'}: it has one right answer, and VQA accuracy asks how many of several "
            "people (officially ten) agree; its file may be another benchmark's."
        )
    return vqa.accuracy(one.text, answers, always), vqa.normalised(vqa.trimmed(one.text))


def entry(one: Prediction) -> dict[str, Any]:
    """Of the results' format."""
    return {"question_id": as_number(asked(one).id), "answer": one.text}


ALL = (
    Benchmark(
        name="vqav2",
        title="VQAv2",
        prompt=SHORT,
        read=read,
        predictions=predictions,
        rules=(
            # unanimous answers are not normalised
            Rule("official", each(partial(mark, always=False)), accuracy),
            Rule("always", each(partial(mark, always=True)), accuracy),
        ),
        submission=json_list("vqav2_results.json", entry),
    ),
)
