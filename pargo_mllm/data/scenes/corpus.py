"""Generated scenes as a source of everything the stages need."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from pargo_mllm.data.questions import Sample, TextLesson
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
    scene_and_picture,
    scene_layout,
    scene_questions,
)
from pargo_mllm.data.scenes.photographs import PHOTOGRAPHS

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
class SceneSource:
    """Scenes by split, the same for the same seed.

    Args:
        train, validation, test: how many pictures each split has.
        text: how many scenes stage 0b tells as text.
        questions_per_kind: at most so many questions of a kind are asked about a picture.
    """

    train: int = 5000
    validation: int = 300
    test: int = 400
    text: int = 8000
    questions_per_kind: int = 4
    seed: int = 0

    def samples(self, split: str) -> list[Sample]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        return [self._sample(split, index) for index in range(self._count(split))]

    def vocabulary(self) -> list[str]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        cells = [f"{column}{row + 1}" for column in COLUMNS for row in range(CELLS)]
        names = " ".join((*cells, *COLOURS, *SHAPES, *DIGITS, *CONSONANTS, *VOWELS, *PHOTOGRAPHS))
        spoken = [self._lesson(index) for index in range(64)]
        texts = [f"{said.text} {said.answer}" for lesson in spoken for said in lesson.conversations]
        return [names, *texts, *(" ".join(fact) for lesson in spoken for fact in lesson.facts)]

    def text_lessons(self) -> list[TextLesson]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        return [self._lesson(index) for index in range(self.text)]

    def patch_lessons(self, patches: int) -> tuple[list[Sample], torch.Tensor, list[int]]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        if patches != CELLS:
            raise ValueError(f"patches={patches}: scenes have {CELLS} x {CELLS} cells; use an encoder with as many patches.")
        samples = self.samples("train")
        labels = [patch_labels(scene_layout("train", self.seed, index)) for index in range(self.train)]
        return samples, torch.from_numpy(np.stack(labels)), [len(PATCH_CLASSES), len(PATCH_COLOURS)]

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.questions.Source`."""
        return {"source": "scenes", **asdict(self)}

    def _sample(self, split: str, index: int) -> Sample:
        return Sample(
            name=f"scene {index} of {split}",
            load=partial(_picture, split, self.seed, index),
            captions=captions(scene_layout(split, self.seed, index)),
            questions=scene_questions(split, self.seed, index, self.questions_per_kind),
        )

    def _lesson(self, index: int) -> TextLesson:
        scene = scene_layout("text", self.seed, index)
        said = scene_questions("text", self.seed, index, self.questions_per_kind)
        return TextLesson(facts=tuple(facts(scene)), conversations=(*said, *captions(scene)))

    def _count(self, split: str) -> int:
        counts = {"train": self.train, "validation": self.validation, "test": self.test}
        if split not in counts:
            raise ValueError(f"split={split!r} is unknown; it must be one of {', '.join(counts)}.")
        return counts[split]


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


def _picture(split: str, seed: int, index: int) -> Image.Image:
    return scene_and_picture(split, seed, index)[1]
