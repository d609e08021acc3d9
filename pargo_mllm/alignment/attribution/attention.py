"""What the attention of a projector says of where its tokens come from: its mean, and its rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pargo_mllm.alignment.attribution.result import Attribution, shares_of
from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.projectors import DAbstractorProjector, ParGoProjector, ResamplerProjector
from pargo_mllm.projectors.base import ProjectorPreTrainedModel
from pargo_mllm.projectors.rollout import rollout

#: projectors whose attention over the features is known
ATTENDS = (ParGoProjector, ResamplerProjector, DAbstractorProjector)


@dataclass(frozen=True)
class _Looked:
    """Weights, the mean over heads; as :func:`~pargo_mllm.projectors.rollout.rollout` takes them."""

    cross: torch.Tensor
    among: torch.Tensor | None = None
    start: torch.Tensor | None = None
    together: bool = False


def attention(projector: ProjectorPreTrainedModel, features: torch.Tensor) -> Attribution:
    """Weights over the features, the mean over heads; by layer, and the mean over layers."""
    cross = _looked(projector, features).cross
    by_layer = torch.stack([shares_of(layer) for layer in cross])
    values = cross.mean(dim=0).float().cpu()
    how = "attention over the features, mean of heads and layers, at this picture"
    return Attribution("attention", shares_of(values), False, False, how, values, by_layer=by_layer)


def rolled_out(projector: ProjectorPreTrainedModel, features: torch.Tensor) -> Attribution:
    """Attention carried through the layers, cascade included (:func:`~pargo_mllm.projectors.rollout.rollout`)."""
    looked = _looked(projector, features)
    after = rollout(looked.cross, looked.among, looked.start, looked.together).float().cpu()
    by_layer = torch.stack([shares_of(layer) for layer in after])
    how = "attention rollout, what a token has and what it looks at weighed the same, at this picture"
    return Attribution("rollout", by_layer[-1], False, False, how, after[-1], by_layer=by_layer)


@torch.no_grad()
def _looked(projector: ProjectorPreTrainedModel, features: torch.Tensor) -> _Looked:
    weights: list[torch.Tensor] = []
    if isinstance(projector, ParGoProjector):
        own: list[torch.Tensor] = []
        projector.last_hidden_state(features[None], own, weights)
        cross = _mean_over_heads(weights)
        return _Looked(cross, _among_all(projector, own, cross.shape[1]))
    projector(features[None], weights=weights)
    both = _mean_over_heads(weights)
    if isinstance(projector, DAbstractorProjector):
        # a point outside the picture finds nothing
        both = both / both.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(both.dtype).tiny)
        return _Looked(both, start=token_origins(projector, len(features)).shares.to(both))
    return _Looked(both[..., : len(features)], both[..., len(features) :], together=True)


def _mean_over_heads(weights: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([layer[0].mean(dim=0) for layer in weights])


def _among_all(projector: ParGoProjector, weights: list[torch.Tensor], tokens: int) -> torch.Tensor | None:
    """``[layers, tokens, tokens]``: those that do not attend among themselves keep what they have."""
    if not weights:
        return None
    among = torch.eye(tokens).to(weights[0]).repeat(len(weights), 1, 1)
    for layer, module in enumerate(projector.layers):
        first = 0 if module.partial_attends else projector.num_partial
        last = first + weights[layer].shape[-1]
        among[layer, first:last, first:last] = weights[layer][0].mean(dim=0)
    return among
