"""COCO's instances.json, and detections in the form of COCO's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.frames import from_xywh
from pargo_mllm.data.preparation.fields import line, numbers, text, whole
from pargo_mllm.data.preparation.patches.told import NO_NUMBERS, Gathered, Told, each_once
from pargo_mllm.data.sources.json_rows import json_list_of, json_members, json_rows
from pargo_mllm.data.sources.opening import open_regular

NO_IMAGE = "regions of an image that the file does not list"
TWICE = "regions of an image of which the file says two things"
NO_IMAGE_ID = "regions whose image_id is no number"
NO_OBJECT = "regions that are no object"
NO_CATEGORY = "regions of a category that has no name"
TWO_CATEGORIES = "regions of a category of which the file says two things"
NO_SHAPE = "regions without a box and without a mask"
NO_SCORE = "detections without a score"
# digits of the names of COCO's pictures
_DIGITS = 12

Size = tuple[float, float]
# what a file lists of an image: its name and its size; None where it says two things
Images = Mapping[str, tuple[str, Size | None] | None]
# what categories are called; None where the file says two things
Categories = Mapping[str, str | None]


def instances(file: Path) -> Iterator[Told]:
    """What ``instances.json`` says of each picture: masks where it has them (polygons, or runs of pixels, crowds too), boxes
    elsewhere. The file is read three times, for its lists stand in any order.
    """
    images, categories = images_of(file), categories_of(file)
    for key, rows in Gathered.of(file, json_list_of(file, "annotations"), lambda row: text(row, "image_id")):
        yield _told(images, key, each_once(rows, partial(_region, categories=categories)), ())


def results(file: Path, names: Path) -> Iterator[Told]:
    """Detections ``[{"image_id", "category_id", "bbox" or "segmentation", "score"}]``.

    Args:
        names: says what categories are called, and perhaps images: an instances.json, a list ``[{"id", "name"}]``, or an object
            ``{"1": "person"}``. Without a list of images a picture is one whose name is its number, perhaps in twelve digits.
    """
    categories = categories_of(names)
    images = _images_if_any(names)
    for key, rows in Gathered.of(file, json_rows(file), lambda row: text(row, "image_id")):
        found = each_once(rows, partial(_scored, categories=categories))
        stems = (key, key.zfill(_DIGITS))
        yield _told(images, key, found, stems) if images else Told(found, stems=stems)


def categories_of(file: Path) -> dict[str, str | None]:
    """Names by number, None for a number that has two. See :func:`results`.

    Raises:
        CorpusError: if there are none.
    """
    if first_mark(file) == "[":
        rows = (row.value for row in json_rows(file))
    else:
        try:
            rows = (row.value for row in list(json_list_of(file, "categories")))
        except CorpusError:
            rows = ({"id": id, "name": name} for id, name in json_members(file))
    names: dict[str, str | None] = {}
    count = 0
    for row in rows:
        count += 1
        id, name = text(row, "id"), line(row, "name")
        if id and name:
            names[id] = name if names.get(id, name) == name else None
    if not names:
        lacking = f"of {count:,} none has an id and a name" if count else "there is none"
        raise CorpusError(f"{file} names no category: {lacking}; it must have a list 'categories' of {{id, name}}, or be one.")
    return names


def images_of(file: Path) -> dict[str, tuple[str, Size | None] | None]:
    """Names and sizes of images, by number."""
    images: dict[str, tuple[str, Size | None] | None] = {}
    for row in json_list_of(file, "images"):
        key, width, height = text(row.value, "id"), whole(row.value, "width"), whole(row.value, "height")
        said = (text(row.value, "file_name"), (float(width), float(height)) if width and height else None)
        if key:
            images[key] = said if images.get(key, said) == said else None
    return images


def first_mark(file: Path) -> str:
    """The first character of a JSON text; empty where there is none."""
    try:
        with open_regular(file) as opened:
            return opened.read(4096).decode("utf-8-sig", "replace").lstrip()[:1]
    except OSError as error:
        raise CorpusError(f"{file} cannot be read: {error}") from error


def _images_if_any(file: Path) -> dict[str, tuple[str, Size | None] | None]:
    if first_mark(file) == "[":
        return {}
    try:
        return images_of(file)
    except CorpusError:
        return {}


def _told(images: Images, key: str, regions: list[dict[str, Any] | str], stems: tuple[str, ...]) -> Told:
    said = images.get(key)
    if said is None or not key:
        return Told(regions, problem=TWICE if key in images else NO_IMAGE)
    return Told(regions, said[0], () if said[0] else stems, said[1])


def _region(row: Any, categories: Categories) -> dict[str, Any] | str:
    if not isinstance(row, dict):
        return NO_OBJECT
    if not text(row, "image_id"):
        return NO_IMAGE_ID
    category = text(row, "category_id")
    name = categories.get(category)
    if name is None:
        return TWO_CATEGORIES if category in categories else NO_CATEGORY
    said = row.get("segmentation")
    if isinstance(said, dict):
        return {"labels": [name], "mask": said}
    if said:
        return {"labels": [name], "polygons": said}
    if row.get("bbox") is None:
        return NO_SHAPE
    box = numbers(row.get("bbox"))
    return {"labels": [name], "box": list(from_xywh(box))} if len(box) == 4 else NO_NUMBERS


def _scored(row: Any, categories: Categories) -> dict[str, Any] | str:
    found = _region(row, categories)
    if isinstance(found, str):
        return found
    return {**found, "score": row["score"]} if "score" in row else NO_SCORE
