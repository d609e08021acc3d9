"""MMStar: multiple choice that cannot be answered without the picture, six abilities of 250 questions each.

Official file: parquet with ``index, question, image, answer, category, l2_category``, the choices at the question's end:
``Options: A: …, B: …``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Prediction, Rule
from pargo_mllm.evaluation.reading.choices import LETTER_PROMPT, choice_columns, right_letter
from pargo_mllm.evaluation.reading.records import Pictures, identity, rows_with_pictures, said, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.scorers.letters import by_letter, letter_figures, mmstar_official, vlmevalkit_2026
from pargo_mllm.evaluation.writing.submissions import asked, json_lines

_OPTIONS = re.compile(r"\s*Options:\s*(?=A: )")
_LETTER = re.compile(r"(?:^|,\s*|\n\s*)([A-Z]): ")


def read(data: Path) -> list[Item]:
    """The questions of the hub's parquet, or of VLMEvalKit's table."""
    rows, pictures = rows_with_pictures(data, read_rows(found(data, "*MMStar*.tsv", "*.tsv", "*.parquet")))
    return [_item(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """Tables or lines with ``prediction``, and LLaVA's answers; with the right answers where they stand beside them."""
    return [_said(row) for row in read_rows(path)]


def split_question(text: str) -> tuple[str, dict[str, str]]:
    """A question and its choices by letter, of a text that ends in ``Options: A: …, B: …``; else the text and nothing."""
    question, *behind = _OPTIONS.split(text, maxsplit=1)
    if not behind:
        return text, {}
    pieces = _LETTER.split(behind[0])
    letters, choices = pieces[1::2], [choice.strip().rstrip(",") for choice in pieces[2::2]]
    # a choice may itself hold "B: "
    in_order = letters == [chr(ord("A") + place) for place in range(len(letters))]
    return (question, dict(zip(letters, choices, strict=True))) if in_order and pieces[0] == "" else (text, {})


def _item(row: Row, pictures: Pictures | None = None) -> Item:
    question, choices = split_question(row.text("question"))
    return Item(
        id=identity(row, "index", "question_id"),
        question=question,
        answer=right_letter(row, "answer"),
        part=text_or_empty(row, "category"),
        choices=choice_columns(row) or choices,
        details={"l2": text_or_empty(row, "l2_category", "l2-category")},
        **(pictures.of(row) if pictures else {}),
    )


def _said(row: Row) -> Prediction:
    item = _item(row) if row.first("answer") is not None and row.first("question") is not None else None
    return said(row, item=item)


def _line(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    line = {"index": item.id, "question": item.question, **item.choices, "prediction": one.text, "answer": item.answer}
    return {**line, "category": item.part, "l2_category": item.details.get("l2", "")}


ALL = (
    Benchmark(
        name="mmstar",
        title="MMStar",
        prompt=LETTER_PROMPT,
        read=read,
        predictions=predictions,
        rules=(
            Rule("official", by_letter(mmstar_official), letter_figures),
            Rule("vlmevalkit-2026", by_letter(vlmevalkit_2026), letter_figures),
        ),
        submission=json_lines("mmstar.jsonl", _line),
    ),
)
