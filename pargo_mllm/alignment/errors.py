"""What of alignment a user can put right."""

from __future__ import annotations

import torch

from pargo_mllm.errors import UserError


class AlignmentError(UserError):
    """Tokens, words or labels that nothing can be said about."""


def check_finite(tokens: torch.Tensor, what: str) -> None:
    """See that every number of ``tokens`` ``[N, d]`` is finite.

    Raises:
        AlignmentError: if one is not; it names the first row.
    """
    broken = ~tokens.isfinite().all(dim=-1)
    if broken.any():
        row = int(broken.int().argmax())
        raise AlignmentError(
            f"{what}: row {row} of {len(tokens)} holds {_first_of(tokens[row])}, and {int(broken.sum())} rows are not finite; "
            "a model that gives such numbers has diverged: use an earlier checkpoint of it, or load it in fp32."
        )


def _first_of(row: torch.Tensor) -> float:
    return float(row[~row.isfinite()][0])
