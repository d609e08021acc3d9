"""Conceptual Captions 3M: the text beside pictures of the web, made general; the pictures are addresses."""

from __future__ import annotations

from collections.abc import Iterator

from pargo_mllm.data.preparation.captions import UNREADABLE, at_address
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.official_files import OfficialFiles

FILES = {"train": "Train_GCC-training.tsv", "validation": "Validation_GCC-1.1.0-Validation.tsv"}
NO_TAB = "lines that are no caption, tab, address"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a line; a caption may hold quotation marks, which mean nothing."""
    split = options.split or "train"
    for number, line in enumerate(files.lines(FILES[split])):
        # the name that LLaVA's part of the set gives it
        id = f"GCC_{'train' if split == 'train' else 'val'}_{number:09d}"
        if line is None:
            yield Skipped(id, UNREADABLE)
        elif line.count("\t") != 1:
            yield Skipped(id, NO_TAB)
        else:
            caption, address = line.split("\t")
            yield at_address(id, address, caption)


ALL = [
    DataSet(
        name="cc3m",
        title="Conceptual Captions 3M",
        kind=COARSE,
        about="texts beside pictures of the web, of which it has the addresses; many are gone (--fetch)",
        needs=(
            Need(
                FILES["train"],
                "captions with the addresses of their pictures",
                "https://ai.google.com/research/ConceptualCaptions/download",
            ),
        ),
        licence="captions: free for any purpose, with a word to Google LLC as their source; each picture belongs to its owner",
        size="3,318,333 captions; the pictures are fetched",
        entries=entries,
        splits=tuple(FILES),
    )
]
