"""What can be wrong with boxes in texts: each by itself, and all of a set by the frame that they are said to be in."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pargo_mllm.data.corpus import shown
from pargo_mllm.data.frames import FRAMES, Box, Size, convert, read_boxes
from pargo_mllm.validation.samples import Sample, turns_of

UNDECLARED = "none"
# shares of the picture, and pixels, that rounding may add; beyond so many times its end, numbers are no shares at all
_ROUNDING, _PIXEL, _SHARES = 0.0015, 1.0, 2.0
# a picture's own padding, of the square's side and on both sides together, from which a box can tell frames apart
_PADDED = 0.2
# sides of a picture so short that thousandths often lead beyond them as pixels
_SMALL = 800
# of a power of ten: counts are whole numbers
_MICRO = 1_000_000
_DECLARED = "declared/"
_NO_BOXES = (
    re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL),
    re.compile(r"(?:[\w\])]|=\s?)[\[(][^\[\]()]{0,200}[\])]"),
    re.compile(r"\[\s*\[[-+\d\s,\[\]]*\]\s*\]"),
)
# so many boxes, and shares of them, make a verdict
_ENOUGH, _MOST, _FEW = 30, 0.95, 0.5


def check_boxes(sample: Sample, default: str | None, size: Size | None, stored: Size | None) -> Counter[str]:
    """Note what is wrong with a sample's boxes; how they fit each frame, for :func:`verdicts`.

    Args:
        default: the frame where the record declares none.
        size: the upright picture's, in pixels, where it is known.
        stored: of its pixels as its file holds them.
    """
    record = sample.record or {}
    declared = record.get("frame")
    said = [turn.get("value") for turn in turns_of(record)] if sample.pictures else []
    texts = [text for text in said if isinstance(text, str) and ("[" in text or "(" in text)]
    boxes = [box for text in texts for box in read_boxes(_without_code(text, declared is not None))]
    given = said_size(record)
    if given is not None and stored is not None and given not in (stored, stored[::-1]):
        sample.add("size_differs", f"it says {_pixels(given)}, and the file has {_pixels(stored)}")
    if declared is not None and (not isinstance(declared, str) or declared not in FRAMES):
        sample.add("frame_unknown", f"frame is {shown(repr(declared), 60)}")
        return Counter()
    frame = declared if isinstance(declared, str) else default
    size = given or size
    counts: Counter[str] = Counter()
    if boxes and isinstance(declared, str):
        counts[f"{_DECLARED}{declared}"] = 1
    for box in boxes:
        counts += _fits(box, frame or UNDECLARED, size)
        problem = None if frame is None else _problem(box, frame, size)
        if problem is not None:
            sample.add(problem, f"{_written(box)} in {frame}" + (f", a picture of {_pixels(size)}" if size else ""))
    return counts


def declared_frames(counts: Mapping[str, int]) -> dict[str, int]:
    """Records whose boxes are declared to be in a frame, by frame."""
    told = {frame: counts.get(f"{_DECLARED}{frame}", 0) for frame in FRAMES}
    return {frame: count for frame, count in told.items() if count}


def verdicts(counts: Mapping[str, int]) -> list[str]:
    """What all boxes of a set say about the frames that they are said to be in; in words, where they contradict them."""
    said = []
    for frame in (*FRAMES, UNDECLARED):
        boxes = counts.get(f"{frame}/boxes", 0)
        if boxes < _ENOUGH:
            continue
        fits = {other: counts.get(f"{frame}/{other}", 0) for other in FRAMES}
        padded, telling = counts.get(f"{frame}/telling/padded", 0), counts.get(f"{frame}/telling", 0)
        better = [other for other in FRAMES if fits[other] >= _MOST * boxes]
        if frame != UNDECLARED and fits[frame] < _FEW * boxes and better:
            said.append(
                f"of {boxes:,} boxes said to be in {frame}, {fits[frame]:,} can be; {fits[better[0]]:,} can be in {better[0]}"
            )
        elif frame in ("picture", UNDECLARED) and telling >= _ENOUGH and padded == telling:
            said.append(
                f"none of {telling:,} boxes on pictures far from square lies in the padding of their square: numbers "
                f"{'said to be in picture' if frame == 'picture' else 'of no declared frame'} seem to be in padded"
            )
        exponent = counts.get(f"{frame}/small/chance", 0) // _MICRO
        small = counts.get(f"{frame}/small", 0)
        if frame == "thousand" and small >= _ENOUGH and counts.get(f"{frame}/small/pixels", 0) == small:
            said.append(
                f"none of {small:,} boxes said to be in thousand leads beyond its own picture's width and height in pixels; "
                f"of thousandths that happens by chance once in 10^{exponent:,}: they seem to be in pixels"
            )
    return said


def _without_code(text: str, is_declared: bool) -> str:
    """A text without what is written like a box and is none: code, an index or a call behind a letter, what is assigned; and,
    where boxes are only supposed to be there, rows of whole numbers in a matrix.
    """
    for none in _NO_BOXES[: 2 if is_declared else 3]:
        text = none.sub(" ", text)
    return text


def said_size(record: dict[str, Any]) -> Size | None:
    """The width and height that a record says its picture has; None where it says none."""
    width, height = record.get("width"), record.get("height")
    if all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < 1e9 for one in (width, height)):
        return (width, height)  # type: ignore[return-value]
    return None


def _problem(box: Box, frame: str, size: Size | None) -> str | None:
    """What is wrong with a box in a frame: a kind, or None."""
    x1, y1, x2, y2 = box
    high = max(box)
    if frame in ("picture", "padded") and high > 1 and not any(number % 1 for number in box):
        others = (other for other in ("pixels", "thousand") if x1 < x2 and y1 < y2 and _inside(box, other, size))
        return "box_frame" if any(others) else "box_unlikely"
    if frame in ("picture", "padded") and (high > _SHARES or min(box) < -_SHARES):
        return "box_frame"
    if frame in ("pixels", "thousand") and 0 < high <= 1 and any(number % 1 for number in box):
        return "box_frame"
    if x1 > x2 or y1 > y2:
        return "box_reversed"
    if not _inside(box, frame, size):
        if frame == "padded" and _inside(box, "picture", size):
            return "box_padding"
        return "box_outside"
    return "box_flat" if x1 == x2 or y1 == y2 else None


def _inside(box: Box, frame: str, size: Size | None) -> bool:
    if frame == "picture" or (frame == "padded" and size is None):
        return min(box) >= -_ROUNDING and max(box) <= 1 + _ROUNDING
    if frame == "thousand":
        return min(box) >= -1 and max(box) <= 1001
    if size is None:
        return min(box) >= -_PIXEL
    width, height = size
    if frame == "padded":
        left, top, right, bottom = convert(box, "padded", "pixels", size)
        slack = max(_PIXEL, _ROUNDING * max(size))
    else:
        left, top, right, bottom = box
        slack = _PIXEL
    ends = ((left, width), (right, width), (top, height), (bottom, height))
    return all(-slack <= number <= end + slack for number, end in ends)


def _fits(box: Box, frame: str, size: Size | None) -> Counter[str]:
    """One box, counted: in which frames it can be."""
    if size is None or min(size) <= 0:
        return Counter()
    counts = Counter({f"{frame}/boxes": 1})
    for other in FRAMES:
        shares = other in ("picture", "padded")
        if _inside(box, other, size) and (shares or not 0 < max(box) <= 1):
            counts[f"{frame}/{other}"] = 1
    if 1 - min(size) / max(size) >= _PADDED and counts[f"{frame}/picture"]:
        counts[f"{frame}/telling"] = 1
        counts[f"{frame}/telling/padded"] = counts[f"{frame}/padded"]
    if frame == "thousand" and min(size) <= _SMALL and max(box) > 1:
        # thousandths lie on either side of the picture's shorter side, less often than evenly
        counts[f"{frame}/small"] = 1
        counts[f"{frame}/small/pixels"] = counts[f"{frame}/pixels"]
        counts[f"{frame}/small/chance"] = int((3 - math.log10(min(size))) * _MICRO)
    return counts


def _written(box: Box) -> str:
    return "[" + ",".join(f"{number:g}" for number in box) + "]"


def _pixels(size: Size) -> str:
    return f"{size[0]:g} x {size[1]:g}"
