"""Walking over (batch, kv head) a few heads at a time, so that temporaries stay in cache.

A temporary that leaves the cache costs more than the arithmetic it holds (five-fold at 9,216 visual tokens on a CPU). Blocks
come one after another; threads are torch's own, inside its operations, whose sums may depend on how many they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

# of key, for each of torch's threads
BLOCK_BYTES = 2 << 20


class HeadBlock(NamedTuple):
    """A rectangle of batch rows and kv heads."""

    batch: slice
    kv_heads: slice
    group: int

    def kv(self, tensor: torch.Tensor) -> torch.Tensor:
        """The block of a tensor with kv heads: ``[b, h, ...]``."""
        return tensor[self.batch, self.kv_heads]

    def q(self, tensor: torch.Tensor) -> torch.Tensor:
        """The block of a tensor with query heads, the heads of one group side by side: ``[b, h, g, ...]``."""
        return tensor.unflatten(1, (-1, self.group))[self.batch, self.kv_heads]


def head_blocks(query: torch.Tensor, key: torch.Tensor) -> Iterator[HeadBlock]:
    """Rectangles of about ``BLOCK_BYTES`` of key a thread; every (batch, kv head) exactly once, in a fixed order."""
    batch, num_kv_heads, num_keys, head_dim = key.shape
    group = query.shape[1] // num_kv_heads
    threads = torch.get_num_threads() if key.is_cpu else 1
    heads = max(1, threads * BLOCK_BYTES // max(1, num_keys * head_dim * compute_dtype(key).itemsize))
    step_h = min(heads, num_kv_heads)
    step_b = max(1, heads // num_kv_heads)
    for b in range(0, batch, step_b):
        for h in range(0, num_kv_heads, step_h):
            yield HeadBlock(slice(b, b + step_b), slice(h, h + step_h), group)


def for_each_block(query: torch.Tensor, key: torch.Tensor, work: Callable[[HeadBlock], None]) -> None:
    """Call ``work`` on every block, one after another."""
    for block in head_blocks(query, key):
        work(block)


def compute_dtype(tensor: torch.Tensor) -> torch.dtype:
    """fp64 stays fp64; everything else is computed in fp32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def load(block: torch.Tensor) -> torch.Tensor:
    """``[b, h, ..., n, D]`` → ``[b * h, ..., n, D]`` in the compute dtype; a view where dtype and strides allow it."""
    return block.to(compute_dtype(block)).flatten(0, 1)


def staging(block: torch.Tensor) -> torch.Tensor:
    """Where to compute an output block: the block itself where dtype and strides allow it, else a fresh buffer.

    Give the result to :func:`store` when it is complete.
    """
    if block.dtype == compute_dtype(block) and _mergeable(block):
        return block.view(-1, *block.shape[2:])
    return torch.empty((block.shape[0] * block.shape[1], *block.shape[2:]), dtype=compute_dtype(block), device=block.device)


def store(block: torch.Tensor, staged: torch.Tensor) -> None:
    """Copy a staged block to its place, unless it is there already."""
    if staged.data_ptr() != block.data_ptr():
        block.copy_(staged.view(block.shape))


def _mergeable(block: torch.Tensor) -> bool:
    return block.shape[0] == 1 or block.shape[1] == 1 or block.stride(0) == block.stride(1) * block.shape[1]
