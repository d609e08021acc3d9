"""Masks of rows that hold several conversations, for every kind of layer that a decoder has.

A decoder that is given a 4-D mask takes it for all of its layers and forgets its windows. Here each kind of layer gets the
row's mask with its own window, counted in positions: what is next to each other in a row may be far apart in a conversation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from pargo_mllm.configuration import LanguageModelError

_IMPLEMENTATIONS = ("sdpa", "eager")


def row_masks(
    mask: torch.Tensor, position_ids: torch.Tensor | None, decoder: PreTrainedModel, dtype: torch.dtype
) -> torch.Tensor | dict[str, torch.Tensor]:
    """What the decoder takes as ``attention_mask``: one mask, or one for each kind of its layers.

    Args:
        mask: bool ``[B, 1, L, L]``, True where the row's token may see the column's.
        position_ids: int64 ``[B, L]``, of each token in its conversation; needed where layers have windows.
        dtype: of the hidden states.

    Raises:
        LanguageModelError: for an attention implementation or kind of layer that takes no such mask.
    """
    decoder_class: Any = type(decoder)
    implementation = decoder.config._attn_implementation
    if implementation not in _IMPLEMENTATIONS:
        raise LanguageModelError(
            f"attn_implementation={implementation!r} of the language model takes no 4-D mask, which conversations that share "
            "pictures need; use 'sdpa' or 'eager', or RowCollator(layout='documents')."
        )
    kinds = layer_kinds(decoder.config)
    unknown = sorted(set(kinds) - set(_WINDOWS))
    by_kind = _takes_masks_by_kind(decoder_class)
    if unknown or (len(set(kinds)) > 1 and not by_kind):
        raise LanguageModelError(
            f"{decoder_class.__name__} has layers of kind {', '.join(unknown or sorted(set(kinds)))}, which take no mask of "
            "rows that hold several conversations; use RowCollator(layout='documents') without packing (pack: false)."
        )
    masks = {}
    for kind in dict.fromkeys(kinds):
        window = _WINDOWS[kind]
        seen = mask if window is None else mask & window(_positions(position_ids, kind), decoder.config)
        masks[kind] = _added(seen, dtype) if implementation == "eager" else seen
    return masks if by_kind else next(iter(masks.values()))


def layer_kinds(config: PreTrainedConfig) -> list[str]:
    """The kind of each layer, as transformers calls it; of one layer where all are alike."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return list(kinds)
    if "local" in (getattr(config, "attention_layers", None) or ()):
        return ["local"]
    return ["full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"]


def _sliding(positions: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    return positions[:, :, None] - positions[:, None, :] < config.sliding_window


def _chunked(positions: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    chunks = positions // config.attention_chunk_size
    return chunks[:, :, None] == chunks[:, None, :]


_WINDOWS: dict[str, Callable[[torch.Tensor, PreTrainedConfig], torch.Tensor] | None] = {
    "full_attention": None,
    "sliding_attention": lambda positions, config: _sliding(positions, config).unsqueeze(1),
    "chunked_attention": lambda positions, config: _chunked(positions, config).unsqueeze(1),
}


def _positions(position_ids: torch.Tensor | None, kind: str) -> torch.Tensor:
    if position_ids is None:
        raise ValueError(f"position_ids are missing: the language model's layers of kind {kind} count their window in them.")
    return position_ids


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # eager attention adds its mask: a bool would shift the scores by one instead of hiding keys
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


@cache
def _takes_masks_by_kind(decoder_class: Any) -> bool:
    # transformers has no flag for it; every decoder that does keeps the masks under this name
    return "causal_mask_mapping" in inspect.unwrap(decoder_class.forward).__code__.co_varnames
