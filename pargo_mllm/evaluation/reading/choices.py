"""Questions of multiple choice, and of yes and no, in rows: choices by letter and the right one, beside what rows share."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading.records import written_list
from pargo_mllm.evaluation.reading.rows import Row

LETTER_PROMPT = "{hint}{question}\n{choices}\nAnswer with the option's letter from the given choices directly."

_BLANK = ("", "nan")


def choice_columns(row: Row) -> dict[str, str]:
    """The choices of a row by letter, from its columns ``A``, ``B``, …; blank ones are none ("nan" is pandas' blank)."""
    return lettered({letter: row.values[letter] for letter in string.ascii_uppercase if letter in row.values}, row.where)


def choice_list(values: Any, where: str) -> dict[str, str]:
    """The choices of a list by letter, from A on; blank ones are none.

    Raises:
        ScoringError: if it is no list of texts and numbers.
    """
    if isinstance(values, str):
        listed = written_list(values)
        if listed is None:
            raise ScoringError(f"{where}: its choices are a text that is no JSON list: {values[:80]!r}.")
        values = listed
    if not isinstance(values, (list, tuple)) or len(values) > len(string.ascii_uppercase):
        raise ScoringError(f"{where}: its choices are no list of at most {len(string.ascii_uppercase)} texts.")
    return lettered(dict(zip(string.ascii_uppercase, values, strict=False)), where)


def lettered(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """Choices as texts, without the blank ones.

    Raises:
        ScoringError: for one that is no text and no number.
    """
    for letter, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int, float))):
            raise ScoringError(f"{where}: choice {letter} is no text: {str(value)[:80]!r}.")
    texts = {letter: "" if value is None else str(value) for letter, value in values.items()}
    return {letter: text for letter, text in texts.items() if text.strip() not in _BLANK}


def right_letter(row: Row, *names: str) -> str | None:
    """The letter of the right choice, in capitals; None where the row has none.

    Raises:
        ScoringError: for what is no letter, or none of the row's columns of choices.
    """
    # "nan" is how the hub has a split whose answers are not published
    if row.first(*names) is None or row.text(*names).strip().lower() == "nan":
        return None
    letter = row.text(*names).strip().strip("()").upper()
    columns = [name for name in string.ascii_uppercase if name in row.values] or string.ascii_uppercase
    if len(letter) != 1 or letter not in columns:
        raise ScoringError(
            f"{row.where}: the right answer is {row.text(*names)[:80]!r}, no letter of {columns[0]}...{columns[-1]}."
        )
    return letter


def letter_at(place: Any, choices: Mapping[str, str], where: str) -> str | None:
    """The letter of a choice by its number, from 0; None where there is no number.

    Raises:
        ScoringError: for one that is no choice's.
    """
    if place is None:
        return None
    text = str(place).strip()
    letter = string.ascii_uppercase[int(text)] if text.isascii() and text.isdigit() and int(text) < 26 else None
    if letter not in choices:
        raise ScoringError(f"{where}: the right choice is number {text!r}, and there are {len(choices)}, from 0.")
    return letter


def yes_or_no(row: Row, *names: str) -> str:
    """The right answer, "yes" or "no".

    Raises:
        ScoringError: if it is neither.
    """
    answer = row.text(*names).strip().lower()
    if answer not in ("yes", "no"):
        raise ScoringError(f"{row.where}: the right answer is {row.text(*names)!r}, neither yes nor no.")
    return answer
