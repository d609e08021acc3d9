"""The content of a picture, from wherever its set has it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.preparation.entries import Picture
from pargo_mllm.data.preparation.fetched import fetch_all
from pargo_mllm.data.preparation.pieces import Piece
from pargo_mllm.data.sources.opening import leads_inside, link_leads_out, named_file, open_regular
from pargo_mllm.data.sources.parquet_rows import Row, parquet_rows

# bytes
MAX_PICTURE = 2**28
MISSING = "pictures that are not there"
OUTSIDE = "pictures whose names lead out of the folder"
LINKED_OUT = "pictures that are links out of the folder"
TOO_LARGE = f"pictures of more than {MAX_PICTURE:,} bytes"
EMPTY_CELL = "pictures of which the parquet file has no bytes"
NOT_FETCHED = "pictures of which only an address is known (--fetch downloads them)"


class Unavailable(PictureError):
    """A picture that there is not; ``reason`` is the same for all of its kind."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class PicturePlaces:
    """The places of a piece's pictures.

    Args:
        pictures: all that will be asked for, in that order; what must be fetched is fetched at once.
    """

    def __init__(self, piece: Piece, pictures: Iterable[Picture]):
        self.piece = piece
        self._column: _Column | None = None
        addresses = (picture.place[0] for picture in pictures if picture.kind == "url") if piece.fetch else ()
        self._fetched = fetch_all(addresses, piece.work / "fetched", piece.may_connect)

    def content(self, picture: Picture) -> Path | bytes:
        """The file, or its bytes where it lies in another one.

        Raises:
            PictureError: if there is none.
        """
        kinds: dict[str, Callable[..., Path | bytes]] = {
            "file": self._file,
            "tar": self._in_tar,
            "parquet": self._in_parquet,
            "url": self._at_address,
        }
        try:
            return kinds[picture.kind](*picture.place)
        except OSError as error:
            raise PictureError(f"{picture.place[0]} cannot be read: {error.strerror or error}") from error

    def _file(self, name: str) -> Path:
        if not leads_inside(name):
            raise Unavailable(OUTSIDE, f"{name!r} leads out of {self.piece.source}")
        path = named_file(self.piece.source, name)
        if not path.exists():
            raise Unavailable(MISSING, f"{path} is not there")
        if link_leads_out(self.piece.source, path):
            raise Unavailable(LINKED_OUT, f"{path} is a link to {os.path.realpath(path)}")
        return path

    def _in_tar(self, name: str, offset: int, size: int) -> bytes:
        if size > MAX_PICTURE:
            raise Unavailable(TOO_LARGE, f"a picture in {name} has {size:,} bytes")
        with open_regular(named_file(self.piece.source, name)) as opened:
            return os.pread(opened.fileno(), size, offset)

    def _in_parquet(self, name: str, group: int, number: int, column: str) -> bytes:
        asked = (name, group, column)
        if self._column is None or not self._column.leads_to(asked, number):
            self._column = _Column(named_file(self.piece.source, name), asked)
        value = self._column.value(number)
        # the hub's datasets keep a picture as {bytes, path}
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes) or not content:
            raise Unavailable(EMPTY_CELL, f"{name}: row {number} of row group {group} has none in {column}")
        if len(content) > MAX_PICTURE:
            raise Unavailable(TOO_LARGE, f"{name}: row {number} of row group {group} has {len(content):,} bytes")
        return content

    def _at_address(self, address: str) -> Path:
        found = self._fetched.get(address, NOT_FETCHED)
        if isinstance(found, str):
            raise Unavailable(found, address)
        return found


class _Column:
    """A column of a row group, read forwards: a row group may hold more pictures than memory does."""

    def __init__(self, file: Path, asked: tuple[str, int, str]):
        self.asked = asked
        self._rows: Iterator[Row] = parquet_rows(file, [asked[2]], [asked[1]])
        self._next, self._value = 0, None

    def leads_to(self, asked: tuple[str, int, str], number: int) -> bool:
        """Whether a row lies before it, or is the last one that was read."""
        return asked == self.asked and number >= self._next - 1

    def value(self, number: int) -> Any:
        """What stands in a row."""
        while self._next <= number:
            row = next(self._rows, None)
            self._value = None if row is None else row.values[self.asked[2]]
            self._next += 1
        return self._value


def suffix_of(content: Path | bytes) -> str:
    """The suffix of a picture's format, by its content: "jpg", "png"…"""
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
        return suffix_of_format(opened.format or "")


def suffix_of_format(form: str) -> str:
    """The suffix of a format as Pillow calls it."""
    return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}.get(form, form.lower())
