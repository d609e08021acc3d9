"""Figures of predictions: a file of them scored by a rule, without a model."""

from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Mark, Rule, ScoringError

# what scores depend on, by the names that they are imported by and that pip calls them by
_COUNTED = {"pycocoevalcap": "pycocoevalcap", "openpyxl": "openpyxl", "pyarrow": "pyarrow"}


class ScoringWarning(UserWarning):
    """Of figures that do not say what they seem to."""


@dataclass(frozen=True)
class Scored:
    """What answers are worth.

    Args:
        result: one JSON object: the benchmark's figures at its top, then ``benchmark``, ``rule``, ``questions``, ``versions``,
            and what else belongs to how it came about.
        marks: one an answer.
    """

    result: dict[str, Any]
    marks: list[Mark]


def score(benchmark: Benchmark, rule: Rule, answered: Sequence[Answered], **about: Any) -> Scored:
    """Score answers by a rule.

    Args:
        about: what else the result says: prompt, batch size, dtype, the judge; ``versions`` beside those of the scorer.

    Raises:
        ScoringError: if there is nothing to score, or a grade is missing where the rule needs it.
    """
    if not answered:
        raise ScoringError(f"{benchmark.name}: there is no answer to score.")
    if rule.needs_grades:
        _check_grades(benchmark, answered)
    marks = [replace(mark, where=one.where) for mark, one in zip(rule.mark(answered), answered, strict=True)]
    figures = rule.figures(marks)
    made_by = {"benchmark": benchmark.name, "rule": rule.name, "questions": len(marks)}
    for caveat in _caveats(figures, len(marks)):
        warnings.warn(f"{benchmark.name}: {caveat}", ScoringWarning, stacklevel=2)
    told = {**about, "versions": {**versions(), **about.get("versions", {})}}
    return Scored({**figures, **made_by, **told}, marks)


def _caveats(figures: Mapping[str, Any], questions: int) -> Iterator[str]:
    """What a person has to know of figures that look like any others."""
    if missing := figures.get("missing_subtasks"):
        yield f"{len(missing)} subtasks are missing ({', '.join(missing)}), and the sums are without them."
    for name in ("unread", "unmatched", "unknown"):
        if figures.get(name) == questions:
            yield f"the rule could make nothing of any of the {questions:,} answers; they may be in another form than it reads."


def chosen_rule(benchmark: Benchmark, name: str | None, ranked: bool) -> Rule:
    """The rule of that name; where none is named, the first that fits what the model gave.

    Args:
        ranked: whether the predictions are rankings of choices, with their losses.

    Raises:
        ScoringError: for a name that the benchmark does not have, and for a rule that ranks where letters alone are given.
    """
    fitting = [rule for rule in benchmark.rules if rule.ranks == ranked]
    if name is None:
        if fitting:
            return fitting[0]
        raise ScoringError(
            f"{benchmark.name}: the predictions are {'rankings' if ranked else 'texts'}, and none of its rules "
            f"({', '.join(rule.name for rule in benchmark.rules)}) takes them."
        )
    rule = benchmark.rule(name)
    if rule in fitting:
        return rule
    others = f"; {', '.join(one.name for one in fitting)} takes them" if fitting else ""
    if rule.ranks:
        raise ScoringError(
            f"--rule {name} ranks the choices by their losses, and the predictions hold answers without them{others}."
        )
    raise ScoringError(f"--rule {name} reads what a model said, and the predictions are rankings of the choices{others}.")


def is_ranked(answered: Sequence[Answered]) -> bool:
    """Whether answers are rankings of choices, with their losses.

    Raises:
        ScoringError: if some are and others are not.
    """
    ranked = [one for one in answered if one.losses is not None]
    if ranked and len(ranked) < len(answered):
        bare = next(one for one in answered if one.losses is None)
        raise ScoringError(f"{bare.where}: it has no losses of the choices, which {len(ranked):,} other predictions have.")
    return bool(ranked)


def versions() -> dict[str, str]:
    """Of what scores depend on: ``pargo``, ``python``, and the packages that this process has used."""
    packages = {name: package for name, package in _COUNTED.items() if name in sys.modules}
    return {"pargo": _version("pargo"), "python": platform.python_version(), **{p: _version(p) for p in packages.values()}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of a checkout that is not installed"


def _check_grades(benchmark: Benchmark, answered: Sequence[Answered]) -> None:
    bare = [one for one in answered if not one.grades]
    if bare:
        raise ScoringError(
            f"{bare[0].where}: a judge's grade is missing for {len(bare):,} of {len(answered):,} answers, the first is that to "
            f"{bare[0].item.id!r}; {benchmark.name} has no score without them: give --grades, or a judge."
        )
    runs = len(answered[0].grades)
    other = next((one for one in answered if len(one.grades) != runs), None)
    if other is not None:
        raise ScoringError(f"{other.where}: the judge graded it {len(other.grades)} times, and others {runs} times.")
