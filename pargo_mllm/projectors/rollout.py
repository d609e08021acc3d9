"""Where what tokens know comes from: attention carried through the layers."""

from __future__ import annotations

import torch


def rollout(
    cross: torch.Tensor,
    among: torch.Tensor | None = None,
    start: torch.Tensor | None = None,
    together: bool = False,
) -> torch.Tensor:
    """Attention rollout (Abnar and Zuidema, 2020): what a token has and what attention adds weigh the same.

    Args:
        cross: ``[layers, tokens, n_v]``, weights over the features.
        among: ``[layers, tokens, tokens]``, weights over the tokens, which are looked at in front of the features; the unit
            matrix's rows for tokens that do not look.
        start: ``[tokens, n_v]``, what is known of the features in front of the first layer; nothing when None.
        together: one softmax runs over features and tokens, so that rows of both sum to 1 together.

    Returns:
        ``[layers, tokens, n_v]``, after each layer; rows sum to 1.
    """
    known = torch.zeros_like(cross[0]) if start is None else start.to(cross.dtype)
    after = []
    for layer, seen in enumerate(cross):
        if among is not None and together:
            known = known + among[layer] @ known
        elif among is not None:
            known = (known + among[layer] @ known) / 2
        known = known + seen
        known = known / known.sum(dim=-1, keepdim=True)
        after.append(known)
    return torch.stack(after)
