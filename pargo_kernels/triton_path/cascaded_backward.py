"""Backward kernels of cascaded attention: dQ and delta by blocks of rows, then dK and dV by blocks of keys. No atomics."""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.band import rows_of_key, tile_phases, token_block
from pargo_kernels.triton_path.cascaded_forward import row_block
from pargo_kernels.triton_path.tiles import (
    LOG2E,
    base2_shift,
    dot_rows,
    head_rows,
    load_rows,
    load_vector,
    row_delta,
    store_rows,
    store_vector,
)


@triton.jit
def query_gradient(
    rows_q,
    rows_do,
    q,
    do,
    shift,
    delta,
    key,
    value,
    batch,
    kv_head,
    begin,
    end,
    row_first,
    row_last,
    scale2,
    dq,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # adds dS K over the keys [begin, end)
    for tile in range(begin, end, BLOCK_N):
        columns = tile + tl.arange(0, BLOCK_N)
        rows_k = head_rows(key, batch, kv_head, columns, columns < end)
        rows_v = head_rows(value, batch, kv_head, columns, columns < end)
        k = load_rows(rows_k, HEAD_DIM, BLOCK_D)
        v = load_rows(rows_v, HEAD_DIM, BLOCK_D)
        scores = dot_rows(rows_q, q, rows_k, k, HEAD_DIM, PRECISION) * scale2
        if MASKED:
            seen = (columns[None, :] >= row_first[:, None]) & (columns[None, :] < row_last[:, None])
            scores = tl.where(seen & (columns < end)[None, :], scores, float("-inf"))
        weights = tl.exp2(scores - shift[:, None])
        ds = weights * (dot_rows(rows_do, do, rows_v, v, HEAD_DIM, PRECISION) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    return dq


@triton.jit
def cascaded_query_backward(
    grad_out,
    grad_lse,
    query,
    key,
    value,
    out,
    lse,
    delta,
    grad_query,
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
    HAS_GRAD_LSE: tl.constexpr,
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
    rows_do = head_rows(grad_out, batch, head, rows, valid)
    rows_dlse = rows_q
    if HAS_GRAD_LSE:
        rows_dlse = head_rows(grad_lse, batch, head, rows, valid)
    q = load_rows(rows_q, HEAD_DIM, BLOCK_D)
    do = load_rows(rows_do, HEAD_DIM, BLOCK_D)
    # rows past the end get shift +inf: weight 0
    shift = base2_shift(load_vector(head_rows(lse, batch, head, rows, valid), float("inf")))
    deltas = row_delta(head_rows(out, batch, head, rows, valid), do, rows_dlse, HAS_GRAD_LSE, HEAD_DIM, BLOCK_D)
    store_vector(head_rows(delta, batch, head, rows, valid), deltas)

    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    inside, outside = tile_phases(first, last, full_first, full_last, BLOCK_N)
    for phase in tl.static_range(3):
        begin = first if phase == 0 else (inside if phase == 1 else outside)
        end = inside if phase == 0 else (outside if phase == 1 else last)
        dq = query_gradient(
            rows_q, rows_do, q, do, shift, deltas, key, value, batch, head // GROUP, begin, end, row_first, row_last,
            scale * LOG2E, dq, HEAD_DIM, BLOCK_D, BLOCK_N, phase != 1, PRECISION,
        )  # fmt: skip
    store_rows(head_rows(grad_query, batch, head, rows, valid), dq * scale, HEAD_DIM, BLOCK_D)


@triton.jit
def key_gradients(
    rows_k,
    rows_v,
    k,
    v,
    query,
    grad_out,
    lse,
    delta,
    batch,
    head,
    begin,
    end,
    key_first,
    key_last,
    scale2,
    dk,
    dv,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # adds dS^T Q and P^T dO over the rows [begin, end); scores are transposed, [keys, rows]
    for tile in range(begin, end, BLOCK_M):
        rows = tile + tl.arange(0, BLOCK_M)
        present = rows < end
        rows_q = head_rows(query, batch, head, rows, present)
        rows_do = head_rows(grad_out, batch, head, rows, present)
        q = load_rows(rows_q, HEAD_DIM, BLOCK_D)
        do = load_rows(rows_do, HEAD_DIM, BLOCK_D)
        shift = base2_shift(load_vector(head_rows(lse, batch, head, rows, present), float("inf")))
        deltas = load_vector(head_rows(delta, batch, head, rows, present), 0.0)
        scores = dot_rows(rows_k, k, rows_q, q, HEAD_DIM, PRECISION) * scale2
        if MASKED:
            seen = (rows[None, :] >= key_first[:, None]) & (rows[None, :] < key_last[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        weights = tl.exp2(scores - shift[None, :])
        ds = weights * (dot_rows(rows_v, v, rows_do, do, HEAD_DIM, PRECISION) - deltas[None, :])
        dv = tl.dot(weights.to(do.dtype), do, dv, input_precision=PRECISION)
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def cascaded_key_backward(
    grad_out,
    query,
    key,
    value,
    lse,
    delta,
    grad_key,
    grad_value,
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
    num_kv_heads = num_heads // GROUP
    kv_head = program // num_blocks % num_kv_heads
    batch = program // num_blocks // num_kv_heads
    begin, end, partial = token_block(program % num_blocks, partial_blocks, num_partial, num_tokens, BLOCK_N)
    columns = begin + tl.arange(0, BLOCK_N)
    # the rows that see each key, any key and every key of the block
    key_first, key_last = rows_of_key(columns, num_partial, window, CLAMP)
    first, full_last = rows_of_key(begin, num_partial, window, CLAMP)
    full_first, last = rows_of_key(end - 1, num_partial, window, CLAMP)
    key_first = tl.where(partial, key_first, num_partial)
    key_last = tl.where(partial, key_last, num_tokens)
    first = tl.where(partial, first, num_partial)
    last = tl.where(partial, last, num_tokens)
    full_first = tl.where(partial, full_first, num_partial)
    full_last = tl.where(partial, full_last, num_tokens)

    rows_k = head_rows(key, batch, kv_head, columns, columns < end)
    rows_v = head_rows(value, batch, kv_head, columns, columns < end)
    k = load_rows(rows_k, HEAD_DIM, BLOCK_D)
    v = load_rows(rows_v, HEAD_DIM, BLOCK_D)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    inside, outside = tile_phases(first, last, full_first, full_last, BLOCK_M)
    for member in range(0, GROUP):
        for phase in tl.static_range(3):
            row = first if phase == 0 else (inside if phase == 1 else outside)
            stop = inside if phase == 0 else (outside if phase == 1 else last)
            dk, dv = key_gradients(
                rows_k, rows_v, k, v, query, grad_out, lse, delta, batch, kv_head * GROUP + member, row, stop,
                key_first, key_last, scale * LOG2E, dk, dv, HEAD_DIM, BLOCK_D, BLOCK_M, phase != 1, PRECISION,
            )  # fmt: skip
    store_rows(head_rows(grad_key, batch, kv_head, columns, columns < end), dk * scale, HEAD_DIM, BLOCK_D)
    store_rows(head_rows(grad_value, batch, kv_head, columns, columns < end), dv, HEAD_DIM, BLOCK_D)
