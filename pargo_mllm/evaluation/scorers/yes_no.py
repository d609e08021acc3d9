"""Yes or no: how the benchmarks read it out of an answer, and what is counted of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pargo_mllm.evaluation.scorers.vqa import without_punctuation


def mme(text: str) -> str:
    """MME's rule: "yes" or "no" itself, else what the first four characters contain, "yes" before "no"; in any case.

    Nothing is stripped: two spaces and "yes" are "other"; "know" and "not" are "no".

    Returns:
        "yes", "no" or "other".
    """
    begin = text.lower()[:4]
    return "yes" if "yes" in begin else "no" if "no" in begin else "other"


def pope(text: str) -> str:
    """POPE's rule, its authors' and LLaVA's: of the text up to the first full stop, without commas, a word (between spaces)
    that is ``No``, ``not`` or ``no`` makes it "no"; all else is "yes", an empty answer too."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def one_word(text: str) -> str:
    """VLMEvalKit's rule: one of the words "yes" and "no", and not the other, in any case; punctuation as in VQA.

    Returns:
        "yes", "no" or "unknown".
    """
    words = without_punctuation(text.lower()).split()
    if ("yes" in words) == ("no" in words):
        return "unknown"
    return "yes" if "yes" in words else "no"


def counts(pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """``TP``, ``FP``, ``TN`` and ``FN`` of pairs (right, said), each "yes" or "no"; "yes" is positive."""
    names = {("yes", "yes"): "TP", ("no", "yes"): "FP", ("no", "no"): "TN", ("yes", "no"): "FN"}
    found = dict.fromkeys(names.values(), 0)
    for pair in pairs:
        found[names[pair]] += 1
    return found


def rates(found: Mapping[str, int]) -> dict[str, Any]:
    """``precision``, ``recall`` and ``f1`` of counts, 0...1; 0 where they are a division by nothing."""
    precision = _share(found["TP"], found["TP"] + found["FP"])
    recall = _share(found["TP"], found["TP"] + found["FN"])
    return {"precision": precision, "recall": recall, "f1": _share(2 * precision * recall, precision + recall)}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
