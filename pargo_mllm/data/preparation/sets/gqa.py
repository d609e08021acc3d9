"""GQA: questions made of scene graphs, on photographs of Visual Genome."""

from __future__ import annotations

from collections.abc import Iterator

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.fields import line, text
from pargo_mllm.data.preparation.instructions import AGAIN, NO_ANSWER, NO_PHOTOGRAPH, NO_QUESTION, by_picture, conversations
from pargo_mllm.data.preparation.official_files import OfficialFiles

HOME = "https://cs.stanford.edu/people/dorarad/gqa/download.html"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A conversation of up to ten questions about a photograph; questions in the order of their file."""
    name = f"{options.split or 'train'}_balanced_questions.json"
    folder = files.folder("images")
    asked, seen = [], set()
    for id, row in files.members(name, f"questions1.2/{name}", f"questions/{name}"):
        image, question, answer = text(row, "imageId"), line(row, "question"), line(row, "answer")
        if not question:
            yield Skipped(id, NO_QUESTION)
        elif not image:
            yield Skipped(id, NO_PHOTOGRAPH)
        elif not answer:
            yield Skipped(id, NO_ANSWER)
        elif id in seen:
            yield Skipped(id, AGAIN)
        else:
            seen.add(id)
            asked.append((image, question, answer))
    for image, pairs in by_picture(asked).items():
        yield from conversations(image, Picture.file(f"{folder}/{image}.jpg"), pairs)


ALL = [
    DataSet(
        name="gqa",
        title="GQA, balanced",
        kind=INSTRUCTIONS,
        about="questions on what stands where in a photograph, up to ten of a photograph in one conversation",
        needs=(
            Need("train_balanced_questions.json", "questions with their answers", HOME),
            Need("images/", "the photographs", HOME),
        ),
        licence="the questions' is on their home's page; scene graphs and photographs come from Visual Genome (CC BY 4.0)",
        size="943,000 questions on 72,140 photographs, 20 GB",
        entries=entries,
        weight=0.103,
        splits=("train", "val"),
    )
]
