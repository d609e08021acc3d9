"""GQA: questions on scenes, each with one answer.

Official file: ``testdev_balanced_questions.json``, ``{id: {"imageId", "question", "answer", "types"}}``, pictures
``images/<imageId>.jpg``. The hub has questions and pictures apart, ``testdev_balanced_instructions`` and ``…_images``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Prediction, Rule, ScoringError, accuracy, each
from pargo_mllm.evaluation.benchmarks.vqav2 import own_item
from pargo_mllm.evaluation.reading.answers import SHORT, answers_of, carried, said_in_words, texts
from pargo_mllm.evaluation.reading.records import Pictures, identity, records, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.writing.submissions import asked, json_list


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    apart = data.is_dir() and any(data.glob("*_instructions/*.parquet"))
    file = found(data, "testdev_balanced_questions.json", "*questions*.json", "*_instructions/*.parquet", "*.tsv", "*.parquet")
    rows, pictures = rows_with_pictures(data, records(file))
    if not apart:
        return [_item(row, _shown(row, pictures)) for row in rows]
    others, held = rows_with_pictures(data, records(found(data, "*_images/*.parquet")))
    shown = {row.text("id"): held.of(row, row.text("id")) for row in others}
    missing = next((row for row in rows if row.text("imageId") not in shown), None)
    if missing is not None:
        raise ScoringError(f"{missing.where}: no picture has the id {missing.text('imageId')!r} that it names.")
    return [_item(row, shown[row.text("imageId")]) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """GQA's ``[{"questionId", "prediction"}]``, LLaVA's lines, VLMEvalKit's tables."""
    return carried(said_in_words(row, number, own_item) for number, row in enumerate(records(path), start=1))


def converted(text: str) -> str:
    """An answer in the form of GQA's predictions, as LLaVA's script makes it: small letters, without the last dots."""
    return text.rstrip(".").lower()


def _shown(row: Row, pictures: Pictures) -> dict[str, Any]:
    name = row.first("imageId")
    if "image" in row.values or not isinstance(name, str):
        return pictures.of(row, name if isinstance(name, str) else "")
    return {**pictures.named(f"{name}.jpg"), "picture": name}


def _item(row: Row, shown: Mapping[str, Any]) -> Item:
    types = row.first("types")
    structural = types.get("structural") if isinstance(types, Mapping) else None
    part = structural if isinstance(structural, str) else ""
    return Item(id=identity(row), question=row.text("question"), answer=texts(row, "answer"), part=part, **shown)


def _mark(one: Answered, convert: bool) -> tuple[float, str]:
    text = converted(one.text) if convert else one.text
    return float(text in answers_of(one.item)), text


ALL = (
    Benchmark(
        name="gqa",
        title="GQA",
        prompt=SHORT,
        read=read,
        predictions=predictions,
        rules=(
            # the official code compares texts as they are; what people score went through LLaVA's conversion before
            Rule("llava", each(partial(_mark, convert=True)), accuracy),
            Rule("official", each(partial(_mark, convert=False)), accuracy),
        ),
        submission=json_list(
            "testdev_balanced_predictions.json", lambda one: {"questionId": asked(one).id, "prediction": converted(one.text)}
        ),
    ),
)
