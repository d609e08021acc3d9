"""Every provider that runs on this machine computes the layouts exactly, at sizes that divide nothing."""

import sys
import types

import pytest
import torch

from bench.contest.provider import Place
from bench.contest.records import INAPPLICABLE, OK, UNAVAILABLE
from bench.contest.verify import disagreement, expect
from bench.problems.attention import Cascaded, PartialGlobal
from bench.problems.suites import SUITES, Case
from bench.rivals.peers import PROVIDERS
from bench.workloads.attention import make_inputs, measure_attention

PROBLEMS = (
    PartialGlobal(2, 2, 16, 40, 20, 3),
    PartialGlobal(2, 2, 16, 47, 20, 3),  # slices of 2 and 3
    PartialGlobal(1, 2, 16, 180, 20, 3),  # long slices
    PartialGlobal(1, 2, 16, 189, 20, 3),  # slices of 9 and 10
    PartialGlobal(1, 2, 16, 21, 21, 1),  # slices of 1
    Cascaded(2, 2, 16, 97, 12),
    Cascaded(2, 2, 16, 97, 13),
    Cascaded(2, 2, 16, 97, 12, "truncate"),
    Cascaded(2, 2, 16, 97, 50),
    Cascaded(2, 2, 16, 97, 1),
    Cascaded(2, 2, 16, 97, 97),
    Cascaded(2, 2, 16, 97, 97, "truncate"),
)
SLOW_TO_BUILD = ("flex", "flex-rows16", "flex-8x16", "flex-16x32", "natten")
EAGER = [name for name in PROVIDERS if not name.endswith("-compiled") and name not in SLOW_TO_BUILD]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_eager_providers_are_exact(setting, problem):
    rows = measure_attention(Case((problem,)), 0, [PROVIDERS[name] for name in EAGER], setting)
    ran = {row.provider for row in rows if row.status == OK}
    assert {"pargo", "sdpa-mask-flash"} < ran
    assert ran >= ({"split"} if problem.op == "pgp" else {"sliced", "blocks", "neighbours"})
    for row in rows:
        assert row.status in (OK, INAPPLICABLE, UNAVAILABLE), f"{row.provider}: {row.reason}"
        assert row.reason or row.status == OK


@pytest.mark.parametrize(
    ("problem", "names"),
    [(PROBLEMS[1], ("split-compiled",)), (PROBLEMS[5], ("blocks-compiled", "flex"))],
    ids=["pgp", "cpp"],
)
def test_compiled_providers_are_exact(setting, problem, names):
    rows = measure_attention(Case((problem,)), 0, [PROVIDERS[name] for name in names], setting)
    for row in rows:
        no_backward = (row.provider, row.direction) == ("flex", "forward+backward")
        assert row.status == (INAPPLICABLE if no_backward else OK), f"{row.provider}: {row.reason}"


@pytest.mark.parametrize("problem", PROBLEMS[:5], ids=str)
def test_global_rows_as_matrix_products_are_exact(setting, problem):
    rows = measure_attention(Case((problem,)), 0, [PROVIDERS["split-matmul-compiled"].inner], setting)
    assert [row.status for row in rows] == [OK] * 3


def test_a_window_of_everything_admits_the_maskless_attention(setting):
    problem = Cascaded(1, 2, 16, 64, 64)
    rows = measure_attention(Case((problem,)), 0, [PROVIDERS["sdpa-full-flash"]], setting)
    assert {row.status for row in rows} == {OK}


def _attend_sequences(query, key, value, query_ends, key_ends, longest_query, longest_key, window_size=(-1, -1)):
    """What varlen kernels compute, sequence by sequence: query ``[tokens, H, D]``; the window as keys left and right."""
    outs = []
    for index in range(len(query_ends) - 1):
        rows = slice(int(query_ends[index]), int(query_ends[index + 1]))
        keys = slice(int(key_ends[index]), int(key_ends[index + 1]))
        q, k, v = (t.transpose(0, 1) for t in (query[rows], key[keys], value[keys]))
        assert q.shape[1] <= longest_query
        assert k.shape[1] <= longest_key
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        if window_size != (-1, -1):
            offset = torch.arange(k.shape[1]) - torch.arange(q.shape[1])[:, None]
            scores = scores.masked_fill((offset < -window_size[0]) | (offset > window_size[1]), float("-inf"))
        outs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outs)


def _attend_named_sequences(query, key, value, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k):
    """The same with flash-attn's names, whose order its two versions do not share."""
    return _attend_sequences(query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)


def _attend_batch(query, key, value, window_size):
    """What flash-attn computes on ``[B, n, H, D]``."""
    ends = torch.tensor([0, query.shape[1]])
    sizes = (query.shape[1], key.shape[1])
    return torch.stack(
        [_attend_sequences(q, k, v, ends, ends, *sizes, window_size) for q, k, v in zip(query, key, value, strict=True)]
    )


@pytest.mark.parametrize("name", ["varlen", "flash-attn"])
@pytest.mark.parametrize(
    "problem",
    [PROBLEMS[0], PROBLEMS[1], PROBLEMS[7], Cascaded(2, 2, 16, 97, 13, "truncate"), PROBLEMS[11]],
    ids=str,
)
def test_adapters_to_kernels_of_other_packages(setting, monkeypatch, name, problem):
    """The kernels need a GPU; what is tested is how they are called, on stand-ins that compute what they document."""
    import torch.nn.attention.varlen

    flash = types.ModuleType("flash_attn.flash_attn_interface")
    flash.flash_attn_func, flash.flash_attn_varlen_func = _attend_batch, _attend_named_sequences
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.flash_attn_interface", flash)
    monkeypatch.setattr("bench.rivals.packages.installed", lambda module: module == "flash_attn.flash_attn_interface")
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", _attend_sequences)
    inputs = make_inputs(problem, setting)
    attend = PROVIDERS[name].build(problem, Place(setting.place.device, torch.float32))
    out = attend(*inputs.leaves)
    grads = torch.autograd.grad(out, inputs.leaves, inputs.grad_out)
    assert disagreement(expect(problem, inputs), inputs, out, grads)[1] is None


def test_other_packages_windows_refuse_what_they_do_not_compute(setting):
    place = setting.place
    clamped, truncated = Cascaded(1, 2, 16, 97, 12), Cascaded(1, 2, 16, 97, 12, "truncate")
    for name in ("varlen", "flash-attn"):
        assert "shifted" in PROVIDERS[name].why_not(clamped, place, True)
        assert PROVIDERS[name].why_not(truncated, place, True) is None
        assert "65535" in PROVIDERS[name].why_not(PartialGlobal(1, 2, 16, 65536 * 2, 65536), place, True)
    assert PROVIDERS["natten"].why_not(clamped, place, False) is None
    assert "CPU" in PROVIDERS["natten"].why_not(clamped, place, True)
    assert "cut" in PROVIDERS["natten"].why_not(truncated, place, True)


def test_suites_name_known_providers():
    for suite in SUITES.values():
        named = set(suite.providers or ()).union(*(case.providers or () for case in suite.cases))
        assert named <= set(PROVIDERS)
