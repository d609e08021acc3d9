"""Backward kernels of cascaded attention: dQ and delta by blocks of rows, then dK and dV by blocks of keys. No atomics."""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.band import rows_of_key, tile_phases, token_block
from pargo_kernels.triton_path.cascaded_forward import SIZES, row_block
from pargo_kernels.triton_path.tiles import LOG2E, head_pointer, load_rows, row_delta, softmax_weights, store_rows


@triton.jit
def query_gradient(
    q,
    do,
    row_lse,
    delta,
    keys,
    values,
    key,
    value,
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
        offsets = tl.cast(columns, tl.int64)
        present = columns < end
        k = load_rows(keys, offsets * key.row, key.dim, present, HEAD_DIM, BLOCK_D)
        v = load_rows(values, offsets * value.row, value.dim, present, HEAD_DIM, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale2
        if MASKED:
            seen = (columns[None, :] >= row_first[:, None]) & (columns[None, :] < row_last[:, None])
            scores = tl.where(seen & present[None, :], scores, float("-inf"))
        weights = softmax_weights(scores, row_lse)
        ds = weights * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    return dq


@triton.jit(do_not_specialize=SIZES)
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
    keys = head_pointer(key, batch, head // GROUP)
    values = head_pointer(value, batch, head // GROUP)
    offsets = tl.cast(rows, tl.int64)
    q = load_rows(head_pointer(query, batch, head), offsets * query.row, query.dim, valid, HEAD_DIM, BLOCK_D)
    o = load_rows(head_pointer(out, batch, head), offsets * out.row, out.dim, valid, HEAD_DIM, BLOCK_D)
    do = load_rows(head_pointer(grad_out, batch, head), offsets * grad_out.row, grad_out.dim, valid, HEAD_DIM, BLOCK_D)
    lse_rows = head_pointer(lse, batch, head) + offsets * lse.row
    # rows past the end get weight 0
    row_lse = tl.load(lse_rows, mask=valid, other=float("inf"))
    grad_lse_rows = lse_rows
    if HAS_GRAD_LSE:
        grad_lse_rows = head_pointer(grad_lse, batch, head) + offsets * grad_lse.row
    row_deltas = row_delta(o, do, grad_lse_rows, valid, HAS_GRAD_LSE)
    tl.store(head_pointer(delta, batch, head) + offsets * delta.row, row_deltas, mask=valid)

    scale2 = scale * LOG2E
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    inside, outside = tile_phases(first, last, full_first, full_last, BLOCK_N)
    for phase in tl.static_range(3):
        begin = first if phase == 0 else (inside if phase == 1 else outside)
        end = inside if phase == 0 else (outside if phase == 1 else last)
        dq = query_gradient(
            q, do, row_lse, row_deltas, keys, values, key, value, begin, end, row_first, row_last, scale2, dq,
            HEAD_DIM, BLOCK_D, BLOCK_N, phase != 1, PRECISION,
        )  # fmt: skip
    rows_dq = head_pointer(grad_query, batch, head)
    store_rows(rows_dq, offsets * grad_query.row, grad_query.dim, valid, dq * scale, HEAD_DIM, BLOCK_D)


@triton.jit
def key_gradients(
    k,
    v,
    query_rows,
    do_rows,
    lse_rows,
    delta_rows,
    query,
    grad_out,
    lse,
    delta,
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
    # adds dS^T Q and P^T dO over the rows [begin, end); everything is transposed, [keys, rows]
    for tile in range(begin, end, BLOCK_M):
        rows = tile + tl.arange(0, BLOCK_M)
        offsets = tl.cast(rows, tl.int64)
        present = rows < end
        q = load_rows(query_rows, offsets * query.row, query.dim, present, HEAD_DIM, BLOCK_D)
        do = load_rows(do_rows, offsets * grad_out.row, grad_out.dim, present, HEAD_DIM, BLOCK_D)
        row_lse = tl.load(lse_rows + offsets * lse.row, mask=present, other=float("inf"))
        row_deltas = tl.load(delta_rows + offsets * delta.row, mask=present, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale2
        if MASKED:
            seen = (rows[None, :] >= key_first[:, None]) & (rows[None, :] < key_last[:, None])
            scores = tl.where(seen & present[None, :], scores, float("-inf"))
        weights = tl.exp2(scores - (row_lse * LOG2E)[None, :])
        dv = tl.dot(weights.to(do.dtype), do, dv, input_precision=PRECISION)
        ds = weights * (tl.dot(v, tl.trans(do), input_precision=PRECISION) - row_deltas[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=SIZES)
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
    valid = columns < end
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

    offsets = tl.cast(columns, tl.int64)
    k = load_rows(head_pointer(key, batch, kv_head), offsets * key.row, key.dim, valid, HEAD_DIM, BLOCK_D)
    v = load_rows(head_pointer(value, batch, kv_head), offsets * value.row, value.dim, valid, HEAD_DIM, BLOCK_D)
    scale2 = scale * LOG2E
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    inside, outside = tile_phases(first, last, full_first, full_last, BLOCK_M)
    for member in range(0, GROUP):
        head = kv_head * GROUP + member
        query_rows = head_pointer(query, batch, head)
        do_rows = head_pointer(grad_out, batch, head)
        lse_rows = head_pointer(lse, batch, head)
        delta_rows = head_pointer(delta, batch, head)
        for phase in tl.static_range(3):
            row = first if phase == 0 else (inside if phase == 1 else outside)
            stop = inside if phase == 0 else (outside if phase == 1 else last)
            dk, dv = key_gradients(
                k, v, query_rows, do_rows, lse_rows, delta_rows, query, grad_out, lse, delta,
                row, stop, key_first, key_last, scale2, dk, dv, HEAD_DIM, BLOCK_D, BLOCK_M, phase != 1, PRECISION,
            )  # fmt: skip
    dk_rows = head_pointer(grad_key, batch, kv_head)
    dv_rows = head_pointer(grad_value, batch, kv_head)
    store_rows(dk_rows, offsets * grad_key.row, grad_key.dim, valid, dk * scale, HEAD_DIM, BLOCK_D)
    store_rows(dv_rows, offsets * grad_value.row, grad_value.dim, valid, dv, HEAD_DIM, BLOCK_D)
