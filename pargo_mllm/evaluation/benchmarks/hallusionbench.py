"""HallusionBench: yes or no, on pictures (VD), and on pictures, edited ones and none beside what is known (VS).

Official file: ``HallusionBench.json``, a list of ``{"category", "subcategory", "visual_input", "set_id", "figure_id",
"question_id", "question", "gt_answer", "filename"}``; its authors let a judge read the answers, here one word is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import (
    Answered,
    Benchmark,
    Item,
    Mark,
    Prediction,
    Rule,
    ScoringError,
    accuracy,
    each,
    mean,
)
from pargo_mllm.evaluation.reading.records import Pictures, rows_with_pictures, said
from pargo_mllm.evaluation.reading.rows import Row, found, read_rows
from pargo_mllm.evaluation.scorers import yes_no
from pargo_mllm.evaluation.writing.submissions import asked, json_list

_PLACE = ("category", "subcategory", "set_id", "figure_id", "question_id")


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table (only those with a picture) or of the hub's parquet."""
    file = found(data, "HallusionBench*.json", "*Hallusion*.tsv", "*.tsv", "image*.parquet", "*.parquet", "*.json")
    rows, pictures = rows_with_pictures(data, read_rows(file))
    return [_item(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """The official list with ``model_prediction`` in each of its entries, or a table with ``prediction``."""
    return [_said(row) for row in read_rows(path)]


def figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy``, which its authors call ``aAcc``; ``fAcc``: the share of figures with all questions right, those without a
    picture apart; ``qAcc``: the share of questions that are right on every figure of their set. ``unknown``: answers that are
    neither yes nor no."""
    figure: dict[tuple, list[float]] = {}
    question: dict[tuple, list[float]] = {}
    for mark in marks:
        kind, topic, group, shown, number = mark.item.details["place"]
        question.setdefault((kind, topic, group, number), []).append(mark.value)
        if not _without_picture(mark.item):
            figure.setdefault((kind, topic, group, shown), []).append(mark.value)
    told = accuracy(marks)
    return {
        **told,
        "aAcc": told["accuracy"],
        "fAcc": mean(float(all(values)) for values in figure.values()) if figure else 0.0,
        "qAcc": mean(float(all(values)) for values in question.values()),
        "unknown": sum(mark.read == "unknown" for mark in marks),
    }


def _mark(one: Answered) -> tuple[float, str]:
    """Who is not shown what the question is on may say that he does not know, by the official rule."""
    read = yes_no.one_word(one.text)
    return float(read == one.item.answer or (read == "unknown" and _without_picture(one.item))), read


def _without_picture(item: Item) -> bool:
    kind, _, _, figure, _ = item.details["place"]
    return kind == "VS" and figure == "0"


def _item(row: Row, pictures: Pictures | None = None) -> Item:
    if row.first("set_id") is None and row.first("index") is not None:
        # VLMEvalKit's: NAME_CATEGORY_SUBCATEGORY_SET_FIGURE_QUESTION
        place = tuple(row.text("index").split("_")[1:6])
        if len(place) != 5:
            raise ScoringError(
                f"{row.where}: the index {row.text('index')!r} must have six parts with _ between: name, category, "
                "subcategory, set, figure and question."
            )
        place = (row.text("category"), row.text("l2-category"), *place[2:])
    else:
        place = tuple(row.text(name) for name in _PLACE)
    shown: dict[str, Any] = {}
    if pictures is not None and row.first("image", "image_path") is not None:
        shown = pictures.of(row)
    elif pictures is not None and row.first("filename") is not None and row.text("filename").strip():
        shown = pictures.named(row.text("filename").removeprefix("./"))
    return Item(
        id="_".join(place),
        question=row.text("question"),
        answer=_right(row),
        part=f"{place[0]} {place[1]}",
        details={"place": place},
        **shown,
    )


def _right(row: Row) -> str:
    answer = {"1": "yes", "0": "no"}.get(text := row.text("gt_answer", "answer").strip().lower(), text)
    if answer not in ("yes", "no"):
        raise ScoringError(f"{row.where}: the right answer is {text!r}, neither 1, 0, yes nor no.")
    return answer


def _said(row: Row) -> Prediction:
    carries = row.first("gt_answer", "answer") is not None and row.first("question") is not None
    item = _item(row) if carries else None
    if item is None and row.first("category") is None:
        # LLaVA's lines: their own id
        return said(row, "model_prediction", "prediction", "text")
    place = item.id if item else "_".join(row.text(name) for name in _PLACE)
    return said(row, "model_prediction", "prediction", "text", item=item, id=place, picture=None)


def _entry(one: Prediction) -> dict[str, Any]:
    """Of the official list, with ``model_prediction``."""
    item = asked(one)
    right = {"yes": "1", "no": "0"}[item.answer]
    place = dict(zip(_PLACE, item.details["place"], strict=True))
    return {**place, "question": item.question, "gt_answer": right, "model_prediction": one.text}


ALL = (
    Benchmark(
        name="hallusionbench",
        title="HallusionBench",
        prompt="{question}\nAnswer the question using a single word or phrase.",
        read=read,
        predictions=predictions,
        rules=(Rule("word", each(_mark), figures),),
        submission=json_list("hallusionbench.json", _entry),
    ),
)
