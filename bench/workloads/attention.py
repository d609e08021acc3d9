"""The two attentions: each provider is built, verified against the fp64 oracle, and timed in both directions."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch

from bench.contest.engine import Contest, Entrant, Setting, explain, new_row
from bench.contest.provider import Provider
from bench.contest.records import FAILED, INAPPLICABLE, OK, SKIPPED, UNAVAILABLE, WRONG, Row
from bench.contest.timing import Step
from bench.contest.verify import Expected, Inputs, disagreement, expect
from bench.counts.traffic import FLOPS, least_work
from bench.problems.attention import Attention, Problem
from bench.problems.suites import Case

LAYOUTS = ("bhnd", "bnhd")
DIRECTIONS = ("forward", "forward+backward")
# a provider whose one call would take longer, or more of the free memory, is skipped
MAX_CALL_SECONDS = 30.0
MAX_MEMORY_SHARE = 0.7

Verdict = tuple[str, str]


def measure_attention(
    case: Case,
    group: int,
    providers: Iterable[Provider],
    setting: Setting,
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """All rows of a case."""
    gc.collect()
    contest = Contest(setting, lambda name: name.startswith("sdpa-mask-"), say, keep)
    candidates: list[Candidate] = []
    for problem in cast(tuple[Problem, ...], case.problems):
        candidates += prepare(problem, _wanted(providers, problem, case), setting, say)
    rows = []
    for direction in DIRECTIONS:
        rows += contest.run([candidate.entrant(direction, setting) for candidate in candidates], group, graphs=True)
    if setting.place.on_cuda:
        torch.cuda.empty_cache()
    return rows


@dataclass(frozen=True)
class Task:
    """A problem, its inputs, and what the oracle says about them."""

    problem: Problem
    inputs: Inputs
    expected: Expected

    def judge(self, row: Row, result: tuple) -> Verdict:
        """What an attention's output and gradients are worth."""
        out, grads = result
        row.error, wrong = disagreement(self.expected, self.inputs, out, grads)
        return (WRONG, wrong) if wrong else (OK, "")


@dataclass
class Candidate:
    """A provider for a problem: ready to run it, or with what keeps it from that in each direction."""

    problem: Problem
    provider: Provider
    obstacles: dict[str, Verdict | None]
    attend: Attention | None = None
    prepare_ms: float | None = None
    held_bytes: int = 0
    task: Task | None = None

    def entrant(self, direction: str, setting: Setting) -> Entrant:
        """What enters the contest in one direction."""
        row = new_row(setting, self.problem, direction, self.provider.name, self.obstacles[direction] or (OK, ""))
        self._count(row, setting)
        if row.status != OK:
            return Entrant(row)
        assert self.attend is not None
        assert self.task is not None
        row.prepare_ms = self.prepare_ms
        return Entrant(
            row,
            make_step(self.attend, self.task.inputs, direction),
            images=self.problem.batch,
            judge=self.task.judge,
            # the forward of both is that of a training step; its own row stands on calls that keep nothing for a backward
            parts=("", "backward") if direction == "forward+backward" else (),
            finish=lambda row: self._finish(row, setting),
            # dense attention on a CPU compiles, loads and allocates nothing
            first_differs=self.provider.compiles or setting.place.on_cuda,
            held_bytes=self.held_bytes,
        )

    def _count(self, row: Row, setting: Setting) -> None:
        least = least_work(self.problem, row.direction, setting.place.dtype.itemsize)
        row.minimum_bytes, row.minimum_flops = least.bytes, least.flops

    def _finish(self, row: Row, setting: Setting) -> None:
        self._count(row, setting)
        if self.provider.is_bound:
            # it moves and computes what the problem does not ask for
            row.reason = self.provider.about
            return
        assert row.median_ms is not None
        assert row.minimum_bytes is not None
        seconds = row.median_ms * 1e-3
        row.minimum_bytes_per_s = row.minimum_bytes / seconds
        row.scheduled_bytes = self.provider.scheduled_bytes(self.problem, row.direction, setting.place)
        row.scheduled_bytes_per_s = row.scheduled_bytes and row.scheduled_bytes / seconds


def prepare(
    problem: Problem, providers: list[Provider], setting: Setting, say: Callable[[str], None] = lambda text: None
) -> list[Candidate]:
    """Build what can run, and ask the oracle."""
    candidates = []
    for provider in providers:
        say(f"preparing {provider.name}")
        candidate = Candidate(problem, provider, {d: obstacle(provider, problem, d, setting) for d in DIRECTIONS})
        candidates.append(candidate)
        if None in candidate.obstacles.values():
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    candidate.attend, candidate.prepare_ms, candidate.held_bytes = _build(provider, problem, setting)
                except Exception as error:
                    candidate.obstacles = dict.fromkeys(DIRECTIONS, (FAILED, explain(error, warned)))
    ready = [candidate for candidate in candidates if candidate.attend is not None]
    if ready:
        say("asking the oracle")
        inputs = make_inputs(problem, setting)
        tasks: dict[Problem, Task] = {}
        for candidate in ready:
            computed = candidate.provider.computes(problem)
            if computed not in tasks:
                tasks[computed] = Task(problem, inputs, expect(computed, inputs, setting.seed))
            candidate.task = tasks[computed]
    return candidates


def _build(provider: Provider, problem: Problem, setting: Setting) -> tuple[Attention, float, int]:
    """The attention, the milliseconds of its preparation, and the bytes that it holds."""
    meter = setting.meter
    # the first time may compile; what a user pays per shape is the second
    first = provider.build(problem, setting.place)
    before, begin = meter.held(), time.perf_counter()
    attend = provider.build(problem, setting.place)
    meter.synchronize()
    prepare_ms = (time.perf_counter() - begin) * 1e3
    held_bytes = max(0, meter.held() - before)
    del first
    return attend, prepare_ms, held_bytes


def obstacle(provider: Provider, problem: Problem, direction: str, setting: Setting) -> Verdict | None:
    """The status and reason of a provider that is not even tried, or None."""
    if reason := provider.why_not_here(setting.place):
        return UNAVAILABLE, reason
    if reason := provider.why_not(problem, setting.place, "backward" in direction):
        return INAPPLICABLE, reason
    if reason := over_budget(provider, problem, direction, setting):
        return SKIPPED, reason
    return None


def over_budget(provider: Provider, problem: Problem, direction: str, setting: Setting) -> str | None:
    """What of time or memory a provider would need too much of, or None."""
    cells = provider.cells(problem) * problem.batch * problem.num_heads
    seconds = cells * problem.head_dim * FLOPS[direction] / setting.matmul_flops_per_s
    if seconds > MAX_CALL_SECONDS:
        return f"one call would need {seconds / 60:.1f} minutes at this machine's matrix product rate"
    needed, free = provider.mask_bytes(problem, setting.place), setting.meter.available_bytes()
    if needed > MAX_MEMORY_SHARE * free:
        return f"would need {needed / 2**30:.1f} GiB for masks and scores; {free / 2**30:.1f} GiB are free"
    return None


def make_inputs(problem: Problem, setting: Setting) -> Inputs:
    """Standard normal tensors ``[B, H, n, D]``; in layout "bnhd" views of ``[B, n, H, D]``, as projections produce them."""
    generator = torch.Generator().manual_seed(setting.seed)

    def draw(tokens: int) -> torch.Tensor:
        sizes = (tokens, problem.num_heads) if setting.layout == "bnhd" else (problem.num_heads, tokens)
        tensor = torch.randn(problem.batch, *sizes, problem.head_dim, generator=generator)
        tensor = tensor.to(setting.place.device, setting.place.dtype)
        return tensor.transpose(1, 2) if setting.layout == "bnhd" else tensor

    query, key, value = (draw(tokens).requires_grad_() for tokens in (problem.num_query, problem.num_keys, problem.num_keys))
    return Inputs(query, key, value, draw(problem.num_query))


def make_step(attend: Attention, inputs: Inputs, direction: str) -> Step:
    """One direction as a step; it returns out and, after a backward, the gradients of query, key and value."""
    # without a backward there is nothing that wants gradients (flex_attention refuses such inputs on a CPU)
    plain = tuple(leaf.detach() for leaf in inputs.leaves)

    def forward(mark):
        with torch.no_grad():
            out = attend(*plain)
        mark()
        return out, None

    def forward_and_backward(mark):
        out = attend(*inputs.leaves)
        mark()
        grads = torch.autograd.grad(out, inputs.leaves, inputs.grad_out)
        mark()
        return out, grads

    return forward if direction == "forward" else forward_and_backward


def _wanted(providers: Iterable[Provider], problem: Problem, case: Case) -> list[Provider]:
    named = case.providers
    return [provider for provider in providers if problem.op in provider.ops and (named is None or provider.name in named)]
