"""From the tokens of a projector to the patches that they come from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image

from pargo_mllm.alignment.attribution import attention, derivatives, masks
from pargo_mllm.alignment.attribution.result import METHODS, Attribution, AttributionError, check_derivable, put_together
from pargo_mllm.alignment.errors import check_finite
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.projectors import ParGoProjector
from pargo_mllm.projectors.base import GridProjector, ProjectorPreTrainedModel


def possible_methods(projector: ProjectorPreTrainedModel) -> tuple[str, ...]:
    """The methods that there are for a projector, by name."""
    return tuple(method for method in METHODS if _why_not(projector, method) is None)


def attribute_features(
    projector: ProjectorPreTrainedModel,
    features: torch.Tensor,
    method: str,
    *,
    directions: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
) -> Attribution:
    """Where the tokens of a picture come from, from what the encoder gave for it.

    Args:
        projector: of any dtype; it is computed in fp32 (fp64 for fp64), in a copy where it is in half precision.
        features: ``[n_v, c]``, or ``[tiles, n_v, c]``: then ``shares`` are of the features of all tiles one behind the other.
        method: of :data:`~pargo_mllm.alignment.attribution.result.METHODS`.
        directions, chunk, seed: of "jacobian", and ``chunk`` of "gradient" too; see
            :func:`~pargo_mllm.alignment.attribution.derivatives.jacobian`.

    Raises:
        AttributionError: for a method that this projector does not have, no features, and settings out of range.
        AlignmentError: where features or figures are not finite.
        ValueError: for features that the projector does not take.
    """
    check_method(projector, method)
    check_settings(directions, chunk, seed)
    if features.dim() not in (2, 3) or not features.numel():
        raise AttributionError(
            f"features of shape {list(features.shape)} must be [n_v, c] or [tiles, n_v, c], of one picture, none of them 0."
        )
    check_finite(features.flatten(0, -2), "features")
    if method in ("jacobian", "gradient"):
        check_derivable(projector)
    made: dict[str, Callable[[Any, torch.Tensor], Attribution]] = {
        "slices": masks.slices,
        "reach": masks.reach,
        "jacobian": partial(derivatives.jacobian, directions=directions, chunk=chunk, seed=seed),
        "gradient": partial(derivatives.gradient, chunk=chunk),
        "attention": attention.attention,
        "rollout": attention.rolled_out,
    }
    projector = in_full_precision(projector)
    parameter = next(projector.parameters())
    # tensors of inference mode take no part in derivatives
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(parameter.device.type, enabled=False):
        tiles = torch.clone(features.detach()).to(parameter.device, parameter.dtype)
        tiles = tiles[None] if tiles.dim() == 2 else tiles
        if len(tiles) > 1 and projector.config.reads_tiles_together:
            tiles = tiles.flatten(0, 1)[None]
        projector.check_features(tiles)
        found = put_together([made[method](projector, tile) for tile in tiles])
    check_finite(found.values, f"method={method!r}")
    return found


def attribute(
    model: ParGoForConditionalGeneration, processor: ParGoProcessor, picture: Image.Image, method: str, **settings: Any
) -> Attribution:
    """Where the tokens of a picture come from.

    A picture that is cut into tiles has the features of its tiles one behind the other, and its tokens as the language model
    reads them.

    Args:
        settings: ``directions``, ``chunk``, ``seed`` of :func:`attribute_features`.

    Raises:
        AttributionError: for a method that the model's projector does not have.
        PictureError: for a picture that cannot be used.
    """
    check_method(model.model.projector, method)
    return attribute_features(model.model.projector, picture_features(model, processor, picture), method, **settings)


@torch.no_grad()
def picture_features(model: ParGoForConditionalGeneration, processor: ParGoProcessor, picture: Image.Image) -> torch.Tensor:
    """What the encoder gives for one picture, ``[tiles, n_v, c]``."""
    was_training = model.training
    model.eval()
    try:
        pixels, _ = processor.encode_pictures([picture])
        return model.model.get_vision_features(pixels.to(model.device))
    finally:
        model.train(was_training)


def check_settings(directions: int | None, chunk: int | None, seed: int) -> None:
    """Refuse settings of :func:`attribute_features` that mean nothing.

    Raises:
        AttributionError: it names the value and its range.
    """
    if directions is not None and not _is_whole(directions, 2):
        raise AttributionError(f"directions={directions!r} must be at least 2: one shows no spread to judge by.")
    if chunk is not None and not _is_whole(chunk, 1):
        raise AttributionError(f"chunk={chunk!r} must be at least 1: that many passes are made side by side.")
    if not _is_whole(seed, 0) or seed >= 2**63:
        raise AttributionError(f"seed={seed!r} must be a whole number from 0 to 2^63 - 1.")


def _is_whole(number: Any, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def check_method(projector: ProjectorPreTrainedModel, method: str) -> None:
    """Refuse a method that the projector does not have.

    Raises:
        AttributionError: it says why, and which ones there are.
    """
    if method not in METHODS:
        raise AttributionError(f"method={method!r} is no attribution; there are {', '.join(METHODS)}.")
    reason = _why_not(projector, method)
    if reason is not None:
        raise AttributionError(
            f"method={method!r} is not possible for projector_type={projector.config.projector_type!r}: {reason}; use "
            f"{', '.join(possible_methods(projector))}."
        )


def _why_not(projector: ProjectorPreTrainedModel, method: str) -> str | None:
    own = PROJECTORS[projector.config.projector_type].a_token_a_feature or isinstance(projector, GridProjector)
    slices = isinstance(projector, ParGoProjector) and projector.num_partial > 0
    if method == "slices" and not (own or slices):
        return "each of its tokens may read the whole picture"
    if method == "reach" and not slices:
        return "it has no masks"
    if method in ("attention", "rollout") and not isinstance(projector, attention.ATTENDS):
        return "it has no attention over the features"
    return None


def in_full_precision(projector: ProjectorPreTrainedModel) -> ProjectorPreTrainedModel:
    """Itself where it is in fp32 (or fp64) and in evaluation mode; else a copy that is."""
    dtypes = {parameter.dtype for parameter in projector.parameters()}
    wanted = torch.float64 if dtypes == {torch.float64} else torch.float32
    if dtypes == {wanted} and not projector.training:
        return projector
    exact: Any = copy.deepcopy(projector)
    return exact.to(wanted).eval()
