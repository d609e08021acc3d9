"""LLaVA-Bench (in the wild): a judge compares the model's free answer with a reference's, and gives both a score of 1...10.

Official files: ``questions.jsonl`` (``question_id, image, category, text``), ``context.jsonl`` (``image, caption``: what is in
the picture, for a judge that does not see it) and ``answers_gpt4.jsonl`` (``question_id, text``: the reference). Grades:
LLaVA's review lines (``question_id, category, tuple``, the reference's score first).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Grades, Item, Mark, Prediction, Rule, ScoringError, mean
from pargo_mllm.evaluation.judging import judges
from pargo_mllm.evaluation.judging.grades import grade_number, in_runs, said_or_graded, spread, unique_ids
from pargo_mllm.evaluation.reading.records import Pictures, identity, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.writing.submissions import as_number, json_lines

_IDS = ("question_id", "index", "id")
_HIGHEST = 10.0


def read(data: Path) -> list[Item]:
    """The questions of the official folder, of VLMEvalKit's table, or of the hub's parquet.

    Of ``questions.jsonl`` the other two files are read from the same folder; without them a judge cannot be asked.
    """
    file = found(data, "questions.jsonl", "*LLaVA*Bench*.tsv", "*.parquet", "*.tsv", "*questions*.jsonl")
    rows, pictures = rows_with_pictures(data, read_rows(file))
    contexts = {row.text("image"): row for row in _beside(file, "context.jsonl")}
    references = {_id(row): row for row in _beside(file, "answers_gpt4.jsonl")}
    return [_item(row, pictures, contexts, references) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """LLaVA's answers, VLMEvalKit's sheet, or a file of grades, which may hold no texts.

    What a line says of its question goes with it, and scores without the questions' file where it has its grades.
    """
    return [_said(row) for row in read_rows(path)]


def grades(path: Path) -> Grades:
    """LLaVA's review lines, or the columns ``gpt4_score`` and ``score`` of VLMEvalKit's sheet; the reference's is the first."""
    by_id = {}
    for number, row in unique_ids((_id(row), row) for row in read_rows(path)):
        if _is_graded(row):
            by_id[number] = (_pair(row),)
    return Grades(by_id)


def mark(answered: Sequence[Answered]) -> list[Mark]:
    """The model's mean score, of ten; beside it stand both scores, the reference's first."""
    return [
        Mark(
            one.item,
            one.text,
            mean(model for _, model in one.grades) / _HIGHEST,
            ", ".join(f"{reference:g} {model:g}" for reference, model in one.grades),
            {"grades": one.grades},
        )
        for one in answered
    ]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """Points: 100 × the sum of the model's scores / the sum of the reference's, 100 for a model as good as the reference.

    ``score``, the mean of ``runs``; ``spread``, their standard deviation; ``by_capability``: of each category (conv, detail,
    complex), the mean over runs.
    """
    parts: dict[str, list[Mark]] = {}
    for one in marks:
        if one.item.part:
            parts.setdefault(one.item.part, []).append(one)
    runs = [_relative(run) for run in in_runs(marks)]
    return {
        "score": mean(runs),
        "by_capability": {part: mean(_relative(run) for run in in_runs(of_part)) for part, of_part in parts.items()},
        "runs": runs,
        "spread": spread(runs),
    }


def _relative(pairs: Sequence[tuple[float, float]]) -> float:
    references = sum(reference for reference, _ in pairs)
    if references == 0:
        raise ScoringError("The judge gave the reference 0 everywhere: nothing can be compared with it.")
    return 100 * sum(model for _, model in pairs) / references


def _beside(file: Path, name: str) -> list[Row]:
    other = file.with_name(name)
    return list(read_rows(other)) if file.name.endswith(".jsonl") and other.is_file() else []


def _id(row: Row) -> str:
    return identity(row, *_IDS)


def _item(row: Row, pictures: Pictures, contexts: dict[str, Row], references: dict[str, Row]) -> Item:
    number, image = _id(row), row.first("image")
    official = "text" in row.values and isinstance(image, str)
    answer = references.get(number, row)
    context = contexts.get(image, row) if official else row
    names = ("text",) if answer is not row else ("gpt_answer", "gpt4_ans", "answer")
    return Item(
        id=number,
        question=row.text("question", "text"),
        answer=answer.text(*names) if answer.first(*names) is not None else None,
        part=_part(row),
        details={"context": _caption(context)},
        **(pictures.named(str(image)) if official else pictures.of(row)),
    )


def _caption(row: Row) -> str:
    """Of the hub it may be a list of lines."""
    value = row.first("caption")
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return row.text("caption") if value is not None else ""


def _part(row: Row) -> str:
    return row.text("category").removeprefix("llava_bench_") if row.first("category") is not None else ""


def _is_graded(row: Row) -> bool:
    return "tuple" in row.values or {"score", "gpt4_score"} <= set(row.values)


def _pair(row: Row) -> tuple[float, float] | None:
    """Both scores; None where one is missing."""
    pair = row.values["tuple"] if "tuple" in row.values else [row.values["gpt4_score"], row.values["score"]]
    if pair is None:
        return None
    if not isinstance(pair, list) or len(pair) != 2:
        raise ScoringError(f"{row.where}: the grades are {str(pair)[:80]!r}, not two: the reference's and the model's.")
    reference, model = (grade_number(value, row.where, _HIGHEST) for value in pair)
    return None if reference is None or model is None else (reference, model)


def _said(row: Row) -> Prediction:
    number = _id(row)
    item = Item(id=number, question="", part=_part(row), details={"context": ""})
    return said_or_graded(row, item, graded=_is_graded(row))


def _line(one: Prediction) -> dict[str, Any]:
    """As LLaVA's reviewer reads it."""
    number = None if one.id is None else as_number(one.id)
    return {"question_id": number, "prompt": one.question, "text": one.text}


ALL = (
    Benchmark(
        name="llava_bench",
        title="LLaVA-Bench (in the wild)",
        prompt="{question}",
        read=read,
        predictions=predictions,
        rules=(Rule("judge", mark, figures, judge=judges.LLAVA_BENCH, needs_grades=True),),
        submission=json_lines("llava_bench.jsonl", _line),
        headline="score",
        max_new_tokens=512,
        grades=grades,
    ),
)
