"""Where in the picture a projector's tokens come from, as far as its architecture alone says it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pargo_kernels.intervals import interval_mask, partial_bounds
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.projectors import ParGoProjector
from pargo_mllm.projectors.base import GridProjector, ProjectorPreTrainedModel
from pargo_mllm.projectors.token_grid import token_grid


@dataclass(frozen=True)
class Origins:
    """Which features each token reads first.

    Args:
        shares: fp32 ``[tokens, n_v]``, rows sum to 1. Of a token that may read the whole picture they are equal; what it did
            read, its attention says.
        local: bool ``[tokens]``, whether the token reads a part of the picture of its own.
        exact: whether that part follows from a mask or a map alone (slices of partial tokens; a token a feature). Not so for
            the abstractors, whose convolutions and sampling points look past the cell that a token pools.
    """

    shares: torch.Tensor
    local: torch.Tensor
    exact: bool


def token_origins(projector: ProjectorPreTrainedModel, num_features: int) -> Origins:
    """The origins of the tokens of a picture (or of a tile, where tiles become tokens one by one) of ``num_features`` features.

    Raises:
        ValueError: if the projector takes no such number of features.
    """
    config = projector.config
    if PROJECTORS[config.projector_type].a_token_a_feature:
        return Origins(torch.eye(num_features), torch.ones(num_features, dtype=torch.bool), True)
    if isinstance(projector, GridProjector):
        patches = (projector.rows, projector.columns)
        cells = token_grid(config.num_tokens, *patches)
        return Origins(_cells(patches, cells), torch.ones(config.num_tokens, dtype=torch.bool), False)
    shares = torch.full((config.num_tokens, num_features), 1 / num_features)
    local = torch.zeros(config.num_tokens, dtype=torch.bool)
    if isinstance(projector, ParGoProjector) and projector.num_partial:
        slices = interval_mask(partial_bounds(projector.num_partial, num_features), num_features)
        order = projector.feature_order(num_features)
        if order is not None:
            slices = slices[:, order.argsort()]
        shares[: projector.num_partial] = slices / slices.sum(1, keepdim=True)
        local[: projector.num_partial] = True
    return Origins(shares, local, True)


def _cells(patches: tuple[int, int], cells: tuple[int, int]) -> torch.Tensor:
    """What adaptive average pooling from a grid of patches to one of cells weighs: ``[cells, patches]``."""
    picture = torch.eye(patches[0] * patches[1]).unflatten(1, patches)[:, None]
    return torch.nn.functional.adaptive_avg_pool2d(picture, cells).flatten(1).T.contiguous()
