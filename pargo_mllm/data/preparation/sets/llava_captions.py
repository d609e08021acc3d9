"""Captions that LLaVA chose for its first stage: of CC-3M, and of LAION, CC-3M and SBU by BLIP; lists of LLaVA's records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.llava_lists import records
from pargo_mllm.data.preparation.official_files import OfficialFiles

_CC3M = "https://huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K"
_LCS = "https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain"


def _of(file: str) -> Callable[[OfficialFiles, Options], Iterator[Entry | Skipped]]:
    def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
        # the archive of pictures has no folder in it: whoever unpacks it beside the list has none
        yield from records(files.rows(file), files.folder("images", ""))

    return entries


ALL = [
    DataSet(
        name="cc3m_595k",
        title="LLaVA CC3M Pretrain 595K",
        kind=COARSE,
        about="captions of CC-3M with their pictures, chosen by LLaVA so that concepts are balanced",
        needs=(
            Need("chat.json", "the captions, with a question each", _CC3M),
            Need("images/", "the pictures (images.zip)", _CC3M),
        ),
        licence="that of CC-3M; each picture belongs to its owner, and they are given to repeat LLaVA's work alone",
        size="595,375 captions and pictures, 6.7 GB",
        entries=_of("chat.json"),
    ),
    DataSet(
        name="blip_lcs",
        title="LLaVA Pretrain (BLIP captions of LAION, CC and SBU, 558K)",
        kind=COARSE,
        about="pictures of LAION, CC-3M and SBU with captions of BLIP's, chosen by LLaVA",
        needs=(
            Need("blip_laion_cc_sbu_558k.json", "the captions, with a question each", _LCS),
            Need("images/", "the pictures (images.zip)", _LCS),
        ),
        licence="those of CC-3M and of BLIP's captions; each picture belongs to its owner",
        size="558,128 captions and pictures, 28 GB",
        entries=_of("blip_laion_cc_sbu_558k.json"),
    ),
]
