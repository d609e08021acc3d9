"""Small pictures for pages."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from pargo_mllm.data.pictures import FirstFrameWarning, PictureError, decode_picture, load_picture
from pargo_mllm.data.sources.opening import leads_out, open_regular
from pargo_mllm.validation.findings import PicturePlace

_SIDE = 320


def thumbnail(place: PicturePlace) -> bytes | None:
    """A small JPEG; None for what cannot be read, or lies outside of the data."""
    file, folder = Path(place.file), Path(place.folder)
    try:
        if leads_out(folder, file):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FirstFrameWarning)
            if place.place is None:
                shown_picture = load_picture(file)
            else:
                offset, size = place.place
                with open_regular(file) as opened:
                    opened.seek(offset)
                    shown_picture = decode_picture(opened.read(size), file.name)
        shown_picture.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        shown_picture.save(buffer, "JPEG", quality=80)
    except (OSError, ValueError, PictureError):
        return None
    return buffer.getvalue()
