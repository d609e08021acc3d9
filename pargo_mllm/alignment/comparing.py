"""Models compared on the same pictures: every figure's difference, paired by picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pargo_mllm.reports.statistics import mean_estimate, p_value

# one value a picture; of each, what it is called
FIGURES = {
    "entropy_before": "entropy before the projector, nats",
    "entropy_after": "entropy after it, nats",
    "alignment": "cosine of tokens and their words",
    "accuracy": "tokens whose nearest word is theirs",
    "iou": "IoU of words' maps with masks",
    "auc": "AUC of words' maps",
    "ap": "average precision of words' maps",
}


def compared(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What every further model has more than the first one, by figure, as JSON.

    Args:
        models: each with ``name`` and ``by_picture``: figures of :data:`FIGURES`, one value a picture, None where it has none.
    """
    if not models:
        return []
    first, *others = models
    return [
        {"first": first["name"], "second": other["name"], "figure": figure, **_difference(pairs)}
        for other in others
        for figure in FIGURES
        if (pairs := _pairs(first["by_picture"].get(figure), other["by_picture"].get(figure)))
    ]


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean over pictures, its standard error, and the pictures it is of."""
    kept = [value for value in values if value is not None]
    if not kept:
        return {"mean": None, "error": None, "pictures": 0}
    estimate = mean_estimate(kept, np.arange(len(kept)))
    return {"mean": estimate.value, "error": estimate.error, "pictures": len(kept)}


def _pairs(first: Sequence[float | None] | None, second: Sequence[float | None] | None) -> list[tuple[float, float]]:
    both = zip(first or (), second or (), strict=True) if first and second else ()
    return [(one, other) for one, other in both if one is not None and other is not None]


def _difference(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    before, after = (np.array(column) for column in zip(*pairs, strict=True))
    estimate = mean_estimate(after - before, np.arange(len(pairs)))
    interval = estimate.interval
    return {
        "first_mean": float(before.mean()),
        "second_mean": float(after.mean()),
        "difference": estimate.value,
        "error": estimate.error,
        "interval_95": None if interval is None else list(interval),
        "p": p_value(estimate),
        "pictures": len(pairs),
        "higher": int((after > before).sum()),
        "lower": int((after < before).sum()),
    }
