"""The two-layer projector of LLaVA-1.5: one token for each visual feature."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2FN

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.base import ProjectorPreTrainedModel


class MLPProjector(ProjectorPreTrainedModel):
    """Two linear maps with an activation between them."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        self.input_proj = nn.Linear(config.vision_hidden_size, config.output_size)
        self.act = ACT2FN[config.hidden_act]
        self.output_proj = nn.Linear(config.output_size, config.output_size)
        self.post_init()

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """``[B, n_v, vision_hidden_size]`` to ``[B, n_v, output_size]``."""
        self.check_features(vision_features)
        return self.output_proj(self.act(self.input_proj(vision_features)))
