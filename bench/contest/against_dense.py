"""Judging ways by a dense one, where inputs are more than query, key and value and rounding has no bound of its own."""

from __future__ import annotations

import math

import torch

from bench.contest.records import OK, SKIPPED, WRONG, Row

# tensors in groups; a group has one relative error
Results = list[list[torch.Tensor]]
# what the error may be beside twice the dense way's
ROUNDING = 1e-6


class AgainstDense:
    """Holds every way to the exact results: it may be off by twice as much as the dense way, which is judged first.

    Args:
        exact: the results in a wider dtype.
        dense: the provider of the dense way.
    """

    def __init__(self, exact: Results, dense: str):
        self.exact, self.dense = exact, dense
        self.bound: float | None = None

    def __call__(self, row: Row, found: Results) -> tuple[str, str]:
        """Status and reason; the row gets its error."""
        row.error = worst(found, self.exact)
        if row.provider == self.dense:
            self.bound = 2 * row.error + ROUNDING
        if self.bound is None:
            return SKIPPED, "the dense way has failed: nothing says how far off a right one may be"
        # NaN compares false: it is never within the bound
        if not row.error <= self.bound:
            return WRONG, f"error {row.error:.2e}, twice the dense way's is {self.bound:.2e}"
        return OK, ""


def worst(found: Results, exact: Results) -> float:
    """The largest relative error of a group; NaN if a group has one."""
    errors = []
    for some, right in zip(found, exact, strict=True):
        error = sum(float((x.double() - y).square().sum()) for x, y in zip(some, right, strict=True))
        errors.append((error / sum(float(y.square().sum()) for y in right)) ** 0.5)
    return math.nan if any(map(math.isnan, errors)) else max(errors)
