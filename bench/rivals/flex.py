"""FlexAttention as a rival: as it comes, with query blocks as small as its kernel takes, and on flash-attn's kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from bench.contest.provider import Place, Provider, allow_many_shapes, installed
from bench.problems.attention import Attention, Problem

BLOCK_ROWS, BLOCK_KEYS = 128, 128
# the smallest side of a matrix product that Triton compiles
SMALLEST_ROWS = 16
# flash-attn-4 computes two tiles of 128 rows at once there
BLACKWELL, BLACKWELL_ROWS = (10, 11), 256
# partial and full blocks, by row and by key, int32 each
BYTES_PER_BLOCK = 16


class Flex(Provider):
    """FlexAttention, compiled, with a compiled block mask."""

    name = "flex"
    about = "torch.compile(flex_attention) with torch.compile(create_block_mask), blocks of 128 rows"
    compiles = True
    kernel_options: ClassVar[Any] = None
    # Inductor's, for the device's kernels alone
    compile_options: ClassVar[Any] = None

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        return "flex_attention has no backward on a CPU" if backward and not place.on_cuda else None

    def block_rows(self) -> int:
        """Rows of a block of the mask."""
        return BLOCK_ROWS

    def block_keys(self) -> int:
        """Keys of a block of the mask."""
        return BLOCK_KEYS

    def build(self, problem: Problem, place: Place) -> Attention:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        allow_many_shapes()
        # uncompiled, it would build the dense grid; one compilation serves all sizes
        mask = torch.compile(create_block_mask, dynamic=True)(
            mask_mod(problem, place.device),
            None,
            None,
            problem.num_query,
            problem.num_keys,
            device=place.device,
            BLOCK_SIZE=(self.block_rows(), self.block_keys()),
        )
        kernel, compiler = (self.kernel_options, self.compile_options) if place.on_cuda else (None, None)
        # on a CPU a compilation for all sizes runs as fast as one for each
        attend = torch.compile(flex_attention, fullgraph=True, dynamic=not place.on_cuda, options=compiler)
        return lambda query, key, value: attend(query, key, value, block_mask=mask, kernel_options=kernel)

    def cells(self, problem: Problem) -> int:
        rows, keys = self.block_rows(), self.block_keys()
        return visible_blocks(problem, rows, keys) * rows * keys

    def mask_bytes(self, problem: Problem, place: Place) -> int:
        return BYTES_PER_BLOCK * -(-problem.num_query // self.block_rows()) * -(-problem.num_keys // self.block_keys())


class FlexSmallRows(Flex):
    """The fair form: 16-row blocks skip most of what 128-row blocks compute in vain."""

    name = "flex-rows16"
    about = "flex with blocks of 16 rows, its other tile sizes found by torch's autotuner"
    # not AUTO, which gives queries of fewer than 128 rows to the decoding kernel, whose tiles are others
    kernel_options: ClassVar = {"BACKEND": "TRITON", "fwd_num_stages": 3, "bwd_num_stages": 3}
    # A tile must divide a block of the mask. kernel_options can shrink the forward's, but torch compares the backward's own
    # before they apply, and only the exhaustive table has a backward of 16 rows: without it none is left.
    compile_options: ClassVar = {"max_autotune": True, "max_autotune_flex_search_space": "EXHAUSTIVE"}

    def block_rows(self) -> int:
        return SMALLEST_ROWS


class FlexSmallBlocks(Flex):
    """The fair form on a CPU, whose code has no tiles of its own: it computes the blocks of the mask as they are.

    Of 8 to 128 rows by 16 to 128 keys, 8 by 16 were the fastest for slices and narrow bands, 16 by 32 for wider ones.
    """

    def __init__(self, rows: int, keys: int):
        self.rows, self.keys = rows, keys
        self.name, self.about = f"flex-{rows}x{keys}", f"flex with blocks of {rows} rows and {keys} keys, on a CPU"

    def why_not_here(self, place: Place) -> str | None:
        return "its blocks are a CPU's; flex-rows16 is the small form on CUDA" if place.on_cuda else None

    def block_rows(self) -> int:
        return self.rows

    def block_keys(self) -> int:
        return self.keys


class FlexFlash(Flex):
    """FlexAttention on flash-attn-4's kernels."""

    name = "flex-flash"
    about = 'flex with BACKEND="FLASH", flash-attn-4\'s kernels; its backward is reproducible on Blackwell alone'
    kernel_options: ClassVar = {"BACKEND": "FLASH"}

    def why_not_here(self, place: Place) -> str | None:
        if not installed("flash_attn.cute"):
            return "flash-attn-4 is not installed: pip install --pre flash-attn-4"
        return None if place.on_cuda and place.half else "flash-attn-4 takes fp16 and bf16 on CUDA"

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        reproducible = torch.are_deterministic_algorithms_enabled()
        if backward and reproducible and torch.cuda.get_device_capability(place.device)[0] < min(BLACKWELL):
            return "with a block mask its backward is reproducible on Blackwell alone; torch asks for reproducible algorithms"
        return None

    def block_rows(self) -> int:
        blackwell = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] in BLACKWELL
        return BLACKWELL_ROWS if blackwell else BLOCK_ROWS


def mask_mod(problem: Problem, device: torch.device) -> Callable:
    """The layout as FlexAttention's ``mask_mod``.

    Two comparisons of the key with what depends on the row alone: torch 2.13 makes one 32-bit mask of an interval out of it
    (``torch/_inductor/kernel/flex/interval_mask_packing.py``; for BACKEND="FLASH" on Blackwell).
    """
    lo, hi = (bound.contiguous() for bound in problem.bounds().int().to(device).unbind(1))

    def visible(_batch, _head, row, key):
        return (lo[row] <= key) & (key < hi[row])

    return visible


@functools.cache
def visible_blocks(problem: Problem, rows: int, keys: int) -> int:
    """Blocks of ``rows`` by ``keys`` in which any row sees any key: a block mask's kernel computes these and no other."""
    begin, end = problem.bounds().unbind(1)
    block = torch.arange(problem.num_query) // rows
    # +1 where a row's interval of blocks begins, -1 behind its end: the running sum counts the rows that reach a block
    steps = torch.zeros(-(-problem.num_query // rows), -(-problem.num_keys // keys) + 1, dtype=torch.int32)
    one = torch.ones_like(block, dtype=torch.int32)
    steps.index_put_((block, begin // keys), one, accumulate=True)
    steps.index_put_((block, -(-end // keys)), -one, accumulate=True)
    return int((steps.cumsum(1) > 0).sum())
