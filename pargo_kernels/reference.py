"""The oracle: both attentions with a dense boolean mask and fp64 accumulation. For tests and small inputs only.

Plain differentiable torch. It shares nothing with the kernels but the interval formulas, and the mask costs
O(n_q * n_v) memory: ``impl="reference"`` on the public ops leads here.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from pargo_kernels.intervals import interval_mask, partial_slices, window_bounds


def masked_attention(query, key, value, mask, scale):
    """Softmax attention over the visible cells of a boolean mask ``[n_q, n_k]``, computed in fp64.

    Returns:
        ``out`` like ``query`` and the natural-log ``lse``, fp32 (fp64 for fp64 inputs), ``[B, H, n_q]``. A row that
        sees nothing, or nothing but scores of minus infinity, gives 0 and minus infinity, and passes no gradient.
    """
    group = query.shape[1] // key.shape[1]
    k = key.double().repeat_interleave(group, dim=1)
    v = value.double().repeat_interleave(group, dim=1)
    scores = (query.double() @ k.transpose(-1, -2)) * scale
    scores = scores.masked_fill(~mask, float("-inf"))
    blind = torch.isneginf(scores).all(dim=-1)
    lse = torch.logsumexp(scores.masked_fill(blind.unsqueeze(-1), 0.0), dim=-1).masked_fill(blind, float("-inf"))
    weights = torch.exp(scores - lse.masked_fill(blind, 0.0).unsqueeze(-1))
    lse_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return torch.empty_like(query).copy_(weights @ v), lse.to(lse_dtype)


def partial_global_mask(num_partial: int, num_query: int, num_keys: int, device=None) -> torch.Tensor:
    """Boolean ``[num_query, num_keys]``: slices for the first ``num_partial`` rows, everything for the others."""
    rows = partial_slices(num_partial, num_keys).to(device)
    everything = torch.tensor([[0, num_keys]], device=device).expand(num_query - num_partial, 2)
    return interval_mask(torch.cat((rows, everything)), num_keys)


def cascaded_mask(num_partial: int, num_tokens: int, window: int, edge: str, device=None) -> torch.Tensor:
    """Boolean ``[num_tokens, num_tokens]``: the band for partial rows, the global block for the others."""
    bounds = torch.tensor([[num_partial, num_tokens]], device=device).expand(num_tokens - num_partial, 2)
    if num_partial > 0:
        bounds = torch.cat((window_bounds(num_partial, window, edge).to(device), bounds))
    return interval_mask(bounds, num_tokens)


def partial_global_attention(query, key, value, num_partial, scale, cu_seqlens_k=None):
    """Oracle of :func:`pargo_kernels.partial_global_attention.partial_global_attention`; always returns (out, lse)."""
    num_query = query.shape[2]
    if cu_seqlens_k is None:
        mask = partial_global_mask(num_partial, num_query, key.shape[2], key.device)
        return masked_attention(query, key, value, mask, scale)
    results = []
    ends = cu_seqlens_k.tolist()
    for image, (begin, end) in enumerate(pairwise(ends)):
        keys = slice(begin, end)
        mask = partial_global_mask(num_partial, num_query, end - begin, key.device)
        results.append(masked_attention(query[image : image + 1], key[:, :, keys], value[:, :, keys], mask, scale))
    outs, lses = zip(*results, strict=True)
    return torch.empty_like(query).copy_(torch.cat(outs)), torch.cat(lses)


def cascaded_partial_attention(query, key, value, window, num_partial, edge, scale):
    """Oracle of :func:`pargo_kernels.cascaded_partial_attention.cascaded_partial_attention`; returns (out, lse)."""
    mask = cascaded_mask(num_partial, query.shape[2], window, edge, key.device)
    return masked_attention(query, key, value, mask, scale)
