"""What can be wrong with the file of a picture; from its head and its last bytes, unless every pixel is to be looked at."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from PIL import Image

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.pictures import (
    FirstFrameWarning,
    Header,
    PictureError,
    check_size,
    decode_picture,
    load_picture,
    read_header,
)
from pargo_mllm.data.sources.opening import leads_out
from pargo_mllm.data.whole_pictures import SAME, ends_well
from pargo_mllm.validation.samples import SamplePicture


@dataclass(frozen=True)
class Look:
    """What was seen of a picture.

    Args:
        found: kinds and details of what is wrong.
        header: None where it cannot be read.
        bytes: of its file.
    """

    found: tuple[tuple[str, str], ...]
    header: Header | None = None
    bytes: int = 0


def look_at(picture: SamplePicture, decode: bool) -> Look:
    """Look at a picture's file.

    Args:
        decode: decode its pixels too.
    """
    try:
        with picture.opened() as (file, size):
            if not size:
                return Look((("picture_empty", shown(picture.name)),))
            return _looked(picture, file, size, decode)
    except (OSError, ValueError) as error:
        return Look(((_why(error, picture.file), f"{shown(picture.name)}: {_said(error)}"),))


def _why(error: Exception, file: Path) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return "picture_missing"
    return "picture_special" if os.path.exists(file) and not os.path.isfile(file) else "picture_broken"


def _said(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else shown(str(error))


def _looked(picture: SamplePicture, file: IO[bytes], size: int, decode: bool) -> Look:
    name = shown(picture.name)
    try:
        header = read_header(file, name)
    except PictureError as error:
        # a bomb is refused by its head
        is_huge = isinstance(error.__cause__, Image.DecompressionBombError)
        return Look((("picture_huge" if is_huge else "picture_broken", f"{error}"),), None, size)
    found = []
    try:
        check_size(header.size, name)
    except PictureError as error:
        side = min(header.size)
        return Look((("picture_huge" if side >= 4 else "picture_small", f"{error}"),), header, size)
    if header.is_animated:
        found.append(("picture_animated", name))
    found += _named(picture.name, header.format)
    if decode or not ends_well(file, size, header.format):
        found += _decoded(picture, file, name)
    return Look(tuple(found), header, size)


def _named(name: str, form: str) -> list[tuple[str, str]]:
    ending = os.path.splitext(name)[1].lower()
    if not ending:
        return []
    meant = _endings().get(ending)
    if meant is None:
        return [("wrong_extension", f"{shown(name)} is {form}")]
    if SAME.get(meant, meant) != SAME.get(form, form):
        return [("mislabelled", f"{shown(name)} is {form}")]
    return []


@lru_cache(maxsize=1)
def _endings() -> Mapping[str, str]:
    Image.init()
    return Image.registered_extensions()


def _decoded(picture: SamplePicture, file: IO[bytes], name: str) -> list[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FirstFrameWarning)
            if picture.is_file:
                load_picture(picture.file, name)
            else:
                file.seek(0)
                decode_picture(file.read(), name)
    except PictureError as error:
        is_short = any(word in str(error) for word in ("truncated", "not processed", "unexpected end"))
        return [("picture_truncated" if is_short else "picture_broken", f"{error}")]
    return []


def links_out(folder: Path, file: Path) -> bool:
    """:func:`pargo_mllm.data.sources.opening.leads_out`, asked once of all files of a folder that are no links."""
    if os.path.islink(file):
        return leads_out(folder, file)
    return _folder_leads_out(os.fspath(folder), os.path.dirname(file))


@lru_cache(maxsize=65536)
def _folder_leads_out(folder: str, inside: str) -> bool:
    return leads_out(folder, inside)
