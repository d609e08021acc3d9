"""ScienceQA, its test split: multiple choice from school books, about half of the questions with a picture.

Official files: ``problems.json``, ``{id: {"question", "choices", "answer", "hint", "image", "subject", "split", …}}``, and the
pictures ``test/ID/image.png``.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Mark, Prediction, Rule, ScoringError, mean
from pargo_mllm.evaluation.reading.choices import LETTER_PROMPT, choice_columns, choice_list, letter_at, right_letter
from pargo_mllm.evaluation.reading.records import Pictures, identity, json_whole, rows_with_pictures, said, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found, read_json, read_rows, rows_of
from pargo_mllm.evaluation.scorers.letters import by_letter, letter_figures, llava_scienceqa, vlmevalkit_2026
from pargo_mllm.evaluation.writing.submissions import asked, json_list

_SPLIT = "test"
_CONTEXT = "Context: "


def read(data: Path) -> list[Item]:
    """The questions of the official file (of its test split, where it says so), of VLMEvalKit's table (those with a picture)
    or of the hub's parquet."""
    file = found(data, "problems.json", "*ScienceQA*.tsv", "*.tsv", "*test*.parquet", "*.parquet", "*.json")
    if file.suffix == ".json":
        pictures = Pictures(data)
        return [
            _official(number, row, pictures) for number, row in _problems(file) if text_or_empty(row, "split") in ("", _SPLIT)
        ]
    rows, pictures = rows_with_pictures(data, read_rows(file))
    return [_held(row, place, pictures) for place, row in enumerate(rows)]


def predictions(path: Path) -> list[Prediction]:
    """LLaVA's answers; its results, ``{"results": {id: number}, "outputs": {id: text}}``; and its list of ``{"question_id",
    "ground_truth", "question", "pred", "is_multimodal"}``, also as ``{"correct": [...], "incorrect": [...]}``.
    VLMEvalKit's table with ``prediction`` has questions with a picture alone."""
    value = json_whole(path)
    if isinstance(value, dict) and isinstance(value.get("outputs") or value.get("results"), dict):
        return _results(value, path)
    if isinstance(value, dict) and {"correct", "incorrect"} <= set(value):
        return [_said(row) for key in ("correct", "incorrect") for row in rows_of(value[key], f"{path}, {key!r}")]
    return [_said(row) for row in read_rows(path)]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy`` of all questions, by subject in ``parts``; ``with_picture``, the same of the ``pictured`` questions, which
    have one; None where none has."""
    pictured = [mark.value for mark in marks if mark.item.details["pictured"]]
    return {**letter_figures(marks), "with_picture": mean(pictured) if pictured else None, "pictured": len(pictured)}


def _problems(file: Path) -> list[tuple[str, Row]]:
    problems = read_json(file)
    if not isinstance(problems, dict):
        raise ScoringError(f"{file}: it is no object of problems by their ids.")
    rows = rows_of(list(problems.values()), f"{file}, problems")
    return [(number, Row(row.values, f"{file}, problem {number!r}")) for number, row in zip(problems, rows, strict=True)]


def _official(number: str, row: Row, pictures: Pictures) -> Item:
    image = row.first("image")
    named = isinstance(image, str) and image.strip()
    return _question(number, row, pictures.named(f"{_SPLIT}/{number}/{image}") if named else {})


def _held(row: Row, place: int, pictures: Pictures) -> Item:
    """Rows of the hub have no ids: they are counted, from 0."""
    numbered = row.first("index", "id", "question_id") is not None
    return _question(identity(row, "index", "id", "question_id") if numbered else str(place), row, pictures.of(row))


def _question(number: str, row: Row, shown: dict[str, Any]) -> Item:
    listed = row.first("choices")
    choices = choice_columns(row) if listed is None else choice_list(listed, row.where)
    hint = text_or_empty(row, "hint").strip()
    return Item(
        id=number,
        question=row.text("question"),
        answer=right_letter(row, "answer") if listed is None else letter_at(row.first("answer"), choices, row.where),
        part=text_or_empty(row, "subject", "category"),
        choices=choices,
        hint=f"{_CONTEXT}{hint}" if hint else "",
        details={"pictured": bool(shown)},
        **shown,
    )


def _results(value: dict[str, Any], path: Path) -> list[Prediction]:
    texts, letters = value.get("outputs"), value.get("results")
    if isinstance(texts, dict):
        rows = [(number, Row({"text": text}, f"{path}, output {number!r}")) for number, text in texts.items()]
        return [Prediction(row.text("text"), row.where, id=number) for number, row in rows]
    assert isinstance(letters, dict)
    return [
        Prediction(_by_number(place, f"{path}, result {number!r}"), f"{path}, result {number!r}", id=number)
        for number, place in letters.items()
    ]


def _by_number(place: Any, where: str) -> str:
    """The letter of a result; -1, of an answer without a letter, is the empty answer."""
    if not isinstance(place, int) or isinstance(place, bool) or not -1 <= place < len(string.ascii_uppercase):
        raise ScoringError(f"{where}: it is {str(place)[:40]!r}, no number of a choice, from 0, and not -1.")
    return "" if place == -1 else string.ascii_uppercase[place]


def _said(row: Row) -> Prediction:
    item = None
    right = "ground_truth" if "prediction" not in row.values else "answer"
    if row.first(right) is not None:
        prompt = row.first("question", "prompt")
        shown = row.first("is_multimodal")
        if shown is not None and not isinstance(shown, bool):
            raise ScoringError(f"{row.where}: 'is_multimodal' is {str(shown)[:40]!r}, neither true nor false.")
        item = Item(
            id=identity(row, "question_id", "id", "index"),
            question=prompt if isinstance(prompt, str) else "",
            choices=choice_columns(row),
            answer=right_letter(row, right),
            part=text_or_empty(row, "subject", "category"),
            details={"pictured": bool(shown) if shown is not None else right == "answer" or "<image>" in str(prompt)},
        )
    return said(row, "pred", "text", "prediction", item=item)


def _entry(one: Prediction) -> dict[str, Any]:
    """Of LLaVA's list of answers, the right one beside it."""
    item = asked(one)
    pictured = item.details["pictured"]
    lines = ["<image>"] * pictured + [item.hint] * bool(item.hint) + [item.question]
    lines += [f"{letter}. {choice}" for letter, choice in item.choices.items()]
    entry = {"question_id": item.id, "ground_truth": item.answer, "question": "\n".join(lines), "pred": one.text}
    return {**entry, "is_multimodal": pictured, "subject": item.part}


ALL = (
    Benchmark(
        name="scienceqa",
        title="ScienceQA",
        prompt=LETTER_PROMPT,
        read=read,
        predictions=predictions,
        rules=(
            Rule("llava", by_letter(llava_scienceqa), figures),
            Rule("vlmevalkit-2026", by_letter(vlmevalkit_2026), figures),
        ),
        submission=json_list("scienceqa.json", _entry),
    ),
)
