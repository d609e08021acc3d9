"""Calls that reach every line of the launch table, on tensors without storage: what aot compiles and tune measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pargo_kernels.triton_path import cascaded, partial_global
from pargo_kernels.triton_path.launch import Launch
from pargo_kernels.triton_path.launch_table import Entry

# a plain call, and one that turns on what costs registers
PLAIN = "plain"
FULL = "packed, grouped, most global rows, lse gradient"
VARIANTS = (PLAIN, FULL)


class Case(NamedTuple):
    """One launch of one line of the table."""

    entry: Entry
    dtype: torch.dtype
    variant: str
    launch: Launch


def cases(entry: Entry, device: str = "meta") -> Iterator[Case]:
    """The launches that an entry serves: every dtype of its width, plain and full."""
    for dtype in (torch.float32,) if entry.bits == 32 else (torch.bfloat16, torch.float16):
        for variant in VARIANTS:
            for launch in _launches(entry, dtype, variant, device):
                yield Case(entry, dtype, variant, launch)


def _launches(entry: Entry, dtype: torch.dtype, variant: str, device: str) -> Iterator[Launch]:
    launches = _cascaded if entry.kernel.startswith("cascaded") else _partial_global
    for launch in launches(entry, dtype, variant, device):
        if launch.kernel.__name__ == entry.kernel:
            yield launch


def _partial_global(entry: Entry, dtype: torch.dtype, variant: str, device: str) -> Iterator[Launch]:
    full, merge = variant == FULL, entry.kernel.startswith("merge")
    slice_length = max(2 * entry.block_n, entry.slice_from) if entry.long else entry.slice_from
    num_partial = max(1, 8192 // slice_length)
    num_keys = num_partial * slice_length
    group, num_global = (2, 16 if merge else entry.block // 2) if full else (1, 16)
    query = torch.empty(2, 8, num_partial + num_global, entry.block_dim, dtype=dtype, device=device)
    key = torch.empty(1 if full else 2, 8 // group, num_keys * (2 if full else 1), entry.block_dim, dtype=dtype, device=device)
    cu_seqlens = torch.tensor([0, num_keys, 2 * num_keys], dtype=torch.int32, device=device) if full else None
    lse = torch.empty(query.shape[:3], device=device)
    like = torch.empty_like
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


def _cascaded(entry: Entry, dtype: torch.dtype, variant: str, device: str) -> Iterator[Launch]:
    full = variant == FULL
    query = torch.empty(2, 8, 1024, entry.block_dim, dtype=dtype, device=device)
    key = torch.empty(2, 4 if full else 8, 1024, entry.block_dim, dtype=dtype, device=device)
    lse = torch.empty(query.shape[:3], device=device)
    like = torch.empty_like
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
