"""TextVQA: questions on what is written in a picture, answered by ten people each.

Official file: ``TextVQA_0.5.1_val.json``, ``{"data": [{"question_id", "image_id", "question", "answers"}]}``, pictures
``train_images/<image_id>.jpg``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Prediction, Rule, accuracy, each
from pargo_mllm.evaluation.benchmarks.vqav2 import entry, own_item
from pargo_mllm.evaluation.reading.answers import SHORT, answers_of, carried, said_in_words, texts
from pargo_mllm.evaluation.reading.records import Pictures, identity, records, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import Row, found
from pargo_mllm.evaluation.scorers import vqa
from pargo_mllm.evaluation.writing.submissions import json_list

_OCR = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)


def read(data: Path) -> list[Item]:
    """The questions of the official file, of VLMEvalKit's table or of the hub's parquet."""
    rows, pictures = rows_with_pictures(
        data, records(found(data, "TextVQA*val*.json", "TextVQA*.json", "*.tsv", "*.parquet", "*.json"))
    )
    return [_item(row, pictures) for row in rows]


def predictions(path: Path) -> list[Prediction]:
    """Results ``[{"question_id", "answer"}]``, and LLaVA's lines, whose ``question_id`` is the picture's."""
    return carried(_of_llava(row, said_in_words(row, number, own_item)) for number, row in enumerate(records(path), start=1))


def question_of(prompt: str) -> str:
    """The question of one of LLaVA's prompts: the line beside "Reference OCR token: …" and the instruction."""
    told = _OCR.search(prompt) if prompt.startswith("OCR tokens: ") else None
    if told:
        return told[1]
    lines = prompt.split("\n")
    return lines[1] if prompt.startswith("Reference OCR token:") and len(lines) > 1 else lines[0]


def _of_llava(row: Row, one: Prediction) -> Prediction:
    prompt = row.first("prompt")
    if not isinstance(prompt, str) or one.item is not None:
        return one
    # a question's id is a number, a picture's is not
    number = one.id if one.id is not None and one.id.isascii() and one.id.isdigit() else None
    return replace(one, id=number, picture=one.picture if number else one.id, question=question_of(prompt))


def _item(row: Row, pictures: Pictures) -> Item:
    name = row.first("image_id")
    shown = pictures.of(row, name if isinstance(name, str) else "")
    if "image" not in row.values and isinstance(name, str):
        shown = {**pictures.named(f"{name}.jpg"), "picture": name}
    return Item(id=identity(row), question=row.text("question"), answer=texts(row, "answers", "answer"), **shown)


def _mark(one: Answered) -> tuple[float, str]:
    text = vqa.evalai_normalised(one.text)
    return vqa.agreement(text, [vqa.evalai_normalised(answer) for answer in answers_of(one.item)]), text


ALL = (
    Benchmark(
        name="textvqa",
        title="TextVQA",
        prompt=SHORT,
        read=read,
        predictions=predictions,
        rules=(Rule("official", each(_mark), accuracy),),
        submission=json_list("textvqa_results.json", entry),
    ),
)
