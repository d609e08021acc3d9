"""What can be wrong with boxes in texts: each by itself, and all of a set by the frame that they are said to be in."""

from __future__ import annotations

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
    said = [turn.get("value") for turn in turns_of(record)]
    boxes = [box for text in said if isinstance(text, str) and ("[" in text or "(" in text) for box in read_boxes(text)]
    declared = record.get("frame")
    given = said_size(record)
    if given is not None and stored is not None and given not in (stored, stored[::-1]):
        sample.add("size_differs", f"it says {_pixels(given)}, and the file has {_pixels(stored)}")
    if declared is not None and (not isinstance(declared, str) or declared not in FRAMES):
        sample.add("frame_unknown", f"frame is {shown(repr(declared), 60)}")
        return Counter()
    frame = declared if isinstance(declared, str) else default
    size = given or size
    counts: Counter[str] = Counter()
    for box in boxes:
        counts += _fits(box, frame or UNDECLARED, size)
        problem = None if frame is None else _problem(box, frame, size)
        if problem is not None:
            sample.add(problem, f"{_written(box)} in {frame}" + (f", a picture of {_pixels(size)}" if size else ""))
    return counts


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
    return said


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
    return counts


def _written(box: Box) -> str:
    return "[" + ",".join(f"{number:g}" for number in box) + "]"


def _pixels(size: Size) -> str:
    return f"{size[0]:g} x {size[1]:g}"
