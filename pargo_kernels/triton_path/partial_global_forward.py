"""Forward kernel of partial-global attention: one pass over keys and values.

A program owns (batch, kv head, chunk of rows) and streams the chunk's keys once. Each tile of keys serves the partial rows
that own it and every global row. Short slices: a tile holds whole rows, whose softmax completes in it. LONG slices: a row
spans several tiles. The global rows' results of the chunks are merged by ``merge_chunk_outputs``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.chunks import find_chunk, global_offsets, partial_offsets, slice_mask, tile_bounds
from pargo_kernels.triton_path.tiles import (
    LN2,
    LOG2E,
    complete_softmax,
    finish_softmax,
    head_pointer,
    load_rows,
    online_softmax,
    store_rows,
)

SIZES = [
    "num_kv_heads",
    "num_images",
    "num_partial",
    "num_global",
    "num_keys",
    "rows_per_chunk",
    "chunks_per_image",
    "slice_from",
    "slice_to",
]


@triton.jit(do_not_specialize=SIZES)
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
    BLOCK_G: tl.constexpr,
    HAS_PARTIAL: tl.constexpr,
    HAS_GLOBAL: tl.constexpr,
    GLOBAL_BLOCKS: tl.constexpr,
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

    query_rows = head_pointer(query, image, kv_head * GROUP)
    out_rows = head_pointer(out, image, kv_head * GROUP)
    lse_rows = head_pointer(lse, image, kv_head * GROUP)
    keys = head_pointer(key, kv_image, kv_head) + tl.cast(first_key, tl.int64) * key.row
    values = head_pointer(value, kv_image, kv_head) + tl.cast(first_key, tl.int64) * value.row
    scale2 = scale * LOG2E

    columns = tl.arange(0, BLOCK_N)
    lanes_p = tl.arange(0, BLOCK_R)
    if HAS_GLOBAL:
        lanes_g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
        valid_g = lanes_g < GROUP * num_global
        offsets_g = global_offsets(lanes_g, num_partial, num_global, query)
        q_g = load_rows(query_rows, offsets_g, query.dim, valid_g, HEAD_DIM, BLOCK_D)
        peak_g = tl.full([BLOCK_G], float("-inf"), tl.float32)
        total_g = tl.zeros([BLOCK_G], tl.float32)
        acc_g = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    if LONG:
        peak_p = tl.full([BLOCK_R], float("-inf"), tl.float32)
        total_p = tl.zeros([BLOCK_R], tl.float32)
        acc_p = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)

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

        if HAS_GLOBAL:
            scores_g = tl.dot(q_g, tl.trans(k), input_precision=PRECISION) * scale2
            scores_g = tl.where(present[None, :], scores_g, float("-inf"))
            peak_g, total_g, acc_g = online_softmax(scores_g, v, peak_g, total_g, acc_g, PRECISION)

        if HAS_PARTIAL:
            # the programs of further global blocks leave the partial rows to the first
            if GLOBAL_BLOCKS == 1 or tl.program_id(1) == 0:
                for member in range(0, 1 if LONG else GROUP):
                    valid_p = lanes_p < (GROUP if LONG else last_row - row)
                    offsets_p = partial_offsets(lanes_p, row, member, query, LONG)
                    q = load_rows(query_rows, offsets_p, query.dim, valid_p, HEAD_DIM, BLOCK_D)
                    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale2
                    if LONG:
                        if tile % tiles_per_row == 0:
                            peak_p = tl.full([BLOCK_R], float("-inf"), tl.float32)
                            total_p = tl.zeros([BLOCK_R], tl.float32)
                            acc_p = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
                        scores = tl.where(present[None, :], scores, float("-inf"))
                        peak_p, total_p, acc_p = online_softmax(scores, v, peak_p, total_p, acc_p, PRECISION)
                    else:
                        mine = slice_mask(row + lanes_p, columns, tile_key, num_rows, length, WIDE)
                        scores = tl.where(mine & present[None, :], scores, float("-inf"))
                        peak_p, total_p, acc_p = complete_softmax(scores, v, PRECISION)
                    if (not LONG) or tile % tiles_per_row == tiles_per_row - 1:
                        o, lse2 = finish_softmax(peak_p, total_p, acc_p)
                        offsets_o = partial_offsets(lanes_p, row, member, out, LONG)
                        store_rows(out_rows, offsets_o, out.dim, valid_p, o, HEAD_DIM, BLOCK_D)
                        tl.store(lse_rows + partial_offsets(lanes_p, row, member, lse, LONG), lse2 * LN2, mask=valid_p)

    if HAS_GLOBAL:
        o, lse2 = finish_softmax(peak_g, total_g, acc_g)
        if DIRECT:
            offsets_o = global_offsets(lanes_g, num_partial, num_global, out)
            store_rows(out_rows, offsets_o, out.dim, valid_g, o, HEAD_DIM, BLOCK_D)
            tl.store(lse_rows + global_offsets(lanes_g, num_partial, num_global, lse), lse2 * LN2, mask=valid_g)
        else:
            # [slot, kv head, global row of the group]
            lanes = tl.cast(program, tl.int64) * GROUP * num_global + lanes_g
            store_rows(chunk_out, lanes * HEAD_DIM, 1, valid_g, o, HEAD_DIM, BLOCK_D)
            tl.store(chunk_lse + lanes, lse2, mask=valid_g)
