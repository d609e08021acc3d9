"""Walking over (batch, kv head) a few heads at a time, so that temporaries stay in cache.

A temporary that leaves the cache costs more than the arithmetic it holds (five-fold at 9,216 visual tokens on a CPU). On a CPU
the blocks are spread over threads: one thread per core with a block of its own waits for nobody, while threads inside every
small operation wait for each other hundreds of times a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

Task = TypeVar("Task")
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
    """Rectangles of about ``BLOCK_BYTES`` of key each; every (batch, kv head) exactly once, in a fixed order."""
    batch, num_kv_heads, num_keys, head_dim = key.shape
    group = query.shape[1] // num_kv_heads
    bytes_per_head = max(1, num_keys * head_dim * compute_dtype(key).itemsize)
    step_h = min(max(1, BLOCK_BYTES // bytes_per_head), num_kv_heads)
    # batch rows that do not merge with the heads without a copy share a block only where that costs less than another block
    block_bytes = BLOCK_BYTES if _mergeable(key) else BLOCK_BYTES // 16
    step_b = max(1, block_bytes // (bytes_per_head * num_kv_heads))
    for b in range(0, batch, step_b):
        for h in range(0, num_kv_heads, step_h):
            yield HeadBlock(slice(b, b + step_b), slice(h, h + step_h), group)


def for_each_block(query: torch.Tensor, key: torch.Tensor, work: Callable[[HeadBlock], None]) -> None:
    """Call ``work`` on every block; blocks must not write to the same places. On a CPU on as many threads as torch uses."""
    blocks = list(head_blocks(query, key))
    with threads_for(len(blocks), query.device) as threads:
        spread(blocks, work, threads)


@contextmanager
def threads_for(num_tasks: int, device: torch.device) -> Iterator[int]:
    """How many threads :func:`spread` should use; while it is more than one, torch's operations keep to one each.

    That holds for operations before and after the tasks too: threads that helped with one go on spinning for the next, on the
    cores that the tasks need.
    """
    allowed = torch.get_num_threads()
    threads = min(allowed, num_tasks) if device.type == "cpu" else 1
    if threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(allowed)


def spread(tasks: list[Task], work: Callable[[Task], None], threads: int) -> None:
    """Call ``work`` on every task, on ``threads`` threads; tasks must not write to the same places."""
    if threads == 1:
        for task in tasks:
            work(task)
        return
    inference, remaining = torch.is_inference_mode_enabled(), iter(tasks)

    def take_tasks() -> None:
        # settings belong to a thread: a new one would use all cores, and record gradients
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            for task in remaining:
                work(task)

    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(take_tasks) for _ in range(threads - 1)]
        take_tasks()
        for other in others:
            other.result()


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
