"""Chunks on the device: which rows of which image a slot holds, and how what the chunks found is put together."""

from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl

from pargo_kernels.triton_path.chunks import (
    CHUNK_KEYS,
    chunk_rows,
    find_chunk,
    packed_slots,
    plan_chunks,
    slice_mask,
    tile_bounds,
)
from pargo_kernels.triton_path.held import run
from pargo_kernels.triton_path.launch import Launch
from pargo_kernels.triton_path.launch_table import architecture
from pargo_kernels.triton_path.merge_chunks import merge_chunk_gradients, merge_chunk_outputs
from pargo_kernels.triton_path.partial_global import MAX_INT32_ROWS, Problem
from pargo_kernels.triton_path.tiles import strided, vector

LN2 = 0.6931471805599453


@triton.jit
def write_chunk(
    found, cu_seqlens, num_images, num_partial, num_keys, rows, chunks, HAS_PARTIAL: tl.constexpr, PACKED: tl.constexpr
):
    slot = tl.program_id(0)
    image, begin, length, num_rows, first, last = find_chunk(
        slot, cu_seqlens, num_images, num_partial, num_keys, rows, chunks, HAS_PARTIAL, PACKED
    )
    tl.store(found + slot * 6 + 0, image)
    tl.store(found + slot * 6 + 1, begin)
    tl.store(found + slot * 6 + 2, length)
    tl.store(found + slot * 6 + 3, num_rows)
    tl.store(found + slot * 6 + 4, first)
    tl.store(found + slot * 6 + 5, last)


@triton.jit
def write_tile(found, masks, tile, first, last, rows_per_tile, num_rows, num_keys, BLOCK_N: tl.constexpr, WIDE: tl.constexpr):
    row, last_row, key, last_key = tile_bounds(tile, first, last, rows_per_tile, 1, num_rows, num_keys, BLOCK_N, False, WIDE)
    tl.store(found + 0, row)
    tl.store(found + 1, last_row)
    tl.store(found + 2, key)
    tl.store(found + 3, last_key)
    rows, columns = row + tl.arange(0, 4), tl.arange(0, BLOCK_N)
    mask = slice_mask(rows, columns, key, num_rows, num_keys, WIDE)
    tl.store(masks + tl.arange(0, 4)[:, None] * BLOCK_N + columns[None, :], mask.to(tl.int32))


@triton.jit
def number_rows(buffer, num_global, columns, GROUP: tl.constexpr, LANES: tl.constexpr):
    lanes = tl.arange(0, LANES)
    rows = chunk_rows(buffer, tl.program_id(0), lanes, num_global, columns, GROUP)
    tl.store(rows.pointer + rows.offsets, tl.program_id(0) * LANES + lanes, rows.valid)


def chunks_found(device, num_partial, num_keys, offsets=None, num_images=1):
    """(image, first key, keys, rows of the image, first row, last row) of every slot that has rows."""
    if offsets is None:
        _, rows, chunks = plan_chunks(num_partial, num_keys)
        slots, sizes = num_images * chunks, (num_images, num_partial, num_keys, rows, chunks)
    else:
        num_images, offsets = len(offsets) - 1, torch.tensor(offsets, dtype=torch.int32, device=device)
        slots, sizes = packed_slots(num_images, num_keys), (num_images, num_partial, num_keys, 0, 0)
    found = torch.zeros(slots, 6, dtype=torch.int32, device=device)
    constants = {"HAS_PARTIAL": num_partial > 0, "PACKED": offsets is not None}
    run([Launch(write_chunk, (slots,), (found, offsets, *sizes), constants, 1, 1)], found.device)
    return [tuple(row) for row in found.tolist() if row[4] < row[5]]


def chunks_alone(num_partial, num_keys, image=0, begin=0):
    """What the host plans for an image alone."""
    num_rows, rows, chunks = plan_chunks(num_partial, num_keys)
    cuts = [(first, min(first + rows, num_rows)) for first in range(0, num_rows, rows)]
    assert len(cuts) == chunks
    return [(image, begin, num_keys, num_rows, first, last) for first, last in cuts]


@pytest.mark.parametrize(
    ("num_partial", "num_keys"), ((288, 576), (3, 1800), (1, 5000), (5, 2049), (1500, 1500), (0, 1100), (0, 1), (700, 1300))
)
def test_chunks_are_whole_rows_of_about_so_many_keys(kernels, num_partial, num_keys):
    found = chunks_found(kernels.device, num_partial, num_keys, num_images=2)
    assert found == [*chunks_alone(num_partial, num_keys), *chunks_alone(num_partial, num_keys, image=1)]
    longest = -(-num_keys // found[0][3])
    sizes = [(last - first) * longest for *_, first, last in found]
    assert max(sizes) <= max(CHUNK_KEYS.value, longest)
    # no row is cut, so a chunk is short of its size by less than a row; the rows are then shared out evenly
    assert len(found) == 2 or min(a + b for a, b in pairwise(sizes[: len(found) // 2])) > CHUNK_KEYS.value - longest


@pytest.mark.parametrize(
    ("num_partial", "lengths"),
    (
        (3, (1800,)),
        (3, (1800, 3, 1026, 1024)),
        (20, (1100, 21, 700, 20, 2500)),
        (1, (9000, 1, 1)),
        (0, (1, 1100, 17, 4000)),
        (600, (601, 1199, 600, 1023)),
    ),
    ids=str,
)
def test_a_packed_image_has_the_chunks_that_it_has_alone(kernels, num_partial, lengths):
    offsets = torch.tensor([0, *lengths]).cumsum(0).tolist()
    alone = [
        chunk
        for image, (begin, end) in enumerate(pairwise(offsets))
        for chunk in chunks_alone(num_partial, end - begin, image, begin)
    ]
    assert chunks_found(kernels.device, num_partial, offsets[-1], offsets) == alone


@pytest.mark.parametrize(
    "offsets",
    ((0, 0, 7), (0, 7, 7), (0, 3, 3, 7), (0, 1, 2, 3, 4, 7), (-5, 3, 9000, 7), (6, 2, 5, 1), (0, 0, 0, 0, 0, 7)),
    ids=str,
)
@pytest.mark.parametrize("num_partial", (2600, 8, 0))
# an integer divided by 0 is 0 in the interpreter, and anything on a GPU
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_row_of_an_unchecked_image_is_in_one_chunk(kernels, num_partial, offsets):
    found = chunks_found(kernels.device, num_partial, 7, offsets)
    for image, (begin, end) in enumerate(pairwise(offsets)):
        first_key = min(max(begin, 0), 7)
        length = min(max(end, first_key), 7) - first_key
        num_rows = num_partial or 1
        mine = [chunk for chunk in found if chunk[0] == image]
        assert {chunk[1:4] for chunk in mine} == {(first_key, length, num_rows)}
        assert [row for *_, first, last in mine for row in range(first, last)] == list(range(num_rows))


@pytest.mark.parametrize(("num_rows", "num_keys"), ((7, 19), (50_000, 99_999)))
def test_a_tile_holds_the_slices_of_its_rows_however_many_there_are(kernels, num_rows, num_keys):
    # the third tile of four rows of the last chunk: squares of so many rows exceed 32 bits
    first, row = num_rows - 10 if num_rows > 10 else 0, num_rows - 2 if num_rows > 10 else 4
    found = torch.zeros(4, dtype=torch.int32, device=kernels.device)
    masks = torch.zeros(4, 16, dtype=torch.int32, device=kernels.device)
    sizes = (2 if num_rows > 10 else 1, first, num_rows, 4, num_rows, num_keys)
    constants = {"BLOCK_N": 16, "WIDE": num_rows > MAX_INT32_ROWS}
    run([Launch(write_tile, (1,), (found, masks, *sizes), constants, 1, 1)], found.device)
    starts = [i * num_keys // num_rows for i in range(num_rows + 1)]
    assert found.tolist() == [row, num_rows, starts[row], num_keys]
    for lane, mine in enumerate(range(row, num_rows)):
        seen = [starts[row] + column for column in masks[lane].nonzero().flatten().tolist()]
        assert seen == list(range(starts[mine], starts[mine + 1]))


def test_what_the_global_rows_get_of_a_chunk_has_rows_of_its_own(kernels):
    """Two heads with three global rows each, seven columns a row, of four programs."""
    buffer = torch.full((4, 6, 7), -1, dtype=torch.int32, device=kernels.device)
    run([Launch(number_rows, (4,), (buffer, 3, 7), {"GROUP": 2, "LANES": 8}, 1, 1)], buffer.device)
    assert buffer[..., 0].tolist() == [[8 * program + row for row in range(6)] for program in range(4)]
    assert (buffer[..., 1:] == -1).all()


@pytest.mark.parametrize(
    ("weights", "packed"),
    (("rising", False), ("rising", True), ("falling", False), ("some blind", False), ("all blind", False)),
)
def test_more_chunks_than_are_merged_at_a_time(kernels, weights, packed):
    torch.manual_seed(0)
    device, arch = kernels.device, architecture(torch.device(kernels.device))
    # a row of 600 keys is a chunk; two heads share a kv head and have two global rows each
    num_partial, num_global, num_keys, dim, images = 35, 2, 35 * 600, 20, 2
    offsets = torch.tensor([0, num_keys, 2 * num_keys], dtype=torch.int32, device=device) if packed else None
    total_keys = 2 * num_keys if packed else num_keys
    query, key_shape = torch.zeros(images, 4, num_partial + num_global, dim, device=device), (images, 2, total_keys, dim)
    problem = Problem.of(query.shape, torch.Size(key_shape), num_partial, packed)
    chunk_out, chunk_grad = (problem.chunk_buffer(query.device, dim).normal_() for _ in range(2))
    chunk_lse = problem.chunk_buffer(query.device).normal_()
    # in base 2, further apart than fp32's exponential reaches
    slot = torch.arange(problem.slots, device=device)[:, None, None]
    chunk_lse += slot * {"rising": 20.0, "falling": -20.0}.get(weights, 0.0)
    if weights == "some blind":
        chunk_lse[slot.flatten() % 3 < 2] = float("-inf")
    elif weights == "all blind":
        chunk_lse.fill_(float("-inf"))
        chunk_out.zero_()
    first = chunks_slots(problem, offsets, num_keys)
    out, grad, lse = torch.full_like(query, 7.0), torch.full_like(query, 7.0), torch.full(query.shape[:3], 7.0, device=device)
    (o,), (dq,), s = strided(out), strided(grad), vector(lse)
    merges = (
        problem.merge(merge_chunk_outputs, query.dtype, arch).launch(chunk_out, chunk_lse, o, s, offsets),
        problem.merge(merge_chunk_gradients, query.dtype, arch).launch(chunk_grad, dq, offsets),
    )
    assert all(merge.constants["BLOCK_C"] < num_partial for merge in merges)
    run(merges, query.device)
    for image in range(images):
        mine = slice(first[image], first[image] + num_partial)
        # [chunk, kv head, head of the group, global row, ...] → [chunk, head, global row, ...]
        parts, grads = (t[mine].double().unflatten(2, (2, num_global)).flatten(1, 2) for t in (chunk_out, chunk_grad))
        sums = (chunk_lse[mine].double() * LN2).unflatten(2, (2, num_global)).flatten(1, 2)
        expected = (sums.softmax(0).nan_to_num(0.0).unsqueeze(-1) * parts).sum(0)
        torch.testing.assert_close(out[image, :, num_partial:].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lse[image, :, num_partial:].double(), sums.logsumexp(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(grad[image, :, num_partial:].double(), grads.sum(0), rtol=1e-5, atol=1e-5)
    # the partial rows are not a merge's to write
    assert all((t[:, :, :num_partial] == 7.0).all() for t in (out, grad, lse))


def chunks_slots(problem, offsets, num_keys):
    """First slot of each image."""
    if offsets is None:
        return [image * problem.chunks_per_image for image in range(problem.num_images)]
    return [image * num_keys * 4 // CHUNK_KEYS.value + image for image in range(problem.num_images)]
