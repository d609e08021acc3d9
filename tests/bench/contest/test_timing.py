"""Clocks measure the parts they name, rounds interleave, and the memory meter sees what is allocated."""

import time

import pytest
import torch

from bench.contest.timing import MAX_ROUNDS, MIN_ROUNDS, TURN_CALLS, CpuMeter, Samples, interleaved, quantiles


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


@pytest.fixture
def device_log(monkeypatch):
    """What a CudaMeter asks of the device, in order, on stand-ins for its events."""
    from bench.contest import timing

    log = []

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            log.append("event")

        def elapsed_time(self, other):
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    monkeypatch.setattr(timing, "EVICTING_BYTES", 1 << 10)
    monkeypatch.setattr(timing.CudaMeter, "evict", lambda self: log.append("evict"))
    return log


def test_an_eager_call_starts_on_an_idle_device_and_a_replay_behind_the_eviction(device_log):
    from bench.contest.timing import CudaMeter, Replay

    class Graph:
        def replay(self):
            device_log.append("replay")

    meter = CudaMeter(torch.device("cpu"))
    assert meter.call(Replay(Graph())) == [2e-3]
    # the host's work for the launch is over before the device has finished reading
    assert device_log == ["wait", "evict", "event", "replay", "event", "wait"]
    device_log.clear()
    meter.call(lambda mark: (device_log.append("work"), mark()))
    assert device_log == ["wait", "evict", "wait", "event", "work", "event", "wait"]


def test_the_cache_is_emptied_by_reading(monkeypatch):
    from bench.contest import timing

    monkeypatch.setattr(timing, "EVICTING_BYTES", 1 << 10)
    meter = timing.CudaMeter(torch.device("cpu"))
    version = meter._clean._version
    meter.evict()
    # all of it was read, and none of it written: dirty lines would be written back while the next call is timed
    assert meter._sum == 256
    assert meter._clean._version == version
