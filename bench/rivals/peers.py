"""Who is measured: this package, torch's own attentions, hand-written rivals, and other packages' kernels.

A provider that cannot run says why; nobody is left out silently. Whatever runs is verified before it is timed.
"""

from __future__ import annotations

import torch

from bench.contest.provider import BACKENDS, Compiled, Place, Provider, sdpa
from bench.problems.attention import Attention, Problem
from bench.rivals.bounds import DenseBound
from bench.rivals.flex import Flex, FlexFlash, FlexSmallBlocks, FlexSmallRows
from bench.rivals.magi import Magi
from bench.rivals.packages import FlashAttn, Natten, Varlen
from bench.rivals.structured import Blocks, Neighbours, Sliced, Split
from pargo_kernels.dispatch import interpreting, resolve_impl
from pargo_kernels.intervals import interval_mask


class Pargo(Provider):
    """This package."""

    def __init__(self, name: str, impl: str, about: str):
        self.name, self.impl, self.about = name, impl, about

    def why_not_here(self, place: Place) -> str | None:
        if self.impl == "triton" and not place.on_cuda and not interpreting():
            return "the kernels need a CUDA device"
        # rows of their own only where they differ from "pargo"
        return "is what pargo runs here" if self.impl == chosen_path(place) else None

    def build(self, problem: Problem, place: Place) -> Attention:
        return problem.attention(self.impl)

    def scheduled_bytes(self, problem: Problem, direction: str, place: Place) -> int | None:
        if resolve_impl(self.impl, _like(place)) != "triton" or not place.half:
            return None
        from bench.counts.schedule import scheduled_work
        from pargo_kernels.triton_path.launch_table import architecture

        return scheduled_work(problem, direction, place.dtype, architecture(place.device)).bytes


def chosen_path(place: Place) -> str:
    """The path that impl="auto" takes at a place. On a CPU the C kernels may be compiled to find out."""
    found = resolve_impl("auto", _like(place))
    if found != "cpu":
        return found
    # kernels of an earlier commit (--base) know no such choice
    from pargo_kernels.dispatch import cpu_impl

    return cpu_impl(_like(place))


def _like(place: Place) -> torch.Tensor:
    return torch.empty(0, dtype=place.dtype, device=place.device)


class MaskedSDPA(Provider):
    """scaled_dot_product_attention with the dense boolean mask, its backend pinned."""

    def __init__(self, backend: str):
        self.name, self.backend = f"sdpa-mask-{backend}", backend
        self.about = f"scaled_dot_product_attention with the dense boolean mask, {backend} backend"

    def why_not_here(self, place: Place) -> str | None:
        if place.on_cuda:
            return "takes no mask on CUDA" if self.backend == "flash" else None
        if self.backend == "flash":
            return None
        return "a baseline for CUDA; on a CPU the flash backend takes the mask"

    def build(self, problem: Problem, place: Place) -> Attention:
        mask = interval_mask(problem.bounds().to(place.device), problem.num_keys)
        return lambda query, key, value: sdpa(query, key, value, self.backend, mask)

    def cells(self, problem: Problem) -> int:
        return problem.num_query * problem.num_keys

    def mask_bytes(self, problem: Problem, place: Place) -> int:
        # the boolean mask and its copy in the dtype of the scores
        cells = problem.num_query * problem.num_keys * (1 + place.dtype.itemsize)
        if self.backend == "math":
            cells += 3 * problem.num_query * problem.num_keys * problem.batch * problem.num_heads * place.dtype.itemsize
        return cells


class FullSDPA(Provider):
    """scaled_dot_product_attention without a mask: exact where the window is everything, and a floor for dense attention."""

    ops = ("cpp",)

    def __init__(self, backend: str):
        self.name, self.backend = f"sdpa-full-{backend}", backend
        self.about = f"scaled_dot_product_attention without a mask, {backend} backend, where the window sees everything"

    def why_not_here(self, place: Place) -> str | None:
        if self.backend != "flash" and not place.on_cuda:
            return "a baseline for CUDA"
        return "flash takes fp16 and bf16" if place.on_cuda and not place.half else None

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        everything = problem.window == problem.num_keys and problem.edge == "clamp"
        return None if everything else "without a mask it sees everything: another problem unless w = n"

    def build(self, problem: Problem, place: Place) -> Attention:
        return lambda query, key, value: sdpa(query, key, value, self.backend)


_PARGO = Pargo("pargo", "auto", "this package, impl='auto'")
_SPLIT = Split("split", False, "multiply-and-sum for the partial rows, maskless SDPA for the global rows")
_SPLIT_MATMUL = Split("split-matmul", True, "the same, the global rows as two matrix products")
_SLICED = Sliced()
_BLOCKS = Blocks()
_NEIGHBOURS = Neighbours()

PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        _PARGO,
        Pargo("pargo-triton", "triton", "this package's Triton kernels"),
        Pargo("pargo-torch", "torch", "this package's torch path"),
        Compiled(_PARGO),
        *(MaskedSDPA(backend) for backend in BACKENDS),
        FullSDPA("flash"),
        FullSDPA("cudnn"),
        DenseBound("flash"),
        _SPLIT,
        Compiled(_SPLIT),
        Compiled(_SPLIT_MATMUL),
        _SLICED,
        Compiled(_SLICED),
        _BLOCKS,
        Compiled(_BLOCKS),
        _NEIGHBOURS,
        Compiled(_NEIGHBOURS),
        Flex(),
        FlexSmallRows(),
        FlexSmallBlocks(8, 16),
        FlexSmallBlocks(16, 32),
        FlexFlash(),
        Magi(),
        Varlen(),
        FlashAttn(),
        Natten(),
    )
}
