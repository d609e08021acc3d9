"""A provider that is wrong, in whatever way, is found out and not timed; one that fails is listed with its reason."""

import dataclasses

import pytest
import torch

from bench.contest import verify
from bench.contest.provider import Provider
from bench.contest.records import FAILED, INAPPLICABLE, OK, SKIPPED, UNAVAILABLE, WRONG
from bench.problems.attention import Cascaded, PartialGlobal
from bench.problems.suites import Case
from bench.workloads.attention import make_inputs, measure_attention
from pargo_kernels.intervals import interval_mask

PGP = PartialGlobal(2, 2, 16, 40, 20, 3)
CPP = Cascaded(2, 2, 16, 60, 11)
BOTH = ("forward", "forward+backward")


class Dense(Provider):
    """A right provider, which the others break: dense attention in plain torch."""

    name = "dense"

    def bounds(self, problem):
        return problem.bounds()

    def build(self, problem, place):
        mask = interval_mask(self.bounds(problem), problem.num_keys)

        def attend(query, key, value):
            scores = (query @ key.transpose(-1, -2)) * problem.head_dim**-0.5
            return self.after(scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value, problem)

        return attend

    def after(self, out, problem):
        return out


class ShiftedByOne(Dense):
    """One key too far to the right, where there is room."""

    name = "shifted"

    def bounds(self, problem):
        bounds = problem.bounds()
        return torch.where(bounds[:, 1:] < problem.num_keys, bounds + 1, bounds)


class LastRowBlind(Dense):
    """Right but for one key of the last row, which sees many."""

    name = "last-row"

    def bounds(self, problem):
        bounds = problem.bounds().clone()
        bounds[-1, 1] -= 1
        return bounds


class NaNInOneCell(Dense):
    name = "nan"

    def after(self, out, problem):
        hole = torch.zeros_like(out)
        hole[-1, -1, 0, 0] = float("nan")
        return out + hole


class WrongDtype(Dense):
    name = "dtype"

    def after(self, out, problem):
        return out.double()


class RowMissing(Dense):
    name = "shape"

    def after(self, out, problem):
        return out[:, :, :-1]


class LargerGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.001


class WrongGradient(Dense):
    """Exact outputs, gradients off by a thousandth."""

    name = "gradient"

    def after(self, out, problem):
        return LargerGradient.apply(out)


class RaisingGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("no backward kernel\nand a long explanation")


class FailsInBackward(Dense):
    name = "backward"

    def after(self, out, problem):
        return RaisingGradient.apply(out)


class FailsInBuild(Dense):
    name = "build"

    def build(self, problem, place):
        raise ModuleNotFoundError("No module named 'missing'")


class NotHere(Dense):
    name = "not-here"

    def why_not_here(self, place):
        return "needs another machine"


class NotThis(Dense):
    name = "not-this"

    def why_not(self, problem, place, backward):
        return "computes something else" if backward else None


class TooMuch(Dense):
    name = "too-much"

    def mask_bytes(self, problem, place):
        return 1 << 60


class TooLong(Dense):
    name = "too-long"

    def cells(self, problem):
        return 1 << 60


def rows_of(provider, setting, problem=PGP):
    rows = measure_attention(Case((problem,)), 0, [provider], setting)
    assert all(row.provider == provider.name for row in rows)
    return {row.direction: row for row in rows}


@pytest.mark.parametrize("problem", [PGP, CPP], ids=str)
def test_a_right_provider_is_timed_in_both_directions(setting, problem):
    rows = rows_of(Dense(), setting, problem)
    assert list(rows) == ["forward", "forward+backward", "backward"]
    for row in rows.values():
        assert row.status == OK
        assert 0 < row.q20_ms <= row.median_ms <= row.q80_ms
    assert rows["forward+backward"].error < 5e-6
    assert rows["backward"].median_ms < rows["forward+backward"].q80_ms


@pytest.mark.parametrize("problem", [PGP, CPP], ids=str)
@pytest.mark.parametrize("broken", [ShiftedByOne, LastRowBlind, NaNInOneCell, WrongDtype])
def test_a_wrong_provider_is_not_timed(setting, problem, broken):
    rows = rows_of(broken(), setting, problem)
    assert set(rows) == set(BOTH)
    for row in rows.values():
        assert row.status == WRONG
        assert "out" in row.reason
        assert row.median_ms is None


def test_a_result_of_the_wrong_shape_is_not_timed(setting):
    rows = rows_of(RowMissing(), setting)
    assert rows["forward"].status == WRONG
    assert "[2, 2, 22, 16]" in rows["forward"].reason
    assert rows["forward+backward"].status == FAILED


def test_a_wrong_gradient_stops_the_backward_alone(setting):
    rows = rows_of(WrongGradient(), setting)
    assert rows["forward"].status == OK
    assert rows["forward+backward"].status == WRONG
    assert "grad of query" in rows["forward+backward"].reason
    assert "backward" not in rows


@pytest.mark.parametrize("problem", [PartialGlobal(1, 2, 16, 2048, 512, 3), Cascaded(1, 2, 16, 1024, 33)], ids=str)
@pytest.mark.parametrize("broken", [ShiftedByOne, WrongGradient])
def test_sampling_rows_finds_mistakes_too(setting, monkeypatch, problem, broken):
    monkeypatch.setitem(verify.BUDGET_CELLS, "cpu", 200 * problem.num_keys)
    assert rows_of(Dense(), setting, problem)["forward+backward"].status == OK
    assert rows_of(broken(), setting, problem)["forward+backward"].status == WRONG


@pytest.mark.parametrize("problem", [PartialGlobal(2, 3, 8, 701, 400, 5), Cascaded(2, 3, 8, 500, 40)], ids=str)
def test_a_sample_of_the_oracle_equals_the_whole(setting, monkeypatch, problem):
    inputs = make_inputs(problem, setting)
    whole = verify.expect(problem, inputs)
    assert len(whole.rows) == problem.num_query
    assert len(whole.keys) == problem.num_keys
    # the same pairs, fewer rows, in several pieces
    monkeypatch.setattr(verify, "MAX_PAIRS", len(whole.heads))
    monkeypatch.setattr(verify, "MIN_PAIRS", len(whole.heads))
    monkeypatch.setitem(verify.BUDGET_CELLS, "cpu", len(whole.heads) * 170 * problem.num_keys)
    monkeypatch.setattr(verify, "PIECE_CELLS", len(whole.heads) * 50 * problem.num_keys)
    some = verify.expect(problem, inputs)
    assert 0 < len(some.rows) < problem.num_query
    assert {0, problem.num_keys - 1} <= set(some.keys.tolist()) < set(range(problem.num_keys))
    assert torch.equal(some.heads, whole.heads)
    for name, index in (("out", some.rows), ("grad_query", some.rows), ("grad_key", some.keys), ("grad_value", some.keys)):
        torch.testing.assert_close(getattr(some, name), getattr(whole, name)[:, index], rtol=1e-12, atol=1e-14)


def test_tf32_sized_errors_are_too_large_for_fp32(setting):
    class Rounded(Dense):
        name = "rounded"

        def after(self, out, problem):
            # ten bits of mantissa, as a TF32 product has
            return out + (out.to(torch.float16).float() - out).detach()

    assert rows_of(Rounded(), setting)["forward"].status == WRONG


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_has_room_for_its_rounding_and_no_more(setting, dtype):
    from bench.contest.engine import DTYPES
    from bench.contest.provider import Place

    half = dataclasses.replace(setting, dtype=dtype, place=Place(setting.place.device, DTYPES[dtype]))
    for problem in (PGP, CPP, Cascaded(2, 2, 16, 40, 1), PartialGlobal(1, 2, 64, 1024, 8, 2)):
        assert rows_of(Dense(), half, problem)["forward+backward"].status == OK
    assert rows_of(ShiftedByOne(), half)["forward"].status == WRONG

    class GlobalRowsSeeLess(Dense):
        name = "less"

        def bounds(self, problem):
            bounds = problem.bounds().clone()
            bounds[problem.num_partial :, 1] = problem.num_keys * 9 // 10
            return bounds

    # the mean of a thousand values is small beside the other rows, and is not measured by them
    assert rows_of(GlobalRowsSeeLess(), half, PartialGlobal(1, 2, 16, 1024, 512, 2))["forward"].status == WRONG


def test_what_fails_is_listed_with_its_reason(setting):
    rows = rows_of(FailsInBuild(), setting)
    assert {row.status for row in rows.values()} == {FAILED}
    assert rows["forward"].reason == "ModuleNotFoundError: No module named 'missing'"

    rows = rows_of(FailsInBackward(), setting)
    assert rows["forward"].status == OK
    assert rows["forward+backward"].status == FAILED
    assert rows["forward+backward"].reason == "RuntimeError: no backward kernel"


def test_a_failure_during_the_rounds_spares_the_others(setting):
    class FailsLater(Dense):
        name = "later"
        calls = 0

        def after(self, out, problem):
            FailsLater.calls += 1
            if FailsLater.calls > 3:
                raise RuntimeError("out of memory")
            return out

    rows = measure_attention(Case((PGP,)), 0, [FailsLater(), Dense()], setting)
    later = next(row for row in rows if row.provider == "later" and row.direction == "forward")
    assert (later.status, later.reason, later.median_ms) == (FAILED, "RuntimeError: out of memory", None)
    assert all(row.status == OK for row in rows if row.provider == "dense")


def test_what_is_not_tried_says_why(setting):
    assert {(row.status, row.reason) for row in rows_of(NotHere(), setting).values()} == {
        (UNAVAILABLE, "needs another machine")
    }
    rows = rows_of(NotThis(), setting)
    assert rows["forward"].status == OK
    assert (rows["forward+backward"].status, rows["forward+backward"].reason) == (INAPPLICABLE, "computes something else")
    for provider, pattern in ((TooMuch(), "GiB for masks"), (TooLong(), "minutes")):
        for row in rows_of(provider, setting).values():
            assert row.status == SKIPPED
            assert pattern in row.reason


def test_speed_is_compared_with_the_fastest_dense_sdpa_that_is_right(setting):
    class Right(Dense):
        name = "sdpa-mask-right"

    class Wrong(ShiftedByOne):
        name = "sdpa-mask-wrong"

    rows = measure_attention(Case((PGP,)), 0, [Dense(), Right(), Wrong()], setting)
    dense = {row.direction: row.median_ms for row in rows if row.provider == "sdpa-mask-right"}
    for row in rows:
        if row.provider == "dense":
            assert row.speedup_over_dense == pytest.approx(dense[row.direction] / row.median_ms)
        if row.provider == "sdpa-mask-wrong":
            assert row.speedup_over_dense is None


def test_a_bound_is_verified_as_what_it_is_and_compared_with_nobody(setting):
    from bench.rivals.bounds import DenseBound
    from bench.rivals.peers import PROVIDERS

    class Blind(DenseBound):
        """Sees all keys but the last."""

        def build(self, problem, place):
            attend = super().build(problem, place)
            return lambda query, key, value: attend(query, key[:, :, :-1], value[:, :, :-1])

    class Masked(DenseBound):
        """Computes our problem: as a bound it is wrong."""

        def build(self, problem, place):
            return problem.attention("torch")

    wrong, masked = Blind("flash"), Masked("flash")
    wrong.name, masked.name = "bound-blind", "bound-masked"
    providers = [PROVIDERS["pargo"], PROVIDERS["sdpa-mask-flash"], PROVIDERS["bound-flash"], wrong, masked]
    rows = measure_attention(Case((PGP,)), 0, providers, setting)
    status = {row.provider: row.status for row in rows}
    assert status == {
        "pargo": OK, "sdpa-mask-flash": OK, "bound-flash": OK, "bound-blind": WRONG, "bound-masked": WRONG,
    }  # fmt: skip
    for row in rows:
        if row.provider == "bound-flash":
            assert "another problem" in row.reason
            assert row.speedup_over_dense is None
            assert row.minimum_bytes_per_s is None
        # nor is it what others are compared with
        if row.provider == "sdpa-mask-flash":
            assert row.speedup_over_dense == 1
