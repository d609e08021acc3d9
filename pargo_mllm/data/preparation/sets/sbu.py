"""SBU Captioned Photos: what people wrote below their photographs on Flickr; the photographs are addresses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from pargo_mllm.data.preparation.captions import UNREADABLE, at_address
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options, PreparationError
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.fields import of_list, of_object
from pargo_mllm.data.preparation.official_files import MissingFile, OfficialFiles

LIST = "sbu-captions-all.json"
# the older form: line by line
ADDRESSES, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"
_END = object()


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a photograph, from either form."""
    try:
        told = of_object(files.json(LIST), LIST)
    except MissingFile:
        if not (files.root / ADDRESSES).exists():
            raise
        yield from _paired(files.lines(ADDRESSES), files.lines(CAPTIONS), f"{ADDRESSES} and {CAPTIONS}")
        return
    yield from _paired(_texts(of_list(told, "image_urls", LIST)), _texts(of_list(told, "captions", LIST)), LIST)


def _texts(values: list[Any]) -> Iterator[str]:
    return (value if isinstance(value, str) else "" for value in values)


def _paired(addresses: Iterator[Any], captions: Iterator[Any], name: str) -> Iterator[Entry | Skipped]:
    pairs: Iterator[tuple[Any, Any]] = zip_longest(addresses, captions, fillvalue=_END)
    for number, (address, caption) in enumerate(pairs):
        if address is _END or caption is _END:
            fewer, more = ("addresses", "captions") if address is _END else ("captions", "addresses")
            raise PreparationError(
                f"{name}: there are {number:,} {fewer} and more {more}, so nobody knows what belongs together; download again."
            )
        id = f"sbu_{number:07d}"
        yield Skipped(id, UNREADABLE) if address is None or caption is None else at_address(id, address, caption)


ALL = [
    DataSet(
        name="sbu",
        title="SBU Captioned Photos",
        kind=COARSE,
        about="captions that owners gave their photographs on Flickr, with the addresses of these; many are gone (--fetch)",
        needs=(
            Need(
                LIST,
                f"captions and addresses (or {ADDRESSES} with {CAPTIONS})",
                "https://www.cs.rice.edu/~vo9/sbucaptions/",
            ),
        ),
        licence="none is given for the captions; each photograph has its own Flickr licence",
        size="1,000,000 captions; the photographs are fetched",
        entries=entries,
    )
]
