"""The feed-forward block of the projectors that attend."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2FN

from pargo_mllm.configuration import ParGoProjectorConfig


class FeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[B, n, C]`` to ``[B, n, C]``."""
        return self.fc2(self.act(self.fc1(tokens)))
