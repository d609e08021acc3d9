"""Answers that are read in a picture: a part of the text, a number within 5 %, the edit distance."""

from __future__ import annotations

from collections.abc import Sequence


def holds(text: str, answers: Sequence[str], exact: bool = False) -> bool:
    """Whether one of the answers is a part of the text: OCRBench's rule.

    Args:
        exact: of formulas, in which the case counts and spaces do not.
    """

    def plain(value: str) -> str:
        value = value.strip().replace("\n", " ")
        return value.replace(" ", "") if exact else value.lower().strip()

    return any(plain(answer) in plain(text) for answer in answers)


def close(text: str, answer: str, tolerance: float = 0.05) -> bool:
    """Whether a number lies within the tolerance, 0.05 = 5 % of the answer, or a text is equal but for case: ChartQA's relaxed
    accuracy, as its authors and pix2struct count it. "12%" is 0.12; an answer of 0 is compared as text."""
    said, right = _number(text), _number(answer)
    if said is not None and right:
        return abs(said - right) / abs(right) <= tolerance
    return text.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(text: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """1 - the edit distance by the longer text's length to the nearest answer, and 0 below the threshold: DocVQA's average
    normalised Levenshtein similarity of one question.

    Case and repeated spaces do not count in the distance; the lengths are those of the texts as given, as in the official code.
    """
    said = " ".join(text.lower().split())
    nearest = 1.0
    for answer in answers:
        longest = max(len(answer.upper()), len(text.upper()))
        nearest = min(nearest, edit_distance(" ".join(answer.lower().split()), said) / longest if longest else 0.0)
    similarity = 1 - nearest
    return similarity if similarity >= threshold else 0.0


def edit_distance(first: str, second: str) -> int:
    """The fewest letters put in, left out or changed that make one text the other (Levenshtein)."""
    if len(first) > len(second):
        first, second = second, first
    row = list(range(len(first) + 1))
    for count, letter in enumerate(second, start=1):
        above, row[0] = row[0], count
        for place, other in enumerate(first, start=1):
            above, row[place] = row[place], above if letter == other else 1 + min(above, row[place], row[place - 1])
    return row[-1]
