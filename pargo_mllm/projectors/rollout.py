"""Where what tokens know comes from: what they can know, and attention carried through the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pargo_kernels.intervals import interval_mask, window_bounds


def reach(slices: torch.Tensor, windows: Sequence[int], edge: str, cascaded: bool) -> torch.Tensor:
    """The features that can have influenced each partial token after each layer, bool ``[layers, n_p, n_v]``.

    In the first layer nothing has been seen when the tokens look at each other, so a token knows its own slice; from the
    second layer on it also learns what the tokens in its window (Eq. 2) knew.

    Args:
        slices: bool ``[n_p, n_v]``, what each token sees (Eq. 1).
        windows: of each layer.
        edge: as in :func:`pargo_kernels.intervals.window_bounds`.
        cascaded: whether partial tokens look at each other.
    """
    known, after = torch.zeros_like(slices), []
    for window in windows:
        if cascaded:
            seen = interval_mask(window_bounds(len(slices), window, edge), len(slices)).to(slices.device)
            known = known | (seen.float() @ known.float() > 0)
        known = known | slices
        after.append(known)
    return torch.stack(after)


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
