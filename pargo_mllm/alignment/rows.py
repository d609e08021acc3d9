"""Rows of numbers that are compared by their directions."""

from __future__ import annotations

import torch

from pargo_mllm.alignment.errors import check_finite

# a row that lies closer to a mean than this, measured by its own length, is the mean up to rounding
NOTHING = 1e-6


def rows_of(tokens: torch.Tensor, what: str = "tokens") -> torch.Tensor:
    """``tokens`` ``[..., d]`` of any floating dtype as rows ``[N, d]``.

    Raises:
        AlignmentError: if a number is not finite.
        ValueError: for what is no tensor of floating numbers, or has rows of none.
    """
    if not isinstance(tokens, torch.Tensor):
        raise ValueError(f"{what}: a tensor [..., d] belongs here, not a {type(tokens).__name__}; give torch.as_tensor of it.")
    if not tokens.is_floating_point():
        raise ValueError(f"{what}: numbers of {tokens.dtype} have no directions; give them in a floating dtype.")
    if not tokens.dim() or not tokens.shape[-1]:
        raise ValueError(f"{what}: {list(tokens.shape)} has no rows; give [..., d], d at least 1.")
    rows = tokens.detach().reshape(-1, tokens.shape[-1])
    # torch does not look into numbers of a byte
    check_finite(rows.float() if rows.element_size() == 1 else rows, what)
    return rows


def unit_rows(rows: torch.Tensor, mean: torch.Tensor | None = None) -> torch.Tensor:
    """Rows ``[N, d]``, less a mean ``[d]`` where one is given, brought to length 1 whatever their length: fp64 ``[N, d]``.

    A row of which nothing but rounding is left is one of zeros.
    """
    # by the largest number first, for squares of tiny ones vanish
    values = rows.to(torch.float64)
    if mean is not None:
        values = values - mean.to(values)
    largest = values.abs().amax(dim=-1, keepdim=True)
    values = torch.nn.functional.normalize(values / largest.where(largest > 0, 1.0), dim=-1)
    if mean is not None:
        left = largest[:, 0] > NOTHING * rows.abs().amax(dim=-1).to(values)
        values = values * left[:, None]
    return values
