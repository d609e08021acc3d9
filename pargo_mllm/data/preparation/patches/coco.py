"""COCO's instances.json, and detections in the form of COCO's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.frames import from_xywh
from pargo_mllm.data.preparation.fields import line, numbers, text, whole
from pargo_mllm.data.preparation.patches.told import NO_NUMBERS, Gathered, Told
from pargo_mllm.data.sources.json_rows import json_list_of, json_members, json_rows
from pargo_mllm.data.sources.opening import open_regular

NO_IMAGE = "regions of an image that the file does not list"
TWICE = "regions of an image of which the file says two things"
NO_CATEGORY = "regions of a category that has no name"
NO_SCORE = "detections without a score"
# digits of the names of COCO's pictures
_DIGITS = 12

Size = tuple[float, float]
# what a file lists of an image: its name and its size; None where it says two things
Images = Mapping[str, tuple[str, Size | None] | None]


def instances(file: Path) -> Iterator[Told]:
    """What ``instances.json`` says of each picture: masks where it has them (polygons, or runs of pixels, crowds too), boxes
    elsewhere. The file is read three times, for its lists stand in any order.
    """
    images, categories = images_of(file), categories_of(file)
    for key, rows in Gathered.of(file, json_list_of(file, "annotations"), lambda row: text(row, "image_id")):
        yield _told(images, key, [_region(row, categories) for row in rows], ())


def results(file: Path, names: Path) -> Iterator[Told]:
    """Detections ``[{"image_id", "category_id", "bbox" or "segmentation", "score"}]``.

    Args:
        names: says what categories are called, and perhaps images: an instances.json, a list ``[{"id", "name"}]``, or an object
            ``{"1": "person"}``. Without a list of images a picture is one whose name is its number, perhaps in twelve digits.
    """
    categories = categories_of(names)
    images = _images_if_any(names)
    for key, rows in Gathered.of(file, json_rows(file), lambda row: text(row, "image_id")):
        found = [_scored(row, categories) for row in rows]
        if not key:
            yield Told(found, problem=NO_IMAGE)
            continue
        stems = (key, key.zfill(_DIGITS))
        yield _told(images, key, found, stems) if images else Told(found, stems=stems)


def categories_of(file: Path) -> dict[str, str]:
    """Names by number. See :func:`results`.

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
    names = {text(row, "id"): line(row, "name") for row in rows}
    names = {id: name for id, name in names.items() if id and name}
    if not names:
        raise CorpusError(f"{file} names no category; it must have a list 'categories' of {{id, name}}, or be one.")
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
    if said is None:
        return Told(regions, problem=TWICE if key in images else NO_IMAGE)
    return Told(regions, said[0], () if said[0] else stems, said[1])


def _region(row: Any, categories: Mapping[str, str]) -> dict[str, Any] | str:
    name = categories.get(text(row, "category_id"))
    if name is None:
        return NO_CATEGORY
    said = row.get("segmentation")
    if isinstance(said, dict):
        return {"labels": [name], "mask": said}
    if said:
        return {"labels": [name], "polygons": said}
    box = numbers(row.get("bbox"))
    return {"labels": [name], "box": list(from_xywh(box))} if len(box) == 4 else NO_NUMBERS


def _scored(row: Any, categories: Mapping[str, str]) -> dict[str, Any] | str:
    found = _region(row, categories)
    if isinstance(found, str):
        return found
    return {**found, "score": row["score"]} if "score" in row else NO_SCORE
