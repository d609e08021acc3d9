"""What is drawn on a picture's stored pixels, on the upright picture, as it is loaded."""

from __future__ import annotations

from collections.abc import Callable

from pargo_mllm.data.frames import Box
from pargo_mllm.data.regions import Outline, Pixels, Runs, Shape
from pargo_mllm.data.sources.run_lengths import counts_of

Turn = Callable[[float, float, float, float], Box]
# EXIF's turns by a quarter, as what becomes of (left, top, right, bottom)
TURNS: dict[int, Turn] = {
    5: lambda left, top, right, bottom: (top, left, bottom, right),
    6: lambda left, top, right, bottom: (1 - bottom, left, 1 - top, right),
    7: lambda left, top, right, bottom: (1 - bottom, 1 - right, 1 - top, 1 - left),
    8: lambda left, top, right, bottom: (top, 1 - right, bottom, 1 - left),
}


def quarter(said: tuple[float, float], stored: tuple[int, int], orientation: int) -> int | None:
    """The turn that brings what a set says to the upright picture, one of :data:`TURNS`; None where it is upright already.

    Where EXIF turns the picture by a quarter, the width and height that the set says of it tell whether its boxes refer to the
    stored pixels. Where both readings have the same shape (mirrored, upside down, square), they are taken for what an annotator
    sees: upright.

    Args:
        said: width and height, as the set says them.
        stored: those of the pixels in the file.
        orientation: EXIF's, 1 to 8.
    """
    is_square = said[0] == said[1] or stored[0] == stored[1]
    is_stored = (said[0] > said[1]) == (stored[0] > stored[1])
    return orientation if orientation in TURNS and is_stored and not is_square else None


def turned(shape: Shape, turn: int) -> Shape:
    """A shape on the stored pixels as one on the upright picture."""
    if isinstance(shape, Outline):
        polygons = tuple(tuple(TURNS[turn](x, y, x, y)[:2] for x, y in polygon) for polygon in shape.polygons)
        return Outline(polygons, 1 / shape.aspect)
    if isinstance(shape, (Pixels, Runs)):
        across = shape.pixels.T
        pixels = {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}[turn]
        return Runs(counts_of(pixels), (pixels.shape[0], pixels.shape[1]))
    return TURNS[turn](*shape)
