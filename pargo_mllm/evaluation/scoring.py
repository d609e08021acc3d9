"""Figures of predictions: a file of them scored by a rule, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Mark, Rule


@dataclass(frozen=True)
class Scored:
    """What answers are worth.

    Args:
        result: one JSON object: the benchmark's figures at its top, then ``benchmark``, ``rule``, ``questions``, ``versions``, and
            what else belongs to how it came about.
        marks: one an answer.
    """

    result: dict[str, Any]
    marks: list[Mark]


def score(benchmark: Benchmark, rule: Rule, answered: Sequence[Answered], **about: Any) -> Scored:
    """Score answers by a rule.

    Args:
        about: what else the result says: prompt, batch size, dtype, the judge.

    Raises:
        ScoringError: if there is nothing to score, or a grade is missing where the rule needs it.
    """
    raise NotImplementedError


def chosen_rule(benchmark: Benchmark, name: str | None, ranked: bool) -> Rule:
    """The rule of that name; where none is named, the first that fits what the model gave.

    Args:
        ranked: whether the predictions are rankings of choices, with their losses.

    Raises:
        ScoringError: for a name that the benchmark does not have, and for a rule that ranks where letters alone are given.
    """
    raise NotImplementedError
