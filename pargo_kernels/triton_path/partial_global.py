"""Partial-global attention on the Triton kernels: planning the launches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pargo_kernels.registration import lse_dtype
from pargo_kernels.triton_path.chunks import NOMINAL_ROW, packed_slots, plan_chunks
from pargo_kernels.triton_path.held import Calls
from pargo_kernels.triton_path.launch import Launch, Parameters, Unused, block_dim, dot_precision, next_power_of_2, table_dim
from pargo_kernels.triton_path.launch_table import NO_LIMIT, SliceRow, architecture, entry_of, remembered, slice_rows
from pargo_kernels.triton_path.merge_chunks import merge_chunk_gradients, merge_chunk_outputs
from pargo_kernels.triton_path.partial_global_backward import partial_global_backward
from pargo_kernels.triton_path.partial_global_forward import partial_global_forward
from pargo_kernels.triton_path.tiles import strided, vector

# above this number of rows their squares exceed int32 (the start of a slice is computed from one)
MAX_INT32_ROWS = 46340


class Problem(NamedTuple):
    """The sizes of one call."""

    num_images: int
    num_kv_heads: int
    group: int
    num_partial: int
    num_global: int
    num_keys: int
    head_dim: int
    packed: bool
    rows_per_chunk: int
    chunks_per_image: int
    wide: bool
    # keys of the longest slice; None where it differs by image
    longest: int | None

    @classmethod
    def of(cls, query_shape: torch.Size, key_shape: torch.Size, num_partial: int, packed: bool) -> Problem:
        """Read the sizes off the shapes."""
        num_images, num_heads, num_query, head_dim = query_shape
        num_kv_heads, num_keys = key_shape[1], key_shape[2]
        if not packed:
            num_rows, rows_per_chunk, chunks = plan_chunks(num_partial, num_keys)
            longest = -(-num_keys // num_rows)
        else:
            num_rows = num_partial or -(-num_keys // NOMINAL_ROW.value)
            rows_per_chunk, chunks, longest = 0, 0, None
        return cls(
            num_images=num_images,
            num_kv_heads=num_kv_heads,
            group=num_heads // num_kv_heads,
            num_partial=num_partial,
            num_global=num_query - num_partial,
            num_keys=num_keys,
            head_dim=head_dim,
            packed=packed,
            rows_per_chunk=rows_per_chunk,
            chunks_per_image=chunks,
            wide=num_rows > MAX_INT32_ROWS,
            longest=longest,
        )

    @property
    def slots(self) -> int:
        """Chunk slots of the batch."""
        return packed_slots(self.num_images, self.num_keys) if self.packed else self.num_images * self.chunks_per_image

    @property
    def direct(self) -> bool:
        """Global rows complete in one chunk: nothing to merge."""
        return self.chunks_per_image == 1

    @property
    def global_lanes(self) -> int:
        """Global rows of all heads of a group."""
        return self.group * self.num_global

    @property
    def merges(self) -> bool:
        """Global rows complete in several chunks."""
        return self.num_global > 0 and not self.direct

    def chunk_buffer(self, device: torch.device, *columns: int) -> torch.Tensor | Unused:
        """fp32 buffer ``[slot, kv head, global row of the group, *columns]``, where there is something to merge."""
        if not self.merges:
            return Unused(torch.float32)
        return torch.empty(self.slots, self.num_kv_heads, self.global_lanes, *columns, device=device)

    def sizes(self) -> tuple[int, ...]:
        """Size arguments of the main kernels, up to the slice range."""
        return (
            self.num_kv_heads,
            self.num_images,
            self.num_partial,
            self.num_global,
            self.num_keys,
            self.rows_per_chunk,
            self.chunks_per_image,
        )

    def rows(self, kernel: str, dtype: torch.dtype, arch: str, dim: int | None = None) -> tuple[SliceRow, ...]:
        """Rows of the launch table: one, or where the slices differ by image one for every length."""
        dim = dim or block_dim(self.head_dim)
        if self.num_partial == 0:
            (row,) = slice_rows(kernel, arch, dtype, dim, NOMINAL_ROW.value)
            return (row._replace(slice_from=0, slice_to=NO_LIMIT),)
        return slice_rows(kernel, arch, dtype, dim, self.longest)

    def constants(self, row: SliceRow, dtype: torch.dtype) -> dict:
        """Compile-time parameters of the main kernels for one row of the launch table."""
        members = next_power_of_2(self.group)
        lanes = max(row.block_r, members)
        block_g = min(max(16, next_power_of_2(self.global_lanes)), row.block_g)
        return {
            "GROUP": self.group,
            "HEAD_DIM": self.head_dim,
            "BLOCK_D": block_dim(self.head_dim),
            "BLOCK_N": row.block_n,
            "BLOCK_R": lanes,
            "ROWS": 1 if row.long else lanes // members,
            "BLOCK_G": block_g,
            "HAS_PARTIAL": self.num_partial > 0,
            "HAS_GLOBAL": self.num_global > 0,
            "GLOBAL_BLOCKS": max(1, -(-self.global_lanes // block_g)),
            "LONG": row.long,
            "PACKED": self.packed,
            "WIDE": self.wide,
            "PRECISION": dot_precision(dtype),
        }

    def main(self, kernel, row: SliceRow, blocks: int, constants: dict) -> Parameters:
        """A launch of a main kernel, with programs for ``blocks`` blocks of global rows."""
        grid = (self.slots * self.num_kv_heads, blocks)
        sizes = (*self.sizes(), row.slice_from, row.slice_to)
        return Parameters(kernel, grid, sizes, constants, row.num_warps, row.num_stages)

    def merge(self, kernel, dtype: torch.dtype, arch: str) -> Parameters:
        """A merge of the global rows' chunks, one program a row."""
        entry = entry_of(kernel.__name__, arch, dtype, block_dim(self.head_dim))
        sizes = (
            self.num_kv_heads * self.group,
            self.num_partial,
            self.num_global,
            self.num_keys,
            self.rows_per_chunk,
            self.chunks_per_image,
        )
        constants = {
            "GROUP": self.group,
            "HEAD_DIM": self.head_dim,
            "BLOCK_D": block_dim(self.head_dim),
            "BLOCK_C": entry.block_n,
            "HAS_PARTIAL": self.num_partial > 0,
            "PACKED": self.packed,
        }
        grid = (self.num_images * self.num_kv_heads * self.global_lanes,)
        return Parameters(kernel, grid, sizes, constants, entry.num_warps, entry.num_stages)


def forward(query, key, value, cu_seqlens_k, num_partial, scale):
    """Returns out like query and lse fp32 ``[B, H, n_q]``."""
    out = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=lse_dtype(query.dtype))
    _forward(query, key, (query, key, value, cu_seqlens_k), (out, lse), (num_partial,), scale)
    return out, lse


def backward(grad_out, grad_lse, query, key, value, cu_seqlens_k, out, lse, num_partial, scale):
    """Returns the gradients of query, key and value. ``grad_lse`` may be None."""
    grads = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
    inputs = (grad_out, grad_lse, query, key, value, cu_seqlens_k, out, lse)
    _backward(query, key, inputs, grads, (num_partial,), scale)
    return grads


@remembered
def plan_forward(query_shape, key_shape, num_partial, packed, dtype, arch, dim) -> tuple[Problem, tuple[Parameters, ...]]:
    """The main launches of a forward: one for each launch-table row that the slices may need."""
    problem = Problem.of(query_shape, key_shape, num_partial, packed)
    launches = []
    for row in problem.rows("partial_global_forward", dtype, arch, dim):
        constants = problem.constants(row, dtype)
        launches.append(problem.main(partial_global_forward, row, constants["GLOBAL_BLOCKS"], constants))
    return problem, tuple(launches)


@remembered
def plan_backward(
    query_shape, key_shape, num_partial, packed, has_grad_lse, dtype, arch, dim
) -> tuple[Problem, tuple[Parameters, ...]]:
    """The main launches of a backward: one or two (see the kernel) for each row that the slices may need."""
    problem = Problem.of(query_shape, key_shape, num_partial, packed)
    launches = []
    for row in problem.rows("partial_global_backward", dtype, arch, dim):
        constants = problem.constants(row, dtype) | {"HAS_GRAD_LSE": has_grad_lse}
        blocks = constants["GLOBAL_BLOCKS"]
        passes = [(True, problem.num_global > 0)] if blocks == 1 else [(True, False), (False, True)]
        for key_grads, global_query_grads in passes:
            work = constants | {"KEY_GRADS": key_grads, "GLOBAL_QUERY_GRADS": global_query_grads}
            launches.append(problem.main(partial_global_backward, row, blocks if global_query_grads else 1, work))
    return problem, tuple(launches)


def forward_launches(query, key, value, cu_seqlens, out, lse, num_partial, scale, arch=None) -> Iterator[Launch]:
    """The launches of a forward, the merge included.

    ``arch`` names the table's architecture; the query's device by default. Tensors may be on "meta".
    """
    arch = arch or architecture(query.device)
    q, o = strided(query, out)
    k, v = strided(key, value)
    s = vector(lse)
    dim = table_dim(query.shape[3], (q, k))
    problem, launches = plan_forward(query.shape, key.shape, num_partial, cu_seqlens is not None, query.dtype, arch, dim)
    chunk_out = problem.chunk_buffer(query.device, problem.head_dim)
    chunk_lse = problem.chunk_buffer(query.device)
    for parameters in launches:
        yield parameters.launch(q, k, v, o, s, chunk_out, chunk_lse, cu_seqlens, scale)
    if problem.merges:
        yield problem.merge(merge_chunk_outputs, query.dtype, arch).launch(chunk_out, chunk_lse, o, s, cu_seqlens)


def backward_launches(
    grad_out,
    grad_lse,
    query,
    key,
    value,
    cu_seqlens,
    out,
    lse,
    grad_query,
    grad_key,
    grad_value,
    num_partial,
    scale,
    arch=None,
) -> Iterator[Launch]:
    """The launches of a backward, the merge included."""
    arch = arch or architecture(query.device)
    (do,) = strided(grad_out)
    q, o, dq = strided(query, out, grad_query)
    k, v, dk, dv = strided(key, value, grad_key, grad_value)
    dlse = None if grad_lse is None else vector(grad_lse)
    sizes = (query.shape, key.shape, num_partial, cu_seqlens is not None, grad_lse is not None)
    problem, launches = plan_backward(*sizes, query.dtype, arch, table_dim(query.shape[3], (do, q, k)))
    chunk_grad = problem.chunk_buffer(query.device, problem.head_dim)
    tensors = (do, dlse, q, k, v, o, vector(lse), dq, dk, dv)
    for parameters in launches:
        yield parameters.launch(*tensors, chunk_grad, cu_seqlens, scale)
    if problem.merges:
        yield problem.merge(merge_chunk_gradients, query.dtype, arch).launch(chunk_grad, dq, cu_seqlens)


_forward, _backward = Calls(forward_launches), Calls(backward_launches)
