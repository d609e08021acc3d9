"""Partial-global attention in plain torch: one interval of keys per row, no dense mask, analytic backward.

The keys are cut into chunks of whole slices. A chunk is read once and, while it is in cache, serves the partial rows that own
it and all global rows; what global rows found in each chunk is merged in a fixed order.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import NamedTuple

import torch

from pargo_kernels.checks import check_offsets
from pargo_kernels.intervals import partial_start
from pargo_kernels.registration import lse_dtype
from pargo_kernels.torch_path.head_blocks import (
    HeadBlock,
    compute_dtype,
    head_blocks,
    load,
    spread,
    staging,
    store,
    threads_for,
)
from pargo_kernels.torch_path.slices import Slices, slice_scores, weighted_sum
from pargo_kernels.torch_path.softmax import softmax_

# shorter chunks have too little work in each operation, longer ones leave the cache
CHUNK_KEYS = 576


class Chunk(NamedTuple):
    """A run of keys and, where there are partial rows, the slices of those that own it."""

    number: int
    keys: slice
    slices: Slices | None


def chunks(num_partial: int, num_global: int, num_keys: int, device: torch.device) -> list[Chunk]:
    """Chunks of about ``CHUNK_KEYS`` keys; depends on the image alone, so that its bits do not depend on the batch."""
    # the results of global rows, one set a chunk, stay small beside the keys
    target = max(CHUNK_KEYS, 4 * num_global)
    # whole slices where there are any
    units = num_partial or num_keys
    count = max(1, min(units, num_keys // target))
    cuts = pairwise(partial_start(index, count, units) for index in range(count + 1))
    if not num_partial:
        return [Chunk(index, slice(begin, end), None) for index, (begin, end) in enumerate(cuts)]
    found = (Slices(slice(begin, end), num_partial, num_keys, device) for begin, end in cuts)
    return [Chunk(index, slices.keys, slices) for index, slices in enumerate(found)]


def _tasks(num_partial: int, query: torch.Tensor, key: torch.Tensor) -> list[tuple[HeadBlock, Chunk]]:
    cut = chunks(num_partial, query.shape[2] - num_partial, key.shape[2], key.device)
    return list(product(head_blocks(query, key[:, :, cut[-1].keys]), cut))


def forward(query, key, value, cu_seqlens_k, num_partial, scale):
    """Returns out like query and lse fp32 (fp64 for fp64) ``[B, H, n_q]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    for (q, o, s), (k, v) in _images(cu_seqlens_k, num_partial, (query, out, lse), (key, value)):
        if k.shape[2] == 0:
            o.zero_(), s.fill_(float("-inf"))
            continue
        tasks = _tasks(num_partial, q, k)
        with threads_for(len(tasks), q.device) as threads:
            _forward_image(tasks, threads, q, k, v, o, s, num_partial, scale)
    return out, lse


def _forward_image(tasks, threads, query, key, value, out, lse, num_partial, scale):
    num_chunks, group = 1 + tasks[-1][1].number, query.shape[1] // key.shape[1]
    query, out, lse = (t.unflatten(1, (-1, group)) for t in (query, out, lse))
    # [B, h, g * n_g, D]
    rows = query[:, :, :, num_partial:].to(compute_dtype(query)).mul(scale).flatten(2, 3)
    # of each chunk, for the global rows
    outs, lses = rows.new_empty((num_chunks, *rows.shape)), lse.new_empty((num_chunks, *rows.shape[:3]))

    def attend(task: tuple[HeadBlock, Chunk]) -> None:
        block, (number, keys, slices) = task
        batch, heads = block.batch, block.kv_heads
        k, v = load(key[batch, heads, keys]), load(value[batch, heads, keys])
        if slices is not None:
            place = out[batch, heads, :, slices.rows]
            q, o = load(query[batch, heads, :, slices.rows]), staging(place)
            buffer = slices.buffer(q, k)
            weights, row_lse = slices.softmax_(slice_scores(q, slices.cells(k), buffer).mul_(scale))
            weighted_sum(weights, slices.cells(v), buffer, out=o)
            store(place, o)
            lse[batch, heads, :, slices.rows] = row_lse.view(place.shape[:-1])
        if rows.shape[2]:
            weights, row_lse = softmax_(torch.bmm(load(rows[batch, heads]), k.transpose(1, 2)))
            place = outs[number][batch, heads]
            place.copy_(torch.bmm(weights, v).view(place.shape))
            lses[number][batch, heads] = row_lse.view(place.shape[:-1])

    spread(tasks, attend, threads)
    if rows.shape[2]:
        total = torch.logsumexp(lses, 0)
        lse[:, :, :, num_partial:] = total.view_as(lse[:, :, :, num_partial:])
        out[:, :, :, num_partial:] = outs.mul_(lses.sub_(total).exp_().unsqueeze(-1)).sum(0).view_as(out[:, :, :, num_partial:])


def backward(grad_out, grad_lse, query, key, value, cu_seqlens_k, out, lse, num_partial, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grad_query, grad_key, grad_value = (torch.empty_like(t) for t in (query, key, value))
    per_query = (query, grad_out, grad_lse, out, lse, grad_query)
    for (q, do, dlse, o, s, dq), (k, v, dk, dv) in _images(
        cu_seqlens_k, num_partial, per_query, (key, value, grad_key, grad_value)
    ):
        if k.shape[2] == 0:
            dq.zero_()
            continue
        tasks = _tasks(num_partial, q, k)
        with threads_for(len(tasks), q.device) as threads:
            _backward_image(tasks, threads, q, k, v, o, s, do, dlse, dq, dk, dv, num_partial, scale)
    return grad_query, grad_key, grad_value


def _backward_image(
    tasks, threads, query, key, value, out, lse, grad_out, grad_lse, grad_query, grad_key, grad_value, num_partial, scale
):
    dtype = compute_dtype(query)
    num_chunks, group = 1 + tasks[-1][1].number, query.shape[1] // key.shape[1]
    query, out, lse, grad_out, grad_query = (t.unflatten(1, (-1, group)) for t in (query, out, lse, grad_out, grad_query))
    # [B, h, g * n_g, D], and what is subtracted from each row's scores and gradients of weights
    rows, row_grads, row_outs = (t[:, :, :, num_partial:].to(dtype).flatten(2, 3) for t in (query, grad_out, out))
    rows, row_lse = rows * scale, lse[:, :, :, num_partial:].flatten(2, 3)
    delta = (row_grads * row_outs).sum(-1)
    if grad_lse is not None:
        grad_lse = grad_lse.unflatten(1, (-1, group))
        delta -= grad_lse[:, :, :, num_partial:].flatten(2, 3)
    row_lse, delta = row_lse.unsqueeze(-1), delta.unsqueeze(-1)
    # of each chunk, for the global rows
    grads = rows.new_empty((num_chunks, *rows.shape))

    def differentiate(task: tuple[HeadBlock, Chunk]) -> None:
        block, (number, keys, slices) = task
        batch, heads = block.batch, block.kv_heads
        k, v = load(key[batch, heads, keys]), load(value[batch, heads, keys])
        dk_place, dv_place = grad_key[batch, heads, keys], grad_value[batch, heads, keys]
        dk, dv = staging(dk_place), staging(dv_place)
        if slices is not None:
            # first, because it reads the keys in the order of their memory
            dq_place = grad_query[batch, heads, :, slices.rows]
            q, do, dq = (
                load(query[batch, heads, :, slices.rows]),
                load(grad_out[batch, heads, :, slices.rows]),
                staging(dq_place),
            )
            k_cells, v_cells, buffer = slices.cells(k), slices.cells(v), slices.buffer(q, k)
            weights, _ = slices.softmax_(slice_scores(q, k_cells, buffer).mul_(scale))
            grad_weights = slice_scores(do, v_cells, buffer)
            mean = (weights * grad_weights).sum(0)
            if grad_lse is not None:
                mean -= load(grad_lse[batch, heads, :, slices.rows])
            grad_scores = grad_weights.sub_(mean).mul_(weights).mul_(scale)
            weighted_sum(grad_scores, k_cells, buffer, out=dq)
            store(dq_place, dq)
        g_rows, g_grads = load(rows[batch, heads]), load(row_grads[batch, heads])
        g_weights = torch.baddbmm(load(row_lse[batch, heads]), g_rows, k.transpose(1, 2), beta=-1).exp_()
        g_scores = torch.baddbmm(load(delta[batch, heads]), g_grads, v.transpose(1, 2), beta=-1).mul_(g_weights)
        place = grads[number][batch, heads]
        place.copy_(torch.bmm(g_scores, k).view(place.shape))
        g_dk, g_dv = torch.bmm(g_scores.transpose(1, 2), g_rows), torch.bmm(g_weights.transpose(1, 2), g_grads)
        if slices is None:
            dk.copy_(g_dk), dv.copy_(g_dv)
        else:
            slices.add_outer(g_dk, grad_scores, q, out=dk)
            slices.add_outer(g_dv, weights, do, out=dv)
        store(dk_place, dk)
        store(dv_place, dv)

    spread(tasks, differentiate, threads)
    place = grad_query[:, :, :, num_partial:]
    place.copy_(grads.sum(0).mul_(scale).view(place.shape))


def _images(cu_seqlens_k, num_partial, per_query, per_key):
    if cu_seqlens_k is None:
        yield per_query, per_key
        return
    offsets = cu_seqlens_k.tolist()
    if cu_seqlens_k.device.type == "cpu":
        check_offsets(offsets, per_key[0].shape[2], num_partial)
    for image, (begin, end) in enumerate(pairwise(offsets)):
        yield [t if t is None else t[image : image + 1] for t in per_query], [t[:, :, begin:end] for t in per_key]
