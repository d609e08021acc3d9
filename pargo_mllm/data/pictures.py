"""Opening picture files that strangers made."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

from PIL import Image

from pargo_mllm.errors import UserError

MIN_SIDE = 4
MAX_PIXELS = 64_000_000


class PictureError(UserError):
    """A file that is no usable picture; the message says why."""


def load_picture(path: str | os.PathLike) -> Image.Image:
    """The RGB picture in a file.

    Raises:
        PictureError: if the file is missing, is no picture, is damaged, is narrower than :data:`MIN_SIDE` pixels or holds
            more than :data:`MAX_PIXELS`.
    """
    return _read(path, path)


def decode_picture(content: bytes, name: str) -> Image.Image:
    """The RGB picture that the bytes of a file hold; ``name`` is what errors call it.

    Raises:
        PictureError: as :func:`load_picture`.
    """
    return _read(io.BytesIO(content), name)


def check_size(size: tuple[int, int], name: str | os.PathLike) -> None:
    """Refuse a picture of ``size`` (width, height) that is too small or too large.

    Raises:
        PictureError: if a side is under :data:`MIN_SIDE` pixels, or there are more than :data:`MAX_PIXELS`.
    """
    width, height = size
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"{name} is {width} x {height} pixels; a picture needs at least {MIN_SIDE} x {MIN_SIDE}.")
    if width * height > MAX_PIXELS:
        raise PictureError(f"{name} is {width} x {height} pixels; at most {MAX_PIXELS:,} are read: scale it down.")


def _read(source: Any, name: str | os.PathLike) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # the size is checked here, before any pixel is decoded
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _decode(source, name)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name} holds too many pixels; at most {MAX_PIXELS:,} are read: scale it down.") from error
    # Pillow's AVIF and DDS readers raise RuntimeError
    except (OSError, SyntaxError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise PictureError(f"{name} cannot be read as a picture: {error}") from error


def _decode(source: Any, name: str | os.PathLike) -> Image.Image:
    with Image.open(source) as picture:
        check_size(picture.size, name)
        return picture.convert("RGB")
