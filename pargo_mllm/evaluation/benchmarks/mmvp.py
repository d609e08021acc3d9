"""MMVP: 150 pairs of pictures that CLIP takes for alike, with the same question on both and another right answer on each.

Official files: ``Questions.csv`` with ``Index, Question, Options, Correct Answer``, choices as ``(a) … (b) …``, and the
pictures ``MMVP Images/1.jpg`` to ``300.jpg``. The official answers are graded by a judge; here their letter is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Mark, Prediction, Rule, mean
from pargo_mllm.evaluation.reading.choices import LETTER_PROMPT, choice_columns, choice_list, right_letter
from pargo_mllm.evaluation.reading.records import identity, rows_with_pictures, said
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.scorers.letters import by_letter, letter_figures, letter_in_brackets, vlmevalkit_2026
from pargo_mllm.evaluation.writing.submissions import asked, json_lines

_OPTION = re.compile(r"\(([a-z])\)\s*")


def read(data: Path) -> list[Item]:
    """The questions of the official table, of VLMEvalKit's table or of the hub's parquet; two rows that follow are a pair."""
    rows, pictures = rows_with_pictures(
        data, read_rows(found(data, "Questions.csv", "*MMVP*.tsv", "*.tsv", "*.parquet", "*.csv"))
    )
    items = []
    for place, row in enumerate(rows):
        number = (
            identity(row, "Index", "lndex", "index") if row.first("Index", "lndex", "index") is not None else str(place + 1)
        )
        shown = pictures.of(row) if row.first("image", "image_path") else pictures.named(f"MMVP Images/{number}.jpg")
        options = row.first("Options", "options")
        choices = choice_columns(row) or (_options(options) if isinstance(options, str) else choice_list(options, row.where))
        items.append(
            Item(
                id=number,
                question=row.text("Question", "question"),
                answer=right_letter(row, "Correct Answer", "answer"),
                choices=choices,
                details={"pair": place // 2},
                **shown,
            )
        )
    return items


def predictions(path: Path) -> list[Prediction]:
    """The official lines ``{"question_id", "prompt", "answer", "response"}``, whose ``answer`` is the right one; two that
    follow are a pair. Or tables with ``prediction``, and LLaVA's answers."""
    return [_said(row, place) for place, row in enumerate(read_rows(path))]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``pair_accuracy``, the official figure: the share of pairs with both right. ``accuracy``: of questions.

    A pair of which one question was asked (as under ``--limit``) is none; ``pairs`` counts the others.
    """
    pairs: dict[int, list[float]] = {}
    for mark in marks:
        pairs.setdefault(mark.item.details["pair"], []).append(mark.value)
    both = [float(all(values)) for values in pairs.values() if len(values) == 2]
    return {**letter_figures(marks), "pair_accuracy": mean(both) if both else 0.0, "pairs": len(both)}


def _options(text: str) -> dict[str, str]:
    pieces = _OPTION.split(text)
    return {letter.upper(): choice.strip() for letter, choice in zip(pieces[1::2], pieces[2::2], strict=True) if choice.strip()}


def _said(row: Row, place: int) -> Prediction:
    names = ("response", "prediction", "text")
    item = None
    if row.first("answer") is not None:
        prompt = row.first("prompt", "question")
        item = Item(
            id=identity(row, "question_id", "index"),
            question=prompt if isinstance(prompt, str) else "",
            answer=right_letter(row, "answer"),
            choices=choice_columns(row) or (_options(prompt) if isinstance(prompt, str) else {}),
            details={"pair": place // 2},
        )
    return said(row, *names, item=item)


def _line(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    options = " ".join(f"({letter.lower()}) {choice}" for letter, choice in item.choices.items())
    right = None if item.answer is None else f"({item.answer.lower()})"
    return {"question_id": item.id, "prompt": f"{item.question} {options}", "answer": right, "response": one.text}


ALL = (
    Benchmark(
        name="mmvp",
        title="MMVP",
        prompt=LETTER_PROMPT,
        read=read,
        predictions=predictions,
        rules=(
            Rule("letter", by_letter(letter_in_brackets), figures),
            Rule("vlmevalkit-2026", by_letter(vlmevalkit_2026), figures),
        ),
        submission=json_lines("mmvp.jsonl", _line),
        headline="pair_accuracy",
        also=("accuracy",),
        cluster=lambda item: f"pair {item.details['pair']}",
    ),
)
