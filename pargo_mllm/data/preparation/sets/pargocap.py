"""ParGoCap-1M-PT, and detailed captions in the same form.

The paper does not publish the form of its files. What is read is what it could be: one JSON list, or JSON Lines, of LLaVA's
records or of ``{"image", "caption"}``, perhaps with an ``"id"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.captions import DETAILED_PROMPT, SILENT
from pargo_mllm.data.preparation.data_set import DETAILED, DataSet, Need, Options, PreparationError
from pargo_mllm.data.preparation.entries import Entry, Skipped, turns
from pargo_mllm.data.preparation.llava_lists import records
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.sources.llava_records import TURNS, UnusableRecord
from pargo_mllm.data.sources.record_forms import as_llava

NO_PICTURE = "captions that name no picture"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a row."""
    names = [name for name in files.ending(".json", ".jsonl") if "/" not in name] or files.ending(".json", ".jsonl")
    if len(names) > 1:
        raise PreparationError(f"{files.root} has several lists: {', '.join(names[:5])}; one is read, take the others away.")
    yield from records(files.rows(names[0]), files.folder("images", ""), form=_as_llava)


def _as_llava(row: Any) -> Any:
    if not isinstance(row, dict) or "caption" not in row or any(key in row for key in TURNS):
        return as_llava(row)
    if not isinstance(row["caption"], str) or not row["caption"].strip():
        raise UnusableRecord(SILENT, "its caption says nothing, or is no text")
    if not isinstance(row.get("image"), str) or not row["image"]:
        raise UnusableRecord(NO_PICTURE, "its image is no name")
    said = turns([(DETAILED_PROMPT, row["caption"].strip())])
    return {"image": row["image"], "conversations": list(said)}


ALL = [
    DataSet(
        name="pargocap",
        title="ParGoCap-1M-PT",
        kind=DETAILED,
        about="detailed captions of LAION's pictures, whole and part by part; the form of the release is not published, and "
        "any list of {image, caption} or of LLaVA's records is read",
        needs=(
            Need("*.json", "one list of {image, caption} or LLaVA's records; or JSON Lines, *.jsonl", "arXiv 2408.12928"),
            Need("images/", "the pictures, as the list names them; or beside the list", "arXiv 2408.12928"),
        ),
        licence="not published",
        size="about 1,000,000 captions in the paper",
        entries=entries,
    )
]
