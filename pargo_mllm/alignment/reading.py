"""What tokens without a part of the picture of their own read of it, by the attention of a forward pass."""

from __future__ import annotations

import torch

from pargo_mllm.projectors import ParGoProjector
from pargo_mllm.projectors.attention import KeptAttention
from pargo_mllm.projectors.base import ProjectorPreTrainedModel


def read_shares(projector: ProjectorPreTrainedModel, kept: KeptAttention, features: list[int]) -> list[torch.Tensor]:
    """Of each picture fp32 ``[tokens, n_v]``, the mean over heads and layers, in the order of the features; rows sum to 1.

    Attention is what a token weighs, not proof of what it holds: our choice where a mask says nothing.

    Args:
        kept: of the forward pass (:func:`~pargo_mllm.projectors.attention.attention_kept`).
        features: how many each picture has.
    """
    found = []
    for weights, count in zip(kept.means(), features, strict=True):
        # behind the features a resampler's tokens look at each other
        shares = weights[:, :count]
        order = projector.feature_order(count) if isinstance(projector, ParGoProjector) else None
        if order is not None:
            shares = shares[:, order.argsort().to(shares.device)]
        found.append(shares / shares.sum(-1, keepdim=True))
    return found
