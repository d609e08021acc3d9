"""MagiAttention's flex-flash-attention: a mask as slices, each a range of rows by a range of keys of one of four shapes."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from bench.contest.provider import Place, Provider, installed
from bench.problems.attention import Attention, Problem

# the shape of a slice by how far its interval's two ends move from one row to the next
FULL, CAUSAL, INVERSE_CAUSAL, BAND = 0, 1, 2, 3
SHAPES = {(0, 0): FULL, (0, 1): CAUSAL, (1, 0): INVERSE_CAUSAL, (1, 1): BAND}
# its kernel's tile on Hopper, up to head dimension 64 and above
TILE_ROWS, TILE_ROWS_WIDE, TILE_KEYS = 192, 128, 128


@dataclass(frozen=True)
class Slices:
    """Half-open ranges of rows and of keys, int32 ``[slices, 2]``, and each slice's shape, int32 ``[slices]``."""

    rows: torch.Tensor
    keys: torch.Tensor
    shape: torch.Tensor

    def of_batch(self, batch: int, num_query: int, num_keys: int) -> Slices:
        """The same for each image of ``batch``, whose tokens follow each other."""
        image = torch.arange(batch, dtype=torch.int32).view(-1, 1, 1)
        return Slices(
            (self.rows + image * num_query).flatten(0, 1),
            (self.keys + image * num_keys).flatten(0, 1),
            self.shape.repeat(batch),
        )


def slices_of(bounds: torch.Tensor) -> Slices:
    """Slices that paint exactly the intervals ``bounds`` ``[rows, 2]``; no row is in two of them.

    A run of rows whose interval's ends move by a constant 0 or 1 makes one slice; any other row one of its own.
    """
    ends = [(int(begin), int(end)) for begin, end in bounds.tolist()]
    rows, keys, shapes = [], [], []
    first = 0
    while first < len(ends):
        last, step = first, None
        while last + 1 < len(ends):
            moved = (ends[last + 1][0] - ends[last][0], ends[last + 1][1] - ends[last][1])
            if moved not in SHAPES or step not in (None, moved):
                break
            step, last = moved, last + 1
        rows.append((first, last + 1))
        keys.append((ends[first][0], ends[last][1]))
        shapes.append(SHAPES[step or (0, 0)])
        first = last + 1
    return Slices(*(torch.tensor(values, dtype=torch.int32) for values in (rows, keys, shapes)))


class Magi(Provider):
    """MagiAttention's kernel on one device; its backward adds gradients up by atomics unless asked for reproducible ones."""

    name = "magi"
    about = "MagiAttention's flex_flash_attn_func, where it is installed: the mask as slices, exactly"
    compiles = True

    def why_not_here(self, place: Place) -> str | None:
        if not installed("magi_attention.functional.flex_flash_attn"):
            return (
                "MagiAttention is not installed: build SandAI-org/MagiAttention from source with a CUDA toolkit "
                "(the package magi-attention 0.0.1 is empty)"
            )
        if not installed("magi_attention.flexible_flash_attention_utils_cuda"):
            return "MagiAttention is installed without its CUDA extensions: build it from source with a CUDA toolkit"
        return None if place.on_cuda and place.half else "MagiAttention takes fp16 and bf16 on CUDA"

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        return "its kernels take head dimensions up to 128" if problem.head_dim > 128 else None

    def build(self, problem: Problem, place: Place) -> Attention:
        from magi_attention.functional.flex_flash_attn import flex_flash_attn_func

        slices = slices_of(problem.bounds()).of_batch(problem.batch, problem.num_query, problem.num_keys)
        rows, keys, shape = (ranges.to(place.device) for ranges in (slices.rows, slices.keys, slices.shape))

        def attend(query, key, value):
            # [B, H, tokens, D] → [B * tokens, H, D]; its backward misreads what is not contiguous, without an error
            tokens = (t.transpose(1, 2).flatten(0, 1).contiguous() for t in (query, key, value))
            # without overlapping ranges of rows its forward needs no atomics
            out, *_ = flex_flash_attn_func(*tokens, rows, keys, attn_type_map=shape, disable_fwd_atomic_reduction=True)
            if out.requires_grad:
                out.register_hook(torch.Tensor.contiguous)
            return out.unflatten(0, (problem.batch, -1)).transpose(1, 2)

        return attend

    def cells(self, problem: Problem) -> int:
        return tiled_cells(problem)


@functools.cache
def tiled_cells(problem: Problem) -> int:
    """Scores of one head of one image when every slice fills whole tiles: an upper bound, tiles outside a band are skipped."""
    slices = slices_of(problem.bounds())
    tile_rows = TILE_ROWS if problem.head_dim <= 64 else TILE_ROWS_WIDE
    rows, keys = ((ranges[:, 1] - ranges[:, 0]).long() for ranges in (slices.rows, slices.keys))
    return int((-(-rows // tile_rows) * tile_rows * (-(-keys // TILE_KEYS) * TILE_KEYS)).sum())
