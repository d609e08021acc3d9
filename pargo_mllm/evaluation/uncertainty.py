"""Standard errors of a benchmark's own figures: by formula where a figure is a mean, else by computing it again and again.

MME's points, POPE's F1 and circular accuracy are no means of single answers. They are computed by the rule's own function with
one picture left out at a time, so that nothing is written twice and no figure has another error than its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pargo_mllm.evaluation.benchmark import Item, Mark
from pargo_mllm.evaluation.statistics import Estimate, codes, jackknife_error, left_out, mean_estimate

# where results keep the figures of parts, by name
PARTS = ("parts", "subtasks", "by_capability")
# a share, points of a hundred, and CIDEr: what a mean of values is published as
_SCALES = (1.0, 100.0, 10.0)

# where a figure stands in a result
Place = tuple[str, ...]
Figures = Callable[[Sequence[Mark]], dict[str, Any]]
Measure = Callable[[Sequence[Any]], dict[Place, float]]


def places(result: dict[str, Any], headline: str) -> dict[Place, float]:
    """The headline of a result and the figures of its parts; those that are no finite numbers are left out."""
    found = {(headline,): result.get(headline)}
    for group in PARTS:
        inside = result.get(group)
        if isinstance(inside, dict):
            found |= {(group, str(name)): value for name, value in inside.items()}
    numbers = {
        place: value for place, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return {place: float(value) for place, value in numbers.items() if math.isfinite(value)}


def estimates(marks: Sequence[Mark], figures: Figures, headline: str) -> dict[Place, Estimate]:
    """The headline and the parts of these marks' figures, each with its standard error clustered by picture."""

    def measure(kept: Sequence[Mark]) -> dict[Place, float]:
        return places(figures(kept), headline)

    found = _of_marks(marks, measure)
    if all(one.how == "mean" for one in found.values()):
        return found
    naive = _naive(marks, measure)
    return {place: one if one.how == "mean" else replace(one, naive=naive.get(place)) for place, one in found.items()}


def mean_estimates(marks: Sequence[Mark], told: dict[Place, float]) -> dict[Place, Estimate]:
    """Figures that cannot be computed again: those that are the mean of the marks' values have an error, others none."""

    def measure(kept: Sequence[Mark]) -> dict[Place, float]:
        return told if len(kept) == len(marks) else {}

    return _of_marks(marks, measure)


def differences(
    pairs: Sequence[tuple[Mark, Mark]], figures: Figures, headline: str
) -> tuple[dict[Place, Estimate], dict[Place, float], dict[Place, float]]:
    """What the second mark of each pair has over the first, paired by question and clustered by picture.

    Args:
        pairs: two runs' marks of the same questions.

    Returns:
        The differences of headline and parts; then the first's and the second's own figures.
    """

    def of(kept: Sequence[tuple[Mark, Mark]], which: int) -> dict[Place, float]:
        return places(figures([pair[which] for pair in kept]), headline)

    def measure(kept: Sequence[tuple[Mark, Mark]]) -> dict[Place, float]:
        first, second = of(kept, 0), of(kept, 1)
        return {place: second[place] - first[place] for place in first if place in second}

    before, after = (_scales([pair[which] for pair in pairs], lambda kept: places(figures(kept), headline)) for which in (0, 1))
    scales = {place: scale for place, scale in before.items() if after.get(place) == scale}
    gains = np.array([second.value - first.value for first, second in pairs])
    found = _estimates(pairs, [first.item for first, _ in pairs], gains, measure, scales)
    return found, of(pairs, 0), of(pairs, 1)


def _of_marks(marks: Sequence[Mark], measure: Measure) -> dict[Place, Estimate]:
    values = np.array([mark.value for mark in marks])
    return _estimates(marks, [mark.item for mark in marks], values, measure, _scales(marks, measure))


def _estimates(
    rows: Sequence[Any], items: Sequence[Item], values: np.ndarray, measure: Measure, scales: dict[Place, float]
) -> dict[Place, Estimate]:
    whole = measure(rows)
    inside = {place: _inside(place, items) for place in whole}
    clusters = {place: codes([items[row].picture for row in kept]) for place, kept in inside.items()}
    found = {
        place: replace(mean_estimate(values[inside[place]], clusters[place], scales[place]), value=value)
        for place, value in whole.items()
        if place in scales
    }
    others = [place for place in whole if place not in scales]
    replicates = _again(rows, codes([item.picture for item in items]), measure) if others else []
    for place in others:
        error = _error(replicates, place, inside[place])
        found[place] = Estimate(whole[place], error, None, len(inside[place]), int(clusters[place].max()) + 1, "jackknife")
    return {place: found[place] for place in whole}


def _naive(marks: Sequence[Mark], measure: Measure) -> dict[Place, float | None]:
    """Errors with every question for itself, of the figures that are the same when no two questions belong together."""
    apart = [
        replace(mark, item=replace(mark.item, id=f"question {place}", picture=f"picture {place}"))
        for place, mark in enumerate(marks)
    ]
    alone = _tried(measure, apart)
    same = [place for place, value in measure(marks).items() if math.isclose(alone.get(place, math.nan), value, rel_tol=1e-9)]
    replicates = _again(apart, np.arange(len(apart)), measure) if same else []
    items = [mark.item for mark in marks]
    return {place: _error(replicates, place, _inside(place, items)) for place in same}


def _scales(marks: Sequence[Mark], measure: Measure) -> dict[Place, float]:
    """The figures that are means of the marks' values, and how many times the mean they are.

    They are found by what they are: so much on all pictures, and on each half of them.
    """
    clusters = codes([mark.item.picture for mark in marks])
    halves = [[mark for mark, kept in zip(marks, clusters % 2 == half, strict=True) if kept] for half in (0, 1)]
    looks = [(marks, measure(marks))] + [(half, _tried(measure, half)) for half in halves if half]
    found = {}
    for place in looks[0][1]:
        seen = [
            (figures[place], float(np.mean([part[row].value for row in _inside(place, [mark.item for mark in part])])))
            for part, figures in looks
            if place in figures
        ]
        for scale in _SCALES:
            if all(math.isclose(figure, scale * mean, rel_tol=1e-9, abs_tol=1e-12) for figure, mean in seen):
                found[place] = scale
                break
    return found


def _inside(place: Place, items: Sequence[Item]) -> list[int]:
    """The questions that a part's figure is of; all of them for the headline, and where parts are no parts of questions."""
    kept = [row for row, item in enumerate(items) if len(place) == 2 and item.part == place[1]]
    return kept or list(range(len(items)))


def _again(rows: Sequence[Any], clusters: np.ndarray, measure: Measure) -> list[tuple[np.ndarray, dict[Place, float]]]:
    return [(kept, _tried(measure, [rows[row] for row in np.flatnonzero(kept)])) for kept in left_out(clusters) if kept.any()]


def _error(replicates: Sequence[tuple[np.ndarray, dict[Place, float]]], place: Place, inside: Sequence[int]) -> float | None:
    """Of the replicates that lack something of the place; none where it is gone in one: a single picture makes it up."""
    return jackknife_error([figures.get(place, math.nan) for kept, figures in replicates if not kept[inside].all()])


def _tried(measure: Measure, rows: Sequence[Any]) -> dict[Place, float]:
    """The figures of a part of the answers; none where the rule has none of so few, or needs what only the whole has."""
    try:
        return measure(rows)
    # a figure of too little divides by nothing, or misses the other half of a pair: each rule says it in its own way
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return {}
