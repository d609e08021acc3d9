"""How sure a figure is: standard errors clustered by picture, and how many questions it takes to see a difference.

Two questions about one picture are no two samples: what makes the picture hard makes both of them hard. So errors are those of
pictures, drawn at random with all that is asked about them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

# of a test, both sides together, and the share of true differences that it shall find
LEVEL, POWER = 0.05, 0.8
# answers that may be looked at when a figure is computed again and again with a cluster left out; beyond, clusters go in groups
MOST_WORK, _GROUPS = 20_000_000, 200


@dataclass(frozen=True)
class Estimate:
    """A figure and how far it would move with other pictures of the same kind.

    Args:
        value: the figure, in its own unit.
        error: its standard error, clustered by picture; None where the answers show no spread to judge by (all are worth the
            same, or there is one picture), or the figure cannot be computed again.
        naive: the same with every question taken for a sample of its own; None too for a figure that itself counts the
            questions of a picture together.
        questions, clusters: how many it is of.
        how: "mean", by the formula; "jackknife", computed again with one cluster (or group of clusters) left out at a time.
        correlation: between the values of two questions of a cluster; None where no cluster has two.
    """

    value: float
    error: float | None
    naive: float | None
    questions: int
    clusters: int
    how: str
    correlation: float | None = None

    @property
    def design_effect(self) -> float | None:
        """How many times as many questions it takes as if every one were a sample of its own."""
        return (self.error / self.naive) ** 2 if self.error is not None and self.naive else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval, by Student's t with one degree of freedom fewer than clusters."""
        if self.error is None:
            return None
        reach = student_quantile(1 - LEVEL / 2, self.clusters - 1) * self.error
        return self.value - reach, self.value + reach

    @property
    def detectable(self) -> float | None:
        """The smallest true value other than 0 that these questions would show four times out of five, at the 5 % level."""
        return None if self.error is None else _needed_errors() * self.error

    def needed(self, difference: float, times: float = 1.0) -> tuple[int, int] | None:
        """``(questions, clusters)`` that show a true value of ``difference`` with 80 % power at the 5 % level.

        As many questions a cluster, and as alike inside it, as here: then the squared error falls as clusters grow in number.

        Args:
            times: how many times this estimate's variance there is; 2 for the difference of two that are unrelated.
        """
        if self.error is None or not difference:
            return None
        share = times * (_needed_errors() * self.error / difference) ** 2
        # two clusters are the fewest that have a spread
        clusters = max(2, math.ceil(self.clusters * share))
        return math.ceil(clusters * self.questions / self.clusters), clusters


def mean_estimate(values: Sequence[float] | np.ndarray, clusters: np.ndarray, scale: float = 1.0) -> Estimate:
    """The mean of values, ``scale`` times.

    The error is the cluster-robust one of Liang and Zeger (1986) with the factor G / (G - 1); where every cluster has one value
    it is the standard deviation over the square root of the count.

    Args:
        values: ``[n]``, at least one.
        clusters: int ``[n]``, the cluster of each, numbered from 0 without a gap.
    """
    values = np.asarray(values, dtype=np.float64)
    count, groups = len(values), int(clusters.max()) + 1
    mean = float(values.mean())
    left = values - mean
    # rounding leaves something of values that are all the same
    varies = bool((values != values[0]).any())
    error = naive = None
    if varies and groups > 1:
        sums = np.bincount(clusters, left)
        error = scale * math.sqrt(groups / (groups - 1) * float(sums @ sums)) / count
        naive = scale * math.sqrt(float(left @ left) / (count * (count - 1)))
        # clusters that are all alike show no spread, whatever is inside them
        error = error if error > 1e-12 * naive else None
    return Estimate(scale * mean, error, naive, count, groups, "mean", correlation_within(values, clusters))


def correlation_within(values: np.ndarray, clusters: np.ndarray) -> float | None:
    """The intra-cluster correlation, by the analysis of variance with clusters of any size; None where nothing tells it."""
    sizes = np.bincount(clusters)
    count, groups = len(values), len(sizes)
    if groups < 2 or count == groups:
        return None
    means = np.bincount(clusters, values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (groups - 1)
    within = float(((values - means[clusters]) ** 2).sum()) / (count - groups)
    size = (count - float((sizes**2).sum()) / count) / (groups - 1)
    whole = between + (size - 1) * within
    return (between - within) / whole if whole > 1e-12 else None


def left_out(clusters: np.ndarray, most_work: int = MOST_WORK) -> Iterator[np.ndarray]:
    """What remains, bool ``[n]``, with one cluster left out at a time; with many, one group of them drawn by a fixed seed."""
    groups = int(clusters.max()) + 1
    if groups * len(clusters) > most_work and groups > _GROUPS:
        drawn = np.random.default_rng(0).permutation(groups) % _GROUPS
        clusters, groups = drawn[clusters], _GROUPS
    for group in range(groups):
        yield clusters != group


def jackknife_error(replicates: Sequence[float] | np.ndarray) -> float | None:
    """The standard error by the figure's values with one cluster left out at a time; None where they do not differ.

    Efron and Stein (1981): the root of ``(G - 1) / G`` times the sum of squares about their mean.
    """
    values = np.asarray(replicates, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    left = values - values.mean()
    error = math.sqrt((len(values) - 1) / len(values) * float(left @ left))
    return error if error > 1e-12 * max(1e-12, float(np.abs(values).max())) else None


def codes(keys: Sequence[str]) -> np.ndarray:
    """Clusters numbered from 0 in the order in which they appear, int ``[n]``; an empty key is a cluster of its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key or place, len(numbers)) for place, key in enumerate(keys)], dtype=np.int64)


def p_value(estimate: Estimate) -> float:
    """How likely a value at least so far from 0 is where the true one is 0, both sides together.

    Where every cluster says the same there is no spread to measure by; then the sign test: as likely as that many coins which
    all fall on one side.
    """
    if estimate.error is not None:
        return student_tail(abs(estimate.value) / estimate.error, estimate.clusters - 1)
    return 1.0 if estimate.value == 0 else min(1.0, 2.0 ** (1 - estimate.clusters))


def holm(p_values: Sequence[float]) -> list[float]:
    """The same adjusted for their number (Holm, 1979): one below 5 % is beyond chance though several were looked at."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def student_tail(t: float, freedom: int) -> float:
    """The probability of Student's t beyond ``t`` or ``-t``, with ``freedom`` degrees of freedom."""
    if freedom > 1000:
        return 2 * NormalDist().cdf(-abs(t))
    # with t = sqrt(freedom) tan(a) the density is a power of the cosine, which Simpson's rule integrates up to a right angle
    from_angle = math.atan(abs(t) / math.sqrt(freedom))
    angles = np.linspace(from_angle, math.pi / 2, 4001)
    heights = np.maximum(np.cos(angles), 0) ** (freedom - 1)
    area = (angles[1] - angles[0]) / 3 * (heights[0] + heights[-1] + 4 * heights[1:-1:2].sum() + 2 * heights[2:-1:2].sum())
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return float(min(1.0, 2 * constant * area))


@lru_cache(maxsize=1024)
def student_quantile(share: float, freedom: int) -> float:
    """The t below which a ``share`` above one half of Student's distribution lies."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 2 * (1 - share):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > 2 * (1 - share) else (low, middle)
    return high


def _needed_errors() -> float:
    """How many standard errors a true difference must be."""
    normal = NormalDist()
    return normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)
