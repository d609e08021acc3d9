"""Kernels compiled for GPUs that are not here: no spill, shared memory inside the chip; and what finds such faults."""

import pytest

from pargo_kernels.dispatch import TRITON_INSTALLED, interpreting

pytestmark = [
    pytest.mark.skipif(not TRITON_INSTALLED, reason="triton is not installed: nothing can be compiled"),
    pytest.mark.skipif(interpreting(), reason="kernels imported for the interpreter cannot be compiled"),
]

SAMPLE = 28


def test_a_sample_of_the_table_compiles_without_spills():
    from pargo_kernels import aot

    jobs = aot.jobs(["sm_80", "sm_90"], sample=SAMPLE)
    assert len(jobs) == SAMPLE
    reports = list(aot.run(jobs, processes=2))
    assert [report.line for report in reports if not report.passed] == []
    kernels = {report.line.split()[0] for report in reports}
    assert kernels == {entry.kernel for entry in table()}


@pytest.mark.long
def test_the_whole_table_compiles_without_spills():
    from pargo_kernels import aot

    reports = list(aot.run(aot.jobs(["sm_80", "sm_90"]), processes=2))
    assert [report.line for report in reports if not report.passed] == []


def table():
    from pargo_kernels.triton_path.launch_table import entries

    return entries()


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"block_n": 128, "num_warps": 4}, "SPILLS"),
        ({"num_stages": 15}, "TOO MUCH SHARED MEMORY"),
        ({"num_warps": 3}, "FAILED"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_faults_are_found(change, verdict):
    from pargo_kernels import aot
    from pargo_kernels.triton_path import launch_table

    wanted = ("cascaded_key_backward", "sm_90", 16, 128)
    lines = tuple(line._replace(**change) if line[:4] == wanted else line for line in table())
    with launch_table.using(lines):
        number = next(i for i, line in enumerate(lines) if line[:4] == wanted)
        report = aot.compile_case((number, 0))
    assert not report.passed
    assert verdict in report.line


@pytest.mark.parametrize("head_dim", (64, 72))
@pytest.mark.parametrize("arch", ("sm_80", "sm_90"))
@pytest.mark.parametrize(("kernel", "vectors"), (("partial_global_forward", 3), ("partial_global_backward", 2)))
def test_rows_are_moved_16_bytes_at_a_time(kernel, vectors, arch, head_dim):
    """K, V, dK, dV and all other rows; only lse is narrower: of partial rows, and of global ones in one chunk or several."""
    from pargo_kernels.triton_path.compile_ahead import compile_launch
    from pargo_kernels.triton_path.inspect_binary import inspect_binary
    from pargo_kernels.triton_path.launch import block_dim
    from pargo_kernels.triton_path.table_cases import PLAIN, cases

    entry = next(line for line in table() if line[:5] == (kernel, arch, 16, block_dim(head_dim), 2))
    case = next(case for case in cases(entry, variants=[PLAIN._replace(head_dims=((128, 72),))]))
    cost = inspect_binary(compile_launch(case.launch, arch))
    assert cost.wide_accesses > 0
    assert cost.global_accesses - cost.wide_accesses <= vectors


def test_every_call_finds_its_line():
    """Each architecture, width and head dimension has its lines, and the slices leave no gap."""
    import torch

    from pargo_kernels.triton_path import launch_table
    from pargo_kernels.triton_path.compile_ahead import TARGETS

    for arch in TARGETS:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for block_dim in (16, 32, 64, 128, 256):
                for kernel in ("partial_global_forward", "partial_global_backward"):
                    rows = launch_table.slice_rows(kernel, arch, dtype, block_dim, None)
                    assert rows[0].slice_from == 0
                    assert rows[-1].slice_to == launch_table.NO_LIMIT
                    assert [r.slice_to + 1 for r in rows[:-1]] == [r.slice_from for r in rows[1:]]
                    # a tile of short slices holds at least one whole row
                    assert all(r.long or r.slice_to <= r.block_n for r in rows)
                    assert [r.long for r in rows] == [False] * (len(rows) - 1) + [True]
                for kernel in {entry.kernel for entry in table()} - {"partial_global_forward", "partial_global_backward"}:
                    assert launch_table.entry_of(kernel, arch, dtype, block_dim).block_dim >= block_dim


def test_tuning_takes_the_fastest_of_what_passes(monkeypatch, capsys):
    from pargo_kernels import tune
    from pargo_kernels.tune import Slot

    slot = Slot("merge_chunk_outputs", "sm_90", 16, 64, 1, False)
    first, second = tune.candidates(*slot)
    monkeypatch.setattr(tune, "candidates", lambda *slot: [first._replace(num_warps=3), first, second])
    # three warps do not compile
    assert tune.passing(slot, None, 2) == [first, second]
    assert tune.passing(slot, second, 1) == [second]
    assert tune.fastest([first, second], {first: 2e-6, second: 1e-6}.get) == second
    assert "1.0 us *" in capsys.readouterr().out
