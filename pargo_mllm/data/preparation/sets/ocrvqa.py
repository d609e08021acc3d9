"""OCR-VQA: questions on the covers of books, whose answers are to be read there."""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import splitext

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.fields import one_line, text, whole
from pargo_mllm.data.preparation.instructions import AGAIN, NO_ANSWER, conversations
from pargo_mllm.data.preparation.official_files import OfficialFiles

HOME = "https://ocr-vqa.github.io/"
# as the file numbers them
SPLITS = {"train": 1, "val": 2, "test": 3}
NO_SPLIT = "covers of no split"
UNEVEN = "covers without questions, or with another number of answers"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A conversation of up to ten questions about a cover of the split; the other splits are no entries."""
    wanted, folder, seen = SPLITS[options.split or "train"], files.folder("images"), set()
    for id, row in files.members("dataset.json"):
        split = whole(row, "split")
        if split in SPLITS.values() and split != wanted:
            continue
        if id in seen or split != wanted:
            yield Skipped(id, AGAIN if id in seen else NO_SPLIT)
            continue
        seen.add(id)
        asked, said = (row.get(key) if isinstance(row, dict) else None for key in ("questions", "answers"))
        if not isinstance(asked, list) or not isinstance(said, list) or not asked or len(asked) != len(said):
            yield Skipped(id, UNEVEN)
            continue
        pairs = [(one_line(question), one_line(answer)) for question, answer in zip(asked, said, strict=True)]
        told = [pair for pair in pairs if all(pair)]
        yield from (Skipped(id, NO_ANSWER) for _ in range(len(pairs) - len(told)))
        # the official loader keeps a cover by the ending of its address; the picture's own format decides what it becomes
        endings = dict.fromkeys((splitext(text(row, "imageURL"))[1] or ".jpg", ".jpg", ".png", ".gif"))
        place = files.first(*(f"{folder}/{id}{ending}" for ending in endings))
        yield from conversations(id, Picture.file(place, f"{folder}/{id}.{{suffix}}"), told)


ALL = [
    DataSet(
        name="ocrvqa",
        title="OCR-VQA",
        kind=INSTRUCTIONS,
        about="questions on title, author, genre and edition of a book, to be read from its cover",
        needs=(
            Need("dataset.json", "addresses of the covers, questions and answers", HOME),
            Need("images/", "the covers, by id, as the official loadDataset.py keeps them", HOME),
        ),
        licence="that of the questions is on their home's page; the covers belong to their publishers",
        size="166,022 covers of 207,572, with about five questions each",
        entries=entries,
        weight=0.051,
        splits=("train", "val"),
    )
]
