"""Bytes and floating-point operations of this package's Triton kernels, counted from their tile schedule.

The same host code that plans the launches says how an image is cut into chunks and tiles; what a tile reads, writes and
multiplies is counted here in closed form, masked cells included. For 16-bit dtypes: exact fp32 products read their operands
again and again from the caches, so that a count of loads would say nothing about memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.counts.traffic import Work
from bench.problems.attention import PartialGlobal, Problem
from pargo_kernels.intervals import window_bounds, window_rows
from pargo_kernels.triton_path.chunks import plan_chunks
from pargo_kernels.triton_path.launch import block_dim
from pargo_kernels.triton_path.launch_table import Entry, SliceRow, entry_of
from pargo_kernels.triton_path.partial_global import Problem as PartialGlobalPlan

FP32 = 4
# dots of one tile, each 2 * rows * keys * dim
FORWARD_DOTS = 2  # scores, output
BACKWARD_DOTS = 5  # scores, dP, dQ, dK, dV


def scheduled_work(problem: Problem, direction: str, dtype: torch.dtype, arch: str) -> Work:
    """What the kernels move and compute for ``direction`` ("forward", "backward" or "forward+backward").

    Raises:
        ValueError: for a dtype that is not 16 bits wide.
    """
    if dtype.itemsize != 2:
        raise ValueError(f"dtype={dtype} is not counted: only fp16 and bf16 read every operand once per tile.")
    shape = (problem.batch, problem.num_heads, problem.num_query, problem.head_dim)
    parts = direction.split("+")
    if isinstance(problem, PartialGlobal):
        lengths = [problem.num_keys] * problem.batch
        works = [
            partial_global_work(part, shape, problem.num_heads, lengths, problem.num_partial, dtype, arch) for part in parts
        ]
    else:
        works = [
            cascaded_work(part, shape, problem.num_heads, problem.num_partial, problem.window, problem.edge, dtype, arch)
            for part in parts
        ]
    return Work(*map(sum, zip(*works, strict=True)))


def partial_global_work(
    direction: str,
    query_shape: tuple[int, int, int, int],
    num_kv_heads: int,
    lengths: Sequence[int],
    num_partial: int,
    dtype: torch.dtype,
    arch: str,
    *,
    packed: bool = False,
    grad_lse: bool = False,
) -> Work:
    """Partial-global attention of images with ``lengths`` keys, one direction. The reads of cu_seqlens are left out."""
    images, num_keys = (1, sum(lengths)) if packed else (query_shape[0], lengths[0])
    key_shape = (images, num_kv_heads, num_keys, query_shape[3])
    plan = PartialGlobalPlan.of(torch.Size(query_shape), torch.Size(key_shape), num_partial, packed)
    moved = computed = 0
    for length in lengths:
        work = _image_forward if direction == "forward" else _image_backward
        image = work(plan, length, plan.rows(f"partial_global_{direction}", dtype, arch), dtype, grad_lse)
        moved, computed = moved + image.bytes, computed + image.flops
    return Work(num_kv_heads * moved, num_kv_heads * computed)


def _image_forward(plan: PartialGlobalPlan, length: int, rows: Sequence[SliceRow], dtype: torch.dtype, _) -> Work:
    """One kv head of one image."""
    chunks, tiles, tiles_per_row, constants = _tiles(plan, length, rows, dtype)
    vector = plan.head_dim * dtype.itemsize
    blocks, lanes, owners = constants["GLOBAL_BLOCKS"], plan.global_lanes, plan.group * plan.num_partial
    moved = blocks * 2 * length * vector + chunks * lanes * vector
    moved += owners * (tiles_per_row * vector + vector + FP32)
    moved += _merged(plan, chunks, lanes, plan.head_dim * FP32 + FP32, vector + FP32)
    return Work(moved, _dots(constants, tiles, blocks * FORWARD_DOTS, FORWARD_DOTS))


def _image_backward(plan: PartialGlobalPlan, length: int, rows: Sequence[SliceRow], dtype: torch.dtype, grad_lse: bool) -> Work:
    """One kv head of one image."""
    chunks, tiles, tiles_per_row, constants = _tiles(plan, length, rows, dtype)
    vector = plan.head_dim * dtype.itemsize
    blocks, lanes, owners = constants["GLOBAL_BLOCKS"], plan.global_lanes, plan.group * plan.num_partial
    dlse = FP32 if grad_lse else 0
    # query, dO, out and lse of a row
    operands = 3 * vector + FP32 + dlse
    # K and V in, dK and dV out
    moved = 4 * length * vector
    moved += owners * tiles_per_row * (operands if constants["LONG"] else 2 * vector + dlse) + owners * vector
    if blocks == 1:
        moved += chunks * lanes * operands
        dots = BACKWARD_DOTS
    else:
        # dK and dV in one launch, dQ of the global rows in another
        moved += tiles * lanes * operands + blocks * 2 * length * vector + chunks * lanes * operands
        dots = blocks * (4 + 3)
    moved += _merged(plan, chunks, lanes, plan.head_dim * FP32, vector)
    return Work(moved, _dots(constants, tiles, dots, BACKWARD_DOTS))


def _tiles(plan: PartialGlobalPlan, length: int, rows: Sequence[SliceRow], dtype) -> tuple[int, int, int, dict]:
    """(chunks, tiles, tiles of a row, compile-time parameters) of an image of ``length`` keys."""
    num_rows, rows_per_chunk, chunks = plan_chunks(plan.num_partial, length)
    longest = -(-length // num_rows)
    (row,) = [row for row in rows if row.slice_from <= longest <= row.slice_to]
    constants = plan.constants(row, dtype)
    tiles_per_row = -(-longest // row.block_n) if row.long else 1
    rows_per_tile = 1 if row.long else min(row.block_n // longest, constants["ROWS"])
    sizes = [min(rows_per_chunk, num_rows - first) for first in range(0, num_rows, rows_per_chunk)]
    return chunks, sum(-(-size // rows_per_tile) for size in sizes) * tiles_per_row, tiles_per_row, constants


def _merged(plan: PartialGlobalPlan, chunks: int, lanes: int, part: int, result: int) -> int:
    """Bytes of the global rows' results: written at once, or in parts that the merge reads."""
    return lanes * (result if plan.direct else 2 * chunks * part + result)


def _dots(constants: dict, tiles: int, global_dots: int, partial_dots: int) -> int:
    rows = constants["HAS_GLOBAL"] * global_dots * constants["BLOCK_G"]
    rows += constants["HAS_PARTIAL"] * partial_dots * constants["BLOCK_R"]
    return tiles * rows * 2 * constants["BLOCK_N"] * constants["BLOCK_D"]


def cascaded_work(
    direction: str,
    query_shape: tuple[int, int, int, int],
    num_kv_heads: int,
    num_partial: int,
    window: int,
    edge: str,
    dtype: torch.dtype,
    arch: str,
    *,
    grad_lse: bool = False,
) -> Work:
    """Cascaded attention, one direction."""
    batch, num_heads, num_tokens, head_dim = query_shape
    vector, dim = head_dim * dtype.itemsize, block_dim(head_dim)
    tokens = (num_partial, num_tokens, window, edge)

    def entry(kernel: str) -> Entry:
        return entry_of(kernel, arch, dtype, dim)

    if direction == "forward":
        table = entry("cascaded_forward")
        touched, tiles = visited(*tokens, table.block, table.block_n)
        moved = num_heads * (2 * touched * vector + num_tokens * (2 * vector + FP32))
        return Work(batch * moved, batch * num_heads * tiles * FORWARD_DOTS * 2 * table.block * table.block_n * dim)
    rows, keys = entry("cascaded_query_backward"), entry("cascaded_key_backward")
    touched, tiles = visited(*tokens, rows.block, rows.block_n)
    # K and V; q, dO, out, lse, dLSE in; dQ and delta out
    per_row = 4 * vector + 2 * FP32 + (FP32 if grad_lse else 0)
    moved = num_heads * (2 * touched * vector + num_tokens * per_row)
    computed = num_heads * tiles * 3 * rows.block * rows.block_n
    touched, tiles = visited(*tokens, keys.block_n, keys.block, by_key=True)
    # q, dO, lse and delta of every row that sees a key of the block; K, V, dK and dV
    moved += num_heads * touched * (2 * vector + 2 * FP32) + num_kv_heads * num_tokens * 4 * vector
    computed += num_heads * tiles * 4 * keys.block * keys.block_n
    return Work(batch * moved, batch * computed * 2 * dim)


def visited(
    num_partial: int, num_tokens: int, window: int, edge: str, block: int, tile: int, *, by_key: bool = False
) -> tuple[int, int]:
    """(tokens read, tiles) of one head: blocks of ``block`` rows walk over tiles of ``tile`` keys, or blocks of keys over
    tiles of rows."""
    bounds = torch.tensor([[num_partial, num_tokens]]).repeat(num_tokens, 1)
    if num_partial:
        bounds[:num_partial] = (window_rows if by_key else window_bounds)(num_partial, window, edge)
    touched = tiles = 0
    for begin, end in ((0, num_partial), (num_partial, num_tokens)):
        for start in range(begin, end, block):
            first, full_last = bounds[start].tolist()
            full_first, last = bounds[min(start + block, end) - 1].tolist()
            # tiles before `inside` and from `outside` on are masked, those between are not
            inside = min(first + -(-max(full_first - first, 0) // tile) * tile, last)
            outside = inside + max(full_last - inside, 0) // tile * tile
            touched += last - first
            tiles += sum(-(-max(to - fro, 0) // tile) for fro, to in ((first, inside), (inside, outside), (outside, last)))
    return touched, tiles
