"""Merging what the chunks of an image found for its global rows, in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from pargo_kernels.triton_path.chunks import image_layout
from pargo_kernels.triton_path.tiles import LN2, finish_softmax, head_pointer, load_rows, store_rows

SIZES = ["num_heads", "num_partial", "num_global", "num_keys", "rows_per_chunk", "chunks_per_image"]


@triton.jit
def global_row(num_heads, num_global, GROUP: tl.constexpr):
    # (image, head, global index, index among the global rows of the group) of this program
    program = tl.program_id(0)
    head = program // num_global % num_heads
    index = program % num_global
    return program // (num_heads * num_global), head, index, head % GROUP * num_global + index


@triton.jit
def chunk_lanes(slots, kv_head, num_kv_heads, lane, lanes_per_program):
    # where one global row lies in the chunks' buffers [slot, kv head, global row of the group], int64
    return (tl.cast(slots, tl.int64) * num_kv_heads + kv_head) * lanes_per_program + lane


@triton.jit(do_not_specialize=SIZES)
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
        lanes = chunk_lanes(chunks + image_slot, head // GROUP, num_heads // GROUP, lane, GROUP * num_global)
        chunk_lse2 = tl.load(chunk_lse + lanes, mask=valid, other=float("-inf"))
        part = load_rows(chunk_out, lanes * HEAD_DIM, 1, valid, HEAD_DIM, BLOCK_D)
        new_peak = tl.maximum(peak, tl.max(chunk_lse2, axis=0))
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        decay = tl.exp2(peak - shift)
        weights = tl.exp2(chunk_lse2 - shift)
        total = total * decay + tl.sum(weights, axis=0)
        acc = acc * decay[:, None] + tl.sum(weights[:, None] * part, axis=0)[None, :]
        peak = new_peak
    o, lse2 = finish_softmax(peak, total, acc)
    row = tl.full([1], num_partial + index, tl.int64)
    always = row >= 0
    store_rows(head_pointer(out, image, head), row * out.row, out.dim, always, o, HEAD_DIM, BLOCK_D)
    tl.store(head_pointer(lse, image, head) + row * lse.row, lse2 * LN2, mask=always)


@triton.jit(do_not_specialize=SIZES)
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
        lanes = chunk_lanes(chunks + image_slot, head // GROUP, num_heads // GROUP, lane, GROUP * num_global)
        part = load_rows(chunk_grad, lanes * HEAD_DIM, 1, chunks < num_chunks, HEAD_DIM, BLOCK_D)
        acc += tl.sum(part, axis=0)[None, :]
    row = tl.full([1], num_partial + index, tl.int64)
    rows = head_pointer(grad_query, image, head)
    store_rows(rows, row * grad_query.row, grad_query.dim, row >= 0, acc, HEAD_DIM, BLOCK_D)
