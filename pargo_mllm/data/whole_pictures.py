"""Whether the file of a picture is whole, from its head and its last bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pargo_mllm.data.pictures import FirstFrameWarning, load_picture, read_header
from pargo_mllm.data.sources.opening import open_regular

# Pillow's names of what goes by the same endings
SAME: Mapping[str, str] = {"MPO": "JPEG", "DIB": "BMP"}
# what a whole file of a format ends with, within so many bytes
_ENDS: Mapping[str, tuple[bytes, int]] = {"JPEG": (b"\xff\xd9", 2), "PNG": (b"IEND\xaeB`\x82", 8), "GIF": (b";", 1)}


def ends_well(file: IO[bytes], size: int, form: str) -> bool:
    """Whether the last bytes are those of a whole file; only a hint: cameras write behind the end.

    Args:
        size: of the file, in bytes.
        form: Pillow's name of its format.
    """
    form = SAME.get(form, form)
    if form == "WEBP":
        file.seek(4)
        return int.from_bytes(file.read(4), "little") + 8 <= size
    if form not in _ENDS:
        return True
    end, length = _ENDS[form]
    file.seek(max(0, size - length))
    return file.read(length) == end


def check_whole(content: Path | bytes, name: str) -> None:
    """Refuse a picture of which a part is missing. Pixels are decoded only where its last bytes are not those of a whole file.

    Raises:
        PictureError: if they cannot be decoded.
        OSError: if the file cannot be read.
    """
    with io.BytesIO(content) if isinstance(content, bytes) else io.BufferedReader(open_regular(content)) as file:
        form = read_header(file, name).format
        if ends_well(file, file.seek(0, io.SEEK_END), form):
            return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FirstFrameWarning)
        load_picture(content, name)
