"""A training step of the whole ParGo projector: what the kernels gain where everything else is there too.

The same weights run on this package's ops and on the dense baselines; a step without any attention says what no kernel can
beat (Amdahl's bound).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.measure import Setting, explain
from bench.problems import ProjectorStep
from bench.records import FAILED, OK, WRONG, Row
from bench.timing import Samples, interleaved, quantiles
from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors import build_projector
from pargo_mllm.projectors.attention import ProjectorAttention

# how the projector's attention is computed; "without-attention" computes none
BOUND = "without-attention"
WAYS = ("pargo", "sdpa", "eager", BOUND)
DENSE = "sdpa"


def measure_projector(
    problem: ProjectorStep, group: int, setting: Setting, say: Callable[[str], None] = lambda text: None
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
    exact = results(copy.deepcopy(projector).double(), features.detach().double().requires_grad_(), "eager")
    rows, steps, usual = [], {}, {}
    budget = None
    # the dense way comes first: twice its error is what the others may have
    for way in sorted(WAYS, key=lambda way: way != DENSE):
        say(f"verifying {way}")
        row = _row(problem, setting, way)
        rows.append(row)
        try:
            step = make_step(projector, features, way)
            if way != BOUND:
                row.error = worst(results(projector, features, way), exact)
                budget = 2 * row.error + 1e-6 if way == DENSE else budget
                if budget is not None and row.error > budget:
                    row.status, row.reason = WRONG, f"error {row.error:.2e}, twice the dense projector's is {budget:.2e}"
                    continue
            _, row.peak_bytes = setting.meter.peak(step)
            usual[way] = setting.meter.call(step)[-1]
            steps[way] = step
        except Exception as error:
            row.status, row.reason = FAILED, explain(error)
    say(f"timing {', '.join(steps)}")
    samples, failures = interleaved(steps, usual, setting.meter, setting.seconds)
    for row in list(rows):
        if row.provider in failures:
            row.status, row.reason = FAILED, explain(failures[row.provider])
        elif row.provider in samples:
            rows.append(_forward(row, samples[row.provider]))
            _fill(row, samples[row.provider], samples[row.provider].whole)
    for direction in ("forward", "forward+backward"):
        mine = [row for row in rows if row.direction == direction]
        dense = next((row.median_ms for row in mine if row.provider == DENSE), None)
        for row in mine:
            row.speedup_over_dense = dense / row.median_ms if dense and row.median_ms else None
    for row in rows:
        row.group, row.load_average = group, os.getloadavg()[0]
    return rows


def results(projector, features: torch.Tensor, way: str) -> list[torch.Tensor]:
    """Output, gradient of the features and of every parameter."""
    projector.zero_grad()
    with computed(projector, way):
        out = projector(features)
        grads = torch.autograd.grad(out.square().sum(), [features, *projector.parameters()])
    return [out.detach(), *grads]


def worst(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest relative error of the output, the features' gradient, and all parameters' gradients taken together.

    Together: the gradient of a key's bias is zero but for rounding, and has no relative error.
    """

    def relative(part: slice) -> float:
        error = sum(float((x.double() - y).square().sum()) for x, y in zip(found[part], exact[part], strict=True))
        return (error / sum(float(y.square().sum()) for y in exact[part])) ** 0.5

    return max(relative(slice(0, 1)), relative(slice(1, 2)), relative(slice(2, None)))


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


def _fill(row: Row, samples: Samples, seconds: list[float]) -> None:
    low, middle, high = quantiles(seconds)
    row.median_ms, row.q20_ms, row.q80_ms = middle * 1e3, low * 1e3, high * 1e3
    row.rounds, row.calls = samples.rounds, len(seconds)
    row.images_per_s = row.batch / middle


def _forward(row: Row, samples: Samples) -> Row:
    forward = copy.copy(row)
    forward.direction, forward.peak_bytes = "forward", None
    _fill(forward, samples, samples.parts[0])
    return forward


def _row(problem: ProjectorStep, setting: Setting, way: str) -> Row:
    return Row(
        suite=setting.suite,
        group=0,
        problem=str(problem),
        op=problem.op,
        batch=problem.batch,
        num_heads=problem.num_heads,
        head_dim=problem.width // problem.num_heads,
        num_query=problem.num_partial + problem.num_global,
        num_keys=problem.num_keys,
        num_partial=problem.num_partial,
        num_global=problem.num_global,
        window=None,
        edge=None,
        dtype=setting.dtype,
        layout="bnhd",
        direction="forward+backward",
        launch="eager",
        provider=way,
        status=OK,
        copy_bytes_per_s=setting.copy_bytes_per_s,
        matmul_flops_per_s=setting.matmul_flops_per_s,
    )
