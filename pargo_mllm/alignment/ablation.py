"""The causal check: which map of an object may be believed, judged by what happens without the tokens it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.reports.statistics import Estimate

#: ways to take tokens away, and what each does
REMOVALS = {
    "mean": "each becomes the mean of the picture's tokens",
    "drop": "they are left out, and what stands behind moves up",
    "block": "nobody may look at them; they keep their places",
}
#: methods that name tokens by the answer, whatever object it is about
ANSWER_PREFIX = "answer_"
#: tokens drawn at random: what must show no difference
RANDOM = "random"
# of an answer's log-probability, where nobody says
DRAWS, BATCH = 20, 16


@dataclass(frozen=True)
class CausalQuestion:
    """Something asked about an object of a picture.

    Args:
        conversation: of one picture, the question at its end.
        answer: the right one.
        coverage: ``[n_v]`` (of all tiles, one behind the other), how much of each feature's patch the object covers, 0...1.
        other: a question about another object of the same picture with its right answer, as a control; None without one.
        group: what the picture is called: questions of one picture are no samples of their own. Each its own where empty.
    """

    conversation: Conversation
    answer: str
    coverage: torch.Tensor
    other: tuple[Conversation, str] | None = None
    group: str = ""


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
        verdict: "believed": the difference is above 0 (the lower end of its 95 % interval is); "worse than random": below;
            "no difference": neither; "undecided": fewer than two pictures, or no spread to judge by.
    """

    effect: Estimate
    random: float
    spread: float
    difference: Estimate
    lost: float | None
    random_lost: float | None
    control: Estimate | None
    specific: Estimate | None
    verdict: str
    removals: tuple[Removal, ...] = field(repr=False)


@dataclass(frozen=True)
class CausalCheck:
    """The check of several methods on the same questions: ``used`` and ``skipped`` add up to those given.

    Args:
        remove: of :data:`REMOVALS`.
        draws: random sets of tokens a question.
        methods: by name.
        left_out: methods that this model does not have, with the reason.
    """

    remove: str
    draws: int
    used: int
    skipped: Counter[str]
    methods: dict[str, MethodCheck]
    left_out: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def causal_check(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    questions: Iterable[CausalQuestion],
    methods: Sequence[str] | None = None,
    *,
    remove: str = "mean",
    draws: int = DRAWS,
    batch: int = BATCH,
    seed: int = 0,
    **settings: Any,
) -> CausalCheck:
    """Take the tokens away that each method attributes to an object, and ask about it.

    As large a share of the tokens is removed as the object is of the picture: one at least, half of them at most, and as many
    for every method. They are those of which most comes from the object; ``answer_gradient`` and ``answer_attention`` name
    those that the answer comes from, and ``random`` any. Random sets are drawn from all tokens, the same ones for all methods.

    Args:
        methods: of :data:`~pargo_mllm.alignment.attribution.METHODS`, "answer_gradient", "answer_attention" and "random"; all
            that there are for this model when None.
        remove: of :data:`REMOVALS`.
        draws: random sets a question, two at least.
        batch: prompts side by side.
        seed: of the draws, and of the order of tokens that a map does not tell apart.
        settings: of :func:`~pargo_mllm.alignment.attribution.attribute_features`.

    Raises:
        AttributionError: for a method that this model does not have, an unknown way to remove tokens or one that this language
            model ignores, coverage of another number of features, and where no question can be used.
    """
    raise NotImplementedError
