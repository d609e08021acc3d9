"""ScienceQA: multiple choice from school books, about half of the questions with a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, chance, turns
from pargo_mllm.data.preparation.fields import line, lines, of_list, of_object, text
from pargo_mllm.data.preparation.instructions import AGAIN, NO_QUESTION, among
from pargo_mllm.data.preparation.official_files import OfficialFiles

HOME = "https://scienceqa.github.io/"
NO_CHOICE = "questions without choices, or without the right one"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a problem of the split, in the order of pid_splits.json."""
    split = options.split or "train"
    problems = of_object(files.json("problems.json"), "problems.json")
    numbers = of_list(of_object(files.json("pid_splits.json"), "pid_splits.json"), split, "pid_splits.json")
    folder = files.folder(split, f"images/{split}", "images", "")
    seen = set()
    for number in numbers:
        id = text({"id": number}, "id", "?")
        yield Skipped(id, AGAIN) if id in seen else _entry(id, problems.get(id), split, folder, options)
        seen.add(id)


def _entry(id: str, problem: Any, split: str, folder: str, options: Options) -> Entry | Skipped:
    if not isinstance(problem, dict):
        return Skipped(id, "ids without a problem")
    question, choices, right = line(problem, "question"), lines(problem, "choices"), problem.get("answer")
    if not question:
        return Skipped(id, NO_QUESTION)
    if not 1 < len(choices) <= 26 or type(right) is not int or not 0 <= right < len(choices):
        return Skipped(id, NO_CHOICE)
    picture = None
    if problem.get("image") is not None:
        name = f"{id}/{text(problem, 'image')}"
        picture = Picture.file(f"{folder}/{name}" if folder else name, f"{split}/{name}")
    rng = chance(options.seed, "scienceqa", id)
    pair = among(question, choices, right, rng, context=line(problem, "hint"))
    return Entry(id, picture, turns([pair], picture is not None))


ALL = [
    DataSet(
        name="scienceqa",
        title="ScienceQA",
        kind=INSTRUCTIONS,
        about="multiple choice from school books, with a picture or without, the problem's hint as context",
        needs=(
            Need("problems.json", "the problems", HOME),
            Need("pid_splits.json", "which problem is of which split", HOME),
            Need("train/", "the pictures, train/ID/image.png", HOME),
        ),
        licence="CC BY-NC-SA 4.0: not for commercial use",
        size="12,726 questions of 21,208",
        entries=entries,
        weight=0.051,
        splits=("train", "val"),
    )
]
