"""Softmax over visible cells, in place; a row that sees nothing gives weights 0 and lse minus infinity."""

from __future__ import annotations

import torch


def softmax_(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the last dimension, in place, and its natural log-sum-exp (last dimension dropped)."""
    lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    weights = scores.sub_(finite_lse(lse)).exp_()
    return weights, lse.squeeze(-1)


def finite_lse(lse: torch.Tensor) -> torch.Tensor:
    """lse with minus infinity replaced by 0, so that exp(minus infinity - lse) is 0 and not NaN."""
    return lse.masked_fill(lse == float("-inf"), 0.0)
