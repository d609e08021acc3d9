"""Runs side by side: each figure with its standard error, and the differences to the first run of a benchmark."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pargo_mllm.evaluation.benchmark import Benchmark, EvaluationError, Mark
from pargo_mllm.evaluation.reporting.uncertainty import NO_FIGURE, Figures, Place, differences, estimates, mean_figures, places
from pargo_mllm.evaluation.runs.run_folder import MARKS, RESULT, Run
from pargo_mllm.reports.statistics import LEVEL, Estimate, holm, p_value

# of run.json, beside its settings: what two runs of one rule may do otherwise
_ASKED = ("prompt", "data")
# of a result: what is no figure, but says how it came about
_ABOUT = ("prompt", "dtype", "batch_size", "judge", "tokenizer", "frame", "max_new_tokens")


@dataclass(frozen=True)
class Measured:
    """A run with its figures.

    Args:
        figures: what computes them of marks; None where nothing can.
        estimates: the headline first, then the other figures and the parts.
        reason: why there are no standard errors; empty where there are.
    """

    run: Run
    benchmark: Benchmark
    figures: Figures | None
    estimates: dict[Place, Estimate]
    reason: str = ""

    @property
    def headline(self) -> Estimate:
        """The figure that stands for all."""
        return self.estimates[(self.benchmark.headline,)]


@dataclass(frozen=True)
class Comparison:
    """A run against the first of its benchmark and rule, on the questions that both answered.

    Args:
        first, other: the figures of both on these questions.
        estimate: other - first.
        others: the same of other figures and of parts.
        unshared: how many questions the first alone, and the other alone, was asked.
        first_better, other_better: how many questions the one, or the other, has the better answer to.
        p, adjusted: of no difference at all; adjusted for the number of comparisons of the report (Holm).
        differs: what was done otherwise: name, the first's and the other's.
    """

    base: Run
    run: Run
    figure: str
    first: float
    other: float
    estimate: Estimate
    others: dict[Place, Estimate]
    unshared: tuple[int, int]
    first_better: int
    other_better: int
    p: float
    adjusted: float = math.nan
    differs: list[tuple[str, Any, Any]] = field(default_factory=list)

    @property
    def within_noise(self) -> bool:
        """Whether chance alone would show as much: the adjusted p is 5 % or more."""
        return self.adjusted >= LEVEL


@dataclass(frozen=True)
class Compared:
    """All that a report tells.

    Args:
        notes: sentences on what was not compared, and why.
    """

    measured: list[Measured]
    comparisons: list[Comparison]
    notes: list[str]


def compare(runs: Sequence[Run], find: Callable[[str], Benchmark]) -> Compared:
    """Measure runs, and compare each with the first one of the same benchmark and rule.

    Args:
        find: the benchmark of a name.

    Raises:
        EvaluationError: for a run of an unknown benchmark or rule, and for figures that are not those of its answers.
    """
    with warnings.catch_warnings():
        # what a rule says of its answers it said when they were scored
        warnings.simplefilter("ignore", UserWarning)
        return _compared([measure(run, find(run.benchmark)) for run in _named(runs)])


def _compared(measured: list[Measured]) -> Compared:
    firsts: dict[tuple[str, str], Measured] = {}
    comparisons, notes = [], []
    for one in measured:
        key = (one.run.benchmark, one.run.rule)
        first = firsts.setdefault(key, one)
        if first is one:
            rules = [rule for name, rule in firsts if name == key[0] and rule != key[1]]
            if rules:
                notes.append(
                    f"{one.run.name} is scored by the rule {key[1]} of {key[0]}, others by {', '.join(rules)}: figures of two "
                    "rules are not compared."
                )
            continue
        found = _comparison(first, one, notes)
        comparisons += [] if found is None else [found]
    adjusted = holm([comparison.p for comparison in comparisons])
    comparisons = [replace(one, adjusted=p) for one, p in zip(comparisons, adjusted, strict=True)]
    return Compared(measured, comparisons, notes)


def measure(run: Run, benchmark: Benchmark) -> Measured:
    """A run's figures with their standard errors.

    Raises:
        EvaluationError: for a rule that the benchmark does not have, a result without its headline, and figures that are not
            those of its answers.
    """
    rule, headline, names = benchmark.rule(run.rule), (benchmark.headline,), (benchmark.headline, *benchmark.also)
    told = places(run.result, names)
    if headline not in told:
        raise EvaluationError(f"{run.folder / RESULT} has no {benchmark.headline}, by which {benchmark.name} is known.")
    figures: Figures = rule.figures
    try:
        again = places(figures(run.marks), names)[headline]
    except NO_FIGURE:
        figures = mean_figures(run.marks, run.result, names)
        again = places(figures(run.marks), names).get(headline, math.nan)
    if math.isnan(again):
        clusters = len(set(map(benchmark.cluster, (mark.item for mark in run.marks))))
        alone = Estimate(told[headline], None, None, len(run.marks), clusters, "told")
        return Measured(run, benchmark, None, {headline: alone}, f"{MARKS} does not hold all that {benchmark.headline} reads")
    if not math.isclose(again, told[headline], rel_tol=1e-6, abs_tol=1e-9):
        raise EvaluationError(
            f"{run.folder / RESULT} says {benchmark.headline} {told[headline]:g}, and the answers in {MARKS} beside it make "
            f"{again:g}: they are not of one run; run it again."
        )
    return Measured(run, benchmark, figures, estimates(run.marks, figures, names, benchmark.cluster))


def _comparison(first: Measured, other: Measured, notes: list[str]) -> Comparison | None:
    pairs, unshared, changed = _paired(first.run.marks, other.run.marks)
    what = f"{other.run.name} and {first.run.name} ({first.benchmark.name})"
    if changed:
        notes.append(
            f"{what}: {changed:,} questions have the same id and another text or right answer; they count as different ones."
        )
    if not pairs:
        notes.append(f"{what} have no question in common and are not compared.")
        return None
    if any(unshared):
        notes.append(
            f"{what} were asked different questions: compared on the {len(pairs):,} that both answered, without "
            f"{unshared[0]:,} of {first.run.name} and {unshared[1]:,} of {other.run.name}."
        )
    name, bench = first.benchmark.headline, first.benchmark
    if first.figures is None or other.figures is None:
        notes.append(f"{what} are not compared: {MARKS} does not hold all that {name} reads.")
        return None
    figures = first.figures
    if figures != other.figures:
        # stand-ins, of which one that is all wrong knows no scale
        known = other if first.headline.value == 0 else first
        figures = mean_figures(known.run.marks, known.run.result, (name,))
    try:
        found, before, after = differences(pairs, figures, (name, *bench.also), bench.cluster)
        estimate = found.pop((name,))
    except NO_FIGURE:
        notes.append(f"{what} are not compared: {name} is no figure of the {len(pairs):,} questions that both answered.")
        return None
    return Comparison(
        base=first.run,
        run=other.run,
        figure=name,
        first=before[(name,)],
        other=after[(name,)],
        estimate=estimate,
        others=found,
        unshared=unshared,
        first_better=sum(a.value > b.value for a, b in pairs),
        other_better=sum(b.value > a.value for a, b in pairs),
        p=p_value(estimate),
        differs=_differs(first.run, other.run),
    )


def _paired(first: Sequence[Mark], other: Sequence[Mark]) -> tuple[list[tuple[Mark, Mark]], tuple[int, int], int]:
    """Marks of the same questions; how many the first and the other have for themselves; how many share an id alone."""
    by_id = {mark.item.id: mark for mark in other}
    same_id = [(mark, by_id[mark.item.id]) for mark in first if mark.item.id in by_id]
    pairs = [(a, b) for a, b in same_id if _asks(a) == _asks(b)]
    return pairs, (len(first) - len(pairs), len(other) - len(pairs)), len(same_id) - len(pairs)


def _asks(mark: Mark) -> str:
    # of a file, so that it is JSON
    return json.dumps([mark.item.question.strip(), mark.item.answer], sort_keys=True)


def _differs(first: Run, other: Run) -> list[tuple[str, Any, Any]]:
    def told(run: Run) -> dict[str, Any]:
        settings = run.about.get("settings")
        said = [*((name, run.result.get(name)) for name in _ABOUT), *((name, run.about.get(name)) for name in _ASKED)]
        said += settings.items() if isinstance(settings, dict) else ()
        return {name: value for name, value in said if value is not None}

    one, two = told(first), told(other)
    return [(name, one.get(name), two.get(name)) for name in {**one, **two} if one.get(name) != two.get(name)]


def _named(runs: Sequence[Run]) -> list[Run]:
    """Runs with names that differ: the folder's own, or as much of the path as tells them apart."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=str(run.folder)) for run in runs]
