"""A phrase and the box that it describes: one turn, at random from phrase to box or from box to phrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pargo_mllm.data.frames import Box, convert, from_xywh, read_box, write_box
from pargo_mllm.data.preparation.data_set import Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, chance, turns

WHERE = "Please provide the bounding box coordinate of the region this sentence describes: {phrase}"
# a box may leave its picture by so many pixels, for numbers begin at 0 or at 1, and are rounded; it is cut off there
SLACK = 1.0
NO_PHRASE = "regions without a phrase"
NO_BOX = "regions whose box is no four numbers"
NO_SIZE = "regions of a picture whose size is not told"
NO_AREA = "regions whose box is reversed or covers nothing"
OUTSIDE = "regions whose box leaves the picture by more than a pixel"
TOO_THIN = "regions whose box covers nothing once its numbers are written"


@dataclass(frozen=True)
class Region:
    """What a set says of one.

    Args:
        id: of its own.
        phrase: what is there.
        box: COCO's ``(x, y, width, height)`` in pixels of the picture; empty where it is none.
        size: the picture's width and height in pixels; 0 where they are not told.
        picture: where it lies.
    """

    id: str
    phrase: str
    box: Sequence[float]
    size: tuple[int, int]
    picture: Picture


def region_entry(region: Region, name: str, describe: str, options: Options) -> Entry | Skipped:
    """A region's turn.

    Args:
        name: of the set; what is left to chance depends on it.
        describe: what is asked where the phrase is the answer; ``{box}`` stands for the box.
    """
    if not region.phrase:
        return Skipped(region.id, NO_PHRASE)
    if not all(region.size):
        return Skipped(region.id, NO_SIZE)
    box = _inside(region.box, region.size)
    if isinstance(box, str):
        return Skipped(region.id, box)
    told = write_box(convert(box, "pixels", options.frame, region.size), options.frame)
    read = read_box(told)
    if read is None or not (read[0] < read[2] and read[1] < read[3]):
        return Skipped(region.id, TOO_THIN)
    if chance(options.seed, name, region.id).random() < 0.5:
        pair = (WHERE.replace("{phrase}", region.phrase), told)
    else:
        pair = (describe.replace("{box}", told), region.phrase)
    return Entry(region.id, region.picture, turns([pair]), region.size, options.frame)


def _inside(xywh: Sequence[float], size: tuple[int, int]) -> Box | str:
    """The box as corners in the picture, or why it cannot be one."""
    if len(xywh) != 4:
        return NO_BOX
    if not (xywh[2] > 0 and xywh[3] > 0):
        return NO_AREA
    x1, y1, x2, y2 = from_xywh(xywh)
    width, height = size
    if min(x1, y1, width - x2, height - y2) < -SLACK:
        return OUTSIDE
    box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    return box if box[0] < box[2] and box[1] < box[3] else NO_AREA
