"""A-OKVQA: multiple choice on what one has to know beside what a photograph shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, chance, turns
from pargo_mllm.data.preparation.fields import line, lines, text, whole
from pargo_mllm.data.preparation.instructions import AGAIN, NO_PHOTOGRAPH, NO_QUESTION, among, below
from pargo_mllm.data.preparation.official_files import OfficialFiles

HOME = "https://allenai.org/project/a-okvqa/home"
NO_CHOICE = "questions without choices, or without the right one"
TWICE = "questions whose right choice stands twice"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a question, in the order of the file."""
    split = options.split or "train"
    photographs = f"{split}2017"
    folder = files.folder(photographs, f"images/{photographs}", f"coco/{photographs}", "images")
    seen = set()
    for row in files.rows(f"aokvqa_v1p0_{split}.json"):
        id = text(row, "question_id", "?")
        yield Skipped(id, AGAIN) if id in seen else _entry(id, row, photographs, folder, options)
        seen.add(id)


def _entry(id: str, row: Any, photographs: str, folder: str, options: Options) -> Entry | Skipped:
    question, image = line(row, "question"), whole(row, "image_id")
    if not question:
        return Skipped(id, NO_QUESTION)
    if not image:
        return Skipped(id, NO_PHOTOGRAPH)
    choices, right = lines(row, "choices"), row.get("correct_choice_idx")
    if not 1 < len(choices) <= 26 or type(right) is not int or not 0 <= right < len(choices):
        return Skipped(id, NO_CHOICE)
    if choices.count(choices[right]) > 1:
        return Skipped(id, TWICE)
    name = f"{image:012d}.jpg"
    pair = among(question, choices, right, chance(options.seed, "aokvqa", id))
    return Entry(id, Picture.file(below(folder, name), f"{photographs}/{name}"), turns([pair]))


ALL = [
    DataSet(
        name="aokvqa",
        title="A-OKVQA",
        kind=INSTRUCTIONS,
        about="multiple choice on photographs, four choices each, that knowledge of the world answers",
        needs=(
            Need("aokvqa_v1p0_train.json", "questions with their choices", HOME),
            Need("train2017/", "the photographs", "https://cocodataset.org/#download"),
        ),
        licence="questions Apache 2.0; each photograph has its own Flickr licence, several not for commercial use",
        size="17,056 questions on photographs of COCO",
        entries=entries,
        weight=0.103,
        splits=("train", "val"),
    )
]
