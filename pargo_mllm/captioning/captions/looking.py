"""Every picture is looked at before anything is paid: whether it can be used, what its content is, and how large it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from pargo_mllm.captioning.captions.sent_picture import content_bytes
from pargo_mllm.data.pictures import PictureError, read_header, stored_size
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.finishing import ONE_NAME, UNREADABLE
from pargo_mllm.data.preparation.picture_places import MAX_PICTURE, TOO_LARGE, PicturePlaces, suffix_of_format
from pargo_mllm.data.preparation.pieces import Piece
from pargo_mllm.files import whole_file

ANIMATED = "pictures of several frames"
# formats that are one to a viewer, and to a name
_SAME: dict[str | None, str] = {"MPO": "JPEG", "DIB": "BMP"}


@dataclass(frozen=True)
class Seen:
    """A picture that can be asked about.

    Args:
        digest: SHA-256 of its bytes.
        size: width and height as a viewer shows it.
        format: Pillow's name of its format.
    """

    digest: str
    size: tuple[int, int]
    format: str

    def fitting(self, name: str) -> str:
        """The picture's name, with the suffix of its content where it has another one, and a part of its digest then: a name
        that no other picture has.
        """
        stem, ending = os.path.splitext(name)
        meant = Image.registered_extensions().get(ending.lower())
        if _SAME.get(meant, meant) == _SAME.get(self.format, self.format):
            return name
        return f"{stem}-{self.digest[:12]}.{suffix_of_format(self.format)}"


@dataclass(frozen=True)
class Unusable:
    """A picture that cannot, and why; ``reason`` is the same for all of its kind."""

    reason: str
    detail: str


def look(piece: Piece) -> int:
    """Note what is known of a piece's pictures, unless it was noted. Returns how many entries it has."""
    entries = piece.entries()
    if not _noted(piece).exists():
        clashing = set(piece.clashing)
        places = PicturePlaces(piece, ())
        with whole_file(_noted(piece)) as aside, open(aside, "w", encoding="utf-8") as file:
            for number, entry in enumerate(entries):
                seen = Unusable(ONE_NAME, "") if number in clashing else _looked_at(entry, places)
                file.write(json.dumps({"kind": type(seen).__name__, **asdict(seen)}) + "\n")
    return len(entries)


def looked_at(piece: Piece) -> Iterator[tuple[Entry | Skipped, Seen | Unusable]]:
    """A piece's entries with what was noted of each."""
    with open(_noted(piece), encoding="utf-8") as lines:
        for entry, line in zip(piece.entries(), lines, strict=True):
            told = json.loads(line)
            if told.pop("kind") == Seen.__name__:
                yield entry, Seen(told["digest"], tuple(told["size"]), told["format"])
            else:
                yield entry, Unusable(**told)


def opened(entry: Entry, seen: Seen, places: PicturePlaces) -> bytes:
    """The bytes of a picture, which are those that were looked at.

    Raises:
        PictureError: if they are not, or cannot be read any more.
    """
    assert entry.picture is not None
    try:
        content = content_bytes(places.content(entry.picture))
    except OSError as error:
        raise PictureError(f"{entry.id} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != seen.digest:
        raise PictureError(f"{entry.id} is not what it was when this was begun")
    return content


def _looked_at(entry: Entry | Skipped, places: PicturePlaces) -> Seen | Unusable:
    if isinstance(entry, Skipped):
        return Unusable(entry.reason, "")
    assert entry.picture is not None
    try:
        content = places.content(entry.picture)
        if isinstance(content, Path) and content.stat().st_size > MAX_PICTURE:
            return Unusable(TOO_LARGE, "")
        (width, height), turn = stored_size(content, entry.id)
        content = content_bytes(content)
        header = read_header(io.BytesIO(content), entry.id)
        if header.is_animated:
            return Unusable(ANIMATED, "")
        digest = hashlib.sha256(content).hexdigest()
    except PictureError as error:
        return Unusable(getattr(error, "reason", UNREADABLE), str(error)[:500])
    except OSError as error:
        return Unusable(UNREADABLE, error.strerror or str(error))
    return Seen(digest, (height, width) if turn >= 5 else (width, height), header.format)


def _noted(piece: Piece) -> Path:
    return piece.work / f"looked-{piece.number:06d}.jsonl"
