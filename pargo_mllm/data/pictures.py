"""Opening pictures that strangers made: files, their bytes, arrays, and what Pillow holds already."""

from __future__ import annotations

import base64
import io
import ipaddress
import os
import re
import socket
import stat
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from pargo_mllm.data.fetching import is_public
from pargo_mllm.data.pixels import BROKEN, as_shown, channels_last, from_array, orientation
from pargo_mllm.errors import UserError

MIN_SIDE = 4
MAX_PIXELS = 64_000_000
# of a file, bytes: so many pixels of four channels of 16 bits, not compressed
MAX_BYTES = 2**29
# of a picture that is fetched, in bytes, and how long a server may say nothing, in seconds
MAX_FETCHED = 2**28
FETCH_TIMEOUT = 30
# a JPEG's scans are each drawn over the whole picture; cameras and encoders write ten or so
MAX_SCANS = 64
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_SCAN, _END = b"\xda", b"\xd9"
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# their frames are times or pages; others hold the same picture in other sizes
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF", "FLI", "DCX")
# what Pillow has another program draw (Ghostscript)
_DRAWN_ELSEWHERE = ("EPS",)
_KINDS = (
    (stat.S_ISDIR, "directory"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


_T = TypeVar("_T")


class PictureError(UserError):
    """A file that is no usable picture; the message says why."""


class FirstFrameWarning(UserWarning):
    """Of an animation, or of a file of several pages, the first frame alone is taken."""


def load_picture(source: Any, name: str | os.PathLike | None = None) -> Image.Image:
    """The RGB picture in ``source``, as a viewer shows it: see :func:`pargo_mllm.data.pixels.as_shown`.

    Args:
        source: a file; its bytes; a Pillow picture of any mode; an array or a tensor
            (:func:`pargo_mllm.data.pixels.from_array`). Text is a file's name, an ``http(s)://`` or ``data:`` URL, or base64.
            A URL is fetched from wherever its server is, this machine too, for whoever gives one means it; a redirect leads on
            over http or https alone, and from a public server to public ones. Data is not read from URLs.
        name: what errors call it.

    Raises:
        PictureError: if it is missing, is no regular file, is no picture, is damaged, is narrower than :data:`MIN_SIDE` pixels
            or holds more than :data:`MAX_PIXELS`, or more than :data:`MAX_BYTES`; and for a source of another kind.
    """
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if isinstance(source, np.ndarray):
        return _read(_decode_array, source, name or "an array")
    if isinstance(source, Image.Image):
        return _read(_show, source, name or getattr(source, "filename", "") or "a picture")
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(len(source), name or "a picture")
        return _read(_decode, io.BytesIO(source), name or "a picture")
    if isinstance(source, str):
        return _from_text(source, name)
    if isinstance(source, os.PathLike):
        return _from_file(source, name or source)
    raise PictureError(
        f"{name or 'a picture'} is a {type(source).__name__}; give a file, its bytes, a PIL picture, an array or a tensor."
    )


def decode_picture(content: bytes, name: str) -> Image.Image:
    """The RGB picture that the bytes of a file hold; ``name`` is what errors call it.

    Raises:
        PictureError: as :func:`load_picture`.
    """
    return load_picture(content, name)


def content_of_url(url: str, name: str | os.PathLike | None = None) -> bytes:
    """The bytes of a file that a ``data:`` URL holds; ``name`` is what errors call it.

    Raises:
        PictureError: if it holds none.
    """
    head, _, content = url.partition(",")
    if head.startswith("data:") and head.endswith(";base64") and (decoded := _from_base64(content)) is not None:
        return decoded
    raise PictureError(f"{name or f'{url[:40]}…'} is no URL of the form data:image/...;base64,...")


def stored_size(source: str | os.PathLike | bytes, name: str | os.PathLike | None = None) -> tuple[tuple[int, int], int]:
    """Width and height of the pixels as a file, or its bytes, hold them, and how they are turned: EXIF's orientation, 1
    (upright) to 8.

    Nothing is decoded, but in a PNG, whose tags may stand behind its pixels.

    Args:
        name: what errors call it.

    Raises:
        PictureError: as :func:`load_picture`.
    """

    def read(source, name):
        if isinstance(source, bytes):
            _check_bytes(len(source), name)
        else:
            check_regular(source)
        with _open(io.BytesIO(source) if isinstance(source, bytes) else source, name) as picture:
            check_size(picture.size, name)
            width, height = picture.size
            turn = orientation(picture)
            # Pillow gives a TIFF's size upright
            return ((height, width) if picture.format == "TIFF" and turn >= 5 else (width, height)), turn

    return _read(read, source, name or ("a picture" if isinstance(source, bytes) else source))


def upright_size(source: str | os.PathLike | bytes, name: str | os.PathLike | None = None) -> tuple[int, int]:
    """Width and height of a picture as it is loaded. See :func:`stored_size`."""
    return turned_size(*stored_size(source, name))


def turned_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The upright width and height of what :func:`stored_size` gives."""
    return (stored[1], stored[0]) if orientation >= 5 else stored


@dataclass(frozen=True)
class Header:
    """What the head of a picture's file says: Pillow's name of the format, the pixels' ``(width, height)`` as they are stored,
    and whether it holds several frames, of which the first is taken.
    """

    format: str
    size: tuple[int, int]
    is_animated: bool


def read_header(source: IO[bytes], name: str | os.PathLike) -> Header:
    """What the head of an opened file says; no pixel is decoded.

    Raises:
        PictureError: if it is of no format that can be read, or its head is damaged; its size may be any.
    """

    def read(source, name):
        with _open(source, name) as picture:
            return Header(picture.format, picture.size, _is_first_of_several(picture))

    return _read(read, source, name)


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


def check_regular(path: str | os.PathLike) -> None:
    """Refuse what is no regular file, for opening a FIFO or a device may wait for ever, and what is larger than
    :data:`MAX_BYTES`.

    Raises:
        PictureError: naming what it is.
        OSError: if it is missing.
        ValueError: if no file can have that name.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for test, kind in _KINDS if test(status.st_mode)), "special file")
        raise PictureError(f"{path} cannot be read as a picture: it is a {kind}, no regular file.")
    _check_bytes(status.st_size, path)


def _check_bytes(size: int, name: str | os.PathLike) -> None:
    if size > MAX_BYTES:
        raise PictureError(f"{name} has {size:,} bytes; at most {MAX_BYTES:,} are read as a picture.")


def _from_text(text: str, name: str | os.PathLike | None) -> Image.Image:
    if text.startswith(("http://", "https://")):
        return load_picture(_fetched(text), name or text)
    if text.startswith("data:"):
        return load_picture(content_of_url(text, name), name or f"the picture in {text[:40]}…")
    # no picture is smaller, and few names are longer and hold nothing else
    if len(text) >= 40 and not _exists(text) and (decoded := _from_base64(text)) is not None:
        return load_picture(decoded, name or f"the base64 text {text[:40]}…")
    return _from_file(Path(text), name or text)


def _exists(text: str) -> bool:
    try:
        return os.path.lexists(text)
    except ValueError:
        return False


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True) or None
    except ValueError:
        return None


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.build_opener(_Redirects).open(url, timeout=FETCH_TIMEOUT) as answer:
            content: bytes = answer.read(MAX_FETCHED + 1)
    # http.client raises errors of its own beside OSError's
    except Exception as error:
        raise PictureError(f"{url} cannot be fetched: {error}") from error
    if len(content) > MAX_FETCHED:
        raise PictureError(f"{url} is larger than {MAX_FETCHED:,} bytes, the most that is fetched.")
    return content


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A server sends nobody to files, to other protocols, or from outside into a private network."""

    def redirect_request(self, request, file, code, message, headers, address):
        is_allowed = urlsplit(address).scheme in ("http", "https") and (_is_public(address) or not _is_public(request.full_url))
        if not is_allowed:
            raise HTTPError(request.full_url, code, f"it redirects to {address}, where nothing is fetched", headers, file)
        return super().redirect_request(request, file, code, message, headers, address)


def _is_public(address: str) -> bool:
    """Whether every machine of an address is one of the public network; one that nobody knows is none of a private one."""
    host = urlsplit(address).hostname or ""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    return all(is_public(ipaddress.ip_address(str(place[4][0]).partition("%")[0])) for place in found)


def _from_file(path: str | os.PathLike, name: str | os.PathLike) -> Image.Image:
    def read(path, name):
        check_regular(path)
        return _decode(path, name)

    return _read(read, path, name)


def _read(how: Callable[[Any, str | os.PathLike], _T], source: Any, name: str | os.PathLike) -> _T:
    try:
        with warnings.catch_warnings():
            # of sizes, which are checked here before any pixel is decoded, and of broken tags, which a viewer ignores too
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # an ICO is decoded as it is opened, and holds a picture of another size than it says
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            return how(source, name)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        told = re.search(r"\((\d+) pixels\)", str(error))
        held = f"{int(told[1]):,}" if told else "too many"
        raise PictureError(f"{name} holds {held} pixels; at most {MAX_PIXELS:,} are read: scale it down.") from error
    # Pillow's AVIF and DDS readers raise RuntimeError
    except BROKEN as error:
        raise PictureError(f"{name} cannot be read as a picture: {error}") from error


def _decode(source: Any, name: str | os.PathLike) -> Image.Image:
    with _open(source, name) as picture:
        return _show(picture, name)


def _open(source: Any, name: str | os.PathLike) -> Image.Image:
    """What Pillow opens without another program's help."""
    Image.init()
    try:
        return Image.open(source, formats=[form for form in Image.ID if form not in _DRAWN_ELSEWHERE])
    # what it says names where in memory bytes lie
    except Image.UnidentifiedImageError as error:
        _refuse_drawn_elsewhere(source, name)
        raise PictureError(f"{name} cannot be read as a picture: it is of no format that can be read, or damaged.") from error


def _refuse_drawn_elsewhere(source: Any, name: str | os.PathLike) -> None:
    if hasattr(source, "read"):
        source.seek(0)
        begins = source.read(16)
    else:
        with open(source, "rb") as file:
            begins = file.read(16)
    for form in _DRAWN_ELSEWHERE:
        accepts = Image.OPEN[form][1] if form in Image.OPEN else None
        if accepts is not None and accepts(begins):
            raise _drawn_elsewhere(form, name)


def _drawn_elsewhere(form: str, name: str | os.PathLike) -> PictureError:
    return PictureError(
        f"{name} cannot be read as a picture: it is {form}, which takes another program to draw, and none is run here; "
        "save it as PNG or JPEG."
    )


def _decode_array(array: np.ndarray, name: str | os.PathLike) -> Image.Image:
    pixels = channels_last(array)
    check_size((pixels.shape[1], pixels.shape[0]), name)
    return from_array(pixels)


def _show(picture: Image.Image, name: str | os.PathLike) -> Image.Image:
    check_size(picture.size, name)
    # one that its owner has drawn already has no tiles to draw
    if picture.format in _DRAWN_ELSEWHERE and getattr(picture, "tile", None):
        raise _drawn_elsewhere(picture.format, name)
    _check_work(picture, name)
    if _is_first_of_several(picture):
        _say_first_frame(str(name))
    return as_shown(picture)


def _check_work(picture: Image.Image, name: str | os.PathLike) -> None:
    """Refuse a file that takes far more to decode than its size says."""
    tags: Any = getattr(picture, "tag_v2", None) if picture.format == "TIFF" else None
    if tags is not None:
        width, height = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
        if width * height > MAX_PIXELS:
            raise PictureError(f"{name} has tiles of {width} x {height} pixels; at most {MAX_PIXELS:,} are read.")
    file = getattr(picture, "fp", None)
    if picture.format in ("JPEG", "MPO") and file is not None:
        place = file.tell()
        file.seek(0)
        scans = _scans(file.read())
        file.seek(place)
        if scans > MAX_SCANS:
            raise PictureError(f"{name} has {scans:,} scans; at most {MAX_SCANS} are read: save it again.")


def _scans(content: bytes) -> int:
    """Of a JPEG itself: not of a thumbnail in its head, nor of what a telephone appends behind its end."""
    place, scans = 2, 0
    while (found := _MARKER.search(content, place)) and found[1] != _END:
        scans += found[1] == _SCAN
        # a segment says how long it is
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return scans


def _is_first_of_several(picture: Image.Image) -> bool:
    try:
        return picture.format in _ANIMATED and getattr(picture, "is_animated", False) and picture.tell() == 0
    except BROKEN:
        return False


# once a picture, however often it is opened
@lru_cache(maxsize=10_000)
def _say_first_frame(name: str) -> None:
    warnings.warn(f"{name} has several frames; the first is taken.", FirstFrameWarning, stacklevel=2)
