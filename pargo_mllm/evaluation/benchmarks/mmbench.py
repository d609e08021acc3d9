"""MMBench: multiple choice, every question asked as often as it has choices, with the choices rotated.

Official file: a table with tabs and the columns ``index, question, hint, A…D, answer, category, l2-category, image (base64),
source, comment, split``. Rows whose ``index`` agrees modulo 1,000,000 are one question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Mark, Prediction, Rule, ScoringError, mean
from pargo_mllm.evaluation.judging.judges import extraction
from pargo_mllm.evaluation.reading.choices import LETTER_PROMPT, choice_columns, right_letter
from pargo_mllm.evaluation.reading.records import Pictures, identity, rows_with_pictures, said, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.scorers.letters import by_letter, official_2023, unmatched, vlmevalkit_2026
from pargo_mllm.evaluation.writing.sheets import write_sheet
from pargo_mllm.evaluation.writing.submissions import asked

ROTATION = 1_000_000
_L2 = ("l2-category", "L2-category", "l2_category")


def read(data: Path) -> list[Item]:
    """The questions of the official table, which is VLMEvalKit's too, or of the hub's parquet."""
    rows, pictures = rows_with_pictures(data, read_rows(found(data, "*mmbench*.tsv", "*MMBench*.tsv", "*.tsv", "*.parquet")))
    return [_item(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """The sheet that MMBench's server takes (xlsx, or a table with tabs): the columns of the questions and ``prediction``; or
    LLaVA's answers. Where the right answers stand beside them, they are taken."""
    return [_said(row) for row in read_rows(path)]


def submission(predictions: Sequence[Prediction], folder: Path) -> Path:
    """``mmbench.xlsx``, as MMBench's server takes it."""
    return write_sheet([_row(one) for one in predictions], folder / "mmbench.xlsx")


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``circular``, the official figure: the share of questions of which every rotation is right; ``rows``: of all rows.

    ``parts`` and ``l2_parts`` are the circular shares by ``category`` and ``l2-category``; ``unmatched``: rows whose answers
    name no choice.
    """
    turns: dict[int, list[Mark]] = {}
    for mark in marks:
        turns.setdefault(mark.item.details["index"] % ROTATION, []).append(mark)
    right = {number: float(all(mark.value for mark in group)) for number, group in turns.items()}
    first = {number: min(group, key=lambda mark: mark.item.details["index"]).item for number, group in turns.items()}
    parts: dict[str, list[float]] = {}
    larger: dict[str, list[float]] = {}
    for number, item in first.items():
        for name, shares in ((item.part, parts), (item.details["l2"], larger)):
            if name:
                shares.setdefault(name, []).append(right[number])
    return {
        "circular": mean(right.values()),
        "rows": mean(mark.value for mark in marks),
        "parts": {name: mean(values) for name, values in parts.items()},
        "l2_parts": {name: mean(values) for name, values in larger.items()},
        "items": len(turns),
        "unmatched": unmatched(marks),
    }


def _item(row: Row, pictures: Pictures | None = None) -> Item:
    number, choices = identity(row, "index").removesuffix(".0"), choice_columns(row)
    if not number.isascii() or not number.isdigit():
        raise ScoringError(f"{row.where}: the index is {number!r}, no whole number.")
    return Item(
        id=number,
        question=row.text("question") if pictures else text_or_empty(row, "question"),
        answer=right_letter(row, "answer"),
        part=text_or_empty(row, "category"),
        choices=choices,
        hint=text_or_empty(row, "hint"),
        details={"index": int(number), "l2": text_or_empty(row, *_L2), "split": text_or_empty(row, "split")},
        **(pictures.of(row) if pictures else {}),
    )


def _said(row: Row) -> Prediction:
    if "prediction" not in row.values and "index" in row.values:
        raise ScoringError(f"{row.where}: it has no 'prediction'; a table of questions alone is given as --answers.")
    item = _item(row) if row.first("answer") is not None and "index" in row.values else None
    return said(row, "prediction", "text", item=item, id=identity(row, "index", "question_id").removesuffix(".0"))


def _row(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    known = {"l2-category": item.details["l2"], "split": item.details["split"], "category": item.part, "hint": item.hint}
    choices = {letter: item.choices.get(letter) for letter in "ABCD"}
    row = {"index": item.details["index"], "question": item.question, **choices, "prediction": one.text, "answer": item.answer}
    return {**row, **known}


ALL = (
    Benchmark(
        name="mmbench",
        title="MMBench",
        prompt=LETTER_PROMPT,
        read=read,
        predictions=predictions,
        rules=(
            Rule("official-2023", by_letter(official_2023), figures, judge=extraction(official_2023)),
            Rule("vlmevalkit-2026", by_letter(vlmevalkit_2026), figures, judge=extraction(vlmevalkit_2026)),
        ),
        submission=submission,
        headline="circular",
        also=("rows",),
        # a question's rotations show one picture; a file of predictions alone does not name it
        cluster=lambda item: item.picture or f"question {item.details['index'] % ROTATION}",
    ),
)
