"""A-OKVQA, its multiple choice: what one has to know beside what a COCO picture shows, four choices each.

Official file: ``aokvqa_v1p0_val.json``, a list of ``{"image_id", "question_id", "question", "choices", "correct_choice_idx"}``;
pictures by COCO's names, ``000000461751.jpg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Prediction, Rule, ScoringError
from pargo_mllm.evaluation.reading.choices import LETTER_PROMPT, choice_columns, choice_list, letter_at, right_letter
from pargo_mllm.evaluation.reading.records import identity, json_whole, rows_with_pictures, said, text_or_empty
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows, rows_of
from pargo_mllm.evaluation.scorers.letters import by_letter, choice_itself, letter_figures, vlmevalkit_2026
from pargo_mllm.evaluation.writing.submissions import asked, write_json


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    file = found(data, "aokvqa*_val.json", "aokvqa*.json", "*OKVQA*.tsv", "*.tsv", "*val*.parquet", "*.parquet", "*.json")
    rows, pictures = rows_with_pictures(data, read_rows(file))
    items = []
    for row in rows:
        held = row.first("image", "image_path") is not None
        shown = pictures.of(row) if held else pictures.named(_coco_name(row))
        listed = row.first("choices")
        choices = choice_columns(row) if listed is None else choice_list(listed, row.where)
        right = (
            right_letter(row, "answer") if listed is None else letter_at(row.first("correct_choice_idx"), choices, row.where)
        )
        items.append(
            Item(
                id=identity(row, "question_id", "index"),
                question=row.text("question"),
                answer=right,
                part=text_or_empty(row, "category"),
                choices=choices,
                **shown,
            )
        )
    return items


def predictions(path: Path) -> list[Prediction]:
    """The official file, ``{question_id: {"multiple_choice": a choice's text, …}}``; lines with ``prediction``; LLaVA's."""
    value = json_whole(path)
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        rows = rows_of(list(value.values()), f"{path}, answers")
        numbered = [(number, Row(row.values, f"{path}, answer {number!r}")) for number, row in zip(value, rows, strict=True)]
        return [Prediction(row.text("multiple_choice"), row.where, id=number) for number, row in numbered]
    return [_said(row) for row in read_rows(path)]


def submission(predictions: Sequence[Prediction], folder: Path) -> Path:
    """The official file: the text of the choice that was named; of an answer that names none, the answer itself."""
    answers = {}
    for one in predictions:
        choices = asked(one).choices
        letter = choice_itself(one.text, choices)
        answers[asked(one).id] = {"multiple_choice": choices.get(letter or "", one.text)}
    return write_json(answers, folder / "aokvqa.json")


def _coco_name(row: Row) -> str:
    number = identity(row, "image_id")
    if not number.isascii() or not number.isdigit():
        raise ScoringError(f"{row.where}: 'image_id' is {number[:40]!r}, no number of a COCO picture.")
    return f"{number.zfill(12)}.jpg"


def _said(row: Row) -> Prediction:
    item = None
    if row.first("answer") is not None and row.first("prediction") is not None:
        question = text_or_empty(row, "question")
        item = Item(identity(row, "question_id", "index"), question, right_letter(row, "answer"), choices=choice_columns(row))
    return said(row, item=item)


ALL = (
    Benchmark(
        name="aokvqa",
        title="A-OKVQA",
        prompt=LETTER_PROMPT,
        read=read,
        predictions=predictions,
        rules=(
            Rule("choice", by_letter(choice_itself), letter_figures),
            Rule("vlmevalkit-2026", by_letter(vlmevalkit_2026), letter_figures),
        ),
        submission=submission,
    ),
)
