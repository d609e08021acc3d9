"""A training step of the whole ParGo projector: what the kernels gain where everything else is there too.

The same weights run on this package's ops and on the dense baselines; a step without any attention says what no kernel can
beat (Amdahl's bound).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from bench.contest.against_dense import AgainstDense, Results
from bench.contest.engine import Contest, Entrant, Setting, new_row
from bench.contest.records import Row
from bench.problems.projector import ProjectorStep
from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors import build_projector
from pargo_mllm.projectors.attention import ProjectorAttention

# how the projector's attention is computed; "without-attention" computes none
BOUND = "without-attention"
WAYS = ("sdpa", "pargo", "eager", BOUND)
DENSE = "sdpa"


def measure_projector(
    problem: ProjectorStep,
    group: int,
    setting: Setting,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Rows of every way, forward and forward + backward, verified against the dense projector in fp64."""
    torch.manual_seed(setting.seed)
    projector = build_projector(
        ParGoProjectorConfig(
            vision_hidden_size=problem.width,
            output_size=problem.width,
            num_hidden_layers=problem.num_layers,
            num_attention_heads=problem.num_heads,
            num_partial_tokens=problem.num_partial,
            num_global_tokens=problem.num_global,
        )
    ).to(device=setting.place.device, dtype=setting.place.dtype)  # type: ignore[call-arg]
    features = torch.randn(problem.batch, problem.num_keys, problem.width, device=setting.place.device)
    features = features.to(setting.place.dtype).requires_grad_()
    # one picture tells whether a way is right; dense fp64 weights of a whole batch would not fit the memory
    sample = features[:1].detach().requires_grad_()
    exact = results(copy.deepcopy(projector).double(), sample.detach().double().requires_grad_(), "eager")
    judge = AgainstDense(exact, DENSE)
    entrants = [
        Entrant(
            new_row(setting, problem, "forward+backward", name),
            make_step(projector, features, name),
            images=problem.batch,
            judge=None if name == BOUND else judge,
            trial=None if name == BOUND else partial(results, projector, sample, name),
            parts=("forward", ""),
        )
        for name in WAYS
    ]
    return Contest(setting, DENSE.__eq__, say, keep).run(entrants, group)


def results(projector, features: torch.Tensor, way: str) -> Results:
    """Output; gradient of the features; gradients of all parameters."""
    projector.zero_grad()
    with computed(projector, way):
        out = projector(features)
        grad, *grads = torch.autograd.grad(out.square().sum(), [features, *projector.parameters()])
    # together: the gradient of a key's bias is zero but for rounding, and has no relative error
    return [[out.detach()], [grad], grads]


def make_step(projector, features: torch.Tensor, way: str):
    """Forward and backward as a step of the meter."""

    def step(mark):
        with computed(projector, way):
            out = projector(features)
            mark()
            grads = torch.autograd.grad(out.sum(), [features, *projector.parameters()], allow_unused=True)
        mark()
        return out, grads

    return step


@contextmanager
def computed(projector, way: str) -> Iterator[None]:
    """The projector's attention computed one way."""
    attend, before = ProjectorAttention._attend, projector.config._attn_implementation
    try:
        if way == BOUND:
            setattr(ProjectorAttention, "_attend", lambda self, query, *rest, **options: query)  # noqa: B010
        else:
            projector.config._attn_implementation = way
        yield
    finally:
        setattr(ProjectorAttention, "_attend", attend)  # noqa: B010
        projector.config._attn_implementation = before
