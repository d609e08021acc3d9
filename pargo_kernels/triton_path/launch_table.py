"""Launch parameters: a small checked-in table, looked up by architecture, dtype, head dimension and slice length.

Nothing is tuned at run time, so a new length never recompiles and all ranks run the same kernels. ``python -m
pargo_kernels.tune`` writes the table.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

TABLE = Path(__file__).with_name("launch_table.json")
NO_LIMIT = 2**31 - 1


class Entry(NamedTuple):
    """One line of the table: launch parameters of a kernel on an architecture.

    ``bits`` is 16 for fp16 and bf16, 32 for fp32; ``block_dim`` the largest padded head dimension it is for.
    ``slice_from`` is the shortest slice it is for, up to the next line's, and ``long`` marks the tiles that hold a part of
    one row (partial-global kernels; 1 and False elsewhere). ``block_n`` is the keys of a tile (chunks, for the merges) and
    ``block`` its other side: the most global rows (partial-global) or the query rows (cascaded).
    """

    kernel: str
    arch: str
    bits: int
    block_dim: int
    slice_from: int
    long: bool
    block_n: int
    block: int
    num_warps: int
    num_stages: int


class SliceRow(NamedTuple):
    """Launch parameters of a partial-global kernel for slices of ``slice_from ... slice_to`` keys."""

    slice_from: int
    slice_to: int
    long: bool
    block_n: int
    block_r: int
    block_g: int
    num_warps: int
    num_stages: int


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All lines of the table."""
    return _override or tuple(Entry(*line) for line in json.loads(TABLE.read_text()))


def slice_rows(kernel: str, arch: str, dtype: torch.dtype, block_dim: int, longest: int | None) -> tuple[SliceRow, ...]:
    """Rows for slices of ``longest`` keys (exactly one), or for any length where it is None."""
    rows = _slice_rows(kernel, arch, _bits(dtype), block_dim)
    if longest is None:
        return rows
    return tuple(row for row in rows if row.slice_from <= longest <= row.slice_to)


def entry_of(kernel: str, arch: str, dtype: torch.dtype, block_dim: int) -> Entry:
    """The line of a kernel that has one for all slices."""
    (entry,) = _find(kernel, arch, _bits(dtype), block_dim)
    return entry


@functools.cache
def architecture(device: torch.device) -> str:
    """The table's architecture for a device. What is newer or smaller than the table gets the frugal lines of sm_80."""
    if device.type != "cuda":
        return "sm_90"
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


@contextlib.contextmanager
def using(lines: tuple[Entry, ...]) -> Iterator[None]:
    """Look launch parameters up in ``lines`` instead of the checked-in table, for tuning."""
    global _override
    before, _override = _override, lines
    forget()
    try:
        yield
    finally:
        _override = before
        forget()


def write(lines: list[Entry]) -> None:
    """Write the table, one line of JSON an entry, in a fixed order."""
    body = ",\n".join(json.dumps(line) for line in sorted(lines))
    TABLE.write_text(f"[\n{body}\n]\n")


_override: tuple[Entry, ...] = ()
_forgetting: list[Callable[[], None]] = []


def forgotten_with_the_table(forget: Callable[[], None]) -> None:
    """Call ``forget`` when the table changes: it clears something that follows from it."""
    _forgetting.append(forget)


def remembered(function):
    """Cache a function of hashable arguments that looks launch parameters up; forgotten when the table changes.

    Sizes come from users: the least recently used are dropped.
    """
    cached = functools.lru_cache(maxsize=4096)(function)
    forgotten_with_the_table(cached.cache_clear)
    return functools.wraps(function)(cached)


def forget() -> None:
    """Look everything up again, and plan it again."""
    for forget in (entries.cache_clear, _slice_rows.cache_clear, _find.cache_clear, *_forgetting):
        forget()


@functools.cache
def _slice_rows(kernel: str, arch: str, bits: int, block_dim: int) -> tuple[SliceRow, ...]:
    lines = _find(kernel, arch, bits, block_dim)
    limits = [line.slice_from - 1 for line in lines[1:]] + [NO_LIMIT]
    return tuple(
        SliceRow(
            # a packed image with fewer keys than rows has empty slices: they belong to the shortest
            slice_from=0 if line.slice_from == 1 else line.slice_from,
            slice_to=limit,
            long=line.long,
            block_n=line.block_n,
            block_r=max(16, line.block_n // line.slice_from),
            block_g=line.block,
            num_warps=line.num_warps,
            num_stages=line.num_stages,
        )
        for line, limit in zip(lines, limits, strict=True)
    )


@functools.cache
def _find(kernel: str, arch: str, bits: int, block_dim: int) -> list[Entry]:
    lines = [e for e in entries() if (e.kernel, e.arch, e.bits) == (kernel, arch, bits) and e.block_dim >= block_dim]
    smallest = min(line.block_dim for line in lines)
    return sorted((line for line in lines if line.block_dim == smallest), key=lambda line: line.slice_from)


def _bits(dtype: torch.dtype) -> int:
    return dtype.itemsize * 8
