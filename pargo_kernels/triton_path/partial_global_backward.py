"""Backward kernel of partial-global attention: one pass over keys and values.

A program owns (batch, kv head, chunk of rows), as in the forward. Each tile of keys gets its gradients from the partial
rows that own it and from every global row, and is written once, without atomics. Short slices recompute their softmax in
the tile and read neither lse nor out; LONG slices and global rows read both. The chunks' gradients of the global rows'
queries are added by ``merge_chunk_gradients``.

With more global rows than one block holds (GLOBAL_BLOCKS > 1) the kernel is launched twice: with KEY_GRADS it walks over
all global blocks inside each tile, with GLOBAL_QUERY_GRADS each global block has programs of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.chunks import find_chunk, global_offsets, partial_offsets, slice_mask, tile_bounds
from pargo_kernels.triton_path.partial_global_forward import SIZES
from pargo_kernels.triton_path.tiles import (
    LOG2E,
    head_pointer,
    load_rows,
    row_delta,
    softmax_weights,
    store_rows,
)


@triton.jit
def load_globals(
    query,
    out,
    lse,
    grad_out,
    grad_lse,
    image,
    first_head,
    block,
    num_partial,
    num_global,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_G: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr,
):
    # (q, dO, lse, delta) of one block of global rows; rows past the end are 0 and have lse +inf: weight 0
    lanes = block * BLOCK_G + tl.arange(0, BLOCK_G)
    valid = lanes < GROUP * num_global
    q_offsets = global_offsets(lanes, num_partial, num_global, query)
    o_offsets = global_offsets(lanes, num_partial, num_global, out)
    do_offsets = global_offsets(lanes, num_partial, num_global, grad_out)
    q = load_rows(head_pointer(query, image, first_head), q_offsets, query.dim, valid, HEAD_DIM, BLOCK_D)
    o = load_rows(head_pointer(out, image, first_head), o_offsets, out.dim, valid, HEAD_DIM, BLOCK_D)
    do = load_rows(head_pointer(grad_out, image, first_head), do_offsets, grad_out.dim, valid, HEAD_DIM, BLOCK_D)
    lse_pointer = head_pointer(lse, image, first_head) + global_offsets(lanes, num_partial, num_global, lse)
    row_lse = tl.load(lse_pointer, mask=valid, other=float("inf"))
    if HAS_GRAD_LSE:
        grad_lse_pointer = head_pointer(grad_lse, image, first_head)
        grad_lse_pointer += global_offsets(lanes, num_partial, num_global, grad_lse)
    else:
        grad_lse_pointer = lse_pointer
    return q, do, row_lse, row_delta(o, do, grad_lse_pointer, valid, HAS_GRAD_LSE)


@triton.jit
def score_gradients(weights, do, v, delta, PRECISION: tl.constexpr):
    # dS = P * (dO V^T - delta), [rows, keys] fp32
    return weights * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])


@triton.jit(do_not_specialize=SIZES)
def partial_global_backward(
    grad_out,
    grad_lse,
    query,
    key,
    value,
    out,
    lse,
    grad_query,
    grad_key,
    grad_value,
    chunk_grad,
    cu_seqlens,
    scale,
    num_kv_heads,
    num_images,
    num_partial,
    num_global,
    num_keys,
    rows_per_chunk,
    chunks_per_image,
    slice_from,
    slice_to,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_G: tl.constexpr,
    HAS_PARTIAL: tl.constexpr,
    HAS_GLOBAL: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr,
    GLOBAL_BLOCKS: tl.constexpr,
    KEY_GRADS: tl.constexpr,
    GLOBAL_QUERY_GRADS: tl.constexpr,
    DIRECT: tl.constexpr,
    LONG: tl.constexpr,
    PACKED: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    kv_head = program % num_kv_heads
    image, first_key, length, num_rows, row_begin, row_end = find_chunk(
        program // num_kv_heads,
        cu_seqlens,
        num_images,
        num_partial,
        num_keys,
        rows_per_chunk,
        chunks_per_image,
        HAS_PARTIAL,
        PACKED,
    )
    longest = tl.maximum(1, tl.cdiv(length, num_rows))
    kv_image = image
    if PACKED:
        kv_image = 0
        # an unused slot, or an image that another launch serves with other tiles
        if (row_begin >= row_end) | (longest < slice_from) | (longest > slice_to):
            return

    first_head = kv_head * GROUP
    query_rows = head_pointer(query, image, first_head)
    out_rows = head_pointer(out, image, first_head)
    lse_rows = head_pointer(lse, image, first_head)
    do_rows = head_pointer(grad_out, image, first_head)
    dq_rows = head_pointer(grad_query, image, first_head)
    keys = head_pointer(key, kv_image, kv_head) + tl.cast(first_key, tl.int64) * key.row
    values = head_pointer(value, kv_image, kv_head) + tl.cast(first_key, tl.int64) * value.row
    grad_keys = head_pointer(grad_key, kv_image, kv_head) + tl.cast(first_key, tl.int64) * grad_key.row
    grad_values = head_pointer(grad_value, kv_image, kv_head) + tl.cast(first_key, tl.int64) * grad_value.row
    scale2 = scale * LOG2E

    columns = tl.arange(0, BLOCK_N)
    lanes_p = tl.arange(0, BLOCK_R)
    if GLOBAL_QUERY_GRADS:
        q_g, do_g, lse_g, delta_g = load_globals(
            query,
            out,
            lse,
            grad_out,
            grad_lse,
            image,
            first_head,
            tl.program_id(1),
            num_partial,
            num_global,
            GROUP,
            HEAD_DIM,
            BLOCK_D,
            BLOCK_G,
            HAS_GRAD_LSE,
        )
        dq_g = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    if LONG:
        dq = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)

    rows_per_tile = 1 if LONG else BLOCK_N // longest
    tiles_per_row = tl.cdiv(longest, BLOCK_N) if LONG else 1
    for tile in range(0, tl.cdiv(row_end - row_begin, rows_per_tile) * tiles_per_row):
        row, last_row, tile_key, last_key = tile_bounds(
            tile, row_begin, row_end, rows_per_tile, tiles_per_row, num_rows, length, BLOCK_N, LONG, WIDE
        )
        present = columns < last_key - tile_key
        key_index = (tile_key + columns).to(tl.int64)
        k = load_rows(keys, key_index * key.row, key.dim, present, HEAD_DIM, BLOCK_D)
        v = load_rows(values, key_index * value.row, value.dim, present, HEAD_DIM, BLOCK_D)
        dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

        if HAS_GLOBAL:
            for block in range(0, 1 if GLOBAL_QUERY_GRADS else GLOBAL_BLOCKS):
                if not GLOBAL_QUERY_GRADS:
                    q_g, do_g, lse_g, delta_g = load_globals(
                        query,
                        out,
                        lse,
                        grad_out,
                        grad_lse,
                        image,
                        first_head,
                        block,
                        num_partial,
                        num_global,
                        GROUP,
                        HEAD_DIM,
                        BLOCK_D,
                        BLOCK_G,
                        HAS_GRAD_LSE,
                    )
                scores_g = tl.dot(q_g, tl.trans(k), input_precision=PRECISION) * scale2
                weights_g = softmax_weights(tl.where(present[None, :], scores_g, float("-inf")), lse_g)
                ds_g = score_gradients(weights_g, do_g, v, delta_g, PRECISION).to(k.dtype)
                if GLOBAL_QUERY_GRADS:
                    dq_g = tl.dot(ds_g, k, dq_g, input_precision=PRECISION)
                if KEY_GRADS:
                    dk = tl.dot(tl.trans(ds_g), q_g, dk, input_precision=PRECISION)
                    dv = tl.dot(tl.trans(weights_g.to(v.dtype)), do_g, dv, input_precision=PRECISION)

        if KEY_GRADS:
            if HAS_PARTIAL:
                for member in range(0, 1 if LONG else GROUP):
                    valid_p = lanes_p < (GROUP if LONG else last_row - row)
                    q_offsets = partial_offsets(lanes_p, row, member, query, LONG)
                    q = load_rows(query_rows, q_offsets, query.dim, valid_p, HEAD_DIM, BLOCK_D)
                    do_offsets = partial_offsets(lanes_p, row, member, grad_out, LONG)
                    do = load_rows(do_rows, do_offsets, grad_out.dim, valid_p, HEAD_DIM, BLOCK_D)
                    if HAS_GRAD_LSE:
                        grad_lse_rows = head_pointer(grad_lse, image, first_head)
                        grad_lse_rows += partial_offsets(lanes_p, row, member, grad_lse, LONG)
                    else:
                        grad_lse_rows = lse_rows
                    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale2
                    if LONG:
                        row_lse = tl.load(
                            lse_rows + partial_offsets(lanes_p, row, member, lse, LONG), mask=valid_p, other=float("inf")
                        )
                        weights = softmax_weights(tl.where(present[None, :], scores, float("-inf")), row_lse)
                        o_offsets = partial_offsets(lanes_p, row, member, out, LONG)
                        o = load_rows(out_rows, o_offsets, out.dim, valid_p, HEAD_DIM, BLOCK_D)
                        delta = row_delta(o, do, grad_lse_rows, valid_p, HAS_GRAD_LSE)
                        ds = score_gradients(weights, do, v, delta, PRECISION).to(k.dtype)
                        if tile % tiles_per_row == 0:
                            dq = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
                        dq = tl.dot(ds, k, dq, input_precision=PRECISION)
                    else:
                        mine = slice_mask(row + lanes_p, columns, tile_key, num_rows, length, WIDE) & present[None, :]
                        scores = tl.where(mine, scores, float("-inf"))
                        peak = tl.max(scores, axis=1)
                        weights = tl.exp2(scores - tl.where(peak == float("-inf"), 0.0, peak)[:, None])
                        total = tl.sum(weights, axis=1)
                        weights = weights / tl.where(total > 0.0, total, 1.0)[:, None]
                        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
                        delta = tl.sum(weights * dp, axis=1)
                        if HAS_GRAD_LSE:
                            delta -= tl.load(grad_lse_rows, mask=valid_p, other=0.0)
                        ds = (weights * (dp - delta[:, None])).to(k.dtype)
                        dq = tl.dot(ds, k, input_precision=PRECISION)
                    if (not LONG) or tile % tiles_per_row == tiles_per_row - 1:
                        dq_offsets = partial_offsets(lanes_p, row, member, grad_query, LONG)
                        store_rows(dq_rows, dq_offsets, grad_query.dim, valid_p, dq * scale, HEAD_DIM, BLOCK_D)
                    dk = tl.dot(tl.trans(ds), q, dk, input_precision=PRECISION)
                    dv = tl.dot(tl.trans(weights.to(v.dtype)), do, dv, input_precision=PRECISION)
            store_rows(grad_keys, key_index * grad_key.row, grad_key.dim, present, dk * scale, HEAD_DIM, BLOCK_D)
            store_rows(grad_values, key_index * grad_value.row, grad_value.dim, present, dv, HEAD_DIM, BLOCK_D)

    if GLOBAL_QUERY_GRADS:
        lanes_g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
        valid_g = lanes_g < GROUP * num_global
        dq_g = dq_g * scale
        if DIRECT:
            offsets = global_offsets(lanes_g, num_partial, num_global, grad_query)
            store_rows(dq_rows, offsets, grad_query.dim, valid_g, dq_g, HEAD_DIM, BLOCK_D)
        else:
            lanes = tl.cast(program, tl.int64) * GROUP * num_global + lanes_g
            store_rows(chunk_grad, lanes * HEAD_DIM, 1, valid_g, dq_g, HEAD_DIM, BLOCK_D)
