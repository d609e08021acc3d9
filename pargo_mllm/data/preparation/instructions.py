"""How questions are put: the instructions in front of them, and what several sets do with pictures and questions.

The wordings are Honeybee's (arXiv 2312.06742, its table of templates), which ParGo follows.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Sequence

from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, turns
from pargo_mllm.data.sources.llava_records import HALF, MARK, MARKS, VIDEO, UnusableRecord, record_messages

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
YES_NO = "Please answer yes or no."
CONTEXT = "Context: "
# question-answer pairs of a picture that stand in one conversation
MOST_PAIRS = 10
AGAIN = "entries whose id an earlier one has"
NO_ANSWER = "questions without an answer"
NO_QUESTION = "entries without a question"
NO_PHOTOGRAPH = "questions that name no photograph, or not as the set does"
# what is wrong with a record of one question, said of the question
_UNFIT = {
    MARKS: f"questions that hold {MARK}, or whose answers do",
    HALF: "questions or answers that hold half a character (a lone surrogate)",
    VIDEO: "questions with a place for a video or sound",
}


def short(question: str) -> str:
    """A question that a word or two answer."""
    return f"{SHORT} {question}"


def among(question: str, choices: Sequence[str], right: int, rng: random.Random, context: str = "") -> tuple[str, str]:
    """A question with its choices, in an order that is left to chance, and the letter of the right one.

    Args:
        right: which of the choices it is, from 0.
        context: what is to be known, if anything.

    Raises:
        ValueError: if there are more choices than letters.
    """
    if len(choices) > len(string.ascii_uppercase):
        raise ValueError(f"{len(choices)} choices have no letters")
    order = rng.sample(range(len(choices)), len(choices))
    lines = [f"{LETTER} {question}", *([f"{CONTEXT}{context}"] if context else [])]
    lines += [f"{letter}. {choices[place]}" for letter, place in zip(string.ascii_uppercase, order, strict=False)]
    return "\n".join(lines), string.ascii_uppercase[order.index(right)]


def conversations(id: str, picture: Picture, pairs: Sequence[tuple[str, str]]) -> Iterator[Entry | Skipped]:
    """The questions about a picture, up to :data:`MOST_PAIRS` in one conversation; further ones are ``ID-2``, ``ID-3``, …

    A question that training would leave out is counted, and takes no others with it.
    """
    fit = []
    for asked, said in pairs:
        reason = _unfit(asked, said)
        if reason is None:
            fit.append((short(asked), said))
        else:
            yield Skipped(id, reason)
    for first in range(0, len(fit), MOST_PAIRS):
        own = f"{id}-{1 + first // MOST_PAIRS}" if first else id
        yield Entry(own, picture, turns(fit[first : first + MOST_PAIRS]))


def _unfit(asked: str, said: str) -> str | None:
    try:
        record_messages({"conversations": list(turns([(asked, said)]))}, 1)
    except UnusableRecord as problem:
        return _UNFIT.get(problem.reason, problem.reason)
    return None


def by_picture(pairs: Iterable[tuple[str, str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Questions with their answers by picture, pictures in the order in which they first come.

    Args:
        pairs: (picture, question, answer).
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for picture, question, answer in pairs:
        found.setdefault(picture, []).append((question, answer))
    return found


def below(folder: str, name: str) -> str:
    """A name in a folder that may be the source itself."""
    return f"{folder}/{name}" if folder else name
