"""Forward kernel of cascaded attention: a program owns a block of rows of one head and streams the keys of its band.

Global tokens, where they take part, form blocks of their own in the same launch and see each other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.band import tile_phases, token_block, window_of_row
from pargo_kernels.triton_path.tiles import (
    LN2,
    LOG2E,
    dot_rows,
    finish_softmax,
    head_rows,
    load_rows,
    online_softmax,
    store_rows,
    store_vector,
)


@triton.jit
def row_block(block, partial_blocks, num_partial, num_tokens, window, BLOCK_M: tl.constexpr, CLAMP: tl.constexpr):
    # rows of a block, [rows] first and last visible key, and the keys seen by any and by all of them
    begin, end, partial = token_block(block, partial_blocks, num_partial, num_tokens, BLOCK_M)
    rows = begin + tl.arange(0, BLOCK_M)
    row_first, row_last = window_of_row(rows, num_partial, window, CLAMP)
    first, full_last = window_of_row(begin, num_partial, window, CLAMP)
    full_first, last = window_of_row(end - 1, num_partial, window, CLAMP)
    row_first = tl.where(partial, row_first, num_partial)
    row_last = tl.where(partial, row_last, num_tokens)
    first = tl.where(partial, first, num_partial)
    last = tl.where(partial, last, num_tokens)
    full_first = tl.where(partial, full_first, num_partial)
    full_last = tl.where(partial, full_last, num_tokens)
    return rows, rows < end, row_first, row_last, first, last, full_first, full_last


@triton.jit
def attend(
    rows_q,
    q,
    key,
    value,
    batch,
    kv_head,
    begin,
    end,
    row_first,
    row_last,
    scale2,
    peak,
    total,
    acc,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # rows against the keys [begin, end)
    for tile in range(begin, end, BLOCK_N):
        columns = tile + tl.arange(0, BLOCK_N)
        rows_k = head_rows(key, batch, kv_head, columns, columns < end)
        rows_v = head_rows(value, batch, kv_head, columns, columns < end)
        k = load_rows(rows_k, HEAD_DIM, BLOCK_D)
        v = load_rows(rows_v, HEAD_DIM, BLOCK_D)
        scores = dot_rows(rows_q, q, rows_k, k, HEAD_DIM, PRECISION) * scale2
        if MASKED:
            # no row sees past `end`, but for the last tile of the keys before a phase that needs no mask
            seen = (columns[None, :] >= row_first[:, None]) & (columns[None, :] < row_last[:, None])
            scores = tl.where(seen & (columns < end)[None, :], scores, float("-inf"))
        peak, total, acc = online_softmax(scores, v, peak, total, acc, PRECISION)
    return peak, total, acc


@triton.jit
def cascaded_forward(
    query,
    key,
    value,
    out,
    lse,
    scale,
    num_heads,
    num_partial,
    num_tokens,
    window,
    partial_blocks,
    num_blocks,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CLAMP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    program = tl.program_id(0)
    head = program // num_blocks % num_heads
    batch = program // num_blocks // num_heads
    rows, valid, row_first, row_last, first, last, full_first, full_last = row_block(
        program % num_blocks, partial_blocks, num_partial, num_tokens, window, BLOCK_M, CLAMP
    )
    rows_q = head_rows(query, batch, head, rows, valid)
    q = load_rows(rows_q, HEAD_DIM, BLOCK_D)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    inside, outside = tile_phases(first, last, full_first, full_last, BLOCK_N)
    for phase in tl.static_range(3):
        begin = first if phase == 0 else (inside if phase == 1 else outside)
        end = inside if phase == 0 else (outside if phase == 1 else last)
        peak, total, acc = attend(
            rows_q, q, key, value, batch, head // GROUP, begin, end, row_first, row_last, scale * LOG2E,
            peak, total, acc, HEAD_DIM, BLOCK_D, BLOCK_N, phase != 1, PRECISION,
        )  # fmt: skip

    o, lse2 = finish_softmax(peak, total, acc)
    store_rows(head_rows(out, batch, head, rows, valid), o, HEAD_DIM, BLOCK_D)
    store_vector(head_rows(lse, batch, head, rows, valid), lse2 * LN2)
