"""From labels of patches to labels of a projector's tokens."""

from __future__ import annotations

import torch

#: of what a token reads, the least that a thing must cover to be a label of it
THRESHOLD = 0.5


def token_labels(
    coverage: torch.Tensor, shares: torch.Tensor, threshold: float = THRESHOLD, hard: bool = False
) -> torch.Tensor:
    """How much each label says of each token: ``[..., tokens, labels]``, rows sum to 1, or to 0 for a token without a label.

    Our choice, for no text of the method could be read: a token has the labels that cover at least ``threshold`` of what it
    reads; soft, each counts by what it covers; hard, the one that covers most counts alone (of equals, the first). What is no
    number gives labels that are none.

    Args:
        coverage: ``[..., labels, n_v]``, how much of each feature's patch each label covers, 0...1.
        shares: ``[tokens, n_v]`` or ``[..., tokens, n_v]``, what each token reads; rows sum to 1.
    """
    covered = shares @ coverage.to(shares.dtype).transpose(-1, -2)
    # sums of shares reach the threshold up to rounding
    kept = covered.where(~(covered < threshold - 1e-6), 0.0)
    if hard and kept.shape[-1]:
        most, best = kept.max(dim=-1, keepdim=True)
        kept = torch.zeros_like(kept).scatter(-1, best, most / most.where(most != 0, 1.0))
    return kept / kept.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)
