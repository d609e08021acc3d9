"""Whether a model can judge at all: pairs as they are in the data against the same texts beside other pictures.

The share of such comparisons that the pair of the data wins is the area under the ROC curve. Half is chance, which is where a
model with random weights stays; wrong pairs in the data themselves lower it, at a third of wrong ones to 0.83.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pargo_mllm.filtering.scores import Scores

# above it a model tells pairs apart; random weights reach 0.53, where long texts happen to go with bright pictures
LEAST = 0.55
_CHANCE = 0.5
FEWEST = 20
# pairs after which it is looked whether it is worth to go on
EARLY = 1000
_95 = 1.959964


@dataclass(frozen=True)
class Discernment:
    """How well a model tells the data's own pairs from others.

    Args:
        auc: share of (pair, other pair) that the pair wins, ties by half; NaN without pairs.
        low, high: its 95 % interval.
        pairs: how many texts were tried beside another picture.
    """

    auc: float
    low: float
    high: float
    pairs: int

    @property
    def judges(self) -> bool:
        """Whether it certainly does."""
        return self.pairs >= FEWEST and self.low > LEAST

    @property
    def is_blind(self) -> bool:
        """Whether it certainly does not."""
        return self.pairs >= FEWEST and self.high <= LEAST

    def told(self) -> str:
        """In one sentence."""
        if not self.pairs:
            return "cannot be tried: no two records show different pictures and say different things"
        figures = f"AUC {self.auc:.3f} (95 % {self.low:.3f} to {self.high:.3f}, {self.pairs:,} pairs beside others)"
        if self.judges:
            return f"tells the data's pairs from swapped ones: {figures}"
        if self.pairs < FEWEST:
            return f"was tried on too few pairs to tell whether it can judge, of which {FEWEST} are needed: {figures}"
        if self.is_blind or self.low <= _CHANCE:
            return f"cannot judge: it does not tell matching from swapped pairs better than chance: {figures}"
        return f"does not surely tell matching from swapped pairs: {figures}, where all of the interval must be above {LEAST}"


def discern(scores: Scores, by: str) -> Discernment:
    """How well the model of these scores tells pairs apart by ``minimum`` or ``mean``."""
    own, other = scores.numbers[by], scores.numbers[f"other_{by}"]
    tried = ~np.isnan(own) & ~np.isnan(other)
    return area(own[tried], other[tried])


def area(own: np.ndarray, other: np.ndarray) -> Discernment:
    """The area under the curve with its interval; ``own[i]`` and ``other[i]`` are of one text, and so depend on each other
    (DeLong's components, summed text by text).
    """
    count = len(own)
    if not count:
        return Discernment(math.nan, math.nan, math.nan, 0)
    won = _share_below(own, other)
    lost_to = 1 - _share_below(other, own)
    auc = float(won.mean())
    if count == 1:
        return Discernment(auc, 0.0, 1.0, 1)
    # one more win and one more loss: without any loss the interval would have no width
    error = max(float((won + lost_to).std(ddof=1)) / math.sqrt(count), 1 / (count + 2))
    return Discernment(auc, max(0.0, auc - _95 * error), min(1.0, auc + _95 * error), count)


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each value, the share of the others that are below it, ties by half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))
