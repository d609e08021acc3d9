"""The strongest rivals: the same sparsity written by hand in torch, which wastes little and compiles well."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench.contest.provider import Place, Provider, sdpa
from bench.problems.attention import Attention, Problem
from pargo_kernels.intervals import interval_mask, partial_slices

# from this many keys in a slice on, a batch of small matrix products beats multiply-and-sum
LONG_SLICE = 8
# autograd allocates a full-size gradient for each slice of a tensor: many slices make the backward quadratic
MAX_SLICES = 64
MIN_BLOCK = 32
# of Neighbours, whose blocks are half as long as the window
MIN_NEIGHBOUR = 16


class Split(Provider):
    """Partial rows as products with their own slice, global rows as maskless attention: nothing is wasted."""

    ops = ("pgp",)

    def __init__(self, name: str, dense_globals: bool, about: str):
        self.name, self.dense_globals, self.about = name, dense_globals, about

    def build(self, problem: Problem, place: Place) -> Attention:
        rows, scale = problem.num_partial, problem.head_dim**-0.5
        length = -(-problem.num_keys // rows)
        cut = _cut_slices(problem, length, place)
        hidden = _past_slice(problem, length, place)
        # flash takes no fp32 on CUDA
        backend = "flash" if place.half or not place.on_cuda else "efficient"

        def split(query, key, value):
            row, keys, values = query[:, :, :rows], cut(key), cut(value)
            if length < LONG_SLICE:
                scores = (row.unsqueeze(3) * keys).sum(-1) * scale
            else:
                scores = torch.einsum("bhpd,bhpsd->bhps", row, keys) * scale
            if hidden is not None:
                scores = scores.masked_fill(hidden, float("-inf"))
            weights = scores.softmax(-1)
            if length < LONG_SLICE:
                partial = (weights.unsqueeze(-1) * values).sum(3)
            else:
                partial = torch.einsum("bhps,bhpsd->bhpd", weights, values)
            if self.dense_globals:
                everything = ((query[:, :, rows:] * scale) @ key.transpose(2, 3)).softmax(-1) @ value
            else:
                everything = sdpa(query[:, :, rows:], key, value, backend)
            return torch.cat((partial, everything), dim=2)

        return split


class Sliced(Provider):
    """A loop over blocks of rows, each masked attention with the slice of keys that the block sees."""

    name = "sliced"
    about = "a loop of scaled_dot_product_attention over blocks of rows and the keys of their band"
    ops = ("cpp",)

    def build(self, problem: Problem, place: Place) -> Attention:
        bounds = problem.bounds().to(place.device)
        blocks = [
            (slice(first, last), slice(begin, end), interval_mask(bounds[first:last] - begin, end - begin))
            for first, last, begin, end in blocks_of_rows(problem, MAX_SLICES)
        ]

        def sliced(query, key, value):
            outs = [
                F.scaled_dot_product_attention(query[:, :, rows], key[:, :, keys], value[:, :, keys], attn_mask=mask)
                for rows, keys, mask in blocks
            ]
            return torch.cat(outs, dim=2)

        return sliced

    def cells(self, problem: Problem) -> int:
        return sum((last - first) * (end - begin) for first, last, begin, end in blocks_of_rows(problem, MAX_SLICES))


class Blocks(Provider):
    """All blocks of rows at once: their keys are gathered side by side, and the scores are one batch of products."""

    name = "blocks"
    about = "keys gathered block by block, one batched masked attention"
    ops = ("cpp",)

    def build(self, problem: Problem, place: Place) -> Attention:
        bounds, scale, num_rows = problem.bounds(), problem.head_dim**-0.5, problem.num_query
        blocks = blocks_of_rows(problem)
        size = blocks[0][1]
        span = max(end - begin for _, _, begin, end in blocks)
        begin = torch.tensor([block[2] for block in blocks]).clamp(max=problem.num_keys - span)
        position = begin[:, None] + torch.arange(span)
        row = torch.arange(len(blocks) * size).clamp(max=num_rows - 1).view(len(blocks), size, 1)
        shown = (position[:, None] >= bounds[row, 0]) & (position[:, None] < bounds[row, 1])
        position, hidden = position.to(place.device), ~shown.to(place.device)
        padding = len(blocks) * size - num_rows

        def gathered(query, key, value):
            rows = F.pad(query * scale, (0, 0, 0, padding)).unflatten(2, (len(blocks), size))
            scores = rows @ key[:, :, position].transpose(-1, -2)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            return (weights @ value[:, :, position]).flatten(2, 3)[:, :, :num_rows]

        return gathered

    def cells(self, problem: Problem) -> int:
        blocks = blocks_of_rows(problem)
        return len(blocks) * blocks[0][1] * max(end - begin for _, _, begin, end in blocks)

    def mask_bytes(self, problem: Problem, place: Place) -> int:
        # scores and weights are stored
        return self.cells(problem) * (1 + 2 * problem.batch * problem.num_heads * place.dtype.itemsize)


class Neighbours(Provider):
    """Blocks of half a window, and the few blocks beside each as views side by side: no gather, and a backward without one."""

    name = "neighbours"
    about = "blocks of half a window of rows, the blocks of keys around them cut as views, one batched masked attention"
    ops = ("cpp",)

    def build(self, problem: Problem, place: Place) -> Attention:
        bounds, scale, num_rows = problem.bounds(), problem.head_dim**-0.5, problem.num_query
        size, count, before, behind = around(problem)
        beside, padding = before + 1 + behind, count * size - num_rows
        position = (torch.arange(count)[:, None] - before) * size + torch.arange(beside * size)
        row = torch.arange(count * size).clamp(max=num_rows - 1).view(count, size, 1)
        shown = (position[:, None] >= bounds[row, 0]) & (position[:, None] < bounds[row, 1])
        hidden = ~shown.to(place.device)

        def side_by_side(keys):
            blocks = F.pad(keys, (0, 0, before * size, behind * size + padding)).unflatten(2, (-1, size))
            return torch.cat([blocks[:, :, first : first + count] for first in range(beside)], dim=3)

        def neighbours(query, key, value):
            rows = F.pad(query * scale, (0, 0, 0, padding)).unflatten(2, (count, size))
            scores = rows @ side_by_side(key).transpose(-1, -2)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            return (weights @ side_by_side(value)).flatten(2, 3)[:, :, :num_rows]

        return neighbours

    def cells(self, problem: Problem) -> int:
        size, count, before, behind = around(problem)
        return count * size * (before + 1 + behind) * size

    def mask_bytes(self, problem: Problem, place: Place) -> int:
        # scores and weights are stored
        return self.cells(problem) * (1 + 2 * problem.batch * problem.num_heads * place.dtype.itemsize)


@functools.cache
def around(problem: Problem) -> tuple[int, int, int, int]:
    """``(size, count, before, behind)``: blocks of rows, and how many blocks before and behind its own any of them sees."""
    bounds, tokens = problem.bounds(), problem.num_query
    size = min(tokens, max(MIN_NEIGHBOUR, -(-(problem.window or 0) // 2)))
    own = torch.arange(tokens) // size
    before = int((own - bounds[:, 0] // size).max())
    behind = int(((bounds[:, 1] - 1) // size - own).max())
    return size, -(-tokens // size), before, behind


@functools.cache
def blocks_of_rows(problem: Problem, most: int | None = None) -> list[tuple[int, int, int, int]]:
    """``(first, last, begin, end)``: blocks of rows as long as the window, and the keys that any of their rows sees.

    Longer blocks where there would be more than ``most``.
    """
    bounds = problem.bounds()
    rows = min(len(bounds), max(MIN_BLOCK, problem.window or 0, -(-len(bounds) // most) if most else 0))
    return [
        (first, last, int(bounds[first:last, 0].min()), int(bounds[first:last, 1].max()))
        for first, last in ((first, min(first + rows, len(bounds))) for first in range(0, len(bounds), rows))
    ]


def _cut_slices(problem: Problem, length: int, place: Place) -> Callable[[torch.Tensor], torch.Tensor]:
    """``[B, H, n_v, D]`` → ``[B, H, n_p, length, D]``: a view where slices are equal, a gather where they are not."""
    if problem.num_keys % problem.num_partial == 0:
        return lambda keys: keys.unflatten(2, (problem.num_partial, length))
    begin = partial_slices(problem.num_partial, problem.num_keys)[:, :1]
    position = (begin + torch.arange(length)).clamp(max=problem.num_keys - 1).to(place.device)
    return lambda keys: keys[:, :, position]


def _past_slice(problem: Problem, length: int, place: Place) -> torch.Tensor | None:
    """Bool ``[n_p, length]``: cells past the end of their slice; None where slices are equal."""
    if problem.num_keys % problem.num_partial == 0:
        return None
    begin, end = partial_slices(problem.num_partial, problem.num_keys).split(1, dim=1)
    return (begin + torch.arange(length) >= end).to(place.device)
