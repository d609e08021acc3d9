"""The ParGo projector: partial tokens that each see a slice of the picture, global tokens that see all of it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.attention import Cascaded, PartialGlobal, ProjectorAttention
from pargo_mllm.projectors.base import ProjectorPreTrainedModel
from pargo_mllm.projectors.feed_forward import FeedForward
from pargo_mllm.projectors.token_grid import tile_order


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
        self.mlp = FeedForward(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        tokens: torch.Tensor,
        vision_features: torch.Tensor,
        self_weights: list | None = None,
        cross_weights: list | None = None,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer.

        Args:
            tokens: ``[B or 1, n_p + n_g, C]``, partial tokens first.
            vision_features: ``[B, n_v, vision_hidden_size]``.
            self_weights, cross_weights: lists that get the attention weights, for pictures.
            cu_seqlens: where pictures end in packed features ``[1, total, vision_hidden_size]``.

        Returns:
            ``[B, n_p + n_g, C]``.
        """
        tokens = self._attend_among_tokens(tokens, self_weights)
        attended = self.cross_attention(tokens, vision_features, cross_weights, cu_seqlens)
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

    _no_split_modules = ["ParGoLayer"]  # noqa: RUF012 (transformers reads it from the class)

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        num_tokens = config.num_tokens
        if config.token_order == "tiles" and config.feature_grid is None:
            raise ValueError(
                "projector_config.feature_grid is None, and token_order='tiles' needs the rows and columns of the patches; set "
                "it, or build the projector through a ParGoConfig."
            )
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

    def forward(self, vision_features: torch.Tensor, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens for the language model ``[B, n_p + n_g, output_size]`` from features ``[B, n_v, vision_hidden_size]``.

        Args:
            cu_seqlens: for packed features; see :class:`ProjectorPreTrainedModel`.

        Raises:
            ValueError: for features of another rank or width, or fewer of them than partial tokens.
        """
        return self.output_proj(self.last_hidden_state(vision_features, cu_seqlens=cu_seqlens))

    def last_hidden_state(
        self,
        vision_features: torch.Tensor,
        self_weights: list | None = None,
        cross_weights: list | None = None,
        cu_seqlens: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The tokens before the linear map, ``[B, n_p + n_g, hidden_size]``.

        Args:
            self_weights, cross_weights: lists that get one ``[B, H, rows, keys]`` a layer, for pictures; keys in the order
                of the features. Not for packed features.
            cu_seqlens: as in :meth:`forward`.
        """
        self.check_features(vision_features)
        self._check_counts(vision_features.shape[1], cu_seqlens)
        order = self.feature_order(vision_features.shape[1], cu_seqlens)
        if order is not None:
            vision_features = vision_features[:, order.to(vision_features.device)]
        tokens = self.query_tokens if self.position_embeddings is None else self.query_tokens + self.position_embeddings
        tokens = self.layer_norm(tokens)
        for layer in self.layers:
            tokens = layer(tokens, vision_features, self_weights, cross_weights, cu_seqlens)
        if order is not None and cross_weights is not None:
            cross_weights[:] = [weights[..., order.argsort()] for weights in cross_weights]
        return tokens

    def _check_counts(self, num_features: int, cu_seqlens: torch.Tensor | None) -> None:
        """Refuse pictures with fewer features than partial tokens; packed ones where their ends can be read at no cost."""
        if cu_seqlens is not None:
            # the dense baselines read them anyway
            if cu_seqlens.device.type != "cpu" and self.config._attn_implementation == "pargo":
                return
            num_features = int(cu_seqlens.diff().min())
        if num_features < self.num_partial:
            raise ValueError(
                f"vision_features has n_v={num_features} features for num_partial_tokens={self.num_partial}; every "
                "partial token needs at least one: use fewer partial tokens or a larger picture."
            )

    def feature_order(self, num_features: int, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor | None:
        """Which feature comes where before slices are cut, int64 ``[n_v]`` on the CPU; None for raster order (the paper's).

        Raises:
            ValueError: if a picture's features are no whole number of tiles of ``config.feature_grid``.
        """
        if self.config.token_order == "raster" or not self.num_partial:
            return None
        rows, columns = self.config.feature_grid
        ends = [0, num_features] if cu_seqlens is None else cu_seqlens.tolist()
        for first, last in pairwise(ends):
            if (last - first) % (rows * columns):
                raise ValueError(
                    f"vision_features has n_v={last - first} features for a picture, no multiple of the {rows * columns} of "
                    f"feature_grid={[rows, columns]}; token_order='tiles' needs patches alone, without a class token."
                )
        pictures = [
            first + tile_order(rows, columns, self.num_partial, (last - first) // (rows * columns))
            for first, last in pairwise(ends)
        ]
        return torch.cat(pictures)
