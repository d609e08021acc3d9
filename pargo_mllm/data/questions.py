"""Questions that have one exact answer, and corpora of pictures about which they are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, Example, Tally, about_image, all_skipped
from pargo_mllm.data.regions import Region

# what a stage learns: captions, then answers
WHAT = {1: "captions", 2: "questions"}


@dataclass(frozen=True)
class Question:
    """Something asked about one picture, or a request to describe it, with what should be said.

    ``kind`` groups questions in tables of accuracy; ``answer`` is the only answer that counts as right.
    """

    kind: str
    text: str
    answer: str


class QuestionCorpus(ABC):
    """A :class:`~pargo_mllm.data.corpus.Corpus` of one example a picture: what is said about it, each a conversation of one
    turn behind the picture. Subclasses say what the pictures are called, what is said about them, and draw or read them.
    """

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """See :class:`pargo_mllm.data.corpus.Corpus`: all pictures are used, unless a subclass says otherwise."""
        return {"pictures": Tally(len(self), len(self))}

    @property
    def skipped(self) -> Counter[str]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return all_skipped(self.tallies)

    @property
    def parts(self) -> Sequence[int]:
        """See :class:`pargo_mllm.data.corpus.Corpus`: one part."""
        return [len(self)]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls picture ``index``."""

    @abstractmethod
    def said(self, index: int) -> tuple[Question, ...]:
        """What is said about it."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """The RGB picture."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""

    def regions(self, index: int) -> Callable[[], tuple[Region, ...] | None] | None:
        """Says what is where in picture ``index``; None where nobody knows."""
        return None

    def region_names(self) -> tuple[str, ...]:
        """Every name that :meth:`regions` may give, of this split or another one."""
        return ()

    def shows(self) -> dict[str, Any]:
        """What the pictures depend on, as JSON: less than :meth:`settings`, which what is said about them changes too."""
        return self.settings()

    def __getitem__(self, index: int) -> Example:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must be from 0 to {len(self) - 1}.")
        said, regions = self.said(index), self.regions(index)
        return Example(
            self.name(index),
            tuple(about_image(question.text, question.answer) for question in said),
            (lambda: self.picture(index),),
            kinds=tuple(question.kind for question in said),
            regions=None if regions is None else (regions,),
        )

    def length_hint(self, index: int) -> int:
        """See :class:`pargo_mllm.data.corpus.Corpus`: characters, the picture taken for ``PICTURE_LENGTH``."""
        return PICTURE_LENGTH + sum(len(question.text) + len(question.answer) for question in self.said(index))
