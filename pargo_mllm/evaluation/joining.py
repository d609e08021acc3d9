"""Predictions joined to the questions that they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Prediction


@dataclass(frozen=True)
class Joined:
    """Questions with their answers.

    Args:
        by: "id", "picture and question", or "the predictions themselves" where they carry the right answers.
        unanswered: questions without a prediction; unused: predictions without a question. Both are 0 unless only what joins
            was asked for.
    """

    answered: list[Answered]
    by: str
    unanswered: int = 0
    unused: int = 0


def join(predictions: Sequence[Prediction], items: Sequence[Item] | None, only_joined: bool = False) -> Joined:
    """Each question with its answer: by id, else by picture and question.

    Ids count only where all of them are known and nothing else that both sides say (picture, question) speaks against it.

    Args:
        items: of the answers' file; None where predictions carry their own.

    Raises:
        ScoringError: for an id, or a picture with the same question, that comes twice; for predictions that join no question and
            questions that have none, unless ``only_joined``; it names the first lines.
    """
    raise NotImplementedError


def read_joined(benchmark: Benchmark, predictions: Path, answers: Path | None, only_joined: bool = False) -> Joined:
    """The predictions of a file, joined to the right answers: those of ``answers``, or those that they carry.

    Raises:
        ScoringError: if the predictions carry none and no file is given.
    """
    raise NotImplementedError
