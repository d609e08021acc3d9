"""ShareGPT4V: detailed captions by GPT-4V, and by a captioner that learned from them; lists of LLaVA's records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pargo_mllm.data.preparation.data_set import DETAILED, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.llava_lists import records
from pargo_mllm.data.preparation.official_files import OfficialFiles

_HOME = "https://huggingface.co/datasets/Lin-Chen/ShareGPT4V"
_PICTURES = "https://github.com/InternLM/InternLM-XComposer/blob/main/projects/ShareGPT4V/docs/Data.md"
_LICENCE = "captions CC BY-NC 4.0, and OpenAI's terms of use; pictures are under the licences of COCO, SA-1B, CC-3M and the web"
_BY_GPT, _BY_CAPTIONER = "sharegpt4v_instruct_gpt4-vision_cap100k.json", "share-captioner_coco_lcs_sam_1246k_1107.json"


def _of(file: str) -> Callable[[OfficialFiles, Options], Iterator[Entry | Skipped]]:
    def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
        yield from records(files.rows(file, f"sharegpt4v/{file}"), "")

    return entries


def _needs(file: str) -> tuple[Need, ...]:
    return (
        Need(file, "the captions, with a question each (or in sharegpt4v/)", _HOME),
        Need("coco/train2017/", "photographs of COCO", "https://cocodataset.org/#download"),
        Need("llava/llava_pretrain/images/", "pictures of LLaVA-Pretrain", _PICTURES),
        Need("sam/images/", "photographs of SA-1B; and what else the names begin with", _PICTURES),
    )


ALL = [
    DataSet(
        name="sharegpt4v",
        title="ShareGPT4V",
        kind=DETAILED,
        about="detailed captions by GPT-4V of photographs from COCO, SA-1B, LLaVA-Pretrain and others",
        needs=_needs(_BY_GPT),
        licence=_LICENCE,
        size="about 100,000 captions, 134 MB; the pictures are those of other sets",
        entries=_of(_BY_GPT),
    ),
    DataSet(
        name="sharegpt4v_pt",
        title="ShareGPT4V-PT",
        kind=DETAILED,
        about="detailed captions by Share-Captioner of photographs from COCO, SA-1B and LLaVA-Pretrain",
        needs=_needs(_BY_CAPTIONER),
        licence=_LICENCE,
        size="about 1,246,000 captions, 1.5 GB; the pictures are those of other sets",
        entries=_of(_BY_CAPTIONER),
    ),
]
