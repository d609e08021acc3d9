"""How tokens change with patches: blocks of the projector's Jacobian, and gradient times input.

Reverse mode throughout: the attention ops have neither forward-mode nor second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tqdm.auto import tqdm

from pargo_mllm.alignment.attribution.result import Attribution, shares_of
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.projectors import LinearProjector, MLPProjector
from pargo_mllm.projectors.base import ProjectorPreTrainedModel

#: backward passes through the projector up to which every block is computed in full where nobody says
MOST_IN_FULL = 16_384
#: random directions of a token where that would be more
DIRECTIONS = 16
# passes side by side where nobody says: at most so many, and so many numbers in tokens and features of all of them together
_MOST_ROWS, _MOST_NUMBERS = 128, 2**24
# seconds of work before progress is shown
_DELAY = 5.0


def jacobian(
    projector: ProjectorPreTrainedModel,
    features: torch.Tensor,
    directions: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> Attribution:
    """Frobenius norms of the blocks ``d token_i / d feature_j`` at these features.

    The linear and the two-layer map by the chain of their matrices, at any size. Of the others every token is pulled back
    along directions of its space: along all of an orthonormal basis, which is the block in full, or along ``directions`` of a
    random one. A squared norm is the sum over a basis, and directions of a random basis are a sample of it without
    replacement: the estimate has no bias (of the square), and its standard error is that of such a sample. Only directions
    that the last map can reach are counted: as many as it has inputs, or outputs.

    Args:
        projector: in fp32 or fp64, in evaluation mode.
        features: ``[n_v, c]`` of its dtype.
        directions: of each token; None for all where that takes at most :data:`MOST_IN_FULL` passes, else
            :data:`DIRECTIONS`.
        chunk: passes side by side; memory grows with it. By the sizes when None.
        seed: of the random basis.

    """
    if isinstance(projector, LinearProjector):
        values = torch.eye(len(features)) * projector.output_proj.weight.detach().norm().item()
        return _exact(values, everywhere=True, how="the norm of the matrix, a token a feature")
    if isinstance(projector, MLPProjector):
        return _exact(torch.diag(_two_layers(projector, features)), how="the chain of both matrices at this picture")
    tokens, basis = projector.config.num_output_tokens(len(features)), _reachable(projector)
    if directions is None and tokens * basis.shape[1] > MOST_IN_FULL:
        directions = DIRECTIONS
    whole = basis.shape[1]
    used = whole if directions is None else min(directions, whole)
    if used < whole:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.linalg.qr(torch.randn(whole, used, generator=generator, dtype=torch.float64)).Q
        basis = basis @ drawn.to(basis)
    sums = torch.zeros(2, tokens, len(features), dtype=torch.float64)
    places = torch.arange(tokens).repeat_interleave(used)
    for first, pulled in _pulled_back(projector, features, places, basis.T.repeat(tokens, 1), chunk):
        sizes = whole * pulled.square().sum(dim=-1).double().cpu()
        rows = places[first : first + len(sizes)]
        sums[0].index_add_(0, rows, sizes)
        sums[1].index_add_(0, rows, sizes.square())
    mean = sums[0] / used
    values = mean.sqrt()
    if used == whole:
        return _exact(values, how=f"all {whole} directions of each token, at this picture")
    variance = (sums[1] - used * mean.square()).clamp(min=0) / (used - 1)
    error = (variance / used * (1 - used / whole)).sqrt() / (2 * values).clamp(min=torch.finfo(values.dtype).tiny)
    how = f"estimated from {used} random directions of {whole}, at this picture"
    return Attribution("jacobian", shares_of(values), False, False, how, values.float(), error.float())


def gradient(projector: ProjectorPreTrainedModel, features: torch.Tensor, chunk: int | None = None) -> Attribution:
    """Gradient times input: ``<d token_i / d feature_j · (feature_j - mean), token_i> / |token_i|²`` at these features.

    What each feature adds to a token, to first order and with signs, measured from the mean of the picture's features (our
    choice): from zero it would be nothing at all where a projector normalises features, as the resampler does. Of a linear
    map, a row's values sum to the share of the token that the mean does not explain. ``shares`` are of their sizes. Arguments
    as for :func:`jacobian`.
    """
    alone = PROJECTORS[projector.config.projector_type].a_token_a_feature
    # a token a feature: each feature is a picture of its own, and one pass is enough
    pictures = features[:, None] if alone else features[None]
    moved = features - features.mean(dim=0)
    with torch.no_grad():
        tokens = projector(pictures).flatten(0, 1)
    scaled = tokens / tokens.square().sum(dim=-1, keepdim=True).clamp(min=torch.finfo(tokens.dtype).tiny)
    if alone:
        given = pictures.detach().clone().requires_grad_()
        (pulled,) = torch.autograd.grad(projector(given), given, scaled[:, None])
        values = torch.diag((pulled[:, 0] * moved).sum(dim=-1))
    else:
        rows = [
            (pulled * moved).sum(dim=-1)
            for _, pulled in _pulled_back(projector, features, torch.arange(len(tokens)), scaled, chunk)
        ]
        values = torch.cat(rows)
    values = values.detach().float().cpu()
    how = "gradient times input, from the mean of the picture's features, at this picture"
    return Attribution("gradient", shares_of(values), False, False, how, values)


def _exact(values: torch.Tensor, how: str, everywhere: bool = False) -> Attribution:
    return Attribution("jacobian", shares_of(values), True, everywhere, how, values.detach().float().cpu())


def _two_layers(projector: MLPProjector, features: torch.Tensor) -> torch.Tensor:
    """``|W2 diag(d) W1|`` of each token, ``[n_v]``: its square is ``d' (W2' W2 * W1 W1') d``, and no block is ever formed."""
    first, second = projector.input_proj, projector.output_proj
    act: Any = projector.act
    inside = first(features).detach().requires_grad_()
    (slope,) = torch.autograd.grad(act(inside).sum(), inside)
    with torch.no_grad():
        mixed = (second.weight.T @ second.weight) * (first.weight @ first.weight.T)
        return ((slope @ mixed) * slope).sum(dim=-1).clamp(min=0).sqrt()


def _reachable(projector: ProjectorPreTrainedModel) -> torch.Tensor:
    """An orthonormal basis ``[output_size, k]`` of what the map to the language model can change in a token."""
    weight = projector.get_parameter("output_proj.weight").detach()
    if weight.shape[0] <= weight.shape[1]:
        return torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device)
    return torch.linalg.qr(weight).Q


def _pulled_back(
    projector: ProjectorPreTrainedModel,
    features: torch.Tensor,
    tokens: torch.Tensor,
    directions: torch.Tensor,
    chunk: int | None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Gradients ``[rows, n_v, c]`` of ``<direction, token>`` by the features, some rows at a time, with the first row's number.

    Rows are copies of the picture in a batch: of a batch's pictures none changes another's tokens.
    """
    if chunk is None:
        numbers = features.numel() + projector.config.num_output_tokens(len(features)) * (projector.config.hidden_size or 1)
        chunk = max(1, min(_MOST_ROWS, _MOST_NUMBERS // numbers))
    starts = range(0, len(tokens), chunk)
    for first in tqdm(starts, desc="attribution", unit="batch", delay=_DELAY, disable=None, leave=False):
        rows = tokens[first : first + chunk]
        given = features.expand(len(rows), -1, -1).detach().clone().requires_grad_()
        out = projector(given)
        picked = out[torch.arange(len(rows), device=out.device), rows.to(out.device)]
        (pulled,) = torch.autograd.grad(picked, given, directions[first : first + chunk])
        yield first, pulled
