"""Forward kernel of partial-global attention: one pass over keys and values.

A program owns (batch, kv head, chunk of rows) and streams the chunk's keys once. Each tile of keys serves the partial rows
that own it and every global row. Short slices: a tile holds whole rows, whose softmax completes in it. LONG slices: a row
spans several tiles. The global rows' results of the chunks are merged by ``merge_chunk_outputs``.
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
    LN2,
    LOG2E,
    complete_softmax,
    dot_rows,
    finish_softmax,
    head_rows,
    load_rows,
    online_softmax,
    store_rows,
    store_vector,
)


@triton.jit
def partial_global_forward(
    query,
    key,
    value,
    out,
    lse,
    chunk_out,
    chunk_lse,
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
    GLOBAL_BLOCKS: tl.constexpr,
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
    scale2 = scale * LOG2E
    columns = tl.arange(0, BLOCK_N)
    lanes_p = tl.arange(0, BLOCK_R)
    if HAS_GLOBAL:
        lanes_g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
        rows_g = global_rows(query, image, first_head, lanes_g, num_partial, num_global, GROUP)
        q_g = load_rows(rows_g, HEAD_DIM, BLOCK_D)
        peak_g = tl.full([BLOCK_G], float("-inf"), tl.float32)
        total_g = tl.zeros([BLOCK_G], tl.float32)
        acc_g = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    if LONG:
        peak_p = tl.full([BLOCK_R], float("-inf"), tl.float32)
        total_p = tl.zeros([BLOCK_R], tl.float32)
        acc_p = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)

    rows_per_tile = 1 if LONG else tl.minimum(BLOCK_N // longest, ROWS)
    tiles_per_row = tl.cdiv(longest, BLOCK_N) if LONG else 1
    for tile in range(0, tl.cdiv(row_end - row_begin, rows_per_tile) * tiles_per_row):
        row, last_row, tile_key, last_key = tile_bounds(
            tile, row_begin, row_end, rows_per_tile, tiles_per_row, num_rows, length, BLOCK_N, LONG, WIDE
        )
        present = columns < last_key - tile_key
        rows_k = head_rows(key, kv_image, kv_head, first_key + tile_key + columns, present)
        rows_v = head_rows(value, kv_image, kv_head, first_key + tile_key + columns, present)
        k = load_rows(rows_k, HEAD_DIM, BLOCK_D)
        v = load_rows(rows_v, HEAD_DIM, BLOCK_D)

        if HAS_GLOBAL:
            scores_g = dot_rows(rows_g, q_g, rows_k, k, HEAD_DIM, PRECISION) * scale2
            scores_g = tl.where(present[None, :], scores_g, float("-inf"))
            peak_g, total_g, acc_g = online_softmax(scores_g, v, peak_g, total_g, acc_g, PRECISION)

        # programs of further global blocks leave the partial rows to the first
        if HAS_PARTIAL and (GLOBAL_BLOCKS == 1 or tl.program_id(1) == 0):
            rows_q = partial_rows(query, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
            q = load_rows(rows_q, HEAD_DIM, BLOCK_D)
            scores = dot_rows(rows_q, q, rows_k, k, HEAD_DIM, PRECISION) * scale2
            if LONG:
                if tile % tiles_per_row == 0:
                    peak_p = tl.full([BLOCK_R], float("-inf"), tl.float32)
                    total_p = tl.zeros([BLOCK_R], tl.float32)
                    acc_p = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
                scores = tl.where(present[None, :], scores, float("-inf"))
                peak_p, total_p, acc_p = online_softmax(scores, v, peak_p, total_p, acc_p, PRECISION)
            else:
                mine = slice_mask(row + lanes_p % ROWS, columns, tile_key, num_rows, length, WIDE) & present[None, :]
                scores = tl.where(mine, scores, float("-inf"))
                peak_p, total_p, acc_p = complete_softmax(scores, v, PRECISION)
            if (not LONG) or tile % tiles_per_row == tiles_per_row - 1:
                o, lse2 = finish_softmax(peak_p, total_p, acc_p)
                rows_o = partial_rows(out, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
                rows_l = partial_rows(lse, image, first_head, lanes_p, row, last_row, GROUP, ROWS)
                store_rows(rows_o, o, HEAD_DIM, BLOCK_D)
                store_vector(rows_l, lse2 * LN2)

    if HAS_GLOBAL:
        o, lse2 = finish_softmax(peak_g, total_g, acc_g)
        # an image in one chunk: nothing to merge. Packed ones always leave room for several
        if (not PACKED) and chunks_per_image == 1:
            store_rows(global_rows(out, image, first_head, lanes_g, num_partial, num_global, GROUP), o, HEAD_DIM, BLOCK_D)
            store_vector(global_rows(lse, image, first_head, lanes_g, num_partial, num_global, GROUP), lse2 * LN2)
        else:
            store_rows(chunk_rows(chunk_out, program, lanes_g, num_global, HEAD_DIM, GROUP), o, HEAD_DIM, BLOCK_D)
            store_vector(chunk_rows(chunk_lse, program, lanes_g, num_global, 1, GROUP), lse2)
