"""Calls that reach every line of the launch table, on tensors without storage: what aot compiles and tune measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch

from pargo_kernels.triton_path import cascaded, partial_global
from pargo_kernels.triton_path.launch import Launch
from pargo_kernels.triton_path.launch_table import Entry
from pargo_kernels.triton_path.measured_lines import measured_lines


class Variant(NamedTuple):
    """What a call turns on."""

    name: str
    # packed images, as many global rows as a block holds, an lse gradient; for the cascade global rows and truncated windows
    full: bool = False
    group: int = 1
    # the head dimension for each padded one
    head_dims: tuple[tuple[int, int], ...] = ()
    # elements between a row's end and the next row's begin
    gap: int = 0
    # for the width of fp32 too
    fp32: bool = True

    def head_dim(self, block_dim: int) -> int:
        """Its head dimension among those that a line is for."""
        return dict(self.head_dims).get(block_dim, block_dim)


PLAIN = Variant("plain")
# what costs registers: all options, groups of heads, head dimensions that fill their tiles in part, rows that cannot be moved
# 16 bytes at a time
FULL = Variant("group 16, packed", full=True, group=16)
PADDED = Variant("padded dim, packed", full=True, group=2, head_dims=((64, 40), (128, 72), (256, 160)))
NARROW = Variant("rows of 8 bytes", gap=4, fp32=False)
# these take the lines of the next larger head dimension
NARROWER = Variant("rows of 4 bytes", gap=2, head_dims=((64, 32), (128, 64), (256, 128)), fp32=False)
VARIANTS = (PLAIN, FULL, PADDED, NARROW, NARROWER)


class Case(NamedTuple):
    """One launch of one line of the table."""

    entry: Entry
    dtype: torch.dtype
    variant: Variant
    launch: Launch

    @property
    def head_dim(self) -> int:
        """The head dimension of its tensors."""
        return self.variant.head_dim(self.entry.block_dim)

    @property
    def rows_are_wide(self) -> bool:
        """Whether whole rows of 16-bit elements are to be moved 16 bytes at a time.

        Not on gfx942, whose wavefronts of 64 lanes have less of a tile each, and not in the merges, which read fp32.
        """
        of_rows = not self.entry.kernel.startswith("merge")
        return of_rows and self.entry.bits == 16 and self.variant.gap == 0 and self.entry.arch.startswith("sm_")

    @property
    def excuse(self) -> str | None:
        """Why it may spill, or None."""
        if self.variant.gap:
            return "rows not 16 bytes apart have more addresses: pad them to a multiple of 8 elements"
        if self.variant != PLAIN and any(line == list(self.entry) for line, _ in measured_lines()):
            return "a measured line: its plain calls are faster than by any line that never spills"
        return None


def cases(entry: Entry, device: str = "meta", variants: Sequence[Variant] = VARIANTS) -> Iterator[Case]:
    """The launches that an entry serves, one of each kind: bf16 and fp32 in every variant, fp16 (as costly as bf16) plain."""
    for variant in variants:
        if entry.kernel.startswith("merge") and variant not in (PLAIN, PADDED):
            # its buffers are always plain
            continue
        dtypes = (torch.float32,) if entry.bits == 32 else (torch.bfloat16, torch.float16)[: 2 if variant == PLAIN else 1]
        for dtype in dtypes if entry.bits == 16 or variant.fp32 else ():
            for launch in _launches(entry, dtype, variant, device):
                yield Case(entry, dtype, variant, launch)


def _tensor(shape: tuple[int, ...], gap: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    *outer, dim = shape
    return torch.empty(*outer, dim + gap, dtype=dtype, device=device)[..., :dim]


def _like(tensor: torch.Tensor, gap: int) -> torch.Tensor:
    return _tensor(tuple(tensor.shape), gap if tensor.dim() == 4 else 0, tensor.dtype, str(tensor.device))


def _launches(entry: Entry, dtype: torch.dtype, variant: Variant, device: str) -> Iterator[Launch]:
    launches = _cascaded if entry.kernel.startswith("cascaded") else _partial_global
    for launch in launches(entry, dtype, variant, device):
        if launch.kernel.__name__ == entry.kernel:
            yield launch


def _partial_global(entry: Entry, dtype: torch.dtype, variant: Variant, device: str) -> Iterator[Launch]:
    full, group, merge = variant.full, variant.group, entry.kernel.startswith("merge")
    head_dim = variant.head_dim(entry.block_dim)
    slice_length = max(2 * entry.block_n, entry.slice_from) if entry.long else entry.slice_from
    num_partial = max(1, 8192 // slice_length)
    num_keys = num_partial * slice_length
    num_global = max(1, entry.block // group) if full and not merge else 16
    query = _tensor((2, 16, num_partial + num_global, head_dim), variant.gap, dtype, device)
    key = _tensor((1 if full else 2, 16 // group, num_keys * (2 if full else 1), head_dim), variant.gap, dtype, device)
    cu_seqlens = torch.tensor([0, num_keys, 2 * num_keys], dtype=torch.int32, device=device) if full else None
    lse = torch.empty(query.shape[:3], device=device)
    like = partial(_like, gap=variant.gap)
    if entry.kernel in ("partial_global_forward", "merge_chunk_outputs"):
        launches = partial_global.forward_launches(
            query, key, like(key), cu_seqlens, like(query), lse, num_partial, 0.1, entry.arch
        )
    else:
        launches = partial_global.backward_launches(
            like(query),
            like(lse) if full else None,
            query,
            key,
            like(key),
            cu_seqlens,
            like(query),
            lse,
            like(query),
            like(key),
            like(key),
            num_partial,
            0.1,
            entry.arch,
        )
    # a packed call launches once for each length of slice
    for launch in launches:
        if merge or (launch.kernel.__name__ == entry.kernel and max(1, launch.args[-2]) == entry.slice_from):
            yield launch


def _cascaded(entry: Entry, dtype: torch.dtype, variant: Variant, device: str) -> Iterator[Launch]:
    full, head_dim = variant.full, variant.head_dim(entry.block_dim)
    query = _tensor((2, 16, 1024, head_dim), variant.gap, dtype, device)
    key = _tensor((2, 16 // variant.group, 1024, head_dim), variant.gap, dtype, device)
    lse = torch.empty(query.shape[:3], device=device)
    like = partial(_like, gap=variant.gap)
    settings = (200, 1000 if full else 1024, "truncate" if full else "clamp", 0.1, entry.arch)
    if entry.kernel == "cascaded_forward":
        yield from cascaded.forward_launches(query, key, like(key), like(query), lse, *settings)
        return
    yield from cascaded.backward_launches(
        like(query),
        like(lse) if full else None,
        query,
        key,
        like(key),
        like(query),
        lse,
        like(query),
        like(key),
        like(key),
        *settings,
    )
