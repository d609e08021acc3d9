"""MM-Vet: questions whose free answers a judge grades with 0...1, each of which needs some of six capabilities together.

Official file: ``mm-vet.json``, an object of id → ``imagename, question, answer, capability``; predictions, an object of id →
text; grades, an object of id → ``model, content, score``, a list each with one entry a run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Grades, Item, Mark, Prediction, Rule, ScoringError, mean
from pargo_mllm.evaluation.judging import judges
from pargo_mllm.evaluation.judging.grades import grade_number, in_runs, said_or_graded, spread, unique_ids
from pargo_mllm.evaluation.reading.records import Pictures, identity, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.writing.submissions import write_json

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
_IDS = ("question_id", "index", "id")


def read(data: Path) -> list[Item]:
    """The questions of ``mm-vet.json``, VLMEvalKit's table, the hub's parquet, or LLaVA's lines, which have no answers."""
    file = found(data, "mm-vet.json", "*mm*vet*.json", "*MM*Vet*.tsv", "*.parquet", "*.tsv", "*mm*vet*.jsonl")
    rows, pictures = rows_with_pictures(data, _rows(file))
    return [_item(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """The official object of id → text, LLaVA's answers, VLMEvalKit's sheet, or a file of grades, which holds no texts.

    What a line says of its question goes with it, and scores without the questions' file where it has its grades.
    """
    return [_said(row) for row in _rows(path)]


def grades(path: Path) -> Grades:
    """The official evaluator's grades, or the column ``score`` of VLMEvalKit's sheet."""
    by_id: dict[str, tuple[float | None, ...]] = {}
    judges: dict[str, None] = {}
    doubtful = []
    for number, row in unique_ids((_id(row), row) for row in _rows(path)):
        if "score" not in row.values:
            continue
        by_id[number] = tuple(grade_number(value, row.where, 1.0) for value in _listed(row.values["score"]))
        judges.update(dict.fromkeys(name for name in _listed(row.first("model")) if isinstance(name, str)))
        contents = [_word(content) for content in _listed(row.first("content"))]
        doubtful += [row.where for said, grade in zip(contents, by_id[number], strict=False) if grade == 0 and said is None]
    if doubtful:
        warnings.warn(
            f"{doubtful[0]}: {len(doubtful):,} grades of 0 stand beside words that are no number: the official evaluator "
            "writes 0 where its judge gave no grade. They count as the file has them.",
            stacklevel=2,
        )
    return Grades(by_id, tuple(judges))


def submission(predictions: Sequence[Prediction], folder: Path) -> Path:
    """``mm_vet.json``, as the official evaluator reads it: id → text."""
    return write_json({str(one.id): one.text for one in predictions}, folder / "mm_vet.json")


def mark(answered: Sequence[Answered]) -> list[Mark]:
    """The mean of an answer's grades."""
    return [
        Mark(one.item, one.text, mean(one.grades), ", ".join(f"{grade:g}" for grade in one.grades), {"grades": one.grades})
        for one in answered
    ]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """Points, 0...100: ``score``, the mean of ``runs``; ``spread``, their standard deviation as the official evaluator has it
    (of the runs themselves, not of an estimate); ``by_capability`` and ``by_capability_set``, of all questions that need it,
    and of those that need these and no others. The last two are empty where the questions' file was not given.
    """
    by_capability: dict[str, list[float]] = {name: [] for name in CAPABILITIES}
    by_set: dict[str, list[float]] = {}
    for one in marks:
        needed = one.item.details.get("capability", ())
        for name in needed:
            by_capability.setdefault(name, []).append(one.value)
        if needed:
            by_set.setdefault("_".join(needed), []).append(one.value)
    if not by_set:
        warnings.warn(
            "by_capability is empty: mm-vet.json, given as --answers, says which capabilities a question needs.", stacklevel=2
        )
    runs = [100 * mean(run) for run in in_runs(marks)]
    return {
        "score": mean(runs),
        "by_capability": {name: 100 * mean(values) for name, values in by_capability.items() if values},
        "by_capability_set": {name: 100 * mean(values) for name, values in by_set.items()},
        "runs": runs,
        "spread": spread(runs),
    }


def _rows(file: Path) -> list[Row]:
    """The records of a file; of one object of id → text or record, its entries."""
    rows = list(read_rows(file))
    if len(rows) > 1 or rows[0].table or any(name in rows[0].values for name in _IDS):
        return rows
    return [_entry(file, key, value) for key, value in rows[0].values.items()]


def _entry(file: Path, key: str, value: Any) -> Row:
    values = dict(value) if isinstance(value, dict) else {"prediction": value}
    return Row({**values, "question_id": key}, f"{file}, entry {key!r}")


def _id(row: Row) -> str:
    """LLaVA and VLMEvalKit number the questions; the official ids are v1_0, v1_1…"""
    number = identity(row, *_IDS)
    return f"v1_{number}" if number.isascii() and number.isdigit() else number


def _item(row: Row, pictures: Pictures | None = None) -> Item:
    number = _id(row)
    name = row.first("imagename", "image")
    # what is longer is the picture itself
    named = isinstance(name, str) and re.fullmatch(r".{1,250}\.\w{3,4}", name) is not None
    shown = {} if pictures is None else pictures.named(name) if named else pictures.of(row)
    answer = row.text("answer") if row.first("answer") is not None else None
    question = row.text("question", "text") if pictures is not None or row.first("question") is not None else ""
    return Item(id=number, question=question, answer=answer, details={"capability": _capability(row)}, **shown)


def _capability(row: Row) -> tuple[str, ...]:
    """In the official order."""
    value = row.first("capability", "category")
    names = value.replace("_", ",").split(",") if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ScoringError(f"{row.where}: its capabilities are no list of texts: {str(value)[:80]!r}.")
    known = [name for name in CAPABILITIES if name in {one.strip() for one in names}]
    others = sorted({one.strip() for one in names} - {*known, ""})
    # LLaVA's lines have a category of their own, which is no capability
    return (*known, *(others if "capability" in row.values else ()))


def _said(row: Row) -> Prediction:
    return said_or_graded(row, _item(row), graded="score" in row.values)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _word(content: Any) -> float | None:
    """What a judge's words begin with, as a number; what is no text says nothing, and is taken for one."""
    return judges.correctness_of(content, Item("", "")) if isinstance(content, str) else 0.0


ALL = (
    Benchmark(
        name="mm_vet",
        title="MM-Vet",
        prompt="{question}",
        read=read,
        predictions=predictions,
        rules=(Rule("judge", mark, figures, judge=judges.MM_VET, needs_grades=True),),
        submission=submission,
        headline="score",
        max_new_tokens=512,
        grades=grades,
    ),
)
