"""The content of a picture, from wherever its set has it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.preparation.entries import Picture
from pargo_mllm.data.preparation.pieces import Piece
from pargo_mllm.data.sources.opening import leads_inside, named_file

MISSING = "pictures that are not there"
NOT_FETCHED = "pictures of which only an address is known (--fetch downloads them)"


class Unavailable(PictureError):
    """A picture that there is not; ``reason`` is the same for all of its kind."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def content_of(picture: Picture, piece: Piece) -> Path | bytes:
    """The file, or its bytes where it lies in another one.

    Raises:
        PictureError: if there is none.
    """
    return _KINDS[picture.kind](picture, piece)


def suffix_of(content: Path | bytes) -> str:
    """The suffix of a picture's format, by its content: "jpg", "png"…"""
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
        return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}.get(
            opened.format or "", (opened.format or "").lower()
        )


def _file(picture: Picture, piece: Piece) -> Path:
    name = picture.place[0]
    if not leads_inside(name):
        raise Unavailable("pictures whose names lead out of the folder", f"{name!r} leads out of {piece.source}")
    path = named_file(piece.source, name)
    if not path.exists():
        raise Unavailable(MISSING, f"{path} is not there")
    return path


_KINDS: dict[str, Callable[[Picture, Piece], Path | bytes]] = {"file": _file}
