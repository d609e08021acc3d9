"""Pictures of different sizes in one call: packed, padded to the largest, or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F

from bench.contest.against_dense import AgainstDense, Results
from bench.contest.engine import Contest, Entrant, Setting, new_row
from bench.contest.records import Row
from bench.problems.anyres import AnyResolution
from pargo_kernels.intervals import interval_mask, partial_bounds
from pargo_kernels.partial_global_attention import partial_global_attention
from pargo_kernels.reference import partial_global_attention as oracle

DENSE = "sdpa-padded"


def measure_anyres(
    problem: AnyResolution,
    group: int,
    setting: Setting,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Rows of every way, forward and forward + backward, verified against the oracle."""
    generator = torch.Generator().manual_seed(setting.seed)
    ends = list(accumulate(problem.lengths))

    def draw(batch: int, tokens: int) -> torch.Tensor:
        values = torch.randn(batch, problem.num_heads, tokens, problem.head_dim, generator=generator)
        return values.to(setting.place.device, setting.place.dtype)

    query, key, value = draw(len(ends), problem.num_query), draw(1, ends[-1]), draw(1, ends[-1])
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    grad_out = draw(len(ends), problem.num_query)
    attends = {
        DENSE: padded(problem, setting),
        "pargo": packed(problem, setting),
        "sdpa-one-by-one": one_by_one(problem, setting),
    }
    doubles = [tensor.detach().double().requires_grad_() for tensor in leaves]
    offsets = torch.tensor([0, *ends], dtype=torch.int32, device=setting.place.device)
    scale = problem.head_dim**-0.5
    exact = results(
        lambda *tensors: oracle(tensors[0], tensors[1], tensors[2], problem.num_partial, scale, offsets)[0],
        doubles,
        grad_out.double(),
    )
    judge = AgainstDense(exact, DENSE)
    entrants = [
        Entrant(
            new_row(setting, problem, "forward+backward", name),
            make_step(attend, leaves, grad_out),
            images=len(ends),
            judge=judge,
            trial=partial(results, attend, leaves, grad_out),
            parts=("forward", ""),
        )
        for name, attend in attends.items()
    ]
    return Contest(setting, DENSE.__eq__, say, keep).run(entrants, group)


def packed(problem: AnyResolution, setting: Setting):
    """This package's op on packed keys."""
    ends = [0, *accumulate(problem.lengths)]
    offsets = torch.tensor(ends, dtype=torch.int32, device=setting.place.device)
    return lambda query, key, value: partial_global_attention(query, key, value, problem.num_partial, cu_seqlens_k=offsets)


def one_by_one(problem: AnyResolution, setting: Setting):
    """A dense masked attention for each picture."""
    spans = list(pairwise([0, *accumulate(problem.lengths)]))
    masks = [mask.to(setting.place.device) for mask in _masks(problem)]

    def attend(query, key, value):
        return torch.cat(
            [
                F.scaled_dot_product_attention(query[i : i + 1], key[:, :, a:b], value[:, :, a:b], attn_mask=mask)
                for i, ((a, b), mask) in enumerate(zip(spans, masks, strict=True))
            ]
        )

    return attend


def padded(problem: AnyResolution, setting: Setting):
    """One dense masked attention over keys padded to the longest picture; the padding is part of the call."""
    longest = max(problem.lengths)
    mask = torch.stack([F.pad(mask, (0, longest - mask.shape[1])) for mask in _masks(problem)])
    mask = mask[:, None].to(setting.place.device)

    def fill(packed_keys):
        parts = packed_keys[0].split(list(problem.lengths), dim=1)
        return torch.stack([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])

    return lambda query, key, value: F.scaled_dot_product_attention(query, fill(key), fill(value), attn_mask=mask)


def results(attend, leaves: list[torch.Tensor], grad_out: torch.Tensor) -> Results:
    """Output and gradients of query, key and value."""
    out = attend(*leaves)
    return [[out.detach()], *([grad] for grad in torch.autograd.grad(out, leaves, grad_out))]


def make_step(attend, leaves: list[torch.Tensor], grad_out: torch.Tensor):
    """Forward and backward as a step of the meter."""

    def step(mark):
        out = attend(*leaves)
        mark()
        grads = torch.autograd.grad(out, leaves, grad_out)
        mark()
        return out, grads

    return step


def _masks(problem: AnyResolution) -> list[torch.Tensor]:
    everything = problem.num_global
    return [
        torch.cat(
            (
                interval_mask(partial_bounds(problem.num_partial, length), length),
                torch.ones(everything, length, dtype=torch.bool),
            )
        )
        for length in problem.lengths
    ]
