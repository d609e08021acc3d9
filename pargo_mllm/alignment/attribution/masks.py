"""What a projector's architecture alone says: slices of partial tokens, and what the cascade lets them know."""

from __future__ import annotations

import torch

from pargo_mllm.alignment.attribution.result import Attribution, shares_of
from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.projectors import ParGoProjector, rollout
from pargo_mllm.projectors.base import GridProjector, ProjectorPreTrainedModel


def slices(projector: ProjectorPreTrainedModel, features: torch.Tensor) -> Attribution:
    """What each token reads first, by :func:`~pargo_mllm.alignment.origins.token_origins`."""
    origins = token_origins(projector, len(features))
    if isinstance(projector, GridProjector):
        how = "the cell that each token pools; convolutions and sampling points look past it"
    elif isinstance(projector, ParGoProjector):
        how = "the slices of Eq. 1; global tokens may read the whole picture"
    else:
        how = "a token a feature"
    return Attribution("slices", origins.shares, origins.exact, True, how, origins.shares)


def reach(projector: ParGoProjector, features: torch.Tensor) -> Attribution:
    """What can have influenced each token after each layer (Eq. 1 and Eq. 2 together): everything else is zero for certain.

    See :func:`pargo_mllm.projectors.rollout.reach`; a global token may know all from the first layer on.
    """
    config, partial = projector.config, projector.num_partial
    seen = token_origins(projector, len(features)).shares > 0
    known = rollout.reach(seen[:partial], config.layer_windows, config.edge, config.cascaded_partial_perception)
    known = torch.cat((known, seen[partial:].expand(len(known), -1, -1)), dim=1).float()
    by_layer = torch.stack([shares_of(layer) for layer in known])
    how = "slices and windows, closed over the layers; equal shares of what may be known"
    return Attribution("reach", by_layer[-1], True, True, how, known[-1], by_layer=by_layer)
