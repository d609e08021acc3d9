"""Some ways to do the same thing, where inputs are more than query, key and value: verified, then timed in turn."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from bench.measure import Setting, explain
from bench.records import FAILED, OK, WRONG, Row
from bench.timing import Samples, Step, interleaved, quantiles

# tensors in groups; a group has one relative error
Results = list[list[torch.Tensor]]
# what the error may be beside twice the dense way's
ROUNDING = 1e-6


class Way(NamedTuple):
    """A step of forward and backward, and what it computes; None for a step that only bounds the others."""

    step: Step
    results: Callable[[], Results] | None


def measure_ways(
    ways: dict[str, Way],
    dense: str,
    exact: Results,
    row: Row,
    group: int,
    setting: Setting,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Rows of every way, forward and forward + backward.

    Args:
        ways: the dense one first: twice its error is what the others may have.
        exact: the results in fp64.
        row: what the rows have in common.
    """
    rows: list[Row] = []
    steps, usual, budget = {}, {}, None
    for name, way in ways.items():
        say(f"verifying {name}")
        mine = replace(row, provider=name)
        rows.append(mine)
        try:
            if way.results is not None:
                mine.error = worst(way.results(), exact)
                budget = 2 * mine.error + ROUNDING if name == dense else budget
                if budget is not None and mine.error > budget:
                    mine.status = WRONG
                    mine.reason = f"error {mine.error:.2e}, twice the dense way's is {budget:.2e}"
                    continue
            _, mine.peak_bytes = setting.meter.peak(way.step)
            usual[name] = setting.meter.call(way.step)[-1]
            steps[name] = way.step
        except Exception as error:
            mine.status, mine.reason = FAILED, explain(error)
    say(f"timing {', '.join(steps)}")
    samples, failures = interleaved(steps, usual, setting.meter, setting.seconds)
    for mine in list(rows):
        if mine.provider in failures:
            mine.status, mine.reason = FAILED, explain(failures[mine.provider])
        elif mine.provider in samples:
            forward = copy.copy(mine)
            forward.direction, forward.peak_bytes = "forward", None
            rows.append(forward)
            _fill(forward, samples[mine.provider], samples[mine.provider].parts[0])
            _fill(mine, samples[mine.provider], samples[mine.provider].whole)
    times = {(mine.provider, mine.direction): mine.median_ms for mine in rows}
    for mine in rows:
        base = times.get((dense, mine.direction))
        mine.speedup_over_dense = base / mine.median_ms if base and mine.median_ms else None
        mine.group, mine.load_average = group, os.getloadavg()[0]
    return rows


def worst(found: Results, exact: Results) -> float:
    """The largest relative error of a group."""
    errors = []
    for some, right in zip(found, exact, strict=True):
        error = sum(float((x.double() - y).square().sum()) for x, y in zip(some, right, strict=True))
        errors.append((error / sum(float(y.square().sum()) for y in right)) ** 0.5)
    return max(errors)


def new_row(setting: Setting, **fields: Any) -> Row:
    """A row of forward + backward in this setting."""
    return Row(
        suite=setting.suite,
        group=0,
        window=None,
        edge=None,
        dtype=setting.dtype,
        layout="bnhd",
        direction="forward+backward",
        launch="eager",
        provider="",
        status=OK,
        copy_bytes_per_s=setting.copy_bytes_per_s,
        matmul_flops_per_s=setting.matmul_flops_per_s,
        **fields,
    )


def _fill(row: Row, samples: Samples, seconds: list[float]) -> None:
    low, middle, high = quantiles(seconds)
    row.median_ms, row.q20_ms, row.q80_ms = middle * 1e3, low * 1e3, high * 1e3
    row.rounds, row.calls = samples.rounds, len(seconds)
    row.images_per_s = row.batch / middle
