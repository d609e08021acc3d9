"""Keys and values of prompts' beginnings, read once and set in front of any number of continuations.

A row of a batch is ``[padding, beginning, padding, rest]``: its cache holds the first two. Padding is masked, and positions
count tokens alone, so a row computes what it computes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from pargo_mllm.modeling import ParGoModel

# of each layer: keys and values [1, heads, tokens, width]
Beginning = list[tuple[torch.Tensor, torch.Tensor]]


def read_beginnings(model: ParGoModel, embeddings: Sequence[torch.Tensor]) -> list[Beginning]:
    """Keys and values of texts, each given as its embeddings ``[tokens, text width]``, of any lengths.

    Raises:
        ValueError: if the model's layers keep something else than the keys and values of every token.
    """
    inputs, mask = padded(embeddings)
    cache = DynamicCache()
    model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions(mask), past_key_values=cache, use_cache=True)
    layers: list[Any] = [layer for layer in cache.layers if type(layer) is DynamicLayer and layer.is_initialized]
    if not layers or len(layers) < len(cache.layers):
        raise ValueError("its layers do not keep the keys and values of every token.")
    starts = [inputs.shape[1] - len(one) for one in embeddings]
    return [
        [(layer.keys[row : row + 1, :, start:], layer.values[row : row + 1, :, start:]) for layer in layers]
        for row, start in enumerate(starts)
    ]


def joined(beginnings: Sequence[Beginning]) -> tuple[Cache, torch.Tensor]:
    """A cache of one row a beginning, padded on the left, with its mask int64 ``[rows, longest]``."""
    lengths = [one[0][0].shape[2] for one in beginnings]
    longest = max(lengths)
    cache = DynamicCache()
    for layer, rows in enumerate(zip(*beginnings, strict=True)):
        keys, values = (
            torch.cat([functional.pad(row[part], (0, 0, longest - row[part].shape[2], 0)) for row in rows]) for part in (0, 1)
        )
        cache.update(keys, values, layer)
    device = beginnings[0][0][0].device
    mask = torch.stack([_mask(length, longest) for length in lengths]).to(device)
    return cache, mask


def padded(embeddings: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts, each as its embeddings ``[tokens, c]``, padded on the left: ``[rows, longest, c]`` and the mask."""
    longest = max(len(one) for one in embeddings)
    rows = torch.stack([functional.pad(one, (0, 0, longest - len(one), 0)) for one in embeddings])
    return rows, torch.stack([_mask(len(one), longest) for one in embeddings]).to(rows.device)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Where each token stands in its text, int64, as generation counts: padding counts nothing."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _mask(length: int, longest: int) -> torch.Tensor:
    return torch.cat([torch.zeros(longest - length, dtype=torch.long), torch.ones(length, dtype=torch.long)])
