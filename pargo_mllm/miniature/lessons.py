"""What stage 0 learns from: facts told as text, and pictures whose patches are labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pargo_mllm.data.questions import Question, QuestionCorpus
from pargo_mllm.data.scenes.corpus import SceneCorpus, Scenes
from pargo_mllm.data.scenes.drawing import SHAPES
from pargo_mllm.data.scenes.layout import (
    BIG_CELLS,
    CELLS,
    COLOURS,
    COLUMNS,
    CONSONANTS,
    DIGITS,
    PHOTO_CELLS,
    VOWELS,
    Scene,
    captions,
    facts,
    scene_layout,
    scene_questions,
)
from pargo_mllm.data.scenes.photographs import PHOTOGRAPHS
from pargo_mllm.data.sources.coco import CocoImage, CocoObject, FolderError
from pargo_mllm.data.sources.object_questions import COLUMNS as LEFT_TO_RIGHT
from pargo_mllm.data.sources.object_questions import ROWS, object_facts, object_questions
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT, PhotographCorpus, PhotographFolder, captions_of, clean

MAX_FACTS = 16
VOCABULARY = 4000
# what can stand in a patch, the first label of stage 0a; the second is its colour
PATCH_CLASSES = (
    "nothing",
    *SHAPES,
    *DIGITS,
    *CONSONANTS,
    *VOWELS,
    *(f"big {shape}" for shape in SHAPES),
    *(f"photograph {name}" for name in PHOTOGRAPHS),
)
PATCH_COLOURS = ("no colour", *COLOURS)


@dataclass(frozen=True)
class TextLesson:
    """Facts told as words, and what is said about them: material of stage 0b, no picture belongs to it."""

    facts: tuple[tuple[str, ...], ...]
    conversations: tuple[Question, ...]


class Lessons(Protocol):
    """Where stage 0 learns."""

    def vocabulary(self) -> Iterable[str]:
        """Texts that hold every word that may be used."""

    def text_lessons(self) -> list[TextLesson]:
        """Facts for stage 0b, of none of the pictures."""

    def patch_lessons(self, patches: int) -> tuple[QuestionCorpus, torch.Tensor, list[int]]:
        """Pictures for stage 0a, labels int64 ``[N, patches * patches, heads]`` of their patches, and classes per head."""

    def check(self) -> None:
        """Raise what keeps the patches from being labelled."""

    def settings(self) -> dict[str, Any]:
        """What they depend on, as JSON."""


@dataclass(frozen=True)
class SceneLessons:
    """Lessons from generated scenes, ``text`` of them told as text."""

    scenes: Scenes
    text: int

    def vocabulary(self) -> list[str]:
        """See :class:`Lessons`."""
        cells = [f"{column}{row + 1}" for column in COLUMNS for row in range(CELLS)]
        names = " ".join((*cells, *COLOURS, *SHAPES, *DIGITS, *CONSONANTS, *VOWELS, *PHOTOGRAPHS))
        spoken = [self._lesson(index) for index in range(64)]
        texts = [f"{said.text} {said.answer}" for lesson in spoken for said in lesson.conversations]
        return [names, *texts, *(" ".join(fact) for lesson in spoken for fact in lesson.facts)]

    def text_lessons(self) -> list[TextLesson]:
        """See :class:`Lessons`."""
        return [self._lesson(index) for index in range(self.text)]

    def patch_lessons(self, patches: int) -> tuple[QuestionCorpus, torch.Tensor, list[int]]:
        """See :class:`Lessons`."""
        if patches != CELLS:
            raise ValueError(f"patches={patches}: scenes have {CELLS} x {CELLS} cells; use an encoder with as many patches.")
        labels = [patch_labels(scene_layout("train", self.scenes.seed, index)) for index in range(self.scenes.train)]
        return SceneCorpus(self.scenes, 1), torch.from_numpy(np.stack(labels)), [len(PATCH_CLASSES), len(PATCH_COLOURS)]

    def check(self) -> None:
        """See :class:`Lessons`: scenes know what they show."""

    def settings(self) -> dict[str, Any]:
        """See :class:`Lessons`."""
        return {"lessons": "scenes", "text": self.text, **self.scenes.without_boxes()}

    def _lesson(self, index: int) -> TextLesson:
        scene = scene_layout("text", self.scenes.seed, index)
        said = scene_questions("text", self.scenes.seed, index, self.scenes.questions_per_kind)
        return TextLesson(facts=tuple(facts(scene)), conversations=(*said, *captions(scene)))


@dataclass(frozen=True)
class PhotographLessons:
    """Lessons from a folder of photographs: invented layouts of objects, and captions told with their photograph's objects."""

    folder: PhotographFolder
    text: int

    def vocabulary(self) -> list[str]:
        """See :class:`Lessons`. Caption words come from the training photographs alone."""
        lessons = self.text_lessons()[:200]
        questions = [f"{said.text} {said.answer}" for lesson in lessons for said in lesson.conversations]
        names = [*self.folder.categories, *ROWS, *LEFT_TO_RIGHT, "largest yes no", CAPTION_PROMPT]
        photographs = self.folder.photographs("train")
        words = Counter(word for image in photographs for text in image.captions for word in clean(text).split())
        return [*names, *questions, *(word for word, _ in words.most_common(VOCABULARY))]

    def text_lessons(self) -> list[TextLesson]:
        """See :class:`Lessons`."""
        rng = np.random.default_rng([self.folder.seed, 2])
        images = self.folder.photographs("train")
        lessons = [_told(image) for image in images]
        while len(lessons) < self.text:
            if self.folder.categories and len(lessons) % 4:
                lessons.append(self._invented(rng))
            else:
                lessons.append(_told(images[rng.integers(len(images))]))
        return lessons

    def patch_lessons(self, patches: int) -> tuple[QuestionCorpus, torch.Tensor, list[int]]:
        """See :class:`Lessons`. A patch shows the smallest object whose box holds its centre."""
        self.check()
        folder = self.folder
        labels = [_object_labels(view.objects, folder.categories, patches) for view in folder.views("train")]
        return PhotographCorpus(folder, 1), torch.from_numpy(np.stack(labels)), [len(folder.categories) + 1]

    def check(self) -> None:
        """See :class:`Lessons`.

        Raises:
            FolderError: without instances.json, which alone says what is where.
        """
        if not self.folder.categories:
            raise FolderError(f"{self.folder.root} has no instances.json with objects; its patches cannot be labelled.")

    def settings(self) -> dict[str, Any]:
        """See :class:`Lessons`."""
        return {"lessons": "photographs", "text": self.text, **self.folder.settings()}

    def _invented(self, rng: np.random.Generator) -> TextLesson:
        objects = []
        for _ in range(rng.integers(1, 9)):
            width, height = rng.uniform(0.05, 0.6, size=2)
            left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            category = self.folder.categories[rng.integers(len(self.folder.categories))]
            objects.append(CocoObject(category, (left, top, left + width, top + height)))
        said = object_questions(objects, self.folder.categories, rng, self.folder.questions_per_kind)
        return TextLesson(object_facts(objects), said)


def patch_labels(scene: Scene) -> np.ndarray:
    """What is in each cell: int64 ``[64, 2]``, indices into :data:`PATCH_CLASSES` and :data:`PATCH_COLOURS`."""
    labels = np.zeros((CELLS, CELLS, 2), dtype=np.int64)
    name, row, column = scene.photo
    side = PHOTO_CELLS if scene.big is not None else CELLS
    labels[row : row + side, column : column + side, 0] = PATCH_CLASSES.index(f"photograph {name}")
    if scene.big is not None:
        colour, shape, row, column = scene.big
        big = labels[row : row + BIG_CELLS, column : column + BIG_CELLS]
        big[...] = PATCH_CLASSES.index(f"big {shape}"), PATCH_COLOURS.index(colour)
    for item in scene.items:
        colour = item.colour or PATCH_COLOURS[0]
        labels[item.row, item.column] = PATCH_CLASSES.index(item.what), PATCH_COLOURS.index(colour)
    return labels.reshape(CELLS * CELLS, 2)


def _told(image: CocoImage) -> TextLesson:
    return TextLesson(object_facts(_largest(list(image.objects))), captions_of(image)[:2])


def _largest(objects: list[CocoObject]) -> list[CocoObject]:
    return sorted(objects, key=lambda item: -item.area)[:MAX_FACTS]


def _object_labels(objects: tuple[CocoObject, ...], categories: list[str], patches: int) -> np.ndarray:
    """int64 ``[patches * patches, 1]``: 0 for nothing, or 1 + the category's index."""
    centres = (np.arange(patches) + 0.5) / patches
    labels = np.zeros((patches, patches), dtype=np.int64)
    for item in sorted(objects, key=lambda item: -item.area):
        left, top, right, bottom = item.box
        rows, columns = (centres > top) & (centres < bottom), (centres > left) & (centres < right)
        if item.category in categories:
            labels[np.ix_(rows, columns)] = 1 + categories.index(item.category)
    return labels.reshape(-1, 1)
