"""The README's tables are made of the rows alone."""

from dataclasses import replace

from bench.contest.records import ResultFile
from bench.shown.tables import page
from tests.bench.made.rows import MACHINE, ROW, SIZES

TIMED = replace(ROW, q20_ms=9.0, q80_ms=11.0, copy_bytes_per_s=5e9, matmul_flops_per_s=2e11, minimum_bytes_per_s=4e9)


def rows_of(group, provider, forward, both, **more):
    return [
        replace(TIMED, group=group, provider=provider, direction="forward", median_ms=forward),
        replace(TIMED, group=group, provider=provider, direction="forward+backward", median_ms=both, **more),
    ]


def test_a_page_is_what_was_measured(tmp_path):
    path = tmp_path / "s.csv"
    machine = replace(MACHINE, compile_s=3.25, cached_s=0.0042)
    with ResultFile(path, machine) as results:
        for row in (
            *rows_of(0, "pargo", 10.0, 20.0, peak_bytes=7_000_000, first_call_ms=30.0, speedup_over_dense=12.5),
            *rows_of(0, "pargo-torch", 15.0, 32.0),
            # ours, and a bound: no rivals, however fast
            *rows_of(0, "pargo-compiled", 1.0, 1.0),
            *rows_of(0, "bound-flash", 1.0, 1.0),
            # the strongest in one direction is not in the other
            *rows_of(0, "split", 12.0, 50.0, peak_bytes=1, first_call_ms=1.0),
            *rows_of(0, "split-compiled", 14.0, 26.0, peak_bytes=9_000_000, first_call_ms=4500.0),
            *rows_of(0, "sdpa-mask-flash", 100.0, 250.0, peak_bytes=20_000_000, first_call_ms=250.0),
            replace(TIMED, group=0, provider="flex", direction="forward+backward", status="inapplicable", reason="none"),
            # sizes by themselves: growth, and no line of the table
            *(
                replace(row, problem=f"n {keys}", configuration={**SIZES, "num_keys": keys})
                for keys, time in ((100, 1.0), (400, 4.0))
                for row in rows_of(1, "pargo", time, time)
            ),
        ):
            results.add(row)
    assert page(path).splitlines() == [
        f"a, machine, 2 threads, torch 2.13, copy 5 GB/s, fp32 matrix product 200 GFLOP/s ([rows]({path})):",
        "",
        "| fp32 | forward, ms | × strongest rival | forward + backward, ms | × strongest rival | × dense | torch path, ms "
        "| of the copy | peak MB: pargo, rival, dense | first call, s: the same |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| p | 10 (9–11) | 1.20 (split) | 20 (9–11) | 1.30 (split-compiled) | 12.5 | 32 (9–11) | 80 % | 7, 9, 20 "
        "| 0.03, 4.5, 0.25 |",
        "",
        "pargo: forward + backward grows as n_v^1.00 from 100 to 400 visual tokens. "
        "C kernels compiled in 3.2 s, had from their cache in 4 ms.",
    ]
