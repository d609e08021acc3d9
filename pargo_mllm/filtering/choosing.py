"""Which records are kept: those that no model puts below its threshold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pargo_mllm.errors import UserError
from pargo_mllm.filtering.scores import Scores
from pargo_mllm.filtering.scoring import DAMAGED, UNREADABLE

THRESHOLD, QUANTILE = "threshold", "quantile"


@dataclass(frozen=True)
class Rule:
    """Where a model's threshold is.

    Args:
        kind: :data:`THRESHOLD`, a score; or :data:`QUANTILE`, the share of the judged records that is dropped.
    """

    kind: str
    value: float

    def threshold(self, scores: np.ndarray) -> float:
        """The lowest score that is kept, of those of the judged records, [records], of which there is one at least."""
        if self.kind == THRESHOLD:
            return self.value
        return float(np.sort(scores)[int(self.value * len(scores))])


def rules_of(names: Sequence[str], given: Sequence[tuple[str, str | None, float]]) -> dict[str, Rule]:
    """The rule of every model.

    Args:
        names: of the models.
        given: (kind, name of a model or None for all that have none of their own, value).

    Raises:
        UserError: if a model has none, or two; and for a name that none has.
    """
    found: dict[str | None, Rule] = {}
    for kind, name, value in given:
        if name is not None and name not in names:
            raise UserError(f"--{kind} {name}={value:g}: no model is called {name!r}, only {', '.join(names)}.")
        if name in found:
            raise UserError(f"{name or 'all models'} cannot have two thresholds: --{found[name].kind} and --{kind}.")
        found[name] = Rule(kind, value)
    rules = {name: found.get(name, found.get(None)) for name in names}
    missing = [name for name, rule in rules.items() if rule is None]
    if missing:
        raise UserError(f"say where {', '.join(missing)} drops pairs, by --threshold or --quantile; or give --scores-only.")
    return {name: rule for name, rule in rules.items() if rule is not None}


@dataclass(frozen=True)
class Choice:
    """What becomes of every record.

    Args:
        kept: [records].
        thresholds: by model.
        below: by model, which records it puts below its threshold.
        reasons: of each record, why it is dropped; None for one that is kept.
        unjudged: how many have no score and are kept, by reason.
        why: of each record, why it has no score; None for one that was judged.
    """

    kept: np.ndarray
    thresholds: Mapping[str, float]
    below: Mapping[str, np.ndarray]
    reasons: Sequence[str | None]
    unjudged: Counter[str]
    why: Sequence[str | None]

    def without(self, lost: Collection[int]) -> Choice:
        """What is kept where the pictures of these records turn out to be gone."""
        kept, reasons = self.kept.copy(), list(self.reasons)
        unjudged = self.unjudged.copy()
        for number in lost:
            kept[number], reasons[number] = False, UNREADABLE
            why = self.why[number]
            if why is not None:
                unjudged[why] -= 1
        return replace(self, kept=kept, reasons=reasons, unjudged=+unjudged)

    def dropped(self) -> dict[str, int]:
        """How many are dropped, by reason."""
        return dict(sorted(Counter(reason for reason in self.reasons if reason is not None).items()))


def choose(scores: Mapping[str, Scores], rules: Mapping[str, Rule], by: str, keep_unjudged: bool) -> Choice:
    """What is kept by the rules of all models."""
    thresholds = {name: rules[name].threshold(scored.numbers[by][scored.judged]) for name, scored in scores.items()}
    # what has no score is below nothing
    below = {name: scored.numbers[by] < thresholds[name] for name, scored in scores.items()}
    reasons: list[str | None] = []
    unjudged: Counter[str] = Counter()
    why: list[str | None] = list(next(iter(scores.values())).unjudged)
    for number, reason in enumerate(why):
        if reason is None:
            models = [name for name, records in below.items() if records[number]]
            reasons.append(f"below the threshold of {' and of '.join(models)}" if models else None)
        elif keep_unjudged and reason not in (DAMAGED, UNREADABLE):
            unjudged[reason] += 1
            reasons.append(None)
        else:
            reasons.append(reason)
    return Choice(np.array([reason is None for reason in reasons], dtype=bool), thresholds, below, reasons, unjudged, why)
