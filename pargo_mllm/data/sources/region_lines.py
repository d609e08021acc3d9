"""A line of a region file: a picture, and what is where in it.

::

    {"image": "a.jpg", "size": [640, 480], "regions": [
        {"labels": ["dog"], "box": [12, 40, 200, 310]},
        {"labels": [["bicycle", "bike"], "red"], "polygons": [[10, 10, 60, 10, 60, 90]]},
        {"labels": ["crowd"], "mask": {"size": [480, 640], "counts": "…"}, "score": 0.8}]}

Numbers are pixels of ``size``, the width and height of the upright picture. A label is a name,
or a list of names for one thing. ``mask`` is COCO's, counted or as its text; it fills the picture,
whatever its scale, and must have its shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pargo_mllm.data.corpus import is_text
from pargo_mllm.data.regions import Box, Outline, Pixels, Region, Runs, Shape
from pargo_mllm.data.sources.opening import leads_inside
from pargo_mllm.data.sources.run_lengths import MaskError, counts_of, read_counts, write_counts

# of one picture: regions, points of polygons, pixels of masks
MAX_REGIONS, MAX_POINTS, MAX_MASKS = 4096, 2**17, 2**30
# characters of a name, names of a thing, labels of a region
MAX_NAME, MAX_NAMES, MAX_LABELS = 200, 100, 100
# pixels of a side; no number is further away
MAX_SIDE = 10**6
# pixels that a box may leave its picture by, for numbers begin at 0 or at 1, and are rounded; it is cut off there
SLACK = 1.0
# of width over height, what a rounded size may differ by
_SAME_SHAPE = 0.02
# pixels: two numbers nearer than that may be one once they are written
_THINNEST = 0.02

NO_LINE = "lines that are no picture with its regions"
NO_NAME = "lines whose image is no name of a file"
NO_SIZE = "lines whose size is no width and height"
NO_REGION = "regions that are no object"
NO_LABEL = "regions without a label, or with one that is no text"
LONG_LABEL = f"regions with a name of more than {MAX_NAME} characters, or more than {MAX_LABELS} labels"
NO_SHAPE = "regions that have not one of box, polygons and mask"
NO_BOX = "regions whose box is no four numbers"
OUTSIDE = "regions whose box leaves the picture by more than a pixel"
POLYGON_OUTSIDE = "regions whose polygons leave the picture by more than a pixel"
NO_POLYGON = "regions whose polygons are no lists of x and y of three points or more"
NO_MASK = "regions whose mask is no size with runs that fill it"
OTHER_MASK = "regions whose mask has another shape than the picture"
NO_AREA = "regions that are reversed or cover nothing of the picture"
NO_SCORE = "regions whose score is no number from 0 to 1"
TOO_MANY = (
    f"regions of a picture behind its first {MAX_REGIONS:,} labels, {MAX_POINTS:,} points of polygons or {MAX_MASKS:,} of masks"
)


class UnusableRegion(ValueError):
    """What is wrong with a region, or with a whole line; the message is the same for all of its kind."""


@dataclass(frozen=True)
class Thing:
    """A region with all that it is called: each label a name with its synonyms."""

    labels: tuple[tuple[str, ...], ...]
    shape: Shape
    score: float = 1.0

    def regions(self) -> Iterator[Region]:
        """One a label."""
        return (Region(names, self.shape, score=self.score) for names in self.labels)


@dataclass(frozen=True)
class PictureLine:
    """A line: its picture's name, ``(width, height)``, what is in it, and what was left out, by reason."""

    image: str
    size: tuple[float, float]
    things: tuple[Thing, ...]
    skipped: Counter[str] = field(default_factory=Counter)


def read_line(value: Any) -> PictureLine:
    """What a line's JSON says.

    Raises:
        UnusableRegion: if it is no picture's; single regions are left out and counted.
    """
    if not isinstance(value, dict) or not isinstance(value.get("regions"), list):
        raise UnusableRegion(NO_LINE)
    image, size = value.get("image"), read_size(value.get("size"))
    if not isinstance(image, str) or not leads_inside(image):
        raise UnusableRegion(NO_NAME)
    if size is None:
        raise UnusableRegion(NO_SIZE)
    things, skipped = read_things(value["regions"], size)
    return PictureLine(image, size, things, skipped)


def read_size(told: Any) -> tuple[float, float] | None:
    """Width and height, or None."""
    numbers = _numbers(told, 2)
    return (numbers[0], numbers[1]) if numbers and all(1 <= number <= MAX_SIDE for number in numbers) else None


def same_shape(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes, (width, height), are those of one picture at two scales: width over height differs by 2 % at most, or
    by what rounding the first to whole pixels does.
    """
    width, height = one
    aspect = other[0] / other[1]
    return (
        abs(width / height / aspect - 1) <= _SAME_SHAPE
        or min(abs(width - height * aspect), abs(height - width / aspect)) <= 0.5
    )


def read_things(told: list[Any], size: tuple[float, float]) -> tuple[tuple[Thing, ...], Counter[str]]:
    """The regions of a picture of ``size``, and those that cannot be used, by reason."""
    things: list[Thing] = []
    skipped: Counter[str] = Counter()
    labels = points = pixels = 0
    for one in told:
        try:
            thing = read_thing(one, size)
        except UnusableRegion as problem:
            skipped[f"{problem}"] += 1
            continue
        if isinstance(thing.shape, Outline):
            points += sum(map(len, thing.shape.polygons))
        elif isinstance(thing.shape, Runs):
            pixels += thing.shape.size[0] * thing.shape.size[1]
        labels += len(thing.labels)
        if labels > MAX_REGIONS or points > MAX_POINTS or pixels > MAX_MASKS:
            skipped[TOO_MANY] += 1
        else:
            things.append(thing)
    return tuple(things), skipped


def read_thing(told: Any, size: tuple[float, float]) -> Thing:
    """A region of a picture of ``size``.

    Raises:
        UnusableRegion: saying what is wrong with it.
    """
    if not isinstance(told, dict):
        raise UnusableRegion(NO_REGION)
    labels = _labels(told.get("labels"))
    score = told.get("score", 1.0)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise UnusableRegion(NO_SCORE)
    kinds: dict[str, Callable[[Any, tuple[float, float]], Shape]] = {"box": _box, "polygons": _outline, "mask": _mask}
    given = [kind for kind in kinds if told.get(kind) is not None]
    if len(given) != 1:
        raise UnusableRegion(NO_SHAPE)
    return Thing(labels, kinds[given[0]](told[given[0]], size), float(score))


def write_line(image: str, size: tuple[float, float], things: tuple[Thing, ...]) -> dict[str, Any]:
    """The line's JSON."""
    return {"image": image, "size": [_rounded(side) for side in size], "regions": [_written(one, size) for one in things]}


def clean_name(told: Any) -> str | None:
    """A name as it is kept: one line of text with a letter or a digit; None for anything else."""
    if not isinstance(told, str) or not is_text([told]):
        return None
    name = " ".join(told.split())
    return name if re.search(r"\w", name) else None


def _labels(told: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(told, list) or not told:
        raise UnusableRegion(NO_LABEL)
    lists = [label if isinstance(label, list) else [label] for label in told]
    if len(lists) > MAX_LABELS or any(len(names) > MAX_NAMES for names in lists):
        raise UnusableRegion(LONG_LABEL)
    found = []
    for names in lists:
        cleaned = [clean_name(name) for name in names]
        if not cleaned or None in cleaned:
            raise UnusableRegion(NO_LABEL)
        if any(len(name) > MAX_NAME for name in cleaned if name is not None):
            raise UnusableRegion(LONG_LABEL)
        found.append(tuple(dict.fromkeys(name for name in cleaned if name is not None)))
    return tuple(dict.fromkeys(found))


def _box(told: Any, size: tuple[float, float]) -> Box:
    numbers = _numbers(told, 4)
    if numbers is None:
        raise UnusableRegion(NO_BOX)
    x1, y1, x2, y2 = numbers
    width, height = size
    if min(x1, y1, width - x2, height - y2) < -SLACK:
        raise UnusableRegion(OUTSIDE)
    box = (max(x1 / width, 0.0), max(y1 / height, 0.0), min(x2 / width, 1.0), min(y2 / height, 1.0))
    if not ((box[2] - box[0]) * width >= _THINNEST and (box[3] - box[1]) * height >= _THINNEST):
        raise UnusableRegion(NO_AREA)
    return box


def _outline(told: Any, size: tuple[float, float]) -> Outline:
    if not isinstance(told, list) or not told or sum(len(one) for one in told if isinstance(one, list)) > 2 * MAX_POINTS:
        raise UnusableRegion(NO_POLYGON)
    polygons = []
    for one in told:
        numbers = _numbers(one, None)
        if numbers is None or len(numbers) < 6 or len(numbers) % 2:
            raise UnusableRegion(NO_POLYGON)
        polygons.append(tuple((x / size[0], y / size[1]) for x, y in zip(numbers[::2], numbers[1::2], strict=True)))
    if not any(_reaches_in(polygon) for polygon in polygons):
        raise UnusableRegion(NO_AREA)
    across, down = SLACK / size[0], SLACK / size[1]
    if not all(-across <= x <= 1 + across and -down <= y <= 1 + down for polygon in polygons for x, y in polygon):
        raise UnusableRegion(POLYGON_OUTSIDE)
    return Outline(tuple(polygons), size[0] / size[1])


def _reaches_in(polygon: tuple[tuple[float, float], ...]) -> bool:
    """Whether the box around a polygon has anything of the picture in it."""
    xs, ys = zip(*polygon, strict=True)
    return min(max(xs), 1.0) > max(min(xs), 0.0) and min(max(ys), 1.0) > max(min(ys), 0.0)


def _mask(told: Any, size: tuple[float, float]) -> Runs:
    sides = told.get("size") if isinstance(told, dict) else None
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        raise UnusableRegion(NO_MASK)
    try:
        counts = read_counts(told.get("counts"), (sides[0], sides[1]))
    except MaskError as error:
        raise UnusableRegion(NO_MASK) from error
    if not counts[1::2].any():
        raise UnusableRegion(NO_AREA)
    if not same_shape((sides[1], sides[0]), size):
        raise UnusableRegion(OTHER_MASK)
    return Runs(counts, (sides[0], sides[1]))


def _numbers(told: Any, count: int | None) -> list[float] | None:
    """Finite numbers, so many; None for anything else."""
    if not isinstance(told, list) or (count is not None and len(told) != count):
        return None
    if not all(type(one) in (int, float) and -MAX_SIDE <= one <= MAX_SIDE for one in told):
        return None
    return [float(one) for one in told]


def _written(thing: Thing, size: tuple[float, float]) -> dict[str, Any]:
    labels = [names[0] if len(names) == 1 else list(names) for names in thing.labels]
    shape: dict[str, Any]
    if isinstance(thing.shape, Outline):
        polygons = [
            [_rounded(one * side) for point in polygon for one, side in zip(point, size, strict=True)]
            for polygon in thing.shape.polygons
        ]
        shape = {"polygons": polygons}
    elif isinstance(thing.shape, (Pixels, Runs)):
        pixels = thing.shape.pixels
        shape = {"mask": {"size": list(pixels.shape), "counts": write_counts(counts_of(pixels))}}
    else:
        shape = {"box": [_rounded(one * side) for one, side in zip(thing.shape, (*size, *size), strict=True)]}
    return {"labels": labels, **shape, **({} if thing.score == 1 else {"score": round(thing.score, 4)})}


def _rounded(number: float) -> float:
    """To a hundredth of a pixel; whole numbers without a point."""
    rounded = round(number, 2) + 0.0
    return int(rounded) if rounded.is_integer() else rounded
