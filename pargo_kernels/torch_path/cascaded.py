"""Cascaded (banded) attention in plain torch: blocks of rows against the keys of their band, analytic backward.

The gradients of keys and values are added in place, band by band: autograd through slices would allocate a full-size
gradient for each block and make the backward quadratic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pargo_kernels.intervals import interval_mask, window_bounds
from pargo_kernels.registration import lse_dtype
from pargo_kernels.torch_path.head_blocks import head_blocks, load, staging, store
from pargo_kernels.torch_path.softmax import finite_lse, softmax_


class RowBlock(NamedTuple):
    """Rows ``[first, last)`` and the keys ``[begin, end)`` that any of them sees."""

    first: int
    last: int
    begin: int
    end: int
    # bool [rows, keys], True where invisible; None where every row sees every key
    hidden: torch.Tensor | None


def row_blocks(num_tokens: int, num_partial: int, window: int, edge: str, device: torch.device) -> list[RowBlock]:
    """The band of the partial rows in blocks, then the global rows as one block."""
    blocks = []
    if num_partial:
        # a block of m rows touches window + m keys: short blocks waste less, long blocks start fewer products
        rows = min(num_partial, max(32, min(window, 128)))
        bounds = window_bounds(num_partial, window, edge)
        masks: dict[tuple, torch.Tensor | None] = {}
        for first in range(0, num_partial, rows):
            last = min(first + rows, num_partial)
            begin, end = int(bounds[first, 0]), int(bounds[last - 1, 1])
            relative = bounds[first:last] - begin
            # interior blocks share one mask
            pattern = (end - begin, relative.numpy().tobytes())
            if pattern not in masks:
                hidden = ~interval_mask(relative, end - begin)
                masks[pattern] = hidden.to(device) if hidden.any() else None
            blocks.append(RowBlock(first, last, begin, end, masks[pattern]))
    if num_partial < num_tokens:
        blocks.append(RowBlock(num_partial, num_tokens, num_partial, num_tokens, None))
    return blocks


def forward(query, key, value, window, num_partial, edge, scale):
    """Returns out like query and lse fp32 (fp64 for fp64) ``[B, H, n]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    bands = row_blocks(query.shape[2], num_partial, window, edge, query.device)
    for block in head_blocks(query, key):
        q, k, v = load(block.q(query)), load(block.kv(key)), load(block.kv(value))
        out_block, lse_block = block.q(out), block.q(lse)
        o = staging(out_block)
        for band in bands:
            rows = (q[:, :, band.first : band.last] * scale).flatten(1, 2)
            scores = torch.bmm(rows, k[:, band.begin : band.end].transpose(1, 2))
            weights, row_lse = softmax_(_hide(scores, band, block.group))
            o_rows = o[:, :, band.first : band.last]
            o_rows.copy_(torch.bmm(weights, v[:, band.begin : band.end]).view(o_rows.shape))
            lse_rows = lse_block[..., band.first : band.last]
            lse_rows.copy_(row_lse.view(lse_rows.shape))
        store(out_block, o)
    return out, lse


def backward(grad_out, grad_lse, query, key, value, out, lse, window, num_partial, edge, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grads = tuple(torch.empty_like(t) for t in (query, key, value))
    bands = row_blocks(query.shape[2], num_partial, window, edge, query.device)
    for block in head_blocks(query, key):
        q, o, do = load(block.q(query)), load(block.q(out)), load(block.q(grad_out))
        k, v = load(block.kv(key)), load(block.kv(value))
        row_lse = finite_lse(block.q(lse).flatten(0, 1))
        delta = torch.linalg.vecdot(do, o)
        if grad_lse is not None:
            delta = delta - block.q(grad_lse).flatten(0, 1)
        places = block.q(grads[0]), block.kv(grads[1]), block.kv(grads[2])
        dq, dk, dv = (staging(place) for place in places)
        dk.zero_(), dv.zero_()
        for band in bands:
            keys, mine = slice(band.begin, band.end), slice(band.first, band.last)
            rows, row_grads = (q[:, :, mine] * scale).flatten(1, 2), do[:, :, mine].flatten(1, 2)
            scores = torch.baddbmm(row_lse[:, :, mine].flatten(1, 2).unsqueeze(-1), rows, k[:, keys].transpose(1, 2), beta=-1)
            weights = _hide(scores, band, block.group).exp_()
            grad_scores = torch.baddbmm(
                delta[:, :, mine].flatten(1, 2).unsqueeze(-1), row_grads, v[:, keys].transpose(1, 2), beta=-1
            ).mul_(weights)
            dq[:, :, mine] = torch.bmm(grad_scores, k[:, keys]).mul_(scale).view(dq[:, :, mine].shape)
            dk[:, keys].baddbmm_(grad_scores.transpose(1, 2), rows)
            dv[:, keys].baddbmm_(weights.transpose(1, 2), row_grads)
        for place, staged in zip(places, (dq, dk, dv), strict=True):
            store(place, staged)
    return grads


def _hide(scores, band: RowBlock, group: int):
    """Scores ``[h, g * rows, keys]``: cells outside the band become minus infinity, in place."""
    if band.hidden is not None:
        scores.unflatten(1, (group, -1)).masked_fill_(band.hidden, float("-inf"))
    return scores
