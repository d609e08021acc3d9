"""The cascade's band on the device, against the layouts that it follows from."""

import pytest
import torch
import triton
import triton.language as tl

from pargo_kernels import intervals
from pargo_kernels.triton_path.band import rows_of_key, tile_phases, token_block, window_of_row
from pargo_kernels.triton_path.held import run
from pargo_kernels.triton_path.launch import Launch


@triton.jit
def write_windows(found, num_partial, window, CLAMP: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.arange(0, BLOCK)
    first_key, last_key = window_of_row(token, num_partial, window, CLAMP)
    first_row, last_row = rows_of_key(token, num_partial, window, CLAMP)
    tl.store(found + token * 4 + 0, first_key, mask=token < num_partial)
    tl.store(found + token * 4 + 1, last_key, mask=token < num_partial)
    tl.store(found + token * 4 + 2, first_row, mask=token < num_partial)
    tl.store(found + token * 4 + 3, last_row, mask=token < num_partial)


@triton.jit
def write_blocks(found, partial_blocks, num_partial, num_tokens, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    first, last, partial = token_block(block, partial_blocks, num_partial, num_tokens, BLOCK)
    tl.store(found + block * 3 + 0, first)
    tl.store(found + block * 3 + 1, last)
    tl.store(found + block * 3 + 2, partial.to(tl.int32))


@triton.jit
def write_phases(found, first, last, full_first, full_last, BLOCK: tl.constexpr):
    inside, outside = tile_phases(first, last, full_first, full_last, BLOCK)
    tl.store(found + 0, inside)
    tl.store(found + 1, outside)


def launched(kernel, device, shape, *sizes, grid=1, **constants):
    found = torch.full(shape, -7, dtype=torch.int32, device=device)
    run([Launch(kernel, (grid,), (found, *sizes), constants, 1, 1)], found.device)
    return found.cpu().long()


@pytest.mark.parametrize("edge", intervals.EDGES)
@pytest.mark.parametrize(("num_partial", "window"), ((1, 1), (9, 1), (9, 2), (9, 4), (9, 5), (9, 8), (9, 9), (30, 13)))
def test_windows_are_those_of_the_layout(kernels, num_partial, window, edge):
    clamp = edge == "clamp"
    found = launched(write_windows, kernels.device, (num_partial, 4), num_partial, window, CLAMP=clamp, BLOCK=32)
    assert torch.equal(found[:, :2], intervals.window_bounds(num_partial, window, edge))
    assert torch.equal(found[:, 2:], intervals.window_rows(num_partial, window, edge))


@pytest.mark.parametrize(("num_partial", "num_tokens"), ((20, 20), (16, 21), (17, 70), (0, 10), (1, 2)))
def test_blocks_hold_every_token_once_and_none_of_both_kinds(kernels, num_partial, num_tokens):
    sizes = (-(-num_partial // 16), num_partial, num_tokens)
    blocks = sizes[0] - (num_partial - num_tokens) // 16
    found = launched(write_blocks, kernels.device, (blocks, 3), *sizes, grid=blocks, BLOCK=16).tolist()
    assert [token for first, last, _ in found for token in range(first, last)] == list(range(num_tokens))
    assert all(last <= num_partial if partial else first >= num_partial for first, last, partial in found)


PHASES = {
    "every cell is visible": (0, 64, 0, 64),
    "a wide window": (3, 67, 10, 60),
    "whole from the first on": (3, 67, 3, 60),
    "one whole tile": (5, 40, 5, 21),
    "a cell less": (5, 40, 5, 20),
    "rows that share no key": (5, 40, 30, 20),
    "whole up to the last tile": (0, 70, 17, 68),
    "less than a tile": (0, 9, 0, 9),
    "shared keys at the end alone": (0, 20, 18, 19),
}


@pytest.mark.parametrize("name", PHASES)
def test_tiles_between_the_phases_are_those_that_need_no_mask(kernels, name):
    first, last, full_first, full_last = PHASES[name]
    inside, outside = launched(write_phases, kernels.device, (2,), *PHASES[name], BLOCK=16).tolist()
    tiles = range(first, last, 16)
    whole = [tile for tile in tiles if full_first <= tile and tile + 16 <= full_last]
    assert [tile for tile in tiles if inside <= tile < outside] == whole
    # the tiles before, those between and those after are the tiles
    assert [*range(first, inside, 16), *range(inside, outside, 16), *range(outside, last, 16)] == list(tiles)
