"""The projector's step and packed pictures as benchmarks: what is wrong is found before it is timed."""

import pytest
import torch

from bench.problems.anyres import AnyResolution
from bench.problems.projector import ProjectorStep
from bench.workloads import anyres
from bench.workloads.projector import BOUND, WAYS, computed, measure_projector
from pargo_mllm.projectors.attention import PartialGlobal, ProjectorAttention

TINY = ProjectorStep(2, 576).shrunk(0)


def test_every_way_is_measured_in_both_directions(setting):
    rows = measure_projector(TINY, 3, setting)
    assert {(row.provider, row.direction) for row in rows} == {
        (way, direction) for way in WAYS for direction in ("forward", "forward+backward")
    }
    for row in rows:
        assert row.status == "ok", row.reason
        assert row.group == 3
        assert 0 < row.q20_ms <= row.median_ms <= row.q80_ms
        assert (row.error is None) == (row.provider == BOUND)
        assert row.speedup_over_dense == pytest.approx(
            next(r.median_ms for r in rows if r.provider == "sdpa" and r.direction == row.direction) / row.median_ms
        )


def test_a_wrong_attention_is_not_timed(setting, monkeypatch):
    right = PartialGlobal.attend
    monkeypatch.setattr(PartialGlobal, "attend", lambda self, *args, **options: 1.001 * right(self, *args, **options))
    found = {row.provider: row for row in measure_projector(TINY, 0, setting) if row.direction == "forward+backward"}
    assert found["pargo"].status == "wrong"
    assert "twice the dense way's" in found["pargo"].reason
    assert found["pargo"].median_ms is None
    assert found["sdpa"].status == "ok"


def test_the_bound_is_put_back_after_an_error():
    before = ProjectorAttention._attend
    projector = torch.nn.Module()
    projector.config = type("Config", (), {"_attn_implementation": "pargo"})()

    def fail():
        assert ProjectorAttention._attend is not before
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), computed(projector, BOUND):
        fail()
    assert ProjectorAttention._attend is before


def test_packed_padded_and_single_pictures_agree_and_are_measured(setting):
    rows = anyres.measure_anyres(AnyResolution((576, 1152, 2880), 16, 64).shrunk(1), 0, setting)
    assert {row.configuration["num_heads"] for row in rows} == {2}
    assert {row.provider for row in rows} == {"pargo", "sdpa-padded", "sdpa-one-by-one"}
    assert all(row.status == "ok" and row.error < 1e-5 for row in rows)


def test_a_packing_that_leaks_is_not_timed(setting, monkeypatch):
    # the second picture begins a token too early
    right = anyres.packed
    monkeypatch.setattr(anyres, "packed", lambda problem, setting: right(AnyResolution((22, 25, 22), 2, 16, 12, 3), setting))
    problem = AnyResolution((23, 24, 22), 2, 16, 12, 3)
    found = {row.provider: row.status for row in anyres.measure_anyres(problem, 0, setting)}
    assert found == {"pargo": "wrong", "sdpa-padded": "ok", "sdpa-one-by-one": "ok"}
