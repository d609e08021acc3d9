"""Questions and answers without what data sets' templates put around them, so that the same ones are found to be the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from pargo_mllm.data.frames import Box, read_box
from pargo_mllm.data.preparation.instructions import CONTEXT, LETTER, SHORT, YES_NO
from pargo_mllm.data.preparation.regions import WHERE

_INSTRUCTIONS = (SHORT, LETTER, YES_NO)
_OPTION = re.compile(r"\s*\(?([A-Z])[.):]\s+(\S.*)")
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_MARK = "<image>"


def normal(text: str) -> str:
    """As texts are compared: without case, spaces side by side and a sign at the end."""
    return " ".join(text.casefold().split()).rstrip(".!? ")


def without_instructions(question: str) -> str:
    """A question without the mark of its picture and instructions in front of it or behind it."""
    question = question.replace(_MARK, "").strip()
    shorter = None
    while shorter != question:
        shorter = question
        for instruction in _INSTRUCTIONS:
            question = question.removeprefix(instruction).removesuffix(instruction).strip()
    return question


def asked_among(question: str) -> tuple[str, Mapping[str, str]]:
    """A question and its options by letter; none where its lines list none. What is told as context is left out."""
    rows = [row for row in without_instructions(question).split("\n") if not row.startswith(CONTEXT)]
    options = {found[1]: found[2] for found in map(_OPTION.fullmatch, rows) if found}
    if len(options) < 2:
        return "\n".join(rows), {}
    return "\n".join(row for row in rows if not _OPTION.fullmatch(row)), options


def chosen(answer: str, options: Mapping[str, str]) -> str:
    """The text of the option that an answer names by its letter, or by both; the answer itself where it names none."""
    found = _LETTER.fullmatch(answer.strip())
    if found:
        return options.get(found[1], answer)
    both = _OPTION.fullmatch(answer.strip())
    return both[2] if both and options.get(both[1]) == both[2].strip() else answer


def keys_of(question: str, answer: str) -> Iterator[tuple[str, ...]]:
    """What a question with its answer is compared by: with options, in whatever order, those and the right one's text."""
    plain, options = asked_among(question)
    if options:
        yield choice_key(plain, options.values(), chosen(answer, options))
    # a question may stand among other lines
    for way in dict.fromkeys((plain, plain.split("\n")[0], plain.split("\n")[-1])):
        yield normal(way), normal(answer)


def choice_key(question: str, options: Iterable[str], answer: str) -> tuple[str, ...]:
    """Of a question of multiple choice; see :func:`keys_of`."""
    return (normal(question), "among", *sorted(map(normal, options)), normal(answer))


def phrase_and_box(question: str, answer: str) -> tuple[str, Box] | None:
    """What a turn says of a place, in either direction: the phrase, as it is compared, and the box; None of other turns."""
    box = read_box(answer)
    if box is not None:
        return normal(without_instructions(question).removeprefix(WHERE.partition("{")[0])), box
    box = read_box(question)
    return None if box is None else (normal(answer), box)
