"""What an attention must do at least: bytes through memory and floating-point operations, counted from its intervals.

The minimum reads every input that matters once and writes every output once; nothing in between touches memory. A program
that moves ``minimum_bytes`` at the copy bandwidth of the machine stands on the floor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from bench.problems.attention import Problem

# one multiply and one add for each of: scores, output | scores again, dV, dP, dQ, dK
FORWARD_FLOPS = 2 * 2
BACKWARD_FLOPS = 5 * 2
FLOPS = {"forward": FORWARD_FLOPS, "backward": BACKWARD_FLOPS, "forward+backward": FORWARD_FLOPS + BACKWARD_FLOPS}


class Work(NamedTuple):
    """The least work of one direction."""

    bytes: int
    flops: int


def visible_cells(problem: Problem) -> int:
    """Pairs (row, key) that attend, for one head of one image."""
    bounds = problem.bounds()
    return int((bounds[:, 1] - bounds[:, 0]).sum())


def visible_keys(problem: Problem) -> int:
    """Keys that at least one row sees, for one head of one image."""
    bounds = problem.bounds()
    steps = torch.zeros(problem.num_keys + 1, dtype=torch.int64)
    steps.index_add_(0, bounds[:, 0], torch.ones(len(bounds), dtype=torch.int64))
    steps.index_add_(0, bounds[:, 1], -torch.ones(len(bounds), dtype=torch.int64))
    return int((steps.cumsum(0)[:-1] > 0).sum())


def least_work(problem: Problem, direction: str, itemsize: int) -> Work:
    """The minimum of ``direction`` ("forward", "backward" or "forward+backward") with elements of ``itemsize`` bytes.

    Forward reads query and the visible keys and values, and writes out. Backward reads them and the gradient of out, and
    writes all three gradients (the gradient of an unseen key is a zero that is written too). It is not charged for out or
    lse: both can be recomputed.
    """
    rows, keys, seen = problem.num_query, problem.num_keys, visible_keys(problem)
    forward = rows + 2 * seen + rows
    backward = (rows + 2 * seen + rows) + (rows + 2 * keys)
    tokens = {"forward": forward, "backward": backward, "forward+backward": forward + backward}[direction]
    heads = problem.batch * problem.num_heads
    return Work(
        bytes=heads * tokens * problem.head_dim * itemsize,
        flops=heads * visible_cells(problem) * problem.head_dim * FLOPS[direction],
    )


def fitted_exponent(sizes: list[int], seconds: list[float]) -> float:
    """The ``p`` of ``seconds ~ sizes ** p``: least squares on logarithms.

    Raises:
        ValueError: with fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes={sizes} must hold at least two different sizes to fit an exponent.")
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(seconds, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())
