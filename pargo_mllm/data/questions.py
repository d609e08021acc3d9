"""What every data source gives: pictures with captions and questions that have one exact answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image


@dataclass(frozen=True)
class Question:
    """Something asked about one picture, or a request to describe it, with what should be said.

    ``kind`` groups questions in the accuracy table; ``answer`` is the only answer that counts as right.
    """

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Sample:
    """One picture with what can be said and asked about it.

    ``load`` returns the RGB picture; sources that read files open them only then. ``captions`` are requests to describe it,
    from coarse to detailed. ``name`` is what an error message calls the sample.
    """

    name: str
    load: Callable[[], Image.Image]
    captions: tuple[Question, ...] = ()
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class TextLesson:
    """Facts told as words, and what is said about them: material of stage 0b, no picture belongs to it."""

    facts: tuple[tuple[str, ...], ...]
    conversations: tuple[Question, ...]


class Source(Protocol):
    """A place that pictures come from, with everything the stages need. Splits are "train", "validation" and "test"."""

    def samples(self, split: str) -> list[Sample]:
        """Pictures of a split with captions and questions."""

    def vocabulary(self) -> Iterable[str]:
        """Texts that hold every word the source may use."""

    def text_lessons(self) -> list[TextLesson]:
        """Facts for stage 0b, of none of the pictures."""

    def patch_lessons(self, patches: int) -> tuple[list[Sample], torch.Tensor, list[int]]:
        """Pictures for stage 0a, labels int64 ``[N, patches * patches, heads]`` of their patches, and classes per head."""

    def settings(self) -> dict[str, Any]:
        """What the data depends on, as JSON: the key of everything that is cached."""
