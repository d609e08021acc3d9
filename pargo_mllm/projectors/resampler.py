"""The Perceiver resampler (Alayrac et al., 2022, Flamingo): learned tokens that read the picture and each other."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.attention import PartialGlobal, ProjectorAttention
from pargo_mllm.projectors.base import ProjectorPreTrainedModel
from pargo_mllm.projectors.feed_forward import FeedForward


class ResamplerLayer(GradientCheckpointingLayer):
    """One attention whose keys are the features and the tokens together, then a feed-forward block; both pre-norm."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__()
        self.source_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = ProjectorAttention(config, PartialGlobal(0), config.hidden_size)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self, tokens: torch.Tensor, source: torch.Tensor, ends: list[int] | None = None, weights: list | None = None
    ) -> torch.Tensor:
        """``[B, n, C]`` from tokens ``[B, n, C]`` and source ``[B, n_v, C]``; or ``[1, total, C]`` packed between ``ends``.

        ``weights``, a list, gets the attention's ``[B, H, n, n_v + n]``; not for packed features.
        """
        asking, source = self.attention_norm(tokens), self.source_norm(source)
        if ends is None:
            attended = self.attention(asking, torch.cat((source, asking), dim=1), weights)
        else:
            pieces = [
                piece for image, (first, last) in enumerate(pairwise(ends)) for piece in (source[0, first:last], asking[image])
            ]
            more = [end + image * tokens.shape[1] for image, end in enumerate(ends)]
            cu_seqlens = torch.tensor(more, dtype=torch.int32, device=source.device)
            attended = self.attention(asking, torch.cat(pieces)[None], cu_seqlens=cu_seqlens)
        tokens = tokens + attended
        return tokens + self.mlp(self.mlp_norm(tokens))


class ResamplerProjector(ProjectorPreTrainedModel):
    """``num_partial_tokens + num_global_tokens`` learned tokens; every one sees every feature and every token."""

    _no_split_modules = ["ResamplerLayer"]  # noqa: RUF012 (transformers reads it from the class)

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_tokens, config.hidden_size))
        self.input_proj = nn.Linear(config.vision_hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(ResamplerLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.output_proj = nn.Linear(config.hidden_size, config.output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self, vision_features: torch.Tensor, cu_seqlens: torch.Tensor | None = None, weights: list | None = None
    ) -> torch.Tensor:
        """``[B, tokens, output_size]``; see :class:`ProjectorPreTrainedModel`.

        ``weights``, a list, gets one ``[B, H, tokens, n_v + tokens]`` a layer; not for packed features.
        """
        self.check_features(vision_features)
        source = self.input_proj(vision_features)
        ends = None if cu_seqlens is None else cu_seqlens.tolist()
        images = len(source) if ends is None else len(ends) - 1
        tokens = self.query_tokens.expand(images, -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, source, ends, weights)
        return self.output_proj(self.norm(tokens))
