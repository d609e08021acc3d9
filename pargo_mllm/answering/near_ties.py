"""Tokens that a rounding decides: how often the two likeliest came out all but equal."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

# in units of the dtype's precision at the larger of the two: what adding up in another order can change
WITHIN = 4


class NearTies(LogitsProcessor):
    """Notes, step by step, in which rows the two likeliest tokens' logits differ by less than rounding may.

    Args:
        dtype: of the model that computed the logits.
    """

    def __init__(self, dtype: torch.dtype):
        self._precision = torch.finfo(dtype).eps
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Look at the scores, which stay as they are."""
        first, second = scores.float().topk(2, dim=-1).values.unbind(-1)
        self._steps.append((first - second) <= WITHIN * self._precision * first.abs())
        return scores

    def of(self, lengths: list[int]) -> list[int]:
        """How many of the first tokens of each row's answer, so many of them, were near ties."""
        if not self._steps:
            return [0] * len(lengths)
        noted = torch.stack(self._steps, dim=1).cpu()
        return [int(row[:length].sum()) for row, length in zip(noted, lengths, strict=True)]
