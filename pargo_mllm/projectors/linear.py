"""The linear projector: one token for each visual feature."""

from __future__ import annotations

import torch
from torch import nn

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.base import ProjectorPreTrainedModel


class LinearProjector(ProjectorPreTrainedModel):
    """One linear map to the language model's width."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        self.output_proj = nn.Linear(config.vision_hidden_size, config.output_size)
        self.post_init()

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """``[B, n_v, vision_hidden_size]`` to ``[B, n_v, output_size]``."""
        self.check_features(vision_features)
        return self.output_proj(vision_features)
