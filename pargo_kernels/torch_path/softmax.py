"""Softmax over visible cells, in place; a row that sees nothing gives weights 0 and lse minus infinity."""

from __future__ import annotations

import torch


def softmax_(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the last dimension, in place, and its natural log-sum-exp (last dimension dropped).

    One exponential a cell; ``torch.logsumexp`` would take a second.
    """
    peak = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(finite_lse(peak)).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    # a row that saw nothing has total 0: its weights stay 0, its lse becomes minus infinity
    weights.div_(total.clamp(min=torch.finfo(total.dtype).tiny))
    return weights, (peak + total.log_()).squeeze(-1)


def finite_lse(lse: torch.Tensor) -> torch.Tensor:
    """lse with minus infinity replaced by 0, so that exp(minus infinity - lse) is 0 and not NaN."""
    return lse.clamp(min=torch.finfo(lse.dtype).min)
