"""The ParGo projector: partial tokens that each see a slice of the picture, global tokens that see all of it."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.attention import Cascaded, PartialGlobal, ProjectorAttention
from pargo_mllm.projectors.base import ProjectorPreTrainedModel


class ParGoMLP(nn.Module):
    """The feed-forward block."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[B, n, C]`` to ``[B, n, C]``."""
        return self.fc2(self.act(self.fc1(tokens)))


class ParGoLayer(GradientCheckpointingLayer):
    """Cascaded self-attention, partial-global cross-attention, feed-forward; each with a residual and LayerNorm after it."""

    def __init__(self, config: ParGoProjectorConfig, num_partial: int, window: int):
        super().__init__()
        self.num_partial = num_partial
        self.partial_attends = num_partial > 0 and config.cascaded_partial_perception
        self.global_attends = config.global_self_attention or config.all_tokens_global
        if self.partial_attends or self.global_attends:
            # without partial tokens there is no band, and the op takes no window but 1
            cascade = Cascaded(num_partial, window, config.edge) if self.partial_attends else Cascaded(0, 1, config.edge)
            self.self_attention = ProjectorAttention(config, cascade, config.hidden_size)
            self.self_attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attention = ProjectorAttention(config, PartialGlobal(num_partial), config.vision_hidden_size)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ParGoMLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        tokens: torch.Tensor,
        vision_features: torch.Tensor,
        self_weights: list | None = None,
        cross_weights: list | None = None,
    ) -> torch.Tensor:
        """One layer.

        Args:
            tokens: ``[B or 1, n_p + n_g, C]``, partial tokens first.
            vision_features: ``[B, n_v, vision_hidden_size]``.
            self_weights, cross_weights: lists that get the attention weights, for pictures.

        Returns:
            ``[B, n_p + n_g, C]``.
        """
        tokens = self._attend_among_tokens(tokens, self_weights)
        attended = self.cross_attention(tokens, vision_features, cross_weights)
        tokens = self.cross_attention_norm(attended + tokens)
        return self.mlp_norm(self.mlp(tokens) + tokens)

    def _attend_among_tokens(self, tokens: torch.Tensor, weights: list | None) -> torch.Tensor:
        first = 0 if self.partial_attends else self.num_partial
        last = tokens.shape[1] if self.global_attends else self.num_partial
        if first >= last:
            return tokens
        rows = tokens[:, first:last]
        rows = self.self_attention_norm(self.self_attention(rows, rows, weights) + rows)
        return torch.cat((tokens[:, :first], rows, tokens[:, last:]), dim=1)


class ParGoProjector(ProjectorPreTrainedModel):
    """Learned partial and global tokens, ``num_hidden_layers`` layers, and a linear map to the language model's width."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        num_tokens = config.num_partial_tokens + config.num_global_tokens
        self.num_partial = 0 if config.all_tokens_global else config.num_partial_tokens
        self.query_tokens = nn.Parameter(torch.empty(1, num_tokens, config.hidden_size))
        self.position_embeddings = (
            nn.Parameter(torch.empty(1, num_tokens, config.hidden_size)) if config.query_position_embeddings else None
        )
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(ParGoLayer(config, self.num_partial, window) for window in config.layer_windows)
        self.output_proj = nn.Linear(config.hidden_size, config.output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """Tokens for the language model ``[B, n_p + n_g, output_size]`` from features ``[B, n_v, vision_hidden_size]``.

        Raises:
            ValueError: for features of another rank or width, or fewer of them than partial tokens.
        """
        return self.output_proj(self.last_hidden_state(vision_features))

    def last_hidden_state(
        self, vision_features: torch.Tensor, self_weights: list | None = None, cross_weights: list | None = None
    ) -> torch.Tensor:
        """The tokens before the linear map, ``[B, n_p + n_g, hidden_size]``.

        Args:
            self_weights, cross_weights: lists that get one ``[B, H, rows, keys]`` a layer, for pictures.
        """
        self.check_features(vision_features)
        if vision_features.shape[1] < self.num_partial:
            raise ValueError(
                f"vision_features has n_v={vision_features.shape[1]} features for num_partial_tokens={self.num_partial}; every "
                "partial token needs at least one: use fewer partial tokens or a larger picture."
            )
        tokens = self.query_tokens if self.position_embeddings is None else self.query_tokens + self.position_embeddings
        tokens = self.layer_norm(tokens)
        for layer in self.layers:
            tokens = layer(tokens, vision_features, self_weights, cross_weights)
        return tokens
