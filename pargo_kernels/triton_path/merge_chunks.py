"""Merging what the chunks of an image found for its global rows, in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.chunks import image_layout
from pargo_kernels.triton_path.tiles import (
    LN2,
    Rows,
    finish_softmax,
    head_rows,
    load_rows,
    load_vector,
    store_rows,
    store_vector,
)


@triton.jit
def global_row(num_heads, num_global, GROUP: tl.constexpr):
    # (image, head, global index, index among the global rows of the group) of this program
    program = tl.program_id(0)
    head = program // num_global % num_heads
    index = program % num_global
    return program // (num_heads * num_global), head, index, head % GROUP * num_global + index


@triton.jit
def row_of_chunks(pointer, slots, valid, kv_head, num_kv_heads, lane, num_global, columns, GROUP: tl.constexpr):
    # one global row in the buffers [slot, kv head, global row of the group, columns] of some slots
    program = tl.cast(slots, tl.int64) * num_kv_heads + kv_head
    return Rows(pointer, (program * GROUP * num_global + lane) * columns, valid, 1)


@triton.jit
def merge_chunk_outputs(
    chunk_out,
    chunk_lse,
    out,
    lse,
    cu_seqlens,
    num_heads,
    num_partial,
    num_global,
    num_keys,
    rows_per_chunk,
    chunks_per_image,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_PARTIAL: tl.constexpr,
    PACKED: tl.constexpr,
):
    image, head, index, lane = global_row(num_heads, num_global, GROUP)
    _, _, num_rows, rows_per_chunk, image_slot = image_layout(
        image, cu_seqlens, num_partial, num_keys, rows_per_chunk, chunks_per_image, HAS_PARTIAL, PACKED
    )
    num_chunks = tl.cdiv(num_rows, rows_per_chunk)
    peak = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([1, BLOCK_D], tl.float32)
    for first in range(0, num_chunks, BLOCK_C):
        chunks = first + tl.arange(0, BLOCK_C)
        valid = chunks < num_chunks
        slots = chunks + image_slot
        kv_head = head // GROUP
        num_kv_heads = num_heads // GROUP
        rows_o = row_of_chunks(chunk_out, slots, valid, kv_head, num_kv_heads, lane, num_global, HEAD_DIM, GROUP)
        rows_l = row_of_chunks(chunk_lse, slots, valid, kv_head, num_kv_heads, lane, num_global, 1, GROUP)
        chunk_lse2 = load_vector(rows_l, float("-inf"))
        part = load_rows(rows_o, HEAD_DIM, BLOCK_D)
        new_peak = tl.maximum(peak, tl.max(chunk_lse2, axis=0))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        decay = tl.exp2(peak - shift)
        weights = tl.exp2(chunk_lse2 - shift)
        total = total * decay + tl.sum(weights, axis=0)
        acc = acc * decay[:, None] + tl.sum(weights[:, None] * part, axis=0)[None, :]
        peak = new_peak
    o, lse2 = finish_softmax(peak, total, acc)
    row = num_partial + index + tl.arange(0, 1)
    store_rows(head_rows(out, image, head, row, row >= 0), o, HEAD_DIM, BLOCK_D)
    store_vector(head_rows(lse, image, head, row, row >= 0), lse2 * LN2)


@triton.jit
def merge_chunk_gradients(
    chunk_grad,
    grad_query,
    cu_seqlens,
    num_heads,
    num_partial,
    num_global,
    num_keys,
    rows_per_chunk,
    chunks_per_image,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_PARTIAL: tl.constexpr,
    PACKED: tl.constexpr,
):
    image, head, index, lane = global_row(num_heads, num_global, GROUP)
    _, _, num_rows, rows_per_chunk, image_slot = image_layout(
        image, cu_seqlens, num_partial, num_keys, rows_per_chunk, chunks_per_image, HAS_PARTIAL, PACKED
    )
    num_chunks = tl.cdiv(num_rows, rows_per_chunk)
    acc = tl.zeros([1, BLOCK_D], tl.float32)
    for first in range(0, num_chunks, BLOCK_C):
        chunks = first + tl.arange(0, BLOCK_C)
        slots = chunks + image_slot
        valid = chunks < num_chunks
        kv_head = head // GROUP
        num_kv_heads = num_heads // GROUP
        rows = row_of_chunks(chunk_grad, slots, valid, kv_head, num_kv_heads, lane, num_global, HEAD_DIM, GROUP)
        acc += tl.sum(load_rows(rows, HEAD_DIM, BLOCK_D), axis=0)[None, :]
    row = num_partial + index + tl.arange(0, 1)
    store_rows(head_rows(grad_query, image, head, row, row >= 0), acc, HEAD_DIM, BLOCK_D)
