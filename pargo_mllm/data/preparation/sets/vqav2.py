"""VQAv2: open questions on COCO photographs, each with the answer that most of ten people gave."""

from __future__ import annotations

from collections.abc import Iterator

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.fields import line, text, whole
from pargo_mllm.data.preparation.instructions import (
    AGAIN,
    NO_ANSWER,
    NO_PHOTOGRAPH,
    NO_QUESTION,
    below,
    by_picture,
    conversations,
)
from pargo_mllm.data.preparation.official_files import OfficialFiles

HOME = "https://visualqa.org/download.html"
NO_SUCH_QUESTION = "annotations of a question that the file does not have"
ANSWERED = "annotations of a question that an earlier one is of"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A conversation of up to ten questions about a photograph; questions in the order of their file. An annotation is an entry
    of its own where it is of no question, or of one that has another.
    """
    split = options.split or "train2014"
    answers: dict[str, str] = {}
    for row in files.listed("annotations", f"v2_mscoco_{split}_annotations.json"):
        id = text(row, "question_id")
        if not id or id in answers:
            yield Skipped(id or "?", ANSWERED if id else NO_SUCH_QUESTION)
        else:
            answers[id] = line(row, "multiple_choice_answer")
    folder = files.folder(split, f"images/{split}", "images")
    asked, seen, known = [], set(), set()
    for row in files.listed("questions", f"v2_OpenEnded_mscoco_{split}_questions.json"):
        id, question, image = text(row, "question_id", "?"), line(row, "question"), whole(row, "image_id")
        known.add(id)
        if not question:
            yield Skipped(id, NO_QUESTION)
        elif not image:
            yield Skipped(id, NO_PHOTOGRAPH)
        elif not answers.get(id):
            yield Skipped(id, NO_ANSWER)
        elif id in seen:
            yield Skipped(id, AGAIN)
        else:
            seen.add(id)
            asked.append((str(image), question, answers[id]))
    yield from (Skipped(id, NO_SUCH_QUESTION) for id in answers if id not in known)
    for number, pairs in by_picture(asked).items():
        name = f"COCO_{split}_{int(number):012d}.jpg"
        yield from conversations(number, Picture.file(below(folder, name), f"{split}/{name}"), pairs)


ALL = [
    DataSet(
        name="vqav2",
        title="VQAv2",
        kind=INSTRUCTIONS,
        about="open questions on photographs, up to ten of a photograph in one conversation",
        needs=(
            Need("v2_OpenEnded_mscoco_train2014_questions.json", "the questions", HOME),
            Need("v2_mscoco_train2014_annotations.json", "the answers", HOME),
            Need("train2014/", "the photographs", "https://cocodataset.org/#download"),
        ),
        licence="questions and answers CC BY 4.0; each photograph has its own Flickr licence, several not for commercial use",
        size="443,757 questions on 82,783 photographs, 13 GB",
        entries=entries,
        weight=0.103,
        splits=("train2014", "val2014"),
    )
]
