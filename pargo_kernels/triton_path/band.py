"""The cascade's band on the device: windows of rows, and the rows that see a key (see ``pargo_kernels.intervals``)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def window_of_row(row, num_partial, window, CLAMP: tl.constexpr):
    # [first, last) keys that a partial row sees
    start = row - window // 2
    if CLAMP:
        first = tl.minimum(tl.maximum(start, 0), num_partial - window)
        last = first + window
    else:
        first = tl.maximum(start, 0)
        last = tl.minimum(start + window, num_partial)
    return first, last


@triton.jit
def rows_of_key(key, num_partial, window, CLAMP: tl.constexpr):
    # [first, last) rows that see a partial key
    first = tl.maximum(key - window + window // 2 + 1, 0)
    last = tl.minimum(key + window // 2 + 1, num_partial)
    if CLAMP:
        first = tl.where(key < window, 0, first)
        last = tl.where(key >= num_partial - window, num_partial, last)
    return first, last


@triton.jit
def token_block(block, partial_blocks, num_partial, num_tokens, BLOCK: tl.constexpr):
    # (first token, last token, whether they are partial): blocks of partial tokens, then blocks of global tokens
    partial = block < partial_blocks
    begin = tl.where(partial, block * BLOCK, num_partial + (block - partial_blocks) * BLOCK)
    return begin, tl.minimum(begin + BLOCK, tl.where(partial, num_partial, num_tokens)), partial


@triton.jit
def tile_phases(first, last, full_first, full_last, BLOCK: tl.constexpr):
    # [first, last) in tiles: up to `inside` and from `outside` on they need the mask, between them every cell is visible
    inside = tl.minimum(first + tl.cdiv(tl.maximum(full_first - first, 0), BLOCK) * BLOCK, last)
    outside = inside + tl.maximum(full_last - inside, 0) // BLOCK * BLOCK
    return inside, outside
