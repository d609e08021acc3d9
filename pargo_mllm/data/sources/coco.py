"""COCO-style folders: images/ + captions.json (+ instances.json)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pargo_mllm.data.pictures import PictureError, stored_size
from pargo_mllm.errors import UserError

Box = tuple[float, float, float, float]

# what a value may be: a file from a stranger holds anything that JSON can
_Types = dict[str, tuple[type, ...]]
_ID = (int, str)
_IMAGE: _Types = {"id": _ID, "file_name": (str,)}
_CAPTION: _Types = {"image_id": _ID, "caption": (str,)}
_SIZE: _Types = {"id": _ID, "width": (int, float), "height": (int, float)}
_CATEGORY: _Types = {"id": _ID, "name": (str,)}
_OBJECT: _Types = {"image_id": _ID, "category_id": _ID, "bbox": (list,)}


# EXIF's turns by a quarter, as what becomes of (left, top, right, bottom)
_QUARTERS: dict[int, Callable[[float, float, float, float], Box]] = {
    5: lambda left, top, right, bottom: (top, left, bottom, right),
    6: lambda left, top, right, bottom: (1 - bottom, left, 1 - top, right),
    7: lambda left, top, right, bottom: (1 - bottom, 1 - right, 1 - top, 1 - left),
    8: lambda left, top, right, bottom: (top, 1 - right, bottom, 1 - left),
}


class FolderError(UserError):
    """A folder that is not what it should be; the message says what is missing and what it should look like."""


@dataclass(frozen=True)
class CocoObject:
    """A thing in a photograph: its category and its box (left, top, right, bottom) as shares of width and height, 0...1."""

    category: str
    box: Box

    @property
    def area(self) -> float:
        """Area of the box, as a share of the picture's."""
        left, top, right, bottom = self.box
        return max(0.0, right - left) * max(0.0, bottom - top)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box, (x, y)."""
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


@dataclass(frozen=True)
class CocoImage:
    """A photograph's file, its captions, and its objects as the set has them (none without instances.json), with the width and
    height that their boxes are shares of.
    """

    path: Path
    captions: tuple[str, ...]
    annotated: tuple[CocoObject, ...]
    size: tuple[float, float] | None = None

    @cached_property
    def objects(self) -> tuple[CocoObject, ...]:
        """The objects, their boxes relative to the upright picture, as it is loaded.

        Where EXIF turns the picture by a quarter, the set's width and height say whether its boxes refer to the stored pixels,
        and then they are turned too. Where both readings have the same shape (mirrored, upside down, square), boxes are taken
        for what an annotator sees: upright.
        """
        if not self.annotated or self.size is None:
            return self.annotated
        try:
            (width, height), turn = stored_size(self.path)
        except PictureError:
            # told where the picture is loaded
            return self.annotated
        landscape, stored_landscape = self.size[0] > self.size[1], width > height
        if turn not in _QUARTERS or landscape != stored_landscape or self.size[0] == self.size[1] or width == height:
            return self.annotated
        return tuple(CocoObject(item.category, _QUARTERS[turn](*item.box)) for item in self.annotated)


@dataclass(frozen=True)
class CocoFolder:
    """What a folder holds. ``skipped`` counts entries that could not be used, by reason."""

    root: Path
    images: tuple[CocoImage, ...]
    has_instances: bool
    skipped: Counter[str]


def read_coco_folder(root: str | Path) -> CocoFolder:
    """Read the annotations; pictures are opened later, one by one.

    Crowd annotations and boxes without extent are left out; images without a caption are skipped and counted, and so are
    annotations of images that are not listed.

    Raises:
        FolderError: if a part is missing or is not of COCO's form.
    """
    root = Path(root)
    if not (root / "images").is_dir() or not (root / "captions.json").is_file():
        raise FolderError(
            f"{root} is no COCO-style folder: it must hold images/ and captions.json "
            '({"images": [{"id", "file_name", "width", "height"}], "annotations": [{"image_id", "caption"}]}), and may hold '
            "instances.json."
        )
    captions = _read(root / "captions.json", ("images", "annotations"))
    has_instances = (root / "instances.json").is_file()
    skipped: Counter[str] = Counter()
    sizes = {image["id"]: image for image in _rows(captions, "images", _IMAGE, skipped)}
    texts: dict[Any, list[str]] = {}
    for row in _rows(captions, "annotations", _CAPTION, skipped):
        text = " ".join(row["caption"].split())
        if row["image_id"] in sizes and text:
            texts.setdefault(row["image_id"], []).append(text)
        else:
            skipped["captions that are empty or of no listed image"] += 1
    objects, shapes = _objects(root / "instances.json", sizes, skipped) if has_instances else ({}, {})
    images = []
    for identifier, image in sizes.items():
        path = _inside(root / "images", image["file_name"])
        if identifier not in texts:
            skipped["images without a caption"] += 1
        elif path is None:
            skipped["file names that are none or lead out of images/"] += 1
        else:
            annotated = tuple(objects.get(identifier, ()))
            images.append(CocoImage(path, tuple(texts[identifier]), annotated, shapes.get(identifier)))
    if not images:
        raise FolderError(f"{root / 'captions.json'} names no image that has a caption.")
    return CocoFolder(root, tuple(sorted(images, key=lambda image: image.path.name)), has_instances, skipped)


def _objects(
    file: Path, images: dict[Any, dict], skipped: Counter[str]
) -> tuple[dict[Any, list[CocoObject]], dict[Any, tuple[float, float]]]:
    """Objects, and the width and height that their boxes are shares of, by image."""
    content = {"images": [], **_read(file, ("annotations", "categories"))}
    sizes = {**images, **{row["id"]: row for row in _rows(content, "images", _SIZE, skipped)}}
    names = {row["id"]: " ".join(row["name"].split()) for row in _rows(content, "categories", _CATEGORY, skipped)}
    objects: dict[Any, list[CocoObject]] = {}
    for row in _rows(content, "annotations", _OBJECT, skipped):
        box = _relative_box(row["bbox"], sizes.get(row["image_id"], {}))
        name = names.get(row["category_id"])
        if row.get("iscrowd") or box is None or not name:
            skipped["objects that are crowds or have no usable box or name"] += 1
        else:
            objects.setdefault(row["image_id"], []).append(CocoObject(name, box))
    # of images that have a usable box, and so a usable size
    return objects, {key: (float(sizes[key]["width"]), float(sizes[key]["height"])) for key in objects}


def _relative_box(bbox, image: dict) -> Box | None:
    try:
        x, y, width, height = (float(number) for number in bbox)
        across, down = float(image["width"]), float(image["height"])
        if not all(map(math.isfinite, (x, y, width, height, across, down))):
            return None
        left, top = max(0.0, x / across), max(0.0, y / down)
        right, bottom = min(1.0, (x + width) / across), min(1.0, (y + height) / down)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (left, top, right, bottom) if right > left and bottom > top else None


def _inside(folder: Path, name: str) -> Path | None:
    path = folder / name
    try:
        # a name that no file can have (too long, a NUL, half a surrogate) fails here
        path.exists()
        return path if path.resolve().parent == folder.resolve() else None
    except (OSError, ValueError):
        return None


def _read(file: Path, lists: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{file} cannot be read as JSON: {error}") from error
    for name in lists:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise FolderError(f"{file} has no list {name!r}; it must be COCO's {file.stem} format.")
    return content


def _rows(content: dict[str, Any], name: str, types: _Types, skipped: Counter[str]) -> list[dict[str, Any]]:
    rows = content[name] if isinstance(content[name], list) else [content[name]]
    good = [row for row in rows if isinstance(row, dict) and all(isinstance(row.get(key), t) for key, t in types.items())]
    if len(good) < len(rows):
        skipped[f"malformed rows of {name}"] += len(rows) - len(good)
    return good
