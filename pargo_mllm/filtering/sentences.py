"""The sentences of a text: what a model of a short context can read whole."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from pargo_mllm.errors import UserError

Span = tuple[int, int]

# characters of a line that pysbd is given: its time grows with their square
_MOST = 2000
_LINE = re.compile(r"[^\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_SIMPLE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")


def check_language(language: str) -> None:
    """Find out whether sentences of a language can be told apart.

    Raises:
        UserError: if not, or pysbd is missing.
    """
    if find_spec("pysbd") is None:
        raise UserError("sentences are told apart by pysbd: pip install 'pargo[data]'.")
    from pysbd.languages import LANGUAGE_CODES

    if language not in LANGUAGE_CODES:
        raise UserError(f"--language {language}: pysbd knows {', '.join(sorted(LANGUAGE_CODES))}.")


def sentence_spans(text: str, language: str) -> list[Span]:
    """(start, end) of each sentence that holds a letter or a digit; every letter and digit is in one of them.

    A line's end ends a sentence too, and very long lines are divided behind ``.``, ``!`` and ``?`` alone.
    """
    spans = []
    for line in _LINE.finditer(text):
        for start, end in _of_line(line[0], language):
            told = line[0][start:end]
            if any(map(str.isalnum, told)):
                left = len(told) - len(told.lstrip())
                spans.append((line.start() + start + left, line.start() + start + left + len(told.strip())))
    return spans


def _of_line(line: str, language: str) -> list[Span]:
    if len(line) > _MOST:
        return _simply(line)
    spans: list[Span] = []
    place = 0
    try:
        told = _segmenter(language).segment(line)
    # what its rules make of a stranger's text may be no regular expression
    except Exception:
        return _simply(line)
    for sentence in told:
        start = line.find(sentence.strip(), place)
        # it is meant to change nothing, and does now and then
        if start < 0 or any(map(str.isalnum, line[place:start])):
            return _simply(line)
        place = start + len(sentence.strip())
        spans.append((start, place))
    return _simply(line) if any(map(str.isalnum, line[place:])) else spans


def _simply(line: str) -> list[Span]:
    borders = [0, *(border.end() for border in _SIMPLE.finditer(line)), len(line)]
    return list(pairwise(borders))


@lru_cache(maxsize=4)
def _segmenter(language: str) -> Any:
    import pysbd

    return pysbd.Segmenter(language=language, clean=False)
