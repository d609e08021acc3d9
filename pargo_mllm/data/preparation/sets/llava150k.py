"""LLaVA-Instruct-150K: conversations, descriptions and reasoning about COCO photographs, written by GPT-4."""

from __future__ import annotations

from collections.abc import Iterator

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.llava_lists import records
from pargo_mllm.data.preparation.official_files import OfficialFiles

HOME = "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record each, as it is, in the order of the file. An id is that of a photograph, which up to three records are about."""
    folder = files.folder("train2017", "images/train2017", "images")
    yield from records(files.rows("llava_instruct_150k.json"), folder, "train2017")


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
