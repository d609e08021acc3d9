"""Launch parameters: a checked-in table, no tuning at run time."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Launch parameters of a kernel for slices of ``slice_from ... slice_to`` keys."""

    slice_from: int
    slice_to: int
    long: bool
    block_n: int
    block_r: int
    block_g: int
    num_warps: int
    num_stages: int


def rows(kernel, query, longest):
    block_n = 32
    table = [
        Row(0, 1, False, block_n, 32, 32, 4, 2),
        Row(2, block_n, False, block_n, 16, 32, 4, 2),
        Row(block_n + 1, 2**31 - 1, True, block_n, 16, 32, 4, 2),
    ]
    if longest is None:
        return table
    return [r for r in table if r.slice_from <= longest <= r.slice_to]


class BandRow(NamedTuple):
    """Launch parameters of a kernel of cascaded attention."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def band_row(kernel, query):
    return BandRow(32, 16, 4, 2)
