"""A kernel launch as a value: planned once, run on the tensors' device, or compiled ahead of time without one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch


class Launch(NamedTuple):
    """One launch of one kernel: positional arguments, then the compile-time parameters by name."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


class Parameters(NamedTuple):
    """What a launch needs beside its tensors; the same for equal sizes, so it is planned once."""

    kernel: Any
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int

    def launch(self, *tensors) -> Launch:
        """The launch on these tensors (and the scale)."""
        return Launch(self.kernel, self.grid, (*tensors, *self.sizes), self.constants, self.num_warps, self.num_stages)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Run launches in order on ``device`` and its current stream."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            launch.kernel[launch.grid](
                *launch.args, **launch.constants, num_warps=launch.num_warps, num_stages=launch.num_stages
            )


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()


def block_dim(head_dim: int) -> int:
    """Columns of a tile: ``head_dim`` rounded up to a power of two of at least 16 (the smallest a dot takes)."""
    return max(16, next_power_of_2(head_dim))


def dot_precision(dtype: torch.dtype) -> str:
    """fp32 means fp32: exact products, never TF32. 16-bit inputs are exact in any mode."""
    return "ieee" if dtype == torch.float32 else "tf32"
