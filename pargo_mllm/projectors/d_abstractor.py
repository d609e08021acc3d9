"""The D-Abstractor (Cha et al., 2024, Honeybee): tokens with places that look at points around them.

The attention is that of Deformable DETR (Zhu et al., 2021) on one feature map: every head of every token samples the map at
a few points whose offsets and weights are linear in the token.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.base import GridProjector
from pargo_mllm.projectors.feed_forward import FeedForward
from pargo_mllm.projectors.token_grid import token_grid


class DeformableAttention(nn.Module):
    """Each token samples a feature map at ``num_sampling_points`` points a head and weighs what it finds."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__()
        self.num_heads, self.num_points = config.num_attention_heads, config.num_sampling_points
        self.value_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.offset_proj = nn.Linear(config.hidden_size, self.num_heads * self.num_points * 2)
        self.weight_proj = nn.Linear(config.hidden_size, self.num_heads * self.num_points)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, tokens: torch.Tensor, places: torch.Tensor, source: torch.Tensor, seen: list | None = None
    ) -> torch.Tensor:
        """Attend.

        Args:
            tokens: ``[B, n, C]``.
            places: ``[n, 2]``, x and y of the tokens, 0...1 across the map; fp32 (fp64 for fp64).
            source: ``[B, rows, columns, C]``.
            seen: a list that gets the weights over the patches, ``[B, H, n, rows * columns]``: of each point, what the patches
                around it have of it.

        Returns:
            ``[B, n, C]``. Outside the map there are zeros.
        """
        batch, rows, columns, _ = source.shape
        heads = (self.num_heads, self.num_points)
        # half precision cannot tell neighbouring points apart
        exact = torch.promote_types(tokens.dtype, torch.float32)
        size = torch.tensor([columns, rows], dtype=exact, device=tokens.device)
        offsets = self.offset_proj(tokens).unflatten(-1, (*heads, 2)).to(exact) / size
        points = places[None, :, None, None] + offsets  # [B, n, H, P, 2]
        weights = self.weight_proj(tokens).unflatten(-1, heads).to(exact).softmax(dim=-1)  # [B, n, H, P]
        value = self.value_proj(source).unflatten(-1, (self.num_heads, -1)).to(exact)
        value = value.permute(0, 3, 4, 1, 2).flatten(0, 1)  # [B * H, D, rows, columns]
        grid = 2 * points.transpose(1, 2).flatten(0, 1) - 1  # [B * H, n, P, 2]
        found = nn.functional.grid_sample(value, grid, align_corners=False)  # [B * H, D, n, P]
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]  # [B * H, 1, n, P]
        if seen is not None:
            patches = torch.eye(rows * columns, dtype=exact, device=tokens.device).view(1, -1, rows, columns)
            parts = nn.functional.grid_sample(patches.expand(len(grid), -1, -1, -1), grid, align_corners=False)
            seen.append((parts * weights).sum(dim=-1).transpose(1, 2).unflatten(0, (batch, -1)).detach())
        mixed = (found * weights).sum(dim=-1)  # [B * H, D, n]
        return self.o_proj(mixed.unflatten(0, (batch, -1)).flatten(1, 2).transpose(1, 2).to(tokens.dtype))

    def reset_points(self) -> None:
        """The start of Deformable DETR: head ``h`` looks along its own direction, 1, 2, … patches far, equally weighed."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1)
        init.zeros_(self.offset_proj.weight)
        init.copy_(self.offset_proj.bias, (directions[:, None] * distances[:, None]).flatten())
        init.zeros_(self.weight_proj.weight)
        init.zeros_(self.weight_proj.bias)


class DAbstractorLayer(GradientCheckpointingLayer):
    """Deformable attention and a feed-forward block, post-norm; the tokens do not look at each other."""

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__()
        self.attention = DeformableAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        tokens: torch.Tensor,
        query_tokens: torch.Tensor,
        places: torch.Tensor,
        source: torch.Tensor,
        seen: list | None = None,
    ) -> torch.Tensor:
        """``[B, n, C]`` to the same; ``query_tokens`` ``[1, n, C]`` are added where points are chosen."""
        tokens = self.attention_norm(tokens + self.attention(tokens + query_tokens, places, source, seen))
        return self.mlp_norm(tokens + self.mlp(tokens))


class DAbstractorProjector(GridProjector):
    """``num_partial_tokens + num_global_tokens`` tokens on a grid over the picture or tile; each begins as the mean of its
    cell's features and then looks around it.
    """

    _no_split_modules = ["DAbstractorLayer"]  # noqa: RUF012 (transformers reads it from the class)

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        if config.num_sampling_points < 1:
            raise ValueError(f"num_sampling_points={config.num_sampling_points} must be at least 1.")
        self.grid = token_grid(config.num_tokens, self.rows, self.columns)
        self.position_embeddings = nn.Parameter(torch.empty(1, self.rows * self.columns, config.vision_hidden_size))
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_tokens, config.hidden_size))
        self.input_proj = nn.Linear(config.vision_hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(DAbstractorLayer(config) for _ in range(config.num_hidden_layers))
        self.output_proj = nn.Linear(config.hidden_size, config.output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, vision_features: torch.Tensor, weights: list | None = None) -> torch.Tensor:
        """``[B, tokens, output_size]``; see :class:`GridProjector`.

        ``weights``, a list, gets one ``[B, H, tokens, n_v]`` a layer.
        """
        self.check_features(vision_features)
        source = self.input_proj(vision_features + self.position_embeddings).unflatten(1, (self.rows, self.columns))
        tokens = nn.functional.adaptive_avg_pool2d(source.permute(0, 3, 1, 2), self.grid).flatten(2).transpose(1, 2)
        places = self._places(source.device, torch.promote_types(source.dtype, torch.float32))
        for layer in self.layers:
            tokens = layer(tokens, self.query_tokens, places, source, weights)
        return self.output_proj(tokens)

    def _places(self, device, dtype: torch.dtype) -> torch.Tensor:
        """The middle of every cell of the tokens' grid, ``[n, 2]`` as x and y in 0...1."""
        rows, columns = ((torch.arange(count, device=device, dtype=dtype) + 0.5) / count for count in self.grid)
        return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, DeformableAttention):
            module.reset_points()
