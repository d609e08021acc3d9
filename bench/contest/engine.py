"""The engine of every benchmark: verify each entrant, then time all that are right in turn, then complete their rows."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.contest.clocks import clocks
from bench.contest.provider import Place
from bench.contest.records import FAILED, OK, Row
from bench.contest.timing import COPIED_BYTES, TURN_CALLS, Meter, Step, captured, copy_bandwidth, interleaved, quantiles

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# so long a call is not repeated for the sake of its memory
LONG_CALL_SECONDS = 1.0

# told the row, which gets its errors, and a result: a status, and the reason of one that is not OK
Judge = Callable[[Row, Any], tuple[str, str]]


@dataclass(frozen=True)
class Setting:
    """What all cases of a run have in common."""

    suite: str
    place: Place
    dtype: str
    layout: str
    seed: int
    meter: Meter
    # spent on the rounds of one problem, where calls are short enough to choose
    seconds: float
    copy_bytes_per_s: float
    matmul_flops_per_s: float


@dataclass
class Entrant:
    """One way to do one thing, and the row that says what became of it.

    Args:
        row: it is tried if the row's status is "ok"; else the row says why not.
        step: a call, in parts; None where it is not tried.
        images: of one call.
        judge: None for what computes another problem, and only bounds the others.
        trial: gives what is judged, where that is not the result of the step.
        parts: for each part of the step the direction of a row of its own, or "".
        finish: completes a row, of the whole or of a part, that has its times.
        tidy: frees what a call that failed has left.
        first_differs: the first call compiles, loads or allocates what later ones find: the memory is that of the second.
        held_bytes: what it holds beside its inputs, a mask say.
    """

    row: Row
    step: Step | None = None
    images: int = 1
    judge: Judge | None = None
    trial: Callable[[], Any] | None = None
    parts: tuple[str, ...] = ()
    finish: Callable[[Row], None] = lambda row: None
    tidy: Callable[[], None] = lambda: None
    first_differs: bool = True
    held_bytes: int = 0
    # a verified step, and about how long it takes
    right: Step | None = None
    usual_seconds: float = 0.0

    def whole_and_parts(self, names: Iterable[str]) -> list[Row]:
        """Its row, and one for each part that has a name."""
        part = replace(self.row, peak_bytes=None, prepare_ms=None, first_call_ms=None)
        return [self.row, *(replace(part, direction=name) for name in names if name)]


class Contest:
    """Entrants of one setting. ``say`` hears what is being done; ``keep`` gets each row as soon as it is complete.

    Args:
        dense: whether the provider of this name is what the others' speed is compared with: the fastest of them.
    """

    def __init__(
        self,
        setting: Setting,
        dense: Callable[[str], bool],
        say: Callable[[str], None] = lambda text: None,
        keep: Callable[[Row], None] = lambda row: None,
    ):
        self.setting, self.dense, self.say, self.keep = setting, dense, say, keep

    def run(self, entrants: list[Entrant], group: int, graphs: bool = False, turn_calls: int = TURN_CALLS) -> list[Row]:
        """The rows of all entrants; ``group`` marks them as measured together.

        Args:
            graphs: time right steps as CUDA graphs too, where there is CUDA.
            turn_calls: most calls of a step in one round.
        """
        for entrant in entrants:
            if entrant.row.status == OK:
                self.say(f"verifying {entrant.row.provider}, {entrant.row.direction}")
                self._verify(entrant)
        rows = []
        if graphs and self.setting.place.on_cuda:
            # first, because they are the kernels: a run that is cut short has them
            rows += self.finished(self._time(self._as_graphs(entrants), turn_calls), group)
        return rows + self.finished(self._time(entrants, turn_calls), group)

    def finished(self, rows: list[Row], group: int) -> list[Row]:
        """Rows that were timed together, with what is known once they all were; kept at once."""
        place, meter = self.setting.place, self.setting.meter
        copy_after, clocks_after = None, None
        if any(row.median_ms for row in rows):
            clocks_after = clocks(place.device)
            # a copy on a CPU takes longer than the rounds of a rehearsal; what was measured must not fail for want of memory
            if self.setting.seconds and meter.available_bytes() > 4 * COPIED_BYTES[place.device.type]:
                copy_after = copy_bandwidth(place.device, meter)
        for row in self._compared(rows):
            row.group, row.load_average = group, os.getloadavg()[0]
            row.copy_after_bytes_per_s, row.clocks_after = copy_after, clocks_after
            self.keep(row)
        return rows

    def _verify(self, entrant: Entrant) -> None:
        """What is judged, a first call, and another for the memory; the entrant's step is right if all goes well."""
        row, step = entrant.row, entrant.step
        assert step is not None
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                if entrant.trial is not None and not _judged(entrant, entrant.trial()):
                    return
                result, peak, entrant.usual_seconds = self._call(step)
                row.first_call_ms = entrant.usual_seconds * 1e3
                if entrant.trial is None and not _judged(entrant, result):
                    return
                del result
                if entrant.usual_seconds < LONG_CALL_SECONDS or entrant.first_differs:
                    _, peak, entrant.usual_seconds = self._call(step)
            except Exception as error:
                row.status, row.reason = FAILED, explain(error, warned)
                entrant.tidy()
                return
        row.peak_bytes = None if peak is None else peak + entrant.held_bytes
        entrant.right = step

    def _call(self, step: Step) -> tuple[Any, int | None, float]:
        """One call: its result, its peak of memory, its seconds."""
        begin = time.perf_counter()
        result, peak = self.setting.meter.peak(step)
        return result, peak, time.perf_counter() - begin

    def _as_graphs(self, entrants: list[Entrant]) -> list[Entrant]:
        """The right steps as CUDA graphs, verified again: what the device needs, without the launches."""
        graphs = []
        for eager in entrants:
            if eager.right is None:
                continue
            row = replace(eager.row, launch="graph", error=None, peak_bytes=None, prepare_ms=None, first_call_ms=None)
            graph = replace(eager, row=row, right=None)
            graphs.append(graph)
            self.say(f"capturing {row.provider}, {row.direction}")
            try:
                replay, result = captured(eager.right)
                for tensor in _tensors(result):
                    tensor.detach().fill_(float("nan"))
                replay(lambda: None)
                self.setting.meter.synchronize()
                graph.right = replay if _judged(graph, result) else None
            except Exception as error:
                row.status, row.reason = FAILED, explain(error)
        return graphs

    def _time(self, entrants: list[Entrant], turn_calls: int) -> list[Row]:
        """The rows of all entrants, with the times of those that are right."""
        steps = {index: entrant.right for index, entrant in enumerate(entrants) if entrant.right is not None}
        usual = {index: entrants[index].usual_seconds for index in steps}
        problems = len({entrants[index].row.problem for index in steps})
        self.say(f"timing {', '.join(dict.fromkeys(entrants[index].row.provider for index in steps))}")
        seconds = self.setting.seconds * problems
        samples, failures = interleaved(steps, usual, self.setting.meter, seconds, turn_calls)
        rows = []
        for index, entrant in enumerate(entrants):
            if index in failures:
                entrant.row.status, entrant.row.reason = FAILED, explain(failures[index])
            if index not in samples:
                rows.append(entrant.row)
                continue
            sample = samples[index]
            # a replayed graph is one part
            names = entrant.parts if len(sample.parts) == len(entrant.parts) else ()
            timed = [sample.whole, *(part for part, name in zip(sample.parts, names, strict=False) if name)]
            for row, taken in zip(entrant.whole_and_parts(names), timed, strict=True):
                low, middle, high = quantiles(taken)
                row.median_ms, row.q20_ms, row.q80_ms = middle * 1e3, low * 1e3, high * 1e3
                row.rounds, row.calls, row.images_per_s = sample.rounds, len(taken), entrant.images / middle
                entrant.finish(row)
                rows.append(row)
        return rows

    def _compared(self, rows: list[Row]) -> list[Row]:
        best: dict[tuple[str, str, str], float] = {}
        for row in rows:
            if row.median_ms is not None and self.dense(row.provider):
                key = (row.problem, row.direction, row.launch)
                best[key] = min(row.median_ms, best.get(key, row.median_ms))
        for row in rows:
            dense = best.get((row.problem, row.direction, row.launch))
            # a bound on dense ways is compared with nobody
            if row.median_ms is not None and dense is not None and not row.provider.startswith("bound-"):
                row.speedup_over_dense = dense / row.median_ms
        return rows


def new_row(setting: Setting, problem: Any, direction: str, provider: str, verdict: tuple[str, str] = (OK, "")) -> Row:
    """A row of a problem in a setting, before anything is measured."""
    status, reason = verdict
    return Row(
        suite=setting.suite,
        group=0,
        problem=str(problem),
        op=problem.op,
        configuration=problem.configuration,
        dtype=setting.dtype,
        layout=setting.layout,
        direction=direction,
        launch="eager",
        provider=provider,
        status=status,
        reason=reason,
        copy_bytes_per_s=setting.copy_bytes_per_s,
        matmul_flops_per_s=setting.matmul_flops_per_s,
    )


def explain(error: BaseException, warned: Iterable[warnings.WarningMessage] = ()) -> str:
    """An exception in one line, with the last warning before it: SDPA says there why a backend refuses."""
    text = str(error).strip().splitlines() or [""]
    hints = [str(warning.message).strip().splitlines()[0] for warning in warned]
    return f"{type(error).__name__}: {text[0]}" + (f" ({hints[-1]})" if hints else "")


def _judged(entrant: Entrant, result: Any) -> bool:
    """Whether the entrant is right; its row says if it is not."""
    if entrant.judge is not None:
        entrant.row.status, entrant.row.reason = entrant.judge(entrant.row, result)
    return entrant.row.status == OK


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for item in result or () for tensor in _tensors(item)]
