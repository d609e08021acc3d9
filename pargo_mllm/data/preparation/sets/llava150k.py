"""LLaVA-Instruct-150K: conversations, descriptions and reasoning about COCO photographs, written by GPT-4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.fields import text
from pargo_mllm.data.preparation.instructions import below
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.sources.llava_records import TURNS, UnusableRecord, picture_names, record_messages

HOME = "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record each, as it is, in the order of the file. An id is that of a photograph, which up to three records are about:
    the second of an id becomes ``ID-2``.
    """
    folder = files.folder("train2017", "images/train2017", "images")
    times: Counter[str] = Counter()
    for number, row in enumerate(files.rows("llava_instruct_150k.json"), start=1):
        id = text(row, "id") or f"record {number}"
        times[id] += 1
        yield _entry(id if times[id] == 1 else f"{id}-{times[id]}", row, folder)


def _entry(id: str, row: Any, folder: str) -> Entry | Skipped:
    if not isinstance(row, dict):
        return Skipped(id, "records that are no objects")
    try:
        names = picture_names(row)
        record_messages(row, len(names))
    except UnusableRecord as problem:
        return Skipped(id, problem.reason)
    if len(names) > 1:
        return Skipped(id, "records with several pictures")
    picture = Picture.file(below(folder, names[0]), f"train2017/{names[0]}") if names else None
    said = next(row[key] for key in TURNS if key in row)
    return Entry(id, picture, tuple({"from": turn["from"], "value": turn["value"]} for turn in said))


ALL = [
    DataSet(
        name="llava150k",
        title="LLaVA-Instruct-150K",
        kind=INSTRUCTIONS,
        about="conversations, detailed descriptions and reasoning about photographs, written by GPT-4",
        needs=(
            Need("llava_instruct_150k.json", "the conversations", HOME),
            Need("train2017/", "the photographs", "https://cocodataset.org/#download"),
        ),
        licence="CC BY 4.0, and OpenAI's terms of use; each photograph has its own Flickr licence",
        size="157,712 conversations, 229 MB, on photographs of COCO, 18 GB",
        entries=entries,
        weight=0.103,
    )
]
