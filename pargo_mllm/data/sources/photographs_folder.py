"""A COCO-style folder as a source of everything the stages need."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from pargo_mllm.data.pictures import load_picture
from pargo_mllm.data.questions import Question, Sample, TextLesson
from pargo_mllm.data.sources.coco import Box, CocoFolder, CocoImage, CocoObject, FolderError, read_coco_folder
from pargo_mllm.data.sources.object_questions import COLUMNS, ROWS, object_facts, object_questions

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MAX_FACTS = 16
# of an object's box, what a view must keep for the object to be in it
MIN_VISIBLE = 0.3
VOCABULARY = 4000
CAPTION_PROMPT = "describe the picture"


@dataclass(frozen=True)
class View:
    """A part of a photograph, perhaps mirrored; boxes of what it shows are relative to it."""

    image: CocoImage
    part: Box
    mirrored: bool
    objects: tuple[CocoObject, ...]

    def load(self) -> Image.Image:
        """The view's pixels."""
        picture = load_picture(self.image.path)
        left, top, right, bottom = self.part
        width, height = picture.size
        picture = picture.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
        return ImageOps.mirror(picture) if self.mirrored else picture


@dataclass(frozen=True)
class FolderSource:
    """Photographs of a folder. A fifth of them, chosen by their names, is held out: no view of them is ever trained on.

    Args:
        root: the folder.
        limit: at most so many photographs are used.
        train_views: about so many views of the training photographs are made; every photograph is seen whole once, its
            other views are parts, mirrored half of the time.
        text: how many invented layouts stage 0b tells as text.
        questions_per_kind: at most so many questions of a kind are asked about a picture.

    Raises:
        FolderError: if the folder is none, or holds fewer than five photographs.
    """

    root: Path
    limit: int = 2000
    train_views: int = 1200
    text: int = 6000
    questions_per_kind: int = 4
    seed: int = 0
    skipped: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self):
        if len(self._photographs) < 5:
            raise FolderError(f"{self.root} holds {len(self._photographs)} captioned photographs; at least 5 are needed.")

    @cached_property
    def folder(self) -> CocoFolder:
        """The annotations."""
        return read_coco_folder(self.root)

    def photographs(self, split: str) -> list[CocoImage]:
        """The photographs of a split: "train", or "test" (the held-out fifth; "validation" is empty)."""
        count = max(1, len(self._photographs) // 5)
        parts = {"train": slice(count, None), "test": slice(0, count), "validation": slice(0, 0)}
        if split not in parts:
            raise ValueError(f"split={split!r} is unknown; it must be one of {', '.join(parts)}.")
        return self._photographs[parts[split]]

    def samples(self, split: str) -> list[Sample]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        views = self._train_views if split == "train" else [self._whole(image) for image in self.photographs(split)]
        return [self._sample(f"{view.image.path.name} (view {index})", view, index) for index, view in enumerate(views)]

    def vocabulary(self) -> list[str]:
        """See :class:`pargo_mllm.data.questions.Source`. Caption words come from the training photographs alone."""
        lessons = self.text_lessons()[:200]
        questions = [f"{said.text} {said.answer}" for lesson in lessons for said in lesson.conversations]
        names = [*self.categories, *ROWS, *COLUMNS, "largest yes no", CAPTION_PROMPT]
        words = Counter(word for image in self.photographs("train") for text in image.captions for word in _clean(text).split())
        return [*names, *questions, *(word for word, _ in words.most_common(VOCABULARY))]

    def text_lessons(self) -> list[TextLesson]:
        """See :class:`pargo_mllm.data.questions.Source`: invented layouts, captions told with their photograph's objects."""
        rng = np.random.default_rng([self.seed, 2])
        lessons = [self._told(image) for image in self.photographs("train")]
        while len(lessons) < self.text:
            if self.categories and (len(lessons) % 4 or not self.folder.images):
                lessons.append(self._invented(rng))
            else:
                images = self.photographs("train")
                lessons.append(self._told(images[rng.integers(len(images))]))
        return lessons

    def patch_lessons(self, patches: int) -> tuple[list[Sample], torch.Tensor, list[int]]:
        """See :class:`pargo_mllm.data.questions.Source`. A patch shows the smallest object whose box holds its centre.

        Raises:
            FolderError: without instances.json, which alone says what is where.
        """
        if not self.categories:
            raise FolderError(f"{self.root} has no instances.json with objects; its patches cannot be labelled.")
        samples = self.samples("train")
        labels = [_patch_labels(view.objects, self.categories, patches) for view in self._train_views]
        return samples, torch.from_numpy(np.stack(labels)), [len(self.categories) + 1]

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        digest = hashlib.sha256()
        for name in ("captions.json", "instances.json"):
            file = self.root / name
            digest.update(file.read_bytes() if file.is_file() else b"absent")
        for image in self._photographs:
            status = image.path.stat() if image.path.is_file() else None
            digest.update(f"{image.path.name} {status and (status.st_size, status.st_mtime_ns)}".encode())
        numbers = {name: getattr(self, name) for name in ("limit", "train_views", "text", "questions_per_kind", "seed")}
        return {"source": "folder", "content": digest.hexdigest(), **numbers}

    @cached_property
    def categories(self) -> list[str]:
        """Categories of the training photographs, the only ones that are asked for."""
        return sorted({item.category for image in self.photographs("train") for item in image.objects})

    @cached_property
    def _photographs(self) -> list[CocoImage]:
        # by a hash of the name: the split does not depend on what else the folder holds
        ordered = sorted(self.folder.images, key=lambda image: hashlib.sha256(image.path.name.encode()).hexdigest())
        return ordered[: self.limit]

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

    def _sample(self, name: str, view: View, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, 3, index])
        asked = object_questions(list(view.objects), self.categories, rng, self.questions_per_kind)
        captions = _captions(view.image)
        # without objects to ask about, describing is the question
        questions = asked if self.categories else captions[:1]
        return Sample(name=name, load=partial(View.load, view), captions=captions, questions=questions)

    def _told(self, image: CocoImage) -> TextLesson:
        return TextLesson(object_facts(_largest(list(image.objects))), _captions(image)[:2])

    def _invented(self, rng: np.random.Generator) -> TextLesson:
        objects = []
        for _ in range(rng.integers(1, 9)):
            width, height = rng.uniform(0.05, 0.6, size=2)
            left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            category = self.categories[rng.integers(len(self.categories))]
            objects.append(CocoObject(category, (left, top, left + width, top + height)))
        said = object_questions(objects, self.categories, rng, self.questions_per_kind)
        return TextLesson(object_facts(objects), said)


def _captions(image: CocoImage) -> tuple[Question, ...]:
    return tuple(Question("caption", CAPTION_PROMPT, _clean(text)) for text in image.captions)


def _clean(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s.,']", " ", text.lower()).split())


def _largest(objects: list[CocoObject]) -> list[CocoObject]:
    return sorted(objects, key=lambda item: -item.area)[:MAX_FACTS]


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


def _patch_labels(objects: tuple[CocoObject, ...], categories: list[str], patches: int) -> np.ndarray:
    """int64 ``[patches * patches, 1]``: 0 for nothing, or 1 + the category's index."""
    centres = (np.arange(patches) + 0.5) / patches
    labels = np.zeros((patches, patches), dtype=np.int64)
    for item in sorted(objects, key=lambda item: -item.area):
        left, top, right, bottom = item.box
        rows, columns = (centres > top) & (centres < bottom), (centres > left) & (centres < right)
        if item.category in categories:
            labels[np.ix_(rows, columns)] = 1 + categories.index(item.category)
    return labels.reshape(-1, 1)
