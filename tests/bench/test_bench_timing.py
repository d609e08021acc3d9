"""Clocks measure the parts they name, rounds interleave, and the memory meter sees what is allocated."""

import time

import pytest
import torch

from bench.measure import Bench
from bench.problems import Case, PartialGlobal
from bench.provider import Provider
from bench.timing import MAX_ROUNDS, MIN_ROUNDS, TURN_CALLS, CpuMeter, Samples, interleaved, quantiles


def test_parts_are_counted_from_the_end_of_the_part_before():
    samples = Samples()
    samples.add([1.0, 4.0])
    samples.add([2.0, 3.0])
    assert samples.parts == [[1.0, 2.0], [3.0, 1.0]]
    assert samples.whole == [4.0, 3.0]


def test_quantiles():
    assert quantiles([float(value) for value in range(100, -1, -1)]) == pytest.approx((20, 50, 80))


def test_the_meter_tells_the_parts_of_a_step():
    def step(mark):
        time.sleep(0.01)
        mark()
        time.sleep(0.03)
        mark()

    first, second = CpuMeter().call(step)
    assert first >= 0.01
    assert second - first >= 0.03


def test_a_slow_backward_is_not_laid_to_the_forward(setting):
    class SleepingGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, tensor):
            return tensor.clone()

        @staticmethod
        def backward(ctx, grad):
            time.sleep(0.05)
            return grad

    class Sleeper(Provider):
        name = "sleeper"

        def build(self, problem, place):
            attend = problem.attention("torch")
            return lambda query, key, value: SleepingGradient.apply(attend(query, key, value))

    rows = Bench(setting).measure(Case((PartialGlobal(1, 2, 8, 12, 6, 1),)), 0, [Sleeper()])
    times = {row.direction: row.median_ms for row in rows}
    assert times["backward"] >= 50
    assert times["forward+backward"] >= times["backward"]


def test_rounds_interleave_and_rotate():
    order = []

    def step(name):
        def run(mark):
            order.append(name)
            mark()

        return run

    steps = {name: step(name) for name in "abc"}
    # calls of 0.1 s: two fit into a turn; no time for more than the least number of rounds
    samples, failures = interleaved(steps, dict.fromkeys(steps, 0.1), CpuMeter(), seconds=0.0)
    assert not failures
    assert MIN_ROUNDS == 3
    assert "".join(order) == "aabbcc" + "bbccaa" + "ccaabb"
    assert {name: (one.rounds, len(one.whole)) for name, one in samples.items()} == dict.fromkeys(steps, (3, 6))


def test_short_calls_get_more_rounds_within_bounds():
    steps = {"a": lambda mark: mark()}
    for seconds, rounds in ((0.0, MIN_ROUNDS), (0.05, 10), (1e9, MAX_ROUNDS)):
        samples, _ = interleaved(steps, {"a": 0.001}, CpuMeter(), seconds)
        assert (samples["a"].rounds, len(samples["a"].whole)) == (rounds, rounds * TURN_CALLS)


def test_peak_memory_is_what_a_call_allocates():
    meter = CpuMeter()
    if meter.why_no_memory:
        pytest.skip(meter.why_no_memory)
    megabyte = 1 << 20

    def step(mark):
        # 64 MB for a moment, then 16 MB kept
        kept = torch.ones(16 * megabyte, dtype=torch.int8)
        torch.ones(48 * megabyte, dtype=torch.int8)
        mark()
        return kept

    for _ in range(2):
        assert meter.peak(step)[1] == pytest.approx(64 * megabyte, rel=0.05)
