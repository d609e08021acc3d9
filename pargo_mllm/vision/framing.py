"""Which part of a picture an image processor shows the encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Part = tuple[float, float, float, float]
# width and height of a wide picture, and of a high one
OBLONG = ((128, 32), (32, 128))
SQUARE = ((64, 64),)
# of a side; a ramp has steps
_EXACT = 0.02
# what a processor makes of them is no picture, or too large a one, or it takes no other size
_NO_PICTURES = (AttributeError, LookupError, MemoryError, TypeError, ValueError)


def seen_part(image_processor: Any, width: int, height: int) -> Part:
    """The part of a picture of ``width x height`` pixels that the encoder sees: left, top, right, bottom as shares of width and
    height. Beyond 0...1 where the picture is padded.

    Any image processor of transformers is asked what it does, with pictures whose colours are their coordinates.
    """
    across, down = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    shares = np.stack((across, down, np.ones_like(across)), axis=-1)
    black, white, given = (_given(image_processor, pixels) for pixels in (0 * shares, np.ones_like(shares), shares))
    # what is beside the picture is of one colour, whatever the picture's
    shown = np.ma.masked_array(given - black, white == black) / np.ma.masked_array(white - black, white == black)
    left, right = _ends(shown[0].mean(axis=0))
    top, bottom = _ends(shown[1].mean(axis=1))
    return left, top, right, bottom


def smallest_part(image_processor: Any, sizes: tuple[tuple[int, int], ...] = OBLONG) -> float:
    """The smallest share of a picture's width or height, of some sizes, that the encoder sees; 1 where nothing is cut off.

    1 too for a processor that gives the encoder no pictures, of which nothing can be told.
    """
    try:
        parts = [seen_part(image_processor, *size) for size in sizes]
    except _NO_PICTURES:
        return 1.0
    sides = [min(end, 1) - max(start, 0) for left, top, right, bottom in parts for start, end in ((left, right), (top, bottom))]
    return 1.0 if min(sides) > 1 - _EXACT else min(sides)


def given_side(image_processor: Any) -> int | None:
    """How many pixels wide is what the encoder gets of a square picture; None where it gets no pictures."""
    try:
        return int(_given(image_processor, np.zeros((64, 64, 3))).shape[-1])
    except _NO_PICTURES:
        return None


def stretched(image_processor: Any, side: int | None = None) -> Any:
    """The image processor itself where it shows the encoder whole pictures, all of one square size; else one like it that
    stretches them to that size.

    Args:
        side: of the encoder's pictures in pixels; the size that the image processor gives when None.

    Raises:
        ValueError: if it cannot.
    """
    own = given_side(image_processor)
    side = own if side is None else side
    if own == side and _is_square_and_whole(image_processor):
        return image_processor
    options = {"do_resize": True, "do_center_crop": False, "size": {"height": side, "width": side}}
    try:
        whole = type(image_processor).from_dict({**image_processor.to_dict(), **options})
        if given_side(whole) == side and _is_square_and_whole(whole):
            return whole
    except _NO_PICTURES:
        pass
    raise ValueError(
        f"{type(image_processor).__name__} shows the encoder parts of pictures, or other shapes than squares of its size, "
        f"and takes no {options}; give another one, such as SiglipImageProcessorPil(size={options['size']}) with its "
        "image_mean and image_std, or keep it with framing='crop'."
    )


def _is_square_and_whole(image_processor: Any) -> bool:
    shapes = {_given(image_processor, np.zeros((height, width, 3))).shape for width, height in OBLONG}
    return len(shapes) == 1 and smallest_part(image_processor) == 1


def _given(image_processor: Any, pixels: np.ndarray) -> np.ndarray:
    """What the encoder gets of a picture in 0...1."""
    picture = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    return np.asarray(image_processor(picture)["pixel_values"][0], dtype=float)


def _ends(positions: np.ma.MaskedArray) -> tuple[float, float]:
    """Where a line of pixels begins and ends, from the positions that its pixels show."""
    places = np.arange(len(positions)) + 0.5
    # not what resampling makes of the border
    inside = np.ma.filled((positions > 0.05) & (positions < 0.95), False)
    slope, start = np.polyfit(places[inside], positions[inside], 1)
    return float(start), float(start + slope * len(positions))
