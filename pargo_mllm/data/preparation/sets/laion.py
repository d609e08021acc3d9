"""Parquet as LAION writes it (addresses and texts), and as img2dataset and the hub do (with the pictures)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.data.preparation.captions import NO_ADDRESS, SILENT, captioned
from pargo_mllm.data.preparation.data_set import COARSE, DataSet, Need, Options, PreparationError
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.official_files import OfficialFiles, of_each
from pargo_mllm.data.sources.parquet_rows import Row, parquet_columns, parquet_rows
from pargo_mllm.data.sources.shard_samples import PICTURES

# names of columns, in any case
CAPTIONS = ("caption", "text", "top_caption", "alt_text")
ADDRESSES = ("url", "image_url")
CONTENTS = ("image", *PICTURES)
FAILED = "pictures that img2dataset could not download"


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a row of every parquet file.

    A picture is a column of bytes, or a file of img2dataset's beside the parquet file (``00000/000000012.jpg`` beside
    ``00000.parquet``), or an address. The width and height that LAION gives are those of what was found when it was made; what
    lies there now may be as good in another size, so they are not asked for.
    """
    yield from of_each(files.ending(".parquet"), partial(_rows, files))


def _rows(files: OfficialFiles, name: str) -> Iterator[Entry | Skipped]:
    path = files.container(name)
    columns = _Columns(path, files.root / name.removesuffix(path.suffix))
    for number, row in enumerate(parquet_rows(path, columns.wanted)):
        yield columns.entry(name, number, row)


class _Columns:
    """What the columns of a file are."""

    def __init__(self, path: Path, folder: Path):
        there = parquet_columns(path)
        caption = _first(there, CAPTIONS)
        self.address, self.content = _first(there, ADDRESSES), _first(there, CONTENTS)
        self.key, self.status = _first(there, ("key",)), _first(there, ("status",))
        self.has_files = self.key is not None and folder.is_dir()
        if caption is None:
            raise PreparationError(f"{path} has no column of captions ({', '.join(CAPTIONS)}); it has {', '.join(there[:12])}.")
        if self.content is None and self.address is None and not self.has_files:
            raise PreparationError(
                f"{path} has neither a column of pictures ({', '.join(CONTENTS[:4])}, …) nor one of addresses "
                f"({', '.join(ADDRESSES)}); it has {', '.join(there[:12])}."
            )
        if self.key and self.content is None and not self.has_files and folder.with_name(f"{folder.name}.tar").is_file():
            raise PreparationError(
                f"{path} only tells of {folder.name}.tar, which holds the pictures: prepare webdataset in place of laion."
            )
        self.caption = caption
        used = (self.caption, self.address, self.key, self.status)
        # pictures are read when they are used
        self.wanted = [column for column in used if column is not None]

    def entry(self, file: str, number: int, row: Row) -> Entry | Skipped:
        """The entry of a row, the ``number``-th of its file."""
        stem = file.rpartition(".")[0]
        key = row.values.get(self.key) if self.key else None
        id = f"{stem}/{key if isinstance(key, str) and key else f'{number:08d}'}"
        status = row.values.get(self.status) if self.status else None
        if status is not None and status != "success":
            return Skipped(id, FAILED)
        caption = row.values[self.caption]
        if not isinstance(caption, str):
            return Skipped(id, SILENT)
        picture = self._picture(file, stem, number, key, row)
        return Skipped(id, NO_ADDRESS) if picture is None else captioned(id, picture, caption)

    def _picture(self, file: str, stem: str, number: int, key: Any, row: Row) -> Picture | None:
        name = f"{stem}/{number:08d}.{{suffix}}"
        if self.content is not None:
            return Picture("parquet", (file, row.group, row.number, self.content), name)
        if self.has_files:
            return Picture("file", (f"{stem}/{key}.jpg",), name) if isinstance(key, str) else None
        address = row.values[self.address] if self.address else None
        return Picture("url", (address.strip(),), name) if isinstance(address, str) and address.strip() else None


def _first(there: Sequence[str], known: Sequence[str]) -> str | None:
    folded = {column.lower(): column for column in reversed(there)}
    return next((folded[name] for name in known if name in folded), None)


ALL = [
    DataSet(
        name="laion",
        title="LAION (parquet)",
        kind=COARSE,
        about="texts beside pictures of the web: any parquet with a column of captions and one of addresses or pictures",
        needs=(Need("*.parquet", "URL and TEXT, or what img2dataset made of them", "https://laion.ai/projects/"),),
        licence="texts and addresses CC BY 4.0; each picture belongs to its owner. LAION-5B was withdrawn for Re-LAION-5B",
        size="as many rows as the part that was downloaded; the pictures are fetched, or lie in it",
        entries=entries,
    )
]
