"""SEED-Bench, the questions on single pictures (types 1 to 9): four choices each.

Official file: ``SEED-Bench.json``, ``{"questions": [...], "question_type": {name: number}}``; pictures in ``SEED-Bench-image``,
named without an ending. Questions on videos (types 10 to 12) are none of ours.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Mark, Prediction, Rule, ScoringError
from pargo_mllm.evaluation.reading.choices import LETTER_PROMPT, choice_columns, lettered, right_letter
from pargo_mllm.evaluation.reading.records import Pictures, identity, rows_with_pictures, said, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found, read_json, read_rows, rows_of
from pargo_mllm.evaluation.scorers.letters import by_letter, by_likelihood, first_character, letter_figures
from pargo_mllm.evaluation.writing.submissions import asked, json_lines

IMAGE_TYPES = range(1, 10)


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    file = found(data, "SEED-Bench*.json", "*SEED*.tsv", "*.tsv", "*.parquet", "*.json")
    if file.suffix == ".json":
        value = read_json(file)
        questions = value.get("questions") if isinstance(value, dict) else value
        types = value.get("question_type") if isinstance(value, dict) else None
        names = {str(number): name for name, number in types.items()} if isinstance(types, dict) else {}
        rows, pictures = rows_of(questions, f"{file}, 'questions'"), Pictures(data)
    else:
        rows, pictures = rows_with_pictures(data, read_rows(file))
        names = {}
    return [_item(row, names, pictures) for row in rows if _on_a_picture(row)]


def predictions(path: Path) -> list[Prediction]:
    """Lines ``{"question_id", "prediction"}``, with ``gt_answer`` where they have it; those of the official code, ``{"q_id",
    "prediction", "gt", "q_type_id"}``; LLaVA's answers. ``losses`` makes a ranking of one."""
    times: Counter[str] = Counter()
    return [_said(row, times) for row in read_rows(path)]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy`` over all questions and by type in ``parts``; ``unmatched`` answers name no choice.

    ``repeated``: lines whose question stands in the file before them; each line counts, as in the published figures.
    """
    repeated = sum(mark.item.details.get("repeated", False) for mark in marks)
    return {**letter_figures(marks), **({"repeated": repeated} if repeated else {})}


def _on_a_picture(row: Row) -> bool:
    kind = row.first("question_type_id")
    return kind is None or str(kind) in map(str, IMAGE_TYPES)


def _item(row: Row, names: dict[str, str], pictures: Pictures) -> Item:
    four = {letter: row.first(f"choice_{letter.lower()}") for letter in "ABCD"}
    choices = lettered(four, row.where) if any(four.values()) else choice_columns(row)
    kind = row.first("question_type_id")
    part = names.get(str(kind), f"type {kind}") if kind is not None else text_or_empty(row, "category")
    name = row.first("data_id")
    shown = pictures.of(row, name if isinstance(name, str) else "") if row.first("image", "image_path") else {}
    return Item(
        id=identity(row, "question_id", "index"),
        question=row.text("question"),
        answer=right_letter(row, "answer"),
        part=part,
        choices=choices,
        **(shown or pictures.named(row.text("data_id"))),
    )


def _said(row: Row, times: Counter[str]) -> Prediction:
    number = identity(row, "question_id", "q_id", "index")
    times[number] += 1
    # VLMEvalKit's tables have the right answer as "answer"
    right = right_letter(row, "gt_answer", "gt", *(["answer"] if "prediction" in row.values else []))
    item = None
    if right is not None:
        kind = row.first("question_type_id", "q_type_id")
        again = times[number] > 1
        item = Item(
            # ids are unique, and a line that comes again counts again
            id=f"{number}#{times[number]}" if again else number,
            question=text_or_empty(row, "question"),
            answer=right,
            part=f"type {kind}" if kind is not None else text_or_empty(row, "category"),
            choices=choice_columns(row),
            details={"repeated": True} if again else {},
        )
    return said(row, "prediction", "text", item=item, id=number, losses=_losses(row))


def _losses(row: Row) -> dict[str, float] | None:
    losses = row.first("losses")
    if losses is None:
        return None
    if not isinstance(losses, dict) or not losses or not all(map(_is_loss, losses.values())):
        raise ScoringError(f"{row.where}: 'losses' is no object of numbers by letter.")
    return losses


def _is_loss(value: Any) -> bool:
    # whole numbers that no float holds are none
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -sys.float_info.max <= value <= sys.float_info.max
    )


def _line(one: Prediction) -> dict[str, Any]:
    item = asked(one)
    line = {"question_id": item.id, "prediction": one.text}
    if item.answer is not None:
        line["gt_answer"] = item.answer
    return {**line, "losses": dict(one.losses)} if one.losses is not None else line


ALL = (
    Benchmark(
        name="seed_bench",
        title="SEED-Bench",
        prompt=LETTER_PROMPT,
        read=read,
        predictions=predictions,
        rules=(
            Rule("likelihood", by_likelihood, figures, ranks=True, prompt="{question}"),
            Rule("letter", by_letter(first_character), figures),
        ),
        submission=json_lines("seed_bench.jsonl", _line),
    ),
)
