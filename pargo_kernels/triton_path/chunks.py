"""How an image's keys are cut into chunks, one program each, and a chunk into tiles.

A chunk is a run of whole rows. Its length follows from the image's number of keys and rows alone, never from the batch,
the heads or the device, so that a result does not depend on what else is in the batch.
"""

from __future__ import annotations

from types import FunctionType

import triton
import triton.language as tl

from pargo_kernels import intervals
from pargo_kernels.triton_path.tiles import Rows, head_pointer

# keys of a chunk, about
CHUNK_KEYS = tl.constexpr(1024)
# room for a packed image's chunks: rows have at most twice the average of keys, chunks at least half of CHUNK_KEYS
SLOTS_PER_CHUNK = tl.constexpr(4)
# without partial rows, the keys are cut into rows of at most so many keys that own them in name only
NOMINAL_ROW = tl.constexpr(16)

# the same source computes the slices on the host and in the kernels (Triton's interpreter wants tl among the globals)
partial_start = triton.jit(FunctionType(intervals.partial_start.__code__, globals(), "partial_start"))


def plan_chunks(num_partial: int, num_keys: int) -> tuple[int, int, int]:
    """(rows, rows per chunk, chunks) of one image, on the host."""
    num_rows = num_partial or -(-num_keys // NOMINAL_ROW.value)
    longest = -(-num_keys // num_rows)
    chunks = -(-num_rows // max(1, CHUNK_KEYS.value // longest))
    rows_per_chunk = -(-num_rows // chunks)
    return num_rows, rows_per_chunk, -(-num_rows // rows_per_chunk)


def packed_slots(num_images: int, num_keys: int) -> int:
    """Chunk slots of a packed batch: an upper bound that needs no look at the lengths."""
    return num_keys * SLOTS_PER_CHUNK.value // CHUNK_KEYS.value + num_images


@triton.jit
def packed_image(image, cu_seqlens, num_keys):
    # [begin, end) of an image's keys; whatever cu_seqlens holds, they lie inside the packed keys
    begin = tl.minimum(tl.maximum(tl.load(cu_seqlens + image), 0), num_keys)
    end = tl.minimum(tl.maximum(tl.load(cu_seqlens + image + 1), begin), num_keys)
    return begin, end


@triton.jit
def first_slot(image, key_begin):
    # where a packed image's chunks begin: in closed form, so that no prefix sum over the images is needed
    return (tl.cast(key_begin, tl.int64) * SLOTS_PER_CHUNK // CHUNK_KEYS).to(tl.int32) + image


@triton.jit
def find_image(slot, cu_seqlens, num_images, num_keys):
    # the packed image that owns a slot, by bisection
    low = 0
    high = num_images
    while low + 1 < high:
        middle = (low + high) // 2
        begin, _ = packed_image(middle, cu_seqlens, num_keys)
        if first_slot(middle, begin) <= slot:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def image_layout(
    image,
    cu_seqlens,
    num_partial,
    num_keys,
    rows_per_chunk,
    chunks_per_image,
    HAS_PARTIAL: tl.constexpr,
    PACKED: tl.constexpr,
):
    # (first key, keys, rows, rows of a chunk, first slot) of an image
    if PACKED:
        begin, end = packed_image(image, cu_seqlens, num_keys)
        length = end - begin
        slot = first_slot(image, begin)
    else:
        begin = 0
        length = num_keys
        slot = image * chunks_per_image
    if HAS_PARTIAL:
        num_rows = num_partial
    else:
        num_rows = tl.maximum(1, tl.cdiv(length, NOMINAL_ROW))
    if PACKED:
        longest = tl.maximum(1, tl.cdiv(length, num_rows))
        chunks = tl.cdiv(num_rows, tl.maximum(1, tl.cast(CHUNK_KEYS, tl.int32) // longest))
        # a valid image has the slots it wants; one with fewer keys than rows makes do with what it has
        chunks = tl.minimum(chunks, first_slot(image + 1, end) - slot)
        rows_per_chunk = tl.cdiv(num_rows, chunks)
    return begin, length, num_rows, rows_per_chunk, slot


@triton.jit
def find_chunk(
    slot,
    cu_seqlens,
    num_images,
    num_partial,
    num_keys,
    rows_per_chunk,
    chunks_per_image,
    HAS_PARTIAL: tl.constexpr,
    PACKED: tl.constexpr,
):
    # (image, first key, keys, rows, first row of the chunk, last row) of a slot; an unused slot has no rows
    if PACKED:
        image = find_image(slot, cu_seqlens, num_images, num_keys)
    else:
        image = slot // chunks_per_image
    begin, length, num_rows, rows_per_chunk, image_slot = image_layout(
        image, cu_seqlens, num_partial, num_keys, rows_per_chunk, chunks_per_image, HAS_PARTIAL, PACKED
    )
    row_begin = (slot - image_slot) * rows_per_chunk
    row_end = tl.minimum(row_begin + rows_per_chunk, num_rows)
    return image, begin, length, num_rows, row_begin, row_end


@triton.jit
def tile_bounds(
    tile,
    row_begin,
    row_end,
    rows_per_tile,
    tiles_per_row,
    num_rows,
    num_keys,
    BLOCK_N: tl.constexpr,
    LONG: tl.constexpr,
    WIDE: tl.constexpr,
):
    # (first row, last row, first key, last key) of a tile; LONG tiles are a part of one row
    row = row_begin + tile // tiles_per_row * rows_per_tile
    last_row = tl.minimum(row + rows_per_tile, row_end)
    if WIDE:
        key = partial_start(tl.cast(row, tl.int64), num_rows, num_keys).to(tl.int32)
        last_key = partial_start(tl.cast(last_row, tl.int64), num_rows, num_keys).to(tl.int32)
    else:
        key = partial_start(row, num_rows, num_keys)
        last_key = partial_start(last_row, num_rows, num_keys)
    if LONG:
        key += tile % tiles_per_row * BLOCK_N
    return row, last_row, key, last_key


@triton.jit
def slice_mask(rows, columns, tile_key, num_rows, num_keys, WIDE: tl.constexpr):
    # [rows, columns]: the row's slice holds key tile_key + column; WIDE where the square of num_rows exceeds int32
    if WIDE:
        rows = tl.cast(rows, tl.int64)
    first = (partial_start(rows, num_rows, num_keys) - tile_key).to(tl.int32)
    last = (partial_start(rows + 1, num_rows, num_keys) - tile_key).to(tl.int32)
    return (columns[None, :] >= first[:, None]) & (columns[None, :] < last[:, None])


@triton.jit
def partial_rows(x, image, first_head, lanes, row, last_row, GROUP: tl.constexpr, ROWS: tl.constexpr):
    # a tile's partial rows [row, last_row) of every head of the group, head by head, ROWS lanes a head
    rows = tl.cast(row + lanes % ROWS, tl.int64)
    member = tl.cast(lanes // ROWS, tl.int64)
    valid = (rows < last_row) & (member < GROUP)
    return Rows(head_pointer(x, image, first_head), (member * x.head + rows * x.row) * x.unit, valid, x.dim)


@triton.jit
def global_rows(x, image, first_head, lanes, num_partial, num_global, GROUP: tl.constexpr):
    # global rows of a group, head by head
    member = tl.cast(lanes // num_global, tl.int64)
    row = tl.cast(num_partial + lanes % num_global, tl.int64)
    offsets = (member * x.head + row * x.row) * x.unit
    return Rows(head_pointer(x, image, first_head), offsets, lanes < GROUP * num_global, x.dim)


@triton.jit
def chunk_rows(pointer, program, lanes, num_global, columns, GROUP: tl.constexpr):
    # global rows of a group in a chunk's buffer [slot, kv head, global row of the group, columns]
    offsets = (tl.cast(program, tl.int64) * GROUP * num_global + lanes) * columns
    return Rows(pointer, offsets, lanes < GROUP * num_global, 1)
