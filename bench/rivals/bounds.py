"""Providers that compute another problem, which no dense way to compute ours can beat: bounds, never compared as equals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch

from bench.contest.provider import Place, Provider, sdpa
from bench.problems.attention import Attention, Problem


@dataclass(frozen=True)
class Everything:
    """A problem of the same sizes in which every row sees every key."""

    problem: Problem

    def bounds(self) -> torch.Tensor:
        """The interval of keys that each query row sees, int64 ``[num_query, 2]``."""
        return torch.tensor([[0, self.problem.num_keys]]).expand(self.problem.num_query, 2)

    def __getattr__(self, name: str):
        return getattr(self.problem, name)


class DenseBound(Provider):
    """scaled_dot_product_attention without a mask: what dense attention takes at least, once masks cost nothing."""

    is_bound = True

    def __init__(self, backend: str):
        self.name, self.backend = f"bound-{backend}", backend
        self.about = f"scaled_dot_product_attention without a mask, {backend} backend: another problem, a bound for dense ways"

    def why_not_here(self, place: Place) -> str | None:
        return f"{self.backend} takes fp16 and bf16 on CUDA" if place.on_cuda and not place.half else None

    def build(self, problem: Problem, place: Place) -> Attention:
        return lambda query, key, value: sdpa(query, key, value, self.backend)

    def cells(self, problem: Problem) -> int:
        return problem.num_query * problem.num_keys

    def computes(self, problem: Problem) -> Problem:
        """The problem that its results are verified against."""
        return cast(Problem, Everything(problem))
