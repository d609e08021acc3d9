"""What the tables say."""

from dataclasses import replace

from bench.shown.report import growth
from tests.bench.made.rows import ROW, SIZES


def test_growth_is_that_of_the_graphs_where_there_are_any():
    row = replace(ROW, direction="forward+backward")
    eager = [replace(row, configuration={**SIZES, "num_keys": size}, median_ms=1.0) for size in (1000, 2000)]
    graphs = [
        replace(row, configuration={**SIZES, "num_keys": size}, median_ms=size / 1e3, launch="graph") for size in (1000, 2000)
    ]
    assert "n_v^0.00" in growth(eager)
    assert "replayed as a CUDA graph, grows as n_v^1.00" in growth([*eager, *graphs])
