"""COCO-style folders: images/ + captions.json (+ instances.json)."""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import Tally, all_skipped, counted, is_text
from pargo_mllm.data.pictures import PictureError, stored_size
from pargo_mllm.data.sources.json_rows import as_said, as_text
from pargo_mllm.data.sources.opening import leads_inside, named_file, read_whole
from pargo_mllm.data.sources.upright import TURNS, quarter
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
    height that their boxes are shares of, and its name in images/.
    """

    path: Path
    captions: tuple[str, ...]
    annotated: tuple[CocoObject, ...]
    name: str
    size: tuple[float, float] | None = None

    @cached_property
    def objects(self) -> tuple[CocoObject, ...]:
        """The objects, their boxes relative to the upright picture, as it is loaded.

        See :func:`pargo_mllm.data.sources.upright.quarter`.
        """
        if not self.annotated or self.size is None:
            return self.annotated
        try:
            turn = quarter(self.size, *stored_size(self.path))
        except PictureError:
            # told where the picture is loaded
            return self.annotated
        if turn is None:
            return self.annotated
        return tuple(CocoObject(item.category, TURNS[turn](*item.box)) for item in self.annotated)


@dataclass(frozen=True)
class CocoFolder:
    """What a folder holds. ``tallies`` says what became of everything that it lists, and of the files in images/."""

    root: Path
    images: tuple[CocoImage, ...]
    has_instances: bool
    tallies: Mapping[str, Tally]

    @property
    def skipped(self) -> Counter[str]:
        """What could not be used, by reason."""
        return all_skipped(self.tallies)


def read_coco_folder(root: str | Path) -> CocoFolder:
    """Read the annotations; pictures are opened later, one by one.

    A file name may lead into folders below images/; links are followed. Left out and counted are images without a caption,
    crowd annotations and boxes without extent, what speaks of an image that is not used, rows that repeat another, all rows
    that give one id to different things, and files that no row names.

    Raises:
        FolderError: if a part is missing or is not of COCO's form, or no image is left.
    """
    root = Path(root)
    if not (root / "images").is_dir() or not os.path.lexists(root / "captions.json"):
        raise FolderError(
            f"{root} is no COCO-style folder: it must hold images/ and captions.json "
            '({"images": [{"id", "file_name", "width", "height"}], "annotations": [{"image_id", "caption"}]}), and may hold '
            "instances.json."
        )
    content = _read(root / "captions.json", ("images", "annotations"))
    has_instances = os.path.lexists(root / "instances.json")
    skipped: dict[str, Counter[str]] = {kind: Counter() for kind in ("images", "captions", "objects")}
    named = _rows(content, "images", _IMAGE, skipped["images"])
    rows = _by_id(named, ("file_name",), "images", skipped["images"])
    texts = _captions(content, {row["id"] for row in named}, skipped["captions"])
    objects: dict[Any, list[CocoObject]] = {}
    shapes: dict[Any, tuple[float, float]] = {}
    lists: dict[str, Tally] = {}
    num_objects = 0
    if has_instances:
        instances = {"images": [], **_read(root / "instances.json", ("annotations", "categories"))}
        num_objects = len(instances["annotations"])
        objects, shapes = _objects(instances, rows, skipped["objects"], lists)
    images, used = [], set()
    for identifier, row in rows.items():
        if identifier not in texts:
            skipped["images"]["images without a caption"] += 1
        elif not leads_inside(row["file_name"]):
            skipped["images"]["file names that are none or lead out of images/"] += 1
        else:
            used.add(identifier)
            name = posixpath.normpath(row["file_name"])
            said, seen = tuple(texts[identifier]), tuple(objects.get(identifier, ()))
            images.append(CocoImage(named_file(root / "images", name), said, seen, name, shapes.get(identifier)))
    for kind, known in (("captions", texts), ("objects", objects)):
        unused = sum(len(known[identifier]) for identifier in known.keys() - used)
        if unused:
            skipped[kind][f"{kind} of images that are not used"] += unused
    sums = {"captions": sum(len(image.captions) for image in images), "objects": sum(len(image.annotated) for image in images)}
    tallies = {
        "images": Tally(len(content["images"]), len(images), skipped=skipped["images"]),
        "captions": Tally(len(content["annotations"]), sums["captions"], skipped=skipped["captions"]),
        **({"objects": Tally(num_objects, sums["objects"], skipped=skipped["objects"])} if has_instances else {}),
        **lists,
    }
    if not images:
        reasons = counted(all_skipped(tallies))
        count = len(content["images"])
        found = f"leaves no photograph: of {count:,} images none" if count else "holds no image"
        raise FolderError(f"{root / 'captions.json'} {found}{reasons}.")
    tallies["files"] = _files(root / "images", {posixpath.normpath(row["file_name"]) for row in named}, images)
    return CocoFolder(root, tuple(sorted(images, key=lambda image: image.name)), has_instances, tallies)


def _captions(content: dict[str, Any], listed: set[Any], skipped: Counter[str]) -> dict[Any, list[str]]:
    texts: dict[Any, list[str]] = {}
    for row in _rows(content, "annotations", _CAPTION, skipped):
        text = " ".join(row["caption"].split())
        if row["image_id"] not in listed or not text:
            skipped["captions that are empty or of no listed image"] += 1
        elif not is_text([text]):
            skipped["captions that hold half a character (a lone surrogate)"] += 1
        elif not re.search(r"\w", text):
            skipped["captions without a word"] += 1
        else:
            texts.setdefault(row["image_id"], []).append(text)
    return texts


def _objects(
    content: dict[str, Any], images: dict[Any, dict], skipped: Counter[str], lists: dict[str, Tally]
) -> tuple[dict[Any, list[CocoObject]], dict[Any, tuple[float, float]]]:
    """Objects, and the width and height that their boxes are shares of, by the id of their image.

    ``lists`` gets tallies of the lists that only serve to know them.
    """
    known: dict[str, dict[Any, dict]] = {}
    for name, types, said in (("images", _SIZE, ("width", "height")), ("categories", _CATEGORY, ("name",))):
        problems: Counter[str] = Counter()
        known[name] = _by_id(_rows(content, name, types, problems), said, name, problems)
        rows = content[name] if isinstance(content[name], list) else [content[name]]
        lists[f"{name} of instances.json"] = Tally(len(rows), len(known[name]), skipped=problems)
    sizes = {**images, **known["images"]}
    names = {identifier: " ".join(row["name"].split()) for identifier, row in known["categories"].items()}
    objects: dict[Any, list[CocoObject]] = {}
    for row in _rows(content, "annotations", _OBJECT, skipped):
        box = _relative_box(row["bbox"], sizes.get(row["image_id"], {}))
        category = names.get(row["category_id"])
        if row.get("iscrowd") or box is None or not category or not is_text([category]):
            skipped["objects that are crowds or have no usable box or name"] += 1
        else:
            objects.setdefault(row["image_id"], []).append(CocoObject(category, box))
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


def _files(folder: Path, named: set[str], images: Sequence[CocoImage]) -> Tally:
    """The files that lie in a folder and below it (folders that are links left out), against those that rows name."""
    used = {os.path.relpath(image.path, folder) for image in images}
    entries = found = unused = 0
    for where, _, files in os.walk(folder):
        for file in files:
            name = os.path.relpath(os.path.join(where, file), folder)
            entries, found = entries + 1, found + (name in used)
            unused += name in named and name not in used
    problems = {
        "files in images/ that captions.json does not name": entries - found - unused,
        "files of images that are not used": unused,
    }
    return Tally(entries, found, skipped=Counter({reason: count for reason, count in problems.items() if count}))


def _by_id(rows: list[dict[str, Any]], said: Sequence[str], what: str, skipped: Counter[str]) -> dict[Any, dict[str, Any]]:
    """Rows by their ids. An id whose rows differ in what they say could stand for any of them, and stands for none."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    kept = {}
    for identifier, same in found.items():
        if len({tuple(row[key] for key in said) for row in same}) > 1:
            skipped[f"{what} that have one id and differ"] += len(same)
            continue
        kept[identifier] = same[0]
        if len(same) > 1:
            skipped[f"{what} that are listed again"] += len(same) - 1
    return kept


def _read(file: Path, lists: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(as_text(read_whole(file)))
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{file} cannot be read as JSON: {as_said(error)}") from error
    for name in lists:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise FolderError(f"{file} has no list {name!r}; it must be COCO's {file.stem} format.")
    return content


def _rows(content: dict[str, Any], name: str, types: _Types, skipped: Counter[str]) -> list[dict[str, Any]]:
    rows = content[name] if isinstance(content[name], list) else [content[name]]
    good = [row for row in rows if isinstance(row, dict) and all(_is(row.get(key), kinds) for key, kinds in types.items())]
    if len(good) < len(rows):
        skipped[f"malformed rows of {name}"] += len(rows) - len(good)
    return good


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    # to Python true is a number
    return isinstance(value, kinds) and not isinstance(value, bool)
