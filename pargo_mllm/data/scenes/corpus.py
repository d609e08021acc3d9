"""Generated scenes as a corpus: ``scenes``, or ``scenes:seed=1,train=5000,held_out=400``; ``scenes:boxes=1`` asks where."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from PIL import Image

from pargo_mllm.data.corpus import CorpusError, shown
from pargo_mllm.data.held_out import SPLITS
from pargo_mllm.data.questions import WHAT, Question, QuestionCorpus
from pargo_mllm.data.regions import Region
from pargo_mllm.data.scenes.layout import captions, region_names, regions, scene_and_picture, scene_layout, scene_questions
from pargo_mllm.data.scenes.referring import scene_boxes

NAME = "scenes"
# what is said about scenes is drawn again where it is asked for again later than that
KEPT = 1 << 13
_MAX_DIGITS = 100
_WHOLE = re.compile(r"[+-]?\d+")
_MOST = 2**31 - 1
_RANGES = {
    "seed": (0, _MOST),
    "train": (1, _MOST),
    "held_out": (0, _MOST),
    "questions_per_kind": (1, _MOST),
    "boxes": (0, 1),
}


@dataclass(frozen=True)
class Scenes:
    """Which scenes, the same for the same numbers.

    Args:
        seed: of the layouts.
        train, held_out: how many pictures each split has.
        questions_per_kind: at most so many questions of a kind are asked about a picture.
        boxes: 1 for stage 2 to ask where things are, each answer a box (:mod:`pargo_mllm.data.scenes.referring`), and nothing
            else.

    Raises:
        CorpusError: for numbers out of range.
    """

    seed: int = 0
    train: int = 5000
    held_out: int = 400
    questions_per_kind: int = 4
    boxes: int = 0

    def __post_init__(self):
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise CorpusError(f"{NAME}: {name}={value!r} must be a whole number from {least} to {most}.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Scenes:
        """From keys and values, as a recipe has them."""
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise CorpusError(f"{NAME}: {key!r} is no option; there are {', '.join(known)}.")
        return cls(**options)

    @classmethod
    def parse(cls, text: str) -> Scenes | None:
        """From ``scenes`` or ``scenes:key=value,...``; None for anything else, a folder of that name (``./scenes``) too."""
        name, colon, rest = text.partition(":")
        if name != NAME:
            return None
        options: dict[str, Any] = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not _WHOLE.fullmatch(value):
                raise CorpusError(
                    f"{shown(text)}: {shown(part)!r} must be key=whole number, as in {NAME}:seed=1,train=5000,held_out=400."
                )
            if key in options:
                raise CorpusError(f"{text}: {key} is given twice.")
            # what has more digits than Python makes numbers of is out of every range
            options[key] = int(value) if len(value) <= _MAX_DIGITS else shown(value)
        return cls.of(options)

    def without_boxes(self) -> dict[str, Any]:
        """All numbers but whether boxes are asked for, as JSON: what was made of scenes before they had any goes by these."""
        return {name: value for name, value in asdict(self).items() if name != "boxes"}

    def __str__(self) -> str:
        changed = [f"{key}={value}" for key, value in asdict(self).items() if value != getattr(Scenes, key)]
        return f"{NAME}:{','.join(changed)}" if changed else NAME


class SceneCorpus(QuestionCorpus):
    """Captions (stage 1) of the scenes of a split, a coarse and a detailed one each, or questions about them (stage 2): what
    they show, or, with ``boxes=1``, where it is.

    Raises:
        CorpusError: for the test split where no scenes are held out.
        ValueError: for another stage or split.
    """

    def __init__(self, scenes: Scenes, stage: int, split: str = "train"):
        if stage not in WHAT:
            raise ValueError(f"stage={stage!r} must be 1 or 2.")
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; it must be one of {', '.join(SPLITS)}.")
        if split == "test" and not scenes.held_out:
            raise CorpusError(f"{scenes}: nothing is held out.")
        self.scenes, self.split = scenes, split
        self.what = "boxes" if scenes.boxes and stage == 2 else WHAT[stage]

    def __len__(self) -> int:
        return self.scenes.train if self.split == "train" else self.scenes.held_out

    def name(self, index: int) -> str:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return f"scene {index} of {self.split}"

    def said(self, index: int) -> tuple[Question, ...]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return _said(self.what, self.split, self.scenes.seed, index, self.scenes.questions_per_kind)

    def picture(self, index: int) -> Image.Image:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return scene_and_picture(self.split, self.scenes.seed, index)[1]

    def regions(self, index: int) -> Callable[[], tuple[Region, ...]]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`: :func:`pargo_mllm.data.scenes.layout.regions`."""
        return lambda: regions(scene_layout(self.split, self.scenes.seed, index))

    def region_names(self) -> tuple[str, ...]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return region_names()

    def shows(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.questions.QuestionCorpus`."""
        return {"corpus": NAME, "split": self.split, "seed": self.scenes.seed, "count": len(self)}

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        # "what" says whether boxes are asked for
        return {"corpus": NAME, "what": self.what, "split": self.split, **self.scenes.without_boxes()}


@lru_cache(KEPT)
def _said(what: str, split: str, seed: int, index: int, per_kind: int) -> tuple[Question, ...]:
    if what == "captions":
        return captions(scene_layout(split, seed, index))
    if what == "boxes":
        return scene_boxes(split, seed, index, per_kind)
    return scene_questions(split, seed, index, per_kind)
