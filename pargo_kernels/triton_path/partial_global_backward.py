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

from pargo_kernels.triton_path.chunks import (
    chunk_rows,
    find_chunk,
    global_rows,
    partial_rows,
    slice_mask,
    tile_bounds,
)
from pargo_kernels.triton_path.tiles import (
    LOG2E,
    Rows,
    add_product,
    base2_shift,
    dot_rows,
    head_rows,
    load_rows,
    load_vector,
    row_delta,
    store_rows,
)


@triton.jit
def either(choice, one, other, APART: tl.constexpr):
    # one Rows or the other, both fp32
    pointer = tl.where(choice, one.pointer, other.pointer)
    dim = one.dim
    if APART:
        dim = tl.where(choice, one.dim, other.dim)
    return Rows(pointer, tl.where(choice, one.offsets, other.offsets), one.valid, dim)


@triton.jit
def global_operands(
    query,
    grad_out,
    out,
    lse,
    grad_lse,
    image,
    first_head,
    lanes,
    num_partial,
    num_global,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr,
):
    # (rows and tiles of q and dO, base-2 shift, delta) of global rows; lanes past the end have shift +inf: weight 0
    rows_q = global_rows(query, image, first_head, lanes, num_partial, num_global, GROUP)
    rows_do = global_rows(grad_out, image, first_head, lanes, num_partial, num_global, GROUP)
    rows_o = global_rows(out, image, first_head, lanes, num_partial, num_global, GROUP)
    rows_l = global_rows(lse, image, first_head, lanes, num_partial, num_global, GROUP)
    rows_dlse = rows_l
    if HAS_GRAD_LSE:
        rows_dlse = global_rows(grad_lse, image, first_head, lanes, num_partial, num_global, GROUP)
    q = load_rows(rows_q, HEAD_DIM, BLOCK_D)
    do = load_rows(rows_do, HEAD_DIM, BLOCK_D)
    delta = row_delta(rows_o, do, rows_dlse, HAS_GRAD_LSE, HEAD_DIM, BLOCK_D)
    return rows_q, rows_do, q, do, base2_shift(load_vector(rows_l, float("inf"))), delta


@triton.jit
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
    ROWS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    HAS_PARTIAL: tl.constexpr,
    HAS_GLOBAL: tl.constexpr,
    HAS_GRAD_LSE: tl.constexpr,
    GLOBAL_BLOCKS: tl.constexpr,
    KEY_GRADS: tl.constexpr,
    GLOBAL_QUERY_GRADS: tl.constexpr,
    LONG: tl.constexpr,
    PACKED: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # exact fp32 accumulates gradients in memory: tiles of whole rows would not fit the registers
    EXACT: tl.constexpr = PRECISION == "ieee"
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
    scale2 = scale * LOG2E
    columns = tl.arange(0, BLOCK_N)
    lanes_p = tl.arange(0, BLOCK_R)
    # an image in one chunk: nothing to merge. Packed ones always leave room for several
    direct = (not PACKED) and chunks_per_image == 1
    if GLOBAL_QUERY_GRADS:
        lanes_g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
        rows_qg, rows_dog, q_g, do_g, shift_g, delta_g = global_operands(
            query, grad_out, out, lse, grad_lse, image, first_head, lanes_g, num_partial, num_global,
            GROUP, HEAD_DIM, BLOCK_D, HAS_GRAD_LSE,
        )  # fmt: skip
        # exact fp32 adds to memory in the loop; the others store behind it, so that no address is kept through it
        if EXACT:
            rows_dqg = either(
                direct,
                global_rows(grad_query, image, first_head, lanes_g, num_partial, num_global, GROUP),
                chunk_rows(chunk_grad, program, lanes_g, num_global, HEAD_DIM, GROUP),
                grad_query.apart,
            )
        else:
            dq_g = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    if LONG:
        dq = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)

    rows_per_tile = 1 if LONG else tl.minimum(BLOCK_N // longest, ROWS)
    tiles_per_row = tl.cdiv(longest, BLOCK_N) if LONG else 1
    for tile in range(0, tl.cdiv(row_end - row_begin, rows_per_tile) * tiles_per_row):
        row, last_row, tile_key, last_key = tile_bounds(
            tile, row_begin, row_end, rows_per_tile, tiles_per_row, num_rows, length, BLOCK_N, LONG, WIDE
        )
        present = columns < last_key - tile_key
        key_index = first_key + tile_key + columns
        rows_k = head_rows(key, kv_image, kv_head, key_index, present)
        rows_v = head_rows(value, kv_image, kv_head, key_index, present)
        k = load_rows(rows_k, HEAD_DIM, BLOCK_D)
        v = load_rows(rows_v, HEAD_DIM, BLOCK_D)
        if EXACT:
            rows_dk = head_rows(grad_key, kv_image, kv_head, key_index, present)
            rows_dv = head_rows(grad_value, kv_image, kv_head, key_index, present)
        else:
            dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
            dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)

        if HAS_GLOBAL:
            for block in range(0, 1 if GLOBAL_QUERY_GRADS else GLOBAL_BLOCKS):
                if not GLOBAL_QUERY_GRADS:
                    rows_qg, rows_dog, q_g, do_g, shift_g, delta_g = global_operands(
                        query, grad_out, out, lse, grad_lse, image, first_head, block * BLOCK_G + tl.arange(0, BLOCK_G),
                        num_partial, num_global, GROUP, HEAD_DIM, BLOCK_D, HAS_GRAD_LSE,
                    )  # fmt: skip
                scores_g = dot_rows(rows_qg, q_g, rows_k, k, HEAD_DIM, PRECISION) * scale2
                weights_g = tl.exp2(tl.where(present[None, :], scores_g, float("-inf")) - shift_g[:, None])
                dp_g = dot_rows(rows_dog, do_g, rows_v, v, HEAD_DIM, PRECISION)
                ds_g = weights_g * (dp_g - delta_g[:, None])
                if GLOBAL_QUERY_GRADS:
                    if EXACT:
                        add_product(rows_dqg, ds_g * scale, rows_k, tile == 0, HEAD_DIM)
                    else:
                        dq_g = tl.dot(ds_g.to(k.dtype), k, dq_g)
                if KEY_GRADS:
                    if EXACT:
                        add_product(rows_dk, tl.trans(ds_g) * scale, rows_qg, block == 0, HEAD_DIM)
                        add_product(rows_dv, tl.trans(weights_g), rows_dog, block == 0, HEAD_DIM)
                    else:
                        dk = tl.dot(tl.trans(ds_g.to(k.dtype)), q_g, dk)
                        dv = tl.dot(tl.trans(weights_g.to(v.dtype)), do_g, dv)

        if KEY_GRADS and HAS_PARTIAL:
            rows_q = partial_rows(query, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
            rows_do = partial_rows(grad_out, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
            rows_dq = partial_rows(grad_query, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
            rows_dlse = rows_q
            if HAS_GRAD_LSE:
                rows_dlse = partial_rows(grad_lse, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
            q = load_rows(rows_q, HEAD_DIM, BLOCK_D)
            do = load_rows(rows_do, HEAD_DIM, BLOCK_D)
            scores = dot_rows(rows_q, q, rows_k, k, HEAD_DIM, PRECISION) * scale2
            dp = dot_rows(rows_do, do, rows_v, v, HEAD_DIM, PRECISION)
            if LONG:
                rows_l = partial_rows(lse, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
                rows_o = partial_rows(out, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
                # lanes past the group have lse +inf: weight 0
                shift = base2_shift(load_vector(rows_l, float("inf")))
                weights = tl.exp2(tl.where(present[None, :], scores, float("-inf")) - shift[:, None])
                delta = row_delta(rows_o, do, rows_dlse, HAS_GRAD_LSE, HEAD_DIM, BLOCK_D)
            else:
                mine = slice_mask(row + lanes_p % ROWS, columns, tile_key, num_rows, length, WIDE) & present[None, :]
                scores = tl.where(mine, scores, float("-inf"))
                peak = tl.max(scores, axis=1)
                weights = tl.exp2(scores - tl.where(peak == float("-inf"), 0.0, peak)[:, None])
                total = tl.sum(weights, axis=1)
                weights = weights / tl.where(total > 0.0, total, 1.0)[:, None]
                # rowsum(P dP) = rowsum(dO O)
                delta = tl.sum(weights * dp, axis=1)
                if HAS_GRAD_LSE:
                    delta -= load_vector(rows_dlse, 0.0)
            ds = weights * (dp - delta[:, None])
            if EXACT:
                begin = not HAS_GLOBAL
                add_product(rows_dq, ds * scale, rows_k, tile % tiles_per_row == 0, HEAD_DIM)
                add_product(rows_dk, tl.trans(ds) * scale, rows_q, begin, HEAD_DIM)
                add_product(rows_dv, tl.trans(weights), rows_do, begin, HEAD_DIM)
            else:
                if LONG:
                    if tile % tiles_per_row == 0:
                        dq = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
                    dq = tl.dot(ds.to(k.dtype), k, dq)
                else:
                    dq = tl.dot(ds.to(k.dtype), k)
                if (not LONG) or tile % tiles_per_row == tiles_per_row - 1:
                    store_rows(rows_dq, dq * scale, HEAD_DIM, BLOCK_D)
                dk = tl.dot(tl.trans(ds.to(k.dtype)), q, dk)
                dv = tl.dot(tl.trans(weights.to(v.dtype)), do, dv)
        if KEY_GRADS and not EXACT:
            store_rows(head_rows(grad_key, kv_image, kv_head, key_index, present), dk * scale, HEAD_DIM, BLOCK_D)
            store_rows(head_rows(grad_value, kv_image, kv_head, key_index, present), dv, HEAD_DIM, BLOCK_D)

    if GLOBAL_QUERY_GRADS and not EXACT:
        if direct:
            rows_dqg = global_rows(grad_query, image, first_head, lanes_g, num_partial, num_global, GROUP)
            store_rows(rows_dqg, dq_g * scale, HEAD_DIM, BLOCK_D)
        else:
            rows_chunk = chunk_rows(chunk_grad, program, lanes_g, num_global, HEAD_DIM, GROUP)
            store_rows(rows_chunk, dq_g * scale, HEAD_DIM, BLOCK_D)
