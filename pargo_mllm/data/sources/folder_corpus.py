"""Samples of a source as a corpus: what is said about each picture."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError, Example, about_image
from pargo_mllm.data.questions import Question, Sample


class FolderCorpus:
    """One example a picture: its captions, or its questions, each a conversation of one turn behind the picture.

    Args:
        samples: pictures; those about which nothing is said are left out.
        what: "captions" or "questions".
        source: settings of where the samples come from; they become part of :meth:`settings`.
        skipped: what was left out of the folder, counted by reason.

    Raises:
        CorpusError: if nothing is said about any sample.
        ValueError: for another ``what``.
    """

    def __init__(
        self,
        samples: list[Sample],
        what: str,
        source: dict[str, Any] | None = None,
        skipped: Counter[str] | None = None,
    ):
        if what not in ("captions", "questions"):
            raise ValueError(f"what={what!r} is unknown; it must be captions or questions.")
        self._samples, self._what, self._source = samples, what, source
        self.skipped = Counter() if skipped is None else skipped
        self._kept = [index for index, sample in enumerate(samples) if getattr(sample, what)]
        if not self._kept:
            raise CorpusError(f"none of the {len(samples)} samples has {what}.")

    @property
    def parts(self) -> Sequence[int]:
        """See :class:`pargo_mllm.data.corpus.Corpus`: one part."""
        return [len(self)]

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Example:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        sample = self._sample(index)
        said = tuple(about_image(question.text, question.answer) for question in self._said(sample))
        return Example(sample.name, said, (sample.load,))

    def length_hint(self, index: int) -> int:
        """See :class:`pargo_mllm.data.corpus.Corpus`: characters, the picture taken for :data:`PICTURE_LENGTH`."""
        said = self._said(self._sample(index))
        return PICTURE_LENGTH + sum(len(question.text) + len(question.answer) for question in said)

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        digest = hashlib.sha256()
        for index in self._kept:
            sample = self._samples[index]
            said = [[question.text, question.answer] for question in self._said(sample)]
            digest.update(json.dumps([sample.name, said]).encode())
        return {"corpus": "folder", "what": self._what, "content": digest.hexdigest(), "source": self._source}

    def _sample(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} must be from 0 to {len(self) - 1}.")
        return self._samples[self._kept[index]]

    def _said(self, sample: Sample) -> tuple[Question, ...]:
        return getattr(sample, self._what)
