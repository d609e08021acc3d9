"""A picture as an endpoint is sent it, and how many tokens it will make of it."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

from PIL import Image

from pargo_mllm.data.pictures import load_picture, stored_size
from pargo_mllm.data.sources.opening import open_regular

# formats that every provider takes
_TAKEN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_QUALITY = 92
# what OpenAI's models make of a picture (platform.openai.com, "Calculating costs"): at detail "low" the base alone; otherwise
# it is scaled down to fit in a square, then to a shorter side, and each tile that it touches is added
_BASE, _TILE, _SQUARE, _SHORTER, _TILE_SIDE = 85, 170, 2048, 768, 512


def content_bytes(content: Path | bytes) -> bytes:
    """The bytes of a picture.

    Raises:
        OSError: if the file cannot be read, or is none.
    """
    if isinstance(content, bytes):
        return content
    with open_regular(content) as opened:
        return opened.readall() or b""


def data_url(content: bytes, name: str, max_side: int) -> str:
    """A picture as a ``data:`` URL: its own bytes where any model takes them as they are, and otherwise as a JPEG of what a
    viewer shows: upright, on white, the first frame, no side longer than ``max_side``.

    Raises:
        PictureError: for what is no usable picture; a picture is decoded whole, so half of one is none.
    """
    picture = load_picture(content, name)
    if not _is_taken(content, name, max_side):
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=_QUALITY)
        return _url("image/jpeg", written.getvalue())
    with Image.open(io.BytesIO(content)) as opened:
        return _url(_TAKEN[opened.format or ""], content)


def _is_taken(content: bytes, name: str, max_side: int) -> bool:
    size, turn = stored_size(content, name)
    with Image.open(io.BytesIO(content)) as opened:
        plain = opened.format in _TAKEN and opened.mode in ("RGB", "L") and not getattr(opened, "is_animated", False)
    return plain and turn == 1 and max(size) <= max_side


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sent_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Width and height as they are sent."""
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def picture_tokens(size: tuple[int, int], detail: str | None) -> int:
    """About how many tokens a picture of a size (width, height) takes of a prompt, by OpenAI's rule for tiles; what another
    endpoint makes of it is learned from its first answers.
    """
    if detail == "low":
        return _BASE
    width, height = size
    scale = min(1.0, _SQUARE / max(width, height))
    scale = min(scale, _SHORTER / min(width, height))
    across, down = (max(1, math.ceil(side * scale / _TILE_SIDE - 1e-9)) for side in (width, height))
    return _BASE + _TILE * across * down


def text_tokens(text: str) -> int:
    """About how many tokens a text takes: rather too many, a third of its bytes."""
    return math.ceil(len(text.encode("utf-8", "replace")) / 3)
