"""A COCO-style folder of photographs as a corpus: captions, or questions about what is where."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pargo_mllm.data.corpus import CorpusError, OtherShape, Tally, counted, shown
from pargo_mllm.data.pictures import PictureError, load_picture, stored_size, turned_size, upright_size
from pargo_mllm.data.questions import WHAT, Question, QuestionCorpus
from pargo_mllm.data.regions import Region, Window
from pargo_mllm.data.sources.coco import Box, CocoFolder, CocoImage, CocoObject, FolderError, read_coco_folder
from pargo_mllm.data.sources.object_questions import object_questions
from pargo_mllm.data.sources.region_file import RegionFile, regions_in, told_of
from pargo_mllm.data.sources.region_lines import same_shape
from pargo_mllm.data.sources.upright import quarter

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
# of an object's box, what a view must keep for the object to be in it
MIN_VISIBLE = 0.3
CAPTION_PROMPT = "describe the picture"
EVERY_PHOTOGRAPH = 2**31


@dataclass(frozen=True)
class View:
    """A part of a photograph, perhaps mirrored; boxes of what it shows are relative to it."""

    image: CocoImage
    part: Box
    mirrored: bool
    objects: tuple[CocoObject, ...]

    @property
    def window(self) -> Window:
        """What it shows of the photograph; its pixels are those that lie there, rounded to whole ones."""
        left, top, right, bottom = map(float, self.part)
        return (right, top, left, bottom) if self.mirrored else (left, top, right, bottom)

    def load(self) -> Image.Image:
        """The view's pixels."""
        picture = load_picture(self.image.path)
        left, top, right, bottom = self.part
        width, height = picture.size
        picture = picture.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
        return ImageOps.mirror(picture) if self.mirrored else picture


@dataclass(frozen=True)
class PhotographFolder:
    """Photographs of a folder. A fifth of them, chosen by their names, is held out: no view of them is ever trained on.

    Args:
        root: the folder.
        limit: at most so many photographs are used.
        train_views: about so many views of the training photographs are made; every photograph is seen whole once, its
            other views are parts, mirrored half of the time.
        questions_per_kind: at most so many questions of a kind are asked about a picture.

    Raises:
        FolderError: if the folder is none, or holds fewer than five photographs.
    """

    root: Path
    limit: int = EVERY_PHOTOGRAPH
    train_views: int = 0
    questions_per_kind: int = 4
    seed: int = 0

    def __post_init__(self):
        if len(self._names) < 5:
            reasons = counted(self.folder.skipped)
            raise FolderError(f"{self.root} holds {len(self._names)} captioned photographs; at least 5 are needed{reasons}.")

    @cached_property
    def folder(self) -> CocoFolder:
        """The annotations."""
        return read_coco_folder(self.root)

    def photographs(self, split: str) -> list[CocoImage]:
        """The photographs of a split: "train", or "test" (the held-out fifth)."""
        count = max(1, len(self._names) // 5)
        parts = {"train": self._names[count:], "test": self._names[:count]}
        if split not in parts:
            raise ValueError(f"split={split!r} is unknown; it must be one of {', '.join(parts)}.")
        names = set(parts[split])
        return [image for image in self._photographs if image.name in names]

    def views(self, split: str) -> list[View]:
        """What is shown of a split's photographs."""
        return self._train_views if split == "train" else [self._whole(image) for image in self.photographs(split)]

    def asked(self, view: View, index: int) -> tuple[Question, ...]:
        """What is asked about view ``index`` of a split; describing it, where no objects are known."""
        if not self.categories:
            return captions_of(view.image)[:1]
        rng = np.random.default_rng([self.seed, 3, index])
        return object_questions(list(view.objects), self.categories, rng, self.questions_per_kind)

    def settings(self) -> dict[str, Any]:
        """What the views and questions depend on, as JSON."""
        digest = hashlib.sha256()
        for name in ("captions.json", "instances.json"):
            file = self.root / name
            digest.update(file.read_bytes() if file.is_file() else b"absent")
        for image in self._photographs:
            # unlike Path's, it takes a path that is too long for that of no file
            status = image.path.stat() if os.path.isfile(image.path) else None
            digest.update(f"{image.name} {status and (status.st_size, status.st_mtime_ns)}".encode())
        numbers = {name: getattr(self, name) for name in ("limit", "train_views", "questions_per_kind", "seed")}
        return {"source": "folder", "content": digest.hexdigest(), **numbers}

    @cached_property
    def categories(self) -> list[str]:
        """Categories of the training photographs, the only ones that are asked for."""
        return sorted({item.category for image in self.photographs("train") for item in image.objects})

    @cached_property
    def _photographs(self) -> list[CocoImage]:
        # by a hash of the name: the split does not depend on what else the folder holds
        ordered = sorted(self.folder.images, key=lambda image: hashlib.sha256(image.name.encode()).hexdigest())
        return ordered[: self.limit]

    @cached_property
    def _names(self) -> list[str]:
        """Each once: a file that several rows name is on one side."""
        return list(dict.fromkeys(image.name for image in self._photographs))

    @cached_property
    def _train_views(self) -> list[View]:
        images = self.photographs("train")
        rng = np.random.default_rng([self.seed, 1])
        per_image = max(1, self.train_views // len(images))
        return [self._whole(image) for image in images] + [
            self._part(image, rng) for _ in range(per_image - 1) for image in images
        ]

    def _whole(self, image: CocoImage) -> View:
        return View(image, WHOLE, False, image.objects)

    def _part(self, image: CocoImage, rng: np.random.Generator) -> View:
        width, height = rng.uniform(0.6, 1.0, size=2)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        part = (left, top, left + width, top + height)
        # a caption that says left or right would lie about a mirrored picture
        sided = any(re.search(r"\b(left|right)\b", text.lower()) for text in image.captions)
        mirrored = bool(rng.random() < 0.5) and not sided
        seen = [_seen(item, part, mirrored) for item in image.objects]
        return View(image, part, mirrored, tuple(item for item in seen if item is not None))


class PhotographCorpus(QuestionCorpus):
    """Captions (stage 1) of a folder's photographs, or questions about their objects (stage 2).

    Photographs and views about which nothing is said are left out, and counted.

    Args:
        regions: what is where in the photographs, in place of what instances.json says.

    Raises:
        CorpusError: if nothing is said about any of them.
        ValueError: for another stage or split.
    """

    def __init__(self, folder: PhotographFolder, stage: int, split: str = "train", regions: RegionFile | None = None):
        if stage not in WHAT:
            raise ValueError(f"stage={stage!r} must be 1 or 2.")
        # as they are now, whatever becomes of the files later
        self.folder, self.what, self._source = folder, WHAT[stage], folder.settings()
        self._regions = regions
        self._views = folder.views(split)
        said = [
            captions_of(view.image) if self.what == "captions" else folder.asked(view, index)
            for index, view in enumerate(self._views)
        ]
        self._kept = [index for index, questions in enumerate(said) if questions]
        self._said = [said[index] for index in self._kept]
        self._tallies = _tallies(folder, split, [self._views[index] for index in self._kept], len(self._views))
        if not self._kept:
            raise CorpusError(
                f"none of the {len(self._views)} pictures of {folder.root} has {self.what}{counted(self.skipped)}."
            )

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """See :class:`pargo_mllm.data.corpus.Corpus`. A caption and an object count as used where their photograph is."""
        return self._tallies

    def __len__(self) -> int:
        return len(self._kept)

    def name(self, index: int) -> str:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        view = self._kept[index]
        return f"{shown(self._views[view].image.name)} (view {view})"

    def said(self, index: int) -> tuple[Question, ...]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return self._said[index]

    def picture(self, index: int) -> Image.Image:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return self._views[self._kept[index]].load()

    def regions(self, index: int) -> Callable[[], tuple[Region, ...] | None] | None:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`: what the region file says, or the boxes of instances.json."""
        view, regions = self._views[self._kept[index]], self._regions
        if regions is not None:
            return partial(_within, regions, view)
        if not self.folder.folder.has_instances:
            return None
        return partial(_boxes, view)

    def region_names(self) -> tuple[str, ...]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`: the names of the region file, or those of instances.json."""
        if self._regions is not None:
            return self._regions.names
        return tuple(sorted({item.category for image in self.folder.folder.images for item in image.objects}))

    def shows(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        names = [self.name(index) for index in range(len(self))]
        return {"corpus": "folder", "views": names, "source": self._source}

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            said = [[question.text, question.answer] for question in self._said[index]]
            digest.update(json.dumps([self.name(index), said]).encode())
        content = {"content": digest.hexdigest(), "source": self._source}
        return {"corpus": "folder", "what": self.what, **content, **told_of(self._regions)}


def _tallies(folder: PhotographFolder, split: str, kept: list[View], views: int) -> dict[str, Tally]:
    """Those of the folder, as one side of its split uses them: something is said about the ``kept`` of its views."""
    asked = {id(view.image) for view in kept}
    here, there = folder.photographs(split), folder.photographs("test" if split == "train" else "train")
    within = {id(image) for image in (*here, *there)}
    groups = {
        "photographs about which nothing is asked": [image for image in here if id(image) not in asked],
        "photographs beyond the limit": [image for image in folder.folder.images if id(image) not in within],
    }
    tallies = dict(folder.folder.tallies)
    counts: dict[str, Callable[[CocoImage], int]] = {
        "images": lambda image: 1,
        "captions": lambda image: len(image.captions),
        "objects": lambda image: len(image.annotated),
    }
    for kind in counts.keys() & tallies.keys():
        whole, count = tallies[kind], counts[kind]
        left = {
            reason if kind == "images" else f"{kind} of {reason}": sum(map(count, found)) for reason, found in groups.items()
        }
        used = sum(count(image) for image in here if id(image) in asked)
        skipped = whole.skipped + Counter(left)
        tallies[kind] = Tally(whole.entries, used, sum(map(count, there)), skipped)
    if views != len(here):
        tallies["views"] = Tally(views, len(kept), skipped=+Counter({"views about which nothing is asked": views - len(kept)}))
    return tallies


def captions_of(image: CocoImage) -> tuple[Question, ...]:
    """A photograph's captions, each as an answer to one request."""
    return tuple(Question("caption", CAPTION_PROMPT, clean(text)) for text in image.captions)


def clean(text: str) -> str:
    """Lower case, words and simple signs alone: what a small vocabulary holds."""
    return " ".join(re.sub(r"[^\w\s.,']", " ", text.lower()).split())


def _seen(item: CocoObject, part: Box, mirrored: bool) -> CocoObject | None:
    """An object as a view shows it, or None where too little of it is left."""
    left, top, right, bottom = item.box
    x0, y0, x1, y1 = part
    inside = (max(left, x0), max(top, y0), min(right, x1), min(bottom, y1))
    kept = CocoObject(item.category, inside)
    if inside[2] <= inside[0] or inside[3] <= inside[1] or kept.area < MIN_VISIBLE * item.area:
        return None
    width, height = x1 - x0, y1 - y0
    box = ((inside[0] - x0) / width, (inside[1] - y0) / height, (inside[2] - x0) / width, (inside[3] - y0) / height)
    if mirrored:
        box = (1 - box[2], box[1], 1 - box[0], box[3])
    return CocoObject(item.category, box)


def _boxes(view: View) -> tuple[Region, ...]:
    """What instances.json says is where in a view.

    Raises:
        OtherShape: if it says it of a picture of another shape.
    """
    image = view.image
    if image.size is not None:
        try:
            stored = stored_size(image.path)
        except PictureError:
            # told where the picture is loaded
            return ()
        width, height = turned_size(*stored)
        said = image.size if quarter(image.size, *stored) is None else image.size[::-1]
        if not same_shape(said, (width, height)):
            who = f"instances.json says that {shown(image.name)}"
            sizes = f"{said[0]:g} x {said[1]:g} pixels, and it has {width} x {height}"
            raise OtherShape(f"{who} has {sizes}: another shape, and nothing of it can be used.")
    return tuple(Region((item.category,), item.box, view.window) for item in image.objects)


def _within(regions: RegionFile, view: View) -> tuple[Region, ...] | None:
    """What a file says is where in a view."""
    found = regions_in(regions, view.image.name, partial(upright_size, view.image.path))
    return None if found is None else tuple(region.within(view.window) for region in found)
