"""Entrants are verified, timed in turn, and have their rows: in that order, and kept at once."""

import time
from dataclasses import replace

import pytest
import torch

from bench.contest import engine, timing
from bench.contest.against_dense import AgainstDense
from bench.contest.engine import Contest, Entrant, new_row
from bench.contest.provider import Place, Provider
from bench.problems.attention import PartialGlobal
from bench.problems.suites import Case
from bench.rivals.peers import PROVIDERS
from bench.workloads.attention import measure_attention

TINY = PartialGlobal(1, 2, 8, 12, 6, 1)


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

    rows = measure_attention(Case((TINY,)), 0, [Sleeper()], setting)
    times = {row.direction: row.median_ms for row in rows}
    assert times["backward"] >= 50
    assert times["forward+backward"] >= times["backward"]


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

    rows = measure_attention(Case((TINY,)), 7, [Watching()], setting, keep=kept.append)
    assert {row.status for row in rows} == {"ok"}
    assert kept == rows
    assert {row.group for row in kept} == {7}
    assert {row.clocks_after for row in kept} == {"unknown"}


class OnCuda(Place):
    on_cuda = True


@pytest.fixture
def graphs(setting, monkeypatch):
    """A setting in which steps are captured as graphs: stand-ins, which write their results again, or not."""

    def in_graphs(writes):
        def as_graph(step):
            out, grads = step(lambda: None)
            tensors = [tensor.detach() for tensor in (out, *(grads or ()))]
            kept = [tensor.clone() for tensor in tensors]

            def replay(self):
                for tensor, values in zip(tensors, kept if writes else (), strict=writes):
                    tensor.copy_(values)

            return timing.Replay(type("Graph", (), {"replay": replay})()), (out, grads)

        monkeypatch.setattr(engine, "captured", as_graph)
        return replace(setting, place=OnCuda(setting.place.device, setting.place.dtype))

    return in_graphs


def test_graphs_are_timed_before_eager_calls(graphs):
    kept = []
    measure_attention(Case((TINY,)), 0, [PROVIDERS["pargo"]], graphs(writes=True), keep=kept.append)
    timed = [(row.direction, row.launch) for row in kept if row.median_ms]
    assert timed.index(("forward", "graph")) < timed.index(("forward", "eager"))
    assert timed.index(("forward+backward", "graph")) < timed.index(("forward+backward", "eager"))


def test_a_graph_that_does_not_write_its_results_is_found_out(graphs):
    rows = measure_attention(Case((TINY,)), 0, [PROVIDERS["pargo"]], graphs(writes=False))
    found = {(row.launch, row.direction): (row.status, row.median_ms is None) for row in rows}
    assert found["graph", "forward"] == found["graph", "forward+backward"] == ("wrong", True)
    assert found["eager", "forward"] == found["eager", "forward+backward"] == ("ok", False)


def test_the_copy_is_measured_again_beside_the_rows(setting, monkeypatch):
    monkeypatch.setattr("bench.contest.engine.copy_bandwidth", lambda *_: 5.0)
    case = Case((TINY,))
    providers = [PROVIDERS["pargo"], PROVIDERS["sliced"]]
    rows = measure_attention(case, 0, providers, replace(setting, seconds=1e-3))
    assert {(row.provider, row.copy_after_bytes_per_s) for row in rows} == {("pargo", 5.0)}
    # a rehearsal has no time for it
    assert {row.copy_after_bytes_per_s for row in measure_attention(case, 0, providers, setting)} == {None}


def way(setting, name, result, judge):
    """An entrant that does nothing, and whose trial gives ``result``, or raises it."""

    def trial():
        if isinstance(result, Exception):
            raise result
        return result

    return Entrant(new_row(setting, TINY, "forward", name), lambda mark: mark(), judge=judge, trial=trial)


@pytest.mark.parametrize(
    ("dense", "other", "verdicts"),
    [
        (1.001, 1.001, ["ok", "ok"]),
        (1.001, 1.003, ["ok", "wrong"]),
        (1.001, float("nan"), ["ok", "wrong"]),
        (float("nan"), 1.0, ["wrong", "wrong"]),
        (RuntimeError("out of memory"), 1.0, ["failed", "skipped"]),
    ],
)
def test_ways_are_held_to_twice_the_dense_ways_error(setting, dense, other, verdicts):
    exact = [[torch.ones(3, dtype=torch.float64)], [torch.ones(2, dtype=torch.float64)]]
    judge = AgainstDense(exact, "dense")
    # the second group: the first is always right
    results = [
        value if isinstance(value, Exception) else [[torch.ones(3)], [torch.full((2,), value)]] for value in (dense, other)
    ]
    entrants = [way(setting, name, result, judge) for name, result in zip(("dense", "other"), results, strict=True)]
    rows = Contest(setting, "dense".__eq__).run(entrants, 0)
    assert [row.status for row in rows] == verdicts
    assert [row.median_ms is not None for row in rows] == [verdict == "ok" for verdict in verdicts]
    assert all(row.reason for row in rows if row.status != "ok")
