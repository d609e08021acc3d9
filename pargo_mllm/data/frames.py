"""Boxes and the frames that their numbers are in.

A box is ``(x1, y1, x2, y2)``: the left upper and the right lower corner. The same box is written in different numbers by
different people, and no number tells whose they are: 0.4 and 320 and 500 may be one place. So every box has a declared frame.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Box = tuple[float, float, float, float]
Size = tuple[float, float]

#: by name: what its numbers count
FRAMES = {
    "picture": "0...1 of the picture's width and height",
    "pixels": "pixels of the picture",
    "padded": "0...1 of the square that the picture lies in the middle of, as LLaVA pads it",
    "thousand": "0...1000 of the picture's width and height",
}
#: what training writes
TRAINING = "picture"

_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
# [x1,y1,x2,y2], and Qwen-VL's (x1,y1),(x2,y2)
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]|\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
# with more digits than a number can need, a text is no box; the scan over it stays linear
_DIGITS = re.compile(r"\d{40,}")


def convert(box: Sequence[float], source: str, target: str, size: Size) -> Box:
    """A box in another frame; nothing is rounded or clipped.

    Args:
        source, target: of :data:`FRAMES`.
        size: the picture's ``(width, height)`` in pixels, both above 0.
    """
    return _shift(box, _unit(target, size), _unit(source, size))


def _unit(frame: str, size: Size) -> tuple[float, float, float, float]:
    """Where the frame's 0 lies and how long its 1 is, in pixels: ``(left, top, width, height)``."""
    width, height = size
    if not (width > 0 and height > 0):
        raise ValueError(f"a picture of {width} x {height} pixels has no frame")
    side = max(width, height)
    units = {
        "picture": (0.0, 0.0, width, height),
        "pixels": (0.0, 0.0, 1.0, 1.0),
        "padded": ((width - side) / 2, (height - side) / 2, side, side),
        "thousand": (0.0, 0.0, width / 1000, height / 1000),
    }
    if frame not in units:
        raise ValueError(f"there is no frame {frame!r}, only {', '.join(FRAMES)}")
    return units[frame]


def _shift(box: Sequence[float], target: Sequence[float], source: Sequence[float]) -> Box:
    left, top, width, height = source
    to_left, to_top, to_width, to_height = target
    x1, y1, x2, y2 = box
    return (
        (x1 * width + left - to_left) / to_width,
        (y1 * height + top - to_top) / to_height,
        (x2 * width + left - to_left) / to_width,
        (y2 * height + top - to_top) / to_height,
    )


def from_xywh(box: Sequence[float]) -> Box:
    """COCO's ``(x, y, width, height)`` as corners."""
    x, y, width, height = box
    return (x, y, x + width, y + height)


def area(box: Sequence[float]) -> float:
    """Of a box; 0 for one whose corners are the wrong way round."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """What two boxes share of what they cover, 0...1; 0 where nothing is covered, or where a number is not finite."""
    shared = area((max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])))
    covered = area(first) + area(second) - shared
    if not math.isfinite(covered) or covered <= 0:
        return 0.0
    return shared / covered


def read_box(text: str) -> Box | None:
    """The first ``[x1,y1,x2,y2]``, or ``(x1,y1),(x2,y2)``, of a text, with or without spaces; None where there is none with
    finite numbers.

    ``[x1,y1,x2,y2,score]`` and ``(x1,y1,x2,y2)`` are none.
    """
    found = _BOX.search(_DIGITS.sub("", text))
    return None if found is None else _box_of(found)


def read_boxes(text: str) -> list[Box]:
    """All boxes of a text, as :func:`read_box` reads one."""
    found = (_box_of(one) for one in _BOX.finditer(_DIGITS.sub("", text)))
    return [box for box in found if box is not None]


def _box_of(found: re.Match[str]) -> Box | None:
    x1, y1, x2, y2 = (float(number) for number in found.groups() if number is not None)
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def write_box(box: Sequence[float]) -> str:
    """A box as training writes it: three decimals, no spaces."""
    return "[" + ",".join(f"{number:.3f}" for number in box) + "]"
