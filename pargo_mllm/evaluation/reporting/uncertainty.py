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

from pargo_mllm.evaluation.benchmark import Item, Mark, mean, picture_of
from pargo_mllm.reports.statistics import (
    MOST_WORK,
    Estimate,
    codes,
    correlation_within,
    jackknife_error,
    left_out,
    mean_estimate,
)

# where results keep the figures of parts, by name
PARTS = ("parts", "subtasks", "by_capability")
# a share, points of a hundred, and CIDEr: what a mean of values is published as
_SCALES = (1.0, 100.0, 10.0)
# of an error that only stands beside the one that counts
_MOST_WORK_ASIDE = 1_000_000

# what a rule raises where answers make no figure: of too few it divides by nothing or misses the other half of a pair, and of
# strangers' it may miss anything
NO_FIGURE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# where a figure stands in a result
Place = tuple[str, ...]
Figures = Callable[[Sequence[Mark]], dict[str, Any]]
Cluster = Callable[[Item], str]
Measure = Callable[[Sequence[Any]], dict[Place, float]]


def places(result: dict[str, Any], names: Sequence[str]) -> dict[Place, float]:
    """The figures of these names, and those of the parts; what is no finite number is left out."""
    found: dict[Place, Any] = {(name,): result.get(name) for name in names}
    for group in PARTS:
        inside = result.get(group)
        if isinstance(inside, dict):
            found |= {(group, str(name)): value for name, value in inside.items()}
    return {place: float(value) for place, value in found.items() if type(value) in (int, float) and math.isfinite(value)}


def estimates(
    marks: Sequence[Mark], figures: Figures, names: Sequence[str], cluster: Cluster = picture_of
) -> dict[Place, Estimate]:
    """The named figures of these marks and those of their parts, each with its clustered standard error."""
    sample = _Sample(marks, [mark.item for mark in marks], _values(marks), cluster)

    def measure(kept: Sequence[Mark]) -> dict[Place, float]:
        return places(figures(kept), names)

    found = _estimates(sample, measure, _scales(sample, measure))
    if all(one.how == "mean" for one in found.values()):
        return found
    naive = _naive(marks, measure)
    return {place: one if one.how == "mean" else replace(one, naive=naive.get(place)) for place, one in found.items()}


def mean_figures(marks: Sequence[Mark], result: dict[str, Any], names: Sequence[str]) -> Figures:
    """In place of a rule's figures, where they cannot be computed again: those of them that are means of the marks' values."""
    sample = _Sample(marks, [mark.item for mark in marks], _values(marks), picture_of)
    scales = _scales(sample, lambda kept: places(result, names) if len(kept) == len(marks) else {})

    def figures(kept: Sequence[Mark]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place, scale in scales.items():
            inside = [mark.value for mark in kept if len(place) == 1 or mark.item.part == place[1]]
            where = found if len(place) == 1 else found.setdefault(place[0], {})
            if inside:
                where[place[-1]] = scale * mean(inside)
        return found

    return figures


def differences(
    pairs: Sequence[tuple[Mark, Mark]], figures: Figures, names: Sequence[str], cluster: Cluster = picture_of
) -> tuple[dict[Place, Estimate], dict[Place, float], dict[Place, float]]:
    """What the second mark of each pair has over the first, paired by question and clustered.

    Args:
        pairs: two runs' marks of the same questions.

    Returns:
        The differences of the named figures and of those of parts; then the first's and the second's own figures.
    """
    items = [first.item for first, _ in pairs]

    def of(kept: Sequence[Mark]) -> dict[Place, float]:
        return places(figures(kept), names)

    def measure(kept: Sequence[tuple[Mark, Mark]]) -> dict[Place, float]:
        before, after = (of([pair[which] for pair in kept]) for which in (0, 1))
        return {place: after[place] - before[place] for place in before if place in after}

    runs = [[pair[which] for pair in pairs] for which in (0, 1)]
    before, after = (_scales(_Sample(run, items, _values(run), cluster), of) for run in runs)
    scales = {place: scale for place, scale in before.items() if after.get(place) == scale}
    gains = _Sample(pairs, items, _values(runs[1]) - _values(runs[0]), cluster)
    return _estimates(gains, measure, scales), of(runs[0]), of(runs[1])


class _Sample:
    """Rows of which figures are made: marks, or pairs of them; each with its question, its value and its cluster."""

    def __init__(self, rows: Sequence[Any], items: Sequence[Item], values: np.ndarray, cluster: Cluster):
        self.rows, self.values = rows, values
        self.parts = [item.part for item in items]
        self.keys = [cluster(item) for item in items]
        self.clusters = codes(self.keys)

    def inside(self, place: Place) -> np.ndarray:
        """The rows that a part's figure is of; all for the headline, and where parts are no parts of questions."""
        kept = [row for row, part in enumerate(self.parts) if len(place) == 2 and part == place[1]]
        return np.array(kept or range(len(self.rows)), dtype=np.int64)

    def kept(self, rows: np.ndarray) -> list[Any]:
        """Some of the rows."""
        return [self.rows[row] for row in rows.tolist()]


def _estimates(sample: _Sample, measure: Measure, scales: dict[Place, float]) -> dict[Place, Estimate]:
    whole = measure(sample.rows)
    replicates = _again(sample, measure) if whole.keys() - scales.keys() else []
    found = {}
    for place, value in whole.items():
        inside = sample.inside(place)
        clusters = codes([sample.keys[row] for row in inside.tolist()])
        if place in scales:
            found[place] = replace(mean_estimate(sample.values[inside], clusters, scales[place]), value=value)
        else:
            error, alike = _error(replicates, place, inside), correlation_within(sample.values[inside], clusters)
            found[place] = Estimate(value, error, None, len(inside), int(clusters.max()) + 1, "jackknife", alike)
    return found


def _naive(marks: Sequence[Mark], measure: Measure) -> dict[Place, float | None]:
    """Errors with every question for itself, of the figures that are the same when no two questions belong together."""
    apart = [
        replace(mark, item=replace(mark.item, id=f"question {place}", picture=f"picture {place}", details={}))
        for place, mark in enumerate(marks)
    ]
    alone = _tried(measure, apart)
    same = [place for place, value in measure(marks).items() if math.isclose(alone.get(place, math.nan), value, rel_tol=1e-9)]
    sample = _Sample(apart, [mark.item for mark in apart], _values(apart), picture_of)
    replicates = _again(sample, measure, _MOST_WORK_ASIDE) if same else []
    return {place: _error(replicates, place, sample.inside(place)) for place in same}


def _scales(sample: _Sample, measure: Measure) -> dict[Place, float]:
    """The figures that are means of the values, and how many times the mean they are.

    They are found by what they are: so much on all clusters, and on each seventh of them, lest it be by chance.
    """
    everything = np.arange(len(sample.rows))
    sevenths = [np.flatnonzero(sample.clusters % 7 == part) for part in range(7)]
    looks = [(everything, measure(sample.rows))] + [
        (part, _tried(measure, sample.kept(part))) for part in sevenths if len(part)
    ]
    found = {}
    for place in looks[0][1]:
        inside = sample.inside(place)
        seen = [
            (figures[place], float(sample.values[rows[np.isin(rows, inside)]].mean()))
            for rows, figures in looks
            if place in figures and np.isin(rows, inside).any()
        ]
        for scale in _SCALES:
            if all(math.isclose(figure, scale * average, rel_tol=1e-9, abs_tol=1e-12) for figure, average in seen):
                found[place] = scale
                break
    return found


def _values(marks: Sequence[Mark]) -> np.ndarray:
    return np.array([mark.value for mark in marks], dtype=np.float64)


def _again(sample: _Sample, measure: Measure, most_work: int = MOST_WORK) -> list[tuple[np.ndarray, dict[Place, float]]]:
    """The figures with one cluster, or one group of them, left out at a time; beside them the rows that remained."""
    masks = (kept for kept in left_out(sample.clusters, most_work) if kept.any())
    return [(kept, _tried(measure, sample.kept(np.flatnonzero(kept)))) for kept in masks]


def _error(replicates: Sequence[tuple[np.ndarray, dict[Place, float]]], place: Place, inside: np.ndarray) -> float | None:
    """Of the replicates that lack something of the place; none where it is gone in one: a single picture makes it up."""
    return jackknife_error([figures.get(place, math.nan) for kept, figures in replicates if not kept[inside].all()])


def _tried(measure: Measure, rows: Sequence[Any]) -> dict[Place, float]:
    """The figures of a part of the answers; none where the rule has none of so few, or needs what only the whole has."""
    try:
        return measure(rows)
    except NO_FIGURE:
        return {}
