"""One case from start to end: build each provider, verify it against the oracle, then time all of them in turn."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch

from bench.bounds import DenseBound
from bench.clocks import clocks
from bench.problems import Attention, Case, Problem
from bench.provider import Place, Provider
from bench.records import FAILED, INAPPLICABLE, OK, SKIPPED, UNAVAILABLE, WRONG, Row
from bench.timing import COPIED_BYTES, Meter, Samples, Step, captured, copy_bandwidth, interleaved, quantiles
from bench.traffic import FLOPS, least_work
from bench.verify import Expected, Inputs, disagreement, expect

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = ("bhnd", "bnhd")
DIRECTIONS = ("forward", "forward+backward")
# a provider whose one call would take longer, or more of the free memory, is skipped
MAX_CALL_SECONDS = 30.0
MAX_MEMORY_SHARE = 0.7
# so long a call is not repeated for the sake of its memory
LONG_CALL_SECONDS = 1.0


@dataclass(frozen=True)
class Setting:
    """What all cases of a run have in common."""

    suite: str
    place: Place
    dtype: str
    layout: str
    seed: int
    meter: Meter
    # spent on the rounds of one direction of one problem, where calls are short enough to choose
    seconds: float
    copy_bytes_per_s: float
    matmul_flops_per_s: float


@dataclass(frozen=True)
class Task:
    """A problem, its inputs, and what the oracle says about them."""

    problem: Problem
    inputs: Inputs
    expected: Expected


@dataclass
class Contender:
    """A provider that is ready to run a task."""

    task: Task
    provider: Provider
    attend: Attention
    prepare_ms: float
    held_bytes: int


@dataclass
class Entry:
    """A contender's row in one direction, and, once it is verified, how to run it and about how long a call takes."""

    contender: Contender
    row: Row
    step: Step | None = None
    usual_seconds: float = 0.0


class Bench:
    """Measures cases in one setting. ``say`` hears what is being done; ``keep`` gets each row as soon as it is complete."""

    def __init__(
        self,
        setting: Setting,
        say: Callable[[str], None] = lambda text: None,
        keep: Callable[[Row], None] = lambda row: None,
    ):
        self.setting, self.say, self.keep = setting, say, keep

    def measure(self, case: Case, group: int, providers: Iterable[Provider]) -> list[Row]:
        """All rows of a case; ``group`` marks them as measured together."""
        gc.collect()
        contenders: list[Contender] = []
        refusals: list[Row] = []
        for problem in cast(tuple[Problem, ...], case.problems):
            built, refused = self._prepare(problem, _wanted(providers, problem, case))
            contenders += built
            refusals += refused
        rows = self._finished(refusals, group)
        for direction in DIRECTIONS:
            for timed in self._measure_direction(contenders, direction):
                rows += self._finished(timed, group)
        if self.setting.place.on_cuda:
            torch.cuda.empty_cache()
        return rows

    def _finished(self, rows: list[Row], group: int) -> list[Row]:
        """Rows that were timed together, with what is known once they all were; kept at once."""
        place, meter = self.setting.place, self.setting.meter
        copy_after, clocks_after = None, None
        if any(row.median_ms for row in rows):
            clocks_after = clocks(place.device)
            # a copy on a CPU takes longer than the rounds of a rehearsal; what was measured must not fail for want of memory
            if self.setting.seconds and meter.available_bytes() > 4 * COPIED_BYTES[place.device.type]:
                copy_after = copy_bandwidth(place.device, meter)
        for row in _compared_to_dense(rows):
            row.group, row.load_average = group, os.getloadavg()[0]
            row.copy_after_bytes_per_s, row.clocks_after = copy_after, clocks_after
            self.keep(row)
        return rows

    def _prepare(self, problem: Problem, providers: list[Provider]) -> tuple[list[Contender], list[Row]]:
        """The providers that are ready to run, and rows that say why the others are not."""
        built, refused = [], []
        for provider in providers:
            self.say(f"preparing {provider.name}")
            reasons = {direction: self._obstacle(provider, problem, direction) for direction in DIRECTIONS}
            if None in reasons.values():
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    try:
                        built.append((provider, *self._build(provider, problem)))
                        continue
                    except Exception as error:
                        reasons = dict.fromkeys(DIRECTIONS, (FAILED, explain(error, warned)))
            refused += [self._row(problem, direction, provider.name, why) for direction, why in reasons.items()]
        if not built:
            return [], refused
        self.say("asking the oracle")
        inputs = make_inputs(problem, self.setting)
        tasks: dict[Problem, Task] = {}
        contenders = []
        for provider, attend, prepare_ms, held_bytes in built:
            computed = provider.computes(problem) if isinstance(provider, DenseBound) else problem
            if computed not in tasks:
                tasks[computed] = Task(problem, inputs, expect(computed, inputs, self.setting.seed))
            contenders.append(Contender(tasks[computed], provider, attend, prepare_ms, held_bytes))
        return contenders, refused

    def _build(self, provider: Provider, problem: Problem) -> tuple[Attention, float, int]:
        """The attention, the milliseconds of its preparation, and the bytes that it holds."""
        meter = self.setting.meter
        # the first time may compile; what a user pays per shape is the second
        first = provider.build(problem, self.setting.place)
        before, begin = meter.held(), time.perf_counter()
        attend = provider.build(problem, self.setting.place)
        meter.synchronize()
        prepare_ms = (time.perf_counter() - begin) * 1e3
        held_bytes = max(0, meter.held() - before)
        del first
        return attend, prepare_ms, held_bytes

    def _obstacle(self, provider: Provider, problem: Problem, direction: str) -> tuple[str, str] | None:
        """The status and reason of a provider that is not even tried, or None."""
        if reason := provider.why_not_here(self.setting.place):
            return UNAVAILABLE, reason
        if reason := provider.why_not(problem, self.setting.place, "backward" in direction):
            return INAPPLICABLE, reason
        if reason := over_budget(provider, problem, direction, self.setting):
            return SKIPPED, reason
        return None

    def _measure_direction(self, contenders: list[Contender], direction: str) -> Iterator[list[Row]]:
        """Rows of one direction, those that were timed together at a time."""
        entries = []
        for contender in contenders:
            problem, provider = contender.task.problem, contender.provider
            self.say(f"verifying {provider.name}, {direction}")
            obstacle = self._obstacle(provider, problem, direction)
            entry = Entry(contender, self._row(problem, direction, provider.name, obstacle or (OK, "")))
            entries.append(entry)
            if obstacle is None:
                self._verify(entry, make_step(contender.attend, contender.task.inputs, direction))
        if self.setting.place.on_cuda:
            # first, because they are the kernels: a run that is cut short has them
            yield self._time(self._as_graphs(entries))
        yield self._time(entries)

    def _verify(self, entry: Entry, step: Step) -> None:
        """The first call, checked against the oracle, and another for the memory; the entry gets its step if it is right."""
        row = entry.row
        row.prepare_ms = entry.contender.prepare_ms
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                (out, grads), peak, entry.usual_seconds = self._run(step)
                row.first_call_ms = entry.usual_seconds * 1e3
                if not self._agrees(entry, out, grads):
                    return
                del out, grads
                # first calls compile, load libraries and allocate workspaces; dense attention on a CPU does none of it
                if entry.usual_seconds < LONG_CALL_SECONDS or entry.contender.provider.compiles or self.setting.place.on_cuda:
                    _, peak, entry.usual_seconds = self._run(step)
            except Exception as error:
                row.status, row.reason = FAILED, explain(error, warned)
                return
        row.peak_bytes = None if peak is None else peak + entry.contender.held_bytes
        entry.step = step

    def _run(self, step: Step) -> tuple[tuple, int | None, float]:
        """One call: its result, its peak of memory, its seconds."""
        begin = time.perf_counter()
        result, peak = self.setting.meter.peak(step)
        return result, peak, time.perf_counter() - begin

    def _agrees(self, entry: Entry, out: torch.Tensor, grads: tuple[torch.Tensor, ...] | None) -> bool:
        task = entry.contender.task
        entry.row.error, wrong = disagreement(task.expected, task.inputs, out, grads)
        if wrong:
            entry.row.status, entry.row.reason = WRONG, wrong
        return not wrong

    def _as_graphs(self, entries: list[Entry]) -> list[Entry]:
        """The same steps as CUDA graphs, verified again: what the device needs, without the launches."""
        graphs = []
        for eager in entries:
            if eager.step is None or eager.row.status != OK:
                continue
            row = self._row(eager.contender.task.problem, eager.row.direction, eager.row.provider, launch="graph")
            graph = Entry(eager.contender, row, usual_seconds=eager.usual_seconds)
            graphs.append(graph)
            self.say(f"capturing {row.provider}, {row.direction}")
            try:
                replay, (out, grads) = captured(eager.step)
                for tensor in (out, *(grads or ())):
                    tensor.detach().fill_(float("nan"))
                replay(lambda: None)
                self.setting.meter.synchronize()
                graph.step = replay if self._agrees(graph, out, grads) else None
            except Exception as error:
                row.status, row.reason = FAILED, explain(error)
        return graphs

    def _time(self, entries: list[Entry]) -> list[Row]:
        """Rows with their times filled in; a backward timed inside forward + backward becomes a row of its own."""
        steps = {index: entry.step for index, entry in enumerate(entries) if entry.step is not None}
        usual = {index: entries[index].usual_seconds for index in steps}
        problems = len({entries[index].contender.task.problem for index in steps})
        self.say(f"timing {', '.join(dict.fromkeys(entries[index].row.provider for index in steps))}")
        samples, failures = interleaved(steps, usual, self.setting.meter, self.setting.seconds * problems)
        rows = []
        for index, entry in enumerate(entries):
            row, problem = entry.row, entry.contender.task.problem
            rows.append(row)
            if index in failures:
                row.status, row.reason = FAILED, explain(failures[index])
            elif index in samples:
                self._fill(row, samples[index], samples[index].whole, entry.contender)
                if len(samples[index].parts) == 2:
                    backward = self._row(problem, "backward", row.provider, launch=row.launch)
                    self._fill(backward, samples[index], samples[index].parts[1], entry.contender)
                    rows.append(backward)
        return rows

    def _fill(self, row: Row, samples: Samples, seconds: list[float], contender: Contender) -> None:
        problem, place = contender.task.problem, self.setting.place
        low, middle, high = quantiles(seconds)
        row.median_ms, row.q20_ms, row.q80_ms = middle * 1e3, low * 1e3, high * 1e3
        row.rounds, row.calls = samples.rounds, len(seconds)
        row.images_per_s = problem.batch / middle
        if isinstance(contender.provider, DenseBound):
            # it moves and computes what the problem does not ask for
            row.reason = contender.provider.about
            return
        row.minimum_bytes_per_s = least_work(problem, row.direction, place.dtype.itemsize).bytes / middle
        row.scheduled_bytes = contender.provider.scheduled_bytes(problem, row.direction, place)
        row.scheduled_bytes_per_s = row.scheduled_bytes and row.scheduled_bytes / middle

    def _row(
        self, problem: Problem, direction: str, provider: str, verdict: tuple[str, str] | None = None, launch: str = "eager"
    ) -> Row:
        status, reason = verdict or (OK, "")
        least = least_work(problem, direction, self.setting.place.dtype.itemsize)
        return Row(
            suite=self.setting.suite,
            group=0,
            problem=str(problem),
            op=problem.op,
            batch=problem.batch,
            num_heads=problem.num_heads,
            head_dim=problem.head_dim,
            num_query=problem.num_query,
            num_keys=problem.num_keys,
            num_partial=problem.num_partial,
            num_global=problem.num_global,
            window=problem.window,
            edge=problem.edge,
            dtype=self.setting.dtype,
            layout=self.setting.layout,
            direction=direction,
            launch=launch,
            provider=provider,
            status=status,
            reason=reason,
            minimum_bytes=least.bytes,
            minimum_flops=least.flops,
            copy_bytes_per_s=self.setting.copy_bytes_per_s,
            matmul_flops_per_s=self.setting.matmul_flops_per_s,
        )


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


def over_budget(provider: Provider, problem: Problem, direction: str, setting: Setting) -> str | None:
    """Why a provider is not even tried, or None."""
    cells = provider.cells(problem) * problem.batch * problem.num_heads
    seconds = cells * problem.head_dim * FLOPS[direction] / setting.matmul_flops_per_s
    if seconds > MAX_CALL_SECONDS:
        return f"one call would need {seconds / 60:.1f} minutes at this machine's matrix product rate"
    needed, free = provider.mask_bytes(problem, setting.place), setting.meter.available_bytes()
    if needed > MAX_MEMORY_SHARE * free:
        return f"would need {needed / 2**30:.1f} GiB for masks and scores; {free / 2**30:.1f} GiB are free"
    return None


def explain(error: BaseException, warned: Iterable[warnings.WarningMessage] = ()) -> str:
    """An exception in one line, with the last warning before it: SDPA says there why a backend refuses."""
    text = str(error).strip().splitlines() or [""]
    hints = [str(warning.message).strip().splitlines()[0] for warning in warned]
    return f"{type(error).__name__}: {text[0]}" + (f" ({hints[-1]})" if hints else "")


def _wanted(providers: Iterable[Provider], problem: Problem, case: Case) -> list[Provider]:
    named = case.providers
    return [provider for provider in providers if problem.op in provider.ops and (named is None or provider.name in named)]


def _compared_to_dense(rows: list[Row]) -> list[Row]:
    for row in rows:
        same = (row.problem, row.direction, row.launch)
        dense = [
            other.median_ms
            for other in rows
            if other.provider.startswith("sdpa-mask-")
            and other.median_ms is not None
            and (other.problem, other.direction, other.launch) == same
        ]
        if row.median_ms is not None and dense and not row.provider.startswith("bound-"):
            row.speedup_over_dense = min(dense) / row.median_ms
    return rows
