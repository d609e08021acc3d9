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


@pytest.fixture
def device_log(monkeypatch):
    """What a CudaMeter asks of the device, in order, on stand-ins for its events."""
    from bench import timing

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
    from bench.timing import CudaMeter, Replay

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
    from bench import timing

    monkeypatch.setattr(timing, "EVICTING_BYTES", 1 << 10)
    meter = timing.CudaMeter(torch.device("cpu"))
    version = meter._clean._version
    meter.evict()
    # all of it was read, and none of it written: dirty lines would be written back while the next call is timed
    assert meter._sum == 256
    assert meter._clean._version == version


def test_clocks_are_read_where_they_can_be(monkeypatch):
    from bench import clocks

    assert clocks.clocks(torch.device("cpu")) == "unknown"
    monkeypatch.setattr(clocks.torch.cuda, "get_device_properties", lambda device: type("Device", (), {"uuid": "1-2"}))
    monkeypatch.setattr(clocks, "_by_library", lambda name: None)
    asked = []

    def answer(command, **_):
        asked.append(command)
        return type("Done", (), {"stdout": "1980, 2619\n"})

    monkeypatch.setattr(clocks.subprocess, "run", answer)
    assert clocks.clocks(torch.device("cuda")) == "SM 1980 MHz, memory 2619 MHz"
    # of this GPU, and only asked for
    assert asked[0][:3] == ["nvidia-smi", "--id", "GPU-1-2"]
    assert all(word.startswith("--query") or word.startswith("--format") for word in asked[0][3:])
    monkeypatch.setattr(clocks.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert clocks.clocks(torch.device("cuda")) == "unknown"


def test_rows_are_kept_as_soon_as_they_are_timed(setting):
    kept = []

    class Watching(Provider):
        name = "watching"

        def build(self, problem, place):
            attend = problem.attention("torch")

            def watched(query, key, value):
                if query.requires_grad:
                    # forward + backward begins: the forward's rows are already kept
                    assert [row.direction for row in kept if row.median_ms] == ["forward"]
                return attend(query, key, value)

            return watched

    rows = Bench(setting, keep=kept.append).measure(Case((PartialGlobal(1, 2, 8, 12, 6, 1),)), 7, [Watching()])
    assert {row.status for row in rows} == {"ok"}
    assert kept == rows
    assert {row.group for row in kept} == {7}
    assert {row.clocks_after for row in kept} == {"unknown"}


def test_graphs_are_timed_before_eager_calls(setting, monkeypatch):
    from dataclasses import replace

    from bench import measure, timing
    from bench.provider import Place

    class OnCuda(Place):
        on_cuda = True

    def as_graph(step):
        return timing.Replay(type("Graph", (), {"replay": lambda self: None})()), step(lambda: None)

    monkeypatch.setattr(measure, "captured", as_graph)
    # a captured call whose results are not written again is found out: here nothing replays
    monkeypatch.setattr(Bench, "_agrees", lambda *_: True)
    kept = []
    place = OnCuda(setting.place.device, setting.place.dtype)
    Bench(replace(setting, place=place), keep=kept.append).measure(
        Case((PartialGlobal(1, 2, 8, 12, 6, 1),)), 0, [measure_peers()["pargo-torch"]]
    )
    timed = [(row.direction, row.launch) for row in kept if row.median_ms]
    assert timed.index(("forward", "graph")) < timed.index(("forward", "eager"))
    assert timed.index(("forward+backward", "graph")) < timed.index(("forward+backward", "eager"))


def measure_peers():
    from bench.peers import PROVIDERS

    return PROVIDERS


def test_growth_is_that_of_the_graphs_where_there_are_any():
    from dataclasses import replace

    from bench.report import growth
    from tests.bench.test_bench_results import ROW

    row = replace(ROW, direction="forward+backward")
    eager = [replace(row, num_keys=size, median_ms=1.0) for size in (1000, 2000)]
    graphs = [replace(row, num_keys=size, median_ms=size / 1e3, launch="graph") for size in (1000, 2000)]
    assert "n_v^0.00" in growth(eager)
    assert "replayed as a CUDA graph, grows as n_v^1.00" in growth([*eager, *graphs])


def test_the_copy_is_measured_again_beside_the_rows(setting, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr("bench.measure.copy_bandwidth", lambda *_: 5.0)
    case = Case((PartialGlobal(1, 2, 8, 12, 6, 1),))
    providers = [measure_peers()["pargo"], measure_peers()["sliced"]]
    rows = Bench(replace(setting, seconds=1e-3)).measure(case, 0, providers)
    assert {(row.provider, row.copy_after_bytes_per_s) for row in rows} == {("pargo", 5.0)}
    # a rehearsal has no time for it
    assert {row.copy_after_bytes_per_s for row in Bench(setting).measure(case, 0, providers)} == {None}
