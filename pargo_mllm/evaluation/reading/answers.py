"""Questions with answers in words, in rows: what people said and what is right, beside what rows share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pargo_mllm.evaluation.benchmark import Item, Prediction, ScoringError
from pargo_mllm.evaluation.reading import records
from pargo_mllm.evaluation.reading.records import IDS, SAID, identity, written_list
from pargo_mllm.evaluation.reading.rows import Row

SHORT = "{question}\nAnswer the question using a single word or phrase."

# what is right, beside what was said; "answer" is among them where a row has what was said under another name
RIGHT = ("answers", "annotation", "ground_truth", "gt_answers", "gt_answer", "gt_ans", "gt", "label", "target")
# a list as a table writes it
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)


def texts(row: Row, *names: str) -> list[str] | None:
    """Answers: a text or number, a list of them, objects with ``answer`` (VQA), or such a list as a table writes it; None where
    the row has none.

    Raises:
        ScoringError: for anything else, and an empty list.
    """
    value = row.first(*names)
    if value is None:
        return None
    if isinstance(value, str) and row.table and _LIST.fullmatch(value):
        written = written_list(value)
        value = written if written and all(map(_is_text, written)) else value
    if not isinstance(value, (list, tuple)):
        return [row.text(*names)]
    listed = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in value]
    if not listed or not all(_is_text(entry) for entry in listed):
        name = next(name for name in names if row.first(name) is not None)
        raise ScoringError(f"{row.where}: {name!r} is no list of texts, with one or more: {str(value)[:80]}.")
    return [entry if isinstance(entry, str) else str(entry) for entry in listed]


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def said_in_words(row: Row, number: int, item: Callable[[Row, str], Item | None], names: Sequence[str] = SAID) -> Prediction:
    """A prediction of a row.

    Args:
        number: of the row in its file, from 1.
        item: of the row and an id: the question with what is right, where the row has it.
        names: of what the model said; ``answer`` where the row has none of them.

    Raises:
        ScoringError: if the row has no answer, or one that is no text.
    """
    own = [name for name in names if name in row.values] or ["answer"]
    return records.said(row, *own, ids=IDS, item=item(row, identity(row, otherwise=number)))


def right(row: Row, names: Sequence[str] = SAID) -> list[str] | None:
    """The right answers that stand beside a prediction; ``answer`` is one where the prediction has another name."""
    return texts(row, *RIGHT, *(("answer",) if any(name in row.values for name in names) else ()))


def numbered(items: Iterable[Item]) -> list[Item]:
    """Items with their own ids, or with their numbers from 0 where an id comes twice: some sets count anew in each part."""
    kept = list(items)
    if len({item.id for item in kept}) == len(kept):
        return kept
    return [replace(item, id=str(number)) for number, item in enumerate(kept)]


def carried(predictions: Iterable[Prediction]) -> list[Prediction]:
    """Predictions of a file, whose own questions get ids that are unique, as :func:`numbered` gives them."""
    kept = list(predictions)
    times = Counter(one.item.id for one in kept if one.item is not None)
    if all(count == 1 for count in times.values()):
        return kept
    return [
        one if one.item is None else replace(one, item=replace(one.item, id=str(number))) for number, one in enumerate(kept)
    ]


def answers_of(item: Item) -> list[str]:
    """What is right.

    Raises:
        ScoringError: if it is not published.
    """
    if not item.answer:
        raise ScoringError(
            f"The question {item.id!r} has no right answer: its split may keep them secret; give the file of a "
            "split with answers as --answers."
        )
    return item.answer
