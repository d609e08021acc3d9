"""What the removals of a causal check say of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from pargo_mllm.reports.statistics import LEVEL, Estimate, codes, holm, mean_estimate, p_value

# times that named and random tokens change places
_EXCHANGES = 9_999


@dataclass(frozen=True)
class Removal:
    """What one method did to one question, in nats of the right answer's log-probability (positive: it fell).

    Args:
        question: its number among those given.
        count: how many tokens were removed.
        effect: without the tokens that the method names.
        random, spread: the mean and the standard deviation without as many random ones.
        said: whether the whole model says the right answer.
        lost: whether it says another one without the named tokens; ``random_lost``: how often without random ones.
        other_effect, other_random: the same tokens' removal on the other question; None without one.
    """

    question: int
    count: int
    effect: float
    random: float
    spread: float
    said: bool
    lost: bool
    random_lost: float
    other_effect: float | None = None
    other_random: float | None = None


@dataclass(frozen=True)
class MethodCheck:
    """What the check says of one method, over all questions; effects in nats, errors clustered by picture.

    Args:
        effect: how far the right answer's log-probability falls without the named tokens.
        random, spread: the same without random ones: the mean, and the mean over questions of its standard deviation over
            draws.
        difference: effect minus the random effect of each question.
        lost, random_lost: of the questions that the whole model answers rightly, the share that it then does not; None where
            it answers none.
        control: effect minus random effect on the other objects' questions; None without any.
        specific: difference minus control, over the questions that have one.
        p: how likely so large a difference is where there is none, both sides: the larger one of two tests, adjusted for the
            number of methods (Holm). Student's t asks whether other pictures would show it too. The exact one asks whether the
            named tokens are more than one more random set: it puts any of a question's random sets in their place, and holds
            however few questions there are.
        verdict: "believed": p is below 0.05, and the difference above 0; "worse than random": below it; "no difference": p is
            not; "undecided": fewer than two pictures.
    """

    effect: Estimate
    random: float
    spread: float
    difference: Estimate
    lost: float | None
    random_lost: float | None
    control: Estimate | None
    specific: Estimate | None
    p: float
    verdict: str
    removals: tuple[Removal, ...] = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """A removal, the picture that it was made on, and the effect of each random set of the question."""

    group: str
    removal: Removal
    drawn: Sequence[float]


def judged(found: Mapping[str, Sequence[Trial]], seed: int = 0) -> dict[str, MethodCheck]:
    """The figures of each method, from at least one trial each."""
    differences = {
        method: mean_estimate([one.removal.effect - one.removal.random for one in trials], codes([one.group for one in trials]))
        for method, trials in found.items()
    }
    p = [max(p_value(differences[method]), _exchanged(trials, seed)) for method, trials in found.items()]
    return {
        method: _told(found[method], difference, adjusted)
        for (method, difference), adjusted in zip(differences.items(), holm(p), strict=True)
    }


def _exchanged(trials: Sequence[Trial], seed: int) -> float:
    """How likely the named sets' effect is if they are no other than the random ones, both sides together.

    In every question a set is drawn from named and random ones together: twice the smaller share of the sums that are at least
    as large, or as small.
    """
    draw = np.random.default_rng(seed)
    sums, own = np.zeros(_EXCHANGES), 0.0
    for one in trials:
        effects = np.array([one.removal.effect, *one.drawn])
        sums += effects[draw.integers(len(effects), size=_EXCHANGES)]
        own += effects[0]
    # sums of the same numbers in another order are the same
    near = 1e-9 * max(1.0, abs(own))
    shares = [(1 + int(beyond.sum())) / (1 + _EXCHANGES) for beyond in (sums >= own - near, sums <= own + near)]
    return min(1.0, 2 * min(shares))


def _told(trials: Sequence[Trial], difference: Estimate, p: float) -> MethodCheck:
    removals = tuple(one.removal for one in trials)
    controls = [
        (trial.group, one.other_effect - one.other_random, one.effect - one.random)
        for trial, one in zip(trials, removals, strict=True)
        if one.other_effect is not None and one.other_random is not None
    ]
    controlled = codes([group for group, _, _ in controls])
    said = [one for one in removals if one.said]
    return MethodCheck(
        effect=mean_estimate([one.effect for one in removals], codes([one.group for one in trials])),
        random=fmean(one.random for one in removals),
        spread=fmean(one.spread for one in removals),
        difference=difference,
        lost=fmean(one.lost for one in said) if said else None,
        random_lost=fmean(one.random_lost for one in said) if said else None,
        control=mean_estimate([control for _, control, _ in controls], controlled) if controls else None,
        specific=mean_estimate([own - control for _, control, own in controls], controlled) if controls else None,
        p=p,
        verdict=_verdict(difference, p),
        removals=removals,
    )


def _verdict(difference: Estimate, p: float) -> str:
    if difference.clusters < 2:
        return "undecided"
    if p >= LEVEL:
        return "no difference"
    return "believed" if difference.value > 0 else "worse than random"
