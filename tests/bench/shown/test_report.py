"""What the tables say."""

from dataclasses import replace

from bench.shown.report import growth, standings, table
from tests.bench.made.rows import ROW, SIZES


def test_growth_is_that_of_the_graphs_where_there_are_any():
    row = replace(ROW, direction="forward+backward")
    eager = [replace(row, configuration={**SIZES, "num_keys": size}, median_ms=1.0) for size in (1000, 2000)]
    graphs = [
        replace(row, configuration={**SIZES, "num_keys": size}, median_ms=size / 1e3, launch="graph") for size in (1000, 2000)
    ]
    assert "n_v^0.00" in growth(eager)
    assert "replayed as a CUDA graph, grows as n_v^1.00" in growth([*eager, *graphs])


def test_a_line_says_how_ours_stands_in_each_direction():
    whole = {"copy_bytes_per_s": 1e9, "matmul_flops_per_s": 1e9, "minimum_bytes": 10**6, "minimum_flops": 10**6}
    ours = replace(
        ROW, median_ms=4.0, speedup_over_dense=5.0, minimum_bytes_per_s=2.5e8, peak_bytes=10**6, first_call_ms=20.0, **whole
    )
    rows = [
        ours,
        replace(ROW, provider="split", median_ms=6.0),
        replace(ROW, provider="sdpa-mask-flash", median_ms=20.0),
        replace(ours, direction="forward+backward", minimum_flops=3 * 10**6),
        # neither in the same rounds, nor the same direction, nor one that computes the same
        replace(ROW, provider="split", median_ms=1.0, group=1),
        replace(ROW, provider="split", median_ms=1.0, direction="backward"),
        replace(ROW, provider="bound-flash", median_ms=1.0),
    ]
    assert standings(rows) == [
        "pargo, forward: 4 ms; 1.50 x the strongest rival (split); 5.00 x dense; 25 % of the copy's bandwidth; "
        "4.00 x what memory allows; peak 1 MB; first call 0.02 s",
        "pargo, forward+backward: 4 ms; 5.00 x dense; 25 % of the copy's bandwidth; 1.33 x what arithmetic allows; "
        "peak 1 MB; first call 0.02 s",
    ]


def test_columns_without_a_figure_are_left_out():
    header, *lines = table(
        [replace(ROW, median_ms=4.0), replace(ROW, provider="split", median_ms=6.0, peak_bytes=10**6)]
    ).splitlines()
    assert header.split("  ") == ["provider", "forward ms", "20-80 %", "peak MB"]
    assert [line.split() for line in lines] == [["pargo", "4", "-"], ["split", "6", "-", "1"]]
