"""Cascaded (banded) attention in plain torch: blocks of rows against the keys of their band, analytic backward.

Products are batched over the heads where there are many, and over the blocks of one head where the sequence is long. The
gradients of keys and values are added in place: autograd through slices would allocate a full-size gradient for each
block and make the backward quadratic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pargo_kernels.intervals import interval_mask, window_bounds
from pargo_kernels.registration import lse_dtype
from pargo_kernels.torch_path.head_blocks import HeadBlock, for_each_block, load, staging, store
from pargo_kernels.torch_path.softmax import finite_lse, softmax_


class Band(NamedTuple):
    """A run of equal blocks: block ``b`` holds ``rows`` rows from ``first + b * rows``, which see ``length`` keys from
    ``begin + b * rows``."""

    first: int
    rows: int
    begin: int
    length: int
    blocks: int
    # bool [rows, length], True where invisible; None where every row sees every key
    hidden: torch.Tensor | None

    def block(self, index: int) -> Band:
        """One block of the band."""
        shift = index * self.rows
        return self._replace(first=self.first + shift, begin=self.begin + shift, blocks=1)

    def rows_of(self, tensor: torch.Tensor, heads: slice) -> torch.Tensor:
        """``[h, g, n, ...]`` → ``[h, g, rows, ...]`` of a single block, or ``[blocks, g, rows, ...]`` of one head; a view."""
        mine = tensor[heads, :, self.first : self.first + self.blocks * self.rows]
        return mine if self.blocks == 1 else mine[0].unflatten(1, (self.blocks, self.rows)).transpose(0, 1)

    def keys_of(self, tensor: torch.Tensor, heads: slice) -> torch.Tensor:
        """``[h, n, D]`` → ``[h, length, D]`` of a single block, or ``[blocks, length, D]`` of one head; an overlapping view."""
        last = self.begin + (self.blocks - 1) * self.rows + self.length
        mine = tensor[heads, self.begin : last]
        return mine if self.blocks == 1 else mine[0].unfold(0, self.length, self.rows).transpose(1, 2)

    def add_keys(self, tensor: torch.Tensor, heads: slice, update: torch.Tensor) -> None:
        """Add to the keys of the band, in place and in a fixed order: blocks that share a key take turns."""
        keys, turns = self.keys_of(tensor, heads), 1 if self.blocks == 1 else -(-self.length // self.rows)
        for turn in range(min(turns, len(keys))):
            keys[turn::turns].add_(update[turn::turns])


def bands(num_tokens: int, num_partial: int, window: int, edge: str, device: torch.device) -> list[Band]:
    """The partial rows in blocks, equal neighbours as one band; then the global rows."""
    found: list[Band] = []
    if num_partial:
        # a block of m rows touches window + m keys: short blocks waste less, long blocks start fewer products
        rows = min(num_partial, max(32, min(window, 128)))
        bounds, pattern = window_bounds(num_partial, window, edge), None
        for first in range(0, num_partial, rows):
            mine = bounds[first : first + rows]
            begin, length = int(mine[0, 0]), int(mine[-1, 1] - mine[0, 0])
            repeats = pattern is not None and torch.equal(mine - begin, pattern)
            if repeats and begin == found[-1].begin + found[-1].blocks * rows:
                found[-1] = found[-1]._replace(blocks=found[-1].blocks + 1)
                continue
            pattern = mine - begin
            hidden = ~interval_mask(pattern, length)
            found.append(Band(first, len(mine), begin, length, 1, hidden.to(device) if hidden.any() else None))
    if num_partial < num_tokens:
        globals_ = num_tokens - num_partial
        found.append(Band(num_partial, globals_, num_partial, globals_, 1, None))
    return found


def steps(layout: list[Band], num_heads: int) -> Iterator[tuple[slice, Band]]:
    """Batches of equal products: a block of all heads at a time, or a whole band of one head, whichever is more."""
    every = slice(0, num_heads)
    for band in layout:
        if band.blocks <= num_heads:
            yield from ((every, band.block(index)) for index in range(band.blocks))
        else:
            yield from ((slice(head, head + 1), band) for head in range(num_heads))


def forward(query, key, value, window, num_partial, edge, scale):
    """Returns out like query and lse fp32 (fp64 for fp64) ``[B, H, n]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    layout = bands(query.shape[2], num_partial, window, edge, query.device)

    def attend(block: HeadBlock) -> None:
        q, k, v = load(block.q(query)), load(block.kv(key)), load(block.kv(value))
        o, s = staging(block.q(out)), staging(block.q(lse))
        for heads, band in steps(layout, len(k)):
            rows = (band.rows_of(q, heads) * scale).flatten(1, 2)
            scores = torch.bmm(rows, band.keys_of(k, heads).transpose(1, 2))
            weights, row_lse = softmax_(_hide(scores, band, block.group))
            _put(band.rows_of(o, heads), torch.bmm(weights, band.keys_of(v, heads)))
            _put(band.rows_of(s, heads), row_lse)
        store(block.q(out), o)
        store(block.q(lse), s)

    for_each_block(query, key, attend)
    return out, lse


def backward(grad_out, grad_lse, query, key, value, out, lse, window, num_partial, edge, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grads = tuple(torch.empty_like(t) for t in (query, key, value))
    layout = bands(query.shape[2], num_partial, window, edge, query.device)

    def differentiate(block: HeadBlock) -> None:
        q, o, do = load(block.q(query)), load(block.q(out)), load(block.q(grad_out))
        k, v = load(block.kv(key)), load(block.kv(value))
        row_lse = finite_lse(block.q(lse).flatten(0, 1)).unsqueeze(-1)
        delta = torch.linalg.vecdot(do, o).unsqueeze(-1)
        if grad_lse is not None:
            delta = delta - block.q(grad_lse).flatten(0, 1).unsqueeze(-1)
        places = block.q(grads[0]), block.kv(grads[1]), block.kv(grads[2])
        dq, dk, dv = (staging(place) for place in places)
        dk.zero_(), dv.zero_()
        for heads, band in steps(layout, len(k)):
            keys, values = band.keys_of(k, heads), band.keys_of(v, heads)
            rows, row_grads = (band.rows_of(q, heads) * scale).flatten(1, 2), band.rows_of(do, heads).flatten(1, 2)
            scores = torch.baddbmm(band.rows_of(row_lse, heads).flatten(1, 2), rows, keys.transpose(1, 2), beta=-1)
            weights = _hide(scores, band, block.group).exp_()
            grad_scores = torch.baddbmm(
                band.rows_of(delta, heads).flatten(1, 2), row_grads, values.transpose(1, 2), beta=-1
            ).mul_(weights)
            _put(band.rows_of(dq, heads), torch.bmm(grad_scores, keys).mul_(scale))
            band.add_keys(dk, heads, torch.bmm(grad_scores.transpose(1, 2), rows))
            band.add_keys(dv, heads, torch.bmm(weights.transpose(1, 2), row_grads))
        for place, staged in zip(places, (dq, dk, dv), strict=True):
            store(place, staged)

    for_each_block(query, key, differentiate)
    return grads


def _put(place: torch.Tensor, rows: torch.Tensor) -> None:
    """``place`` ``[b, g, rows, ...]`` = ``rows`` ``[b, g * rows, ...]``."""
    place.copy_(rows.view(place.shape))


def _hide(scores, band: Band, group: int):
    """Scores ``[b, g * rows, keys]``: cells outside the band become minus infinity, in place."""
    if band.hidden is not None:
        scores.unflatten(1, (group, -1)).masked_fill_(band.hidden, float("-inf"))
    return scores
