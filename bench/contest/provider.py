"""The interface behind which every way to compute a problem stands. Backward is autograd's, for all of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.counts.traffic import visible_cells
from bench.problems.attention import Attention, Problem

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class Place:
    """Where and in which dtype a problem is computed."""

    device: torch.device
    dtype: torch.dtype

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def half(self) -> bool:
        return self.dtype in (torch.float16, torch.bfloat16)


class Provider:
    """One way to compute attention problems."""

    name: str
    about: str
    ops: tuple[str, ...] = ("pgp", "cpp")
    # whether the first call compiles
    compiles: bool = False
    # whether it computes another problem, which no way to compute the asked one can beat
    is_bound: bool = False

    def why_not_here(self, place: Place) -> str | None:
        """Why it cannot run at this place whatever the problem, or None."""
        return None

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        """Why it cannot compute this problem here, or None."""
        return None

    def build(self, problem: Problem, place: Place) -> Attention:
        """Prepare for the problem; the result maps query, key and value to out."""
        raise NotImplementedError

    def computes(self, problem: Problem) -> Problem:
        """The problem that its results are verified against."""
        return problem

    def cells(self, problem: Problem) -> int:
        """Scores computed for one head of one image, masked ones included."""
        return visible_cells(problem)

    def mask_bytes(self, problem: Problem, place: Place) -> int:
        """Bytes of what grows with rows times keys."""
        return 0

    def scheduled_bytes(self, problem: Problem, direction: str, place: Place) -> int | None:
        """Bytes that its kernels move by their tile schedule, where that is known."""
        return None


class Compiled(Provider):
    """Another provider inside a function under torch.compile."""

    compiles = True

    def __init__(self, inner: Provider):
        self.inner = inner
        self.name, self.ops, self.about = f"{inner.name}-compiled", inner.ops, f"{inner.name} under torch.compile"

    def why_not_here(self, place: Place) -> str | None:
        return self.inner.why_not_here(place)

    def why_not(self, problem: Problem, place: Place, backward: bool) -> str | None:
        return self.inner.why_not(problem, place, backward)

    def cells(self, problem: Problem) -> int:
        return self.inner.cells(problem)

    def mask_bytes(self, problem: Problem, place: Place) -> int:
        return self.inner.mask_bytes(problem, place)

    def scheduled_bytes(self, problem: Problem, direction: str, place: Place) -> int | None:
        return self.inner.scheduled_bytes(problem, direction, place)

    def build(self, problem: Problem, place: Place) -> Attention:
        allow_many_shapes()
        return torch.compile(self.inner.build(problem, place), fullgraph=True, dynamic=False)


def allow_many_shapes() -> None:
    """Every problem has a compiled function of its own; torch.compile would give up on the ninth."""
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000


def installed(module: str) -> bool:
    """Whether a module of another package could be imported here; its parents are, to find it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def sdpa(query, key, value, backend: str, mask: torch.Tensor | None = None) -> torch.Tensor:
    """scaled_dot_product_attention by one backend and no other."""
    with sdpa_kernel(BACKENDS[backend]):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
