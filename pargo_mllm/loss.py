"""The language-modelling loss, computed only where there are labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from pargo_mllm.data.feeding.packing import IGNORED

# 512 rows of a vocabulary of 128k: 0.7 GB in bf16 with their fp32 copy and its gradient
LOGITS_AT_ONCE = 2**26


def next_token_loss(
    lm_head: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Cross-entropy of the next token: a scalar in fp32.

    Pictures and questions are most of a row, so the head runs only on the hidden states that predict a label, and on at most
    :data:`LOGITS_AT_ONCE` logits at a time; where that takes several parts, the backward pass computes each anew instead of
    keeping it. Loss and gradients are those over all logits, up to rounding.

    torch's own ``linear_cross_entropy`` is not used: not every supported torch has it, and the one of torch 2.13 adds the
    losses of bf16 states up in bf16, where a long sum stops growing.

    Args:
        lm_head: from hidden states ``[n, C]`` to logits ``[n, vocab_size]``.
        hidden_states: ``[B, L, C]``.
        labels: int64 ``[B, L]``, -100 where no loss is wanted; shifted here.
        num_items_in_batch: what the sum over labels is divided by: their number in all micro-batches of a step. Their number
            here when None. Without any label the loss is zero, and so are its gradients.
    """
    targets = labels[:, 1:].to(hidden_states.device)
    wanted = targets != IGNORED
    rows, targets = hidden_states[:, :-1][wanted], targets[wanted]
    total = summed_loss(lm_head, rows, targets, vocab_size)
    count = torch.as_tensor(len(targets) if num_items_in_batch is None else num_items_in_batch, device=total.device)
    return total / count.masked_fill(count == 0, 1)


def summed_loss(
    lm_head: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, targets: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """Sum of the cross-entropies of ``rows`` ``[n, C]`` against ``targets`` ``[n]``, for :func:`next_token_loss`."""

    def part(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(lm_head(rows).float(), targets, reduction="sum")

    at_once = max(1, LOGITS_AT_ONCE // vocab_size)
    if len(rows) <= at_once:
        return part(rows, targets)
    parts = zip(rows.split(at_once), targets.split(at_once), strict=True)
    # a head draws no random numbers
    return torch.stack([checkpoint(part, *one, use_reentrant=False, preserve_rng_state=False) for one in parts]).sum()


def share_of_labels(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """How much of a step's loss these labels ``[B, L]`` are: what else a batch adds to it is weighed alike, so that the loss
    does not depend on how a step is divided. 1 where the step is this batch."""
    if num_items_in_batch is None:
        return 1.0
    count = (labels[:, 1:] != IGNORED).sum()
    items = torch.as_tensor(num_items_in_batch, device=count.device)
    return count / items.masked_fill(items == 0, 1)
