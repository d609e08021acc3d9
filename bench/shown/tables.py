"""The tables of results as the README has them, so that no figure is typed by hand.

    python -m bench.shown.tables bench/results/amd-epyc/quick.csv

prints, for each result file of bench/run.py, what it was measured on, a line for each problem (of a projector's step: for each
way), and what else its rows say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.contest.records import ROOT, Row, read_environment, read_rows
from bench.shown.report import filled, growth, number, percent, rivals

_HEADER = (
    "forward, ms", "× strongest rival", "forward + backward, ms", "× strongest rival", "× dense", "torch path, ms",
    "of the copy", "peak MB: pargo, rival, dense", "first call, s: the same",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="CSV", help="a result file of bench/run.py")
    print("\n\n".join(page(path) for path in parser.parse_args(argv).paths))
    return 0


def page(path: Path) -> str:
    """The machine, the table, how the time grows where that was measured, and the first call."""
    machine, rows = read_environment(path), read_rows(path)
    first = rows[0]
    name = path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path
    rates = number(first.copy_bytes_per_s, 1e-9), number(first.matmul_flops_per_s, 1e-9)
    head = (
        f"{machine.device}, {machine.threads} threads, torch {machine.torch}, copy {rates[0]} GB/s, {first.dtype} matrix "
        f"product {rates[1]} GFLOP/s ([rows]({name.as_posix()})):"
    )
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    notes = [f"{text}." for text in (*map(growth, groups.values()), machine.first_use) if text]
    shown = ways(rows) if first.op == "projector" else table(rows)
    return "\n\n".join((head, shown, *([" ".join(notes)] if notes else [])))


def table(rows: Iterable[Row]) -> str:
    """A line for each problem on which "pargo" met rivals. Peak and first call: pargo's, its strongest rival's, dense's."""
    rows = [row for row in rows if row.median_ms]
    found = {(row.group, row.problem, row.direction, row.provider): row for row in rows}
    lines = [[rows[0].dtype, *_HEADER]]
    for (group, problem, direction, provider), ours in found.items():
        forward = found.get((group, problem, "forward", "pargo"))
        if provider != "pargo" or direction != "forward+backward" or forward is None or not rivals(rows, ours):
            continue
        (_, rival), *_ = others = rivals(rows, ours)
        dense = [row for _, row in others if row.provider.startswith("sdpa-mask-")][:1]
        compared = [ours, rival, *dense]
        lines.append(
            [
                problem,
                *_against(forward, rivals(rows, forward)),
                *_against(ours, others),
                number(ours.speedup_over_dense),
                _time(found.get((group, problem, direction, "pargo-torch"))),
                percent(ours.copy_share),
                ", ".join(number(row.peak_bytes, 1e-6) for row in compared),
                ", ".join(number(row.first_call_ms, 1e-3) for row in compared),
            ]
        )
    return _markdown(lines)


def ways(rows: Iterable[Row]) -> str:
    """A line for each way of a projector's step."""
    rows = [row for row in rows if row.median_ms]
    forward = {(row.problem, row.provider): row for row in rows if row.direction == "forward"}
    lines = [[f"{rows[0].dtype}, attention", "forward, ms", "forward + backward, ms", "× sdpa", "peak MB", "step"]]
    for row in rows:
        if row.direction == "forward+backward":
            times = _time(forward.get((row.problem, row.provider))), _time(row)
            figures = number(row.speedup_over_dense), number(row.peak_bytes, 1e-6)
            lines.append([row.provider, *times, *figures, row.problem])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    header, *body = filled(lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *body))


def _against(row: Row, others: list[tuple[float, Row]]) -> list[str]:
    """Its time, and by how much it is faster than the strongest of the others."""
    assert row.median_ms is not None
    return [_time(row), f"{others[0][0] / row.median_ms:.2f} ({others[0][1].provider})" if others else ""]


def _time(row: Row | None) -> str:
    return "" if row is None else f"{number(row.median_ms)} ({number(row.q20_ms)}–{number(row.q80_ms)})"


if __name__ == "__main__":
    sys.exit(main())
