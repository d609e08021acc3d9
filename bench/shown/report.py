"""The tables a person reads, made from the rows of the result file."""

from __future__ import annotations

from collections.abc import Iterable

from bench.contest.records import OK, UNAVAILABLE, Row
from bench.counts.traffic import fitted_exponent

_HEADER = (
    "provider", "forward ms", "20-80 %", "fwd+bwd ms", "20-80 %", "images/s", "x dense", "peak MB", "prepare ms", "first s",
    "MB min", "of copy", "bound ms", "MB model", "GB/s model",
)  # fmt: skip
DIRECTIONS = ("forward", "forward+backward")


def summary(rows: list[Row]) -> str:
    """What there is to say about one group of rows."""
    several = len({row.problem for row in rows}) > 1
    parts = ["", f"{'several problems' if several else rows[0].problem}, {rows[0].dtype}"]
    if any(row.launch == "graph" for row in rows):
        parts += ["replayed as CUDA graphs", table(rows, launch="graph"), "launched one by one"]
    parts += [table(rows), *standings(rows)]
    return "\n".join((*parts, *filter(None, [growth(rows)])))


def table(rows: Iterable[Row], launch: str = "eager") -> str:
    """One line per provider that ran, the fastest first on one problem, then the others with their reasons.

    images/s, the speed-up over dense SDPA, peak memory and traffic belong to forward + backward, or to forward where that is
    all a provider does. Traffic: the least that any implementation moves, the rate reached as a share of the copy's, and what
    this package's kernels move by their tile schedule. The bound is the machine's, by memory or by arithmetic. Columns in which
    there is nothing are left out.
    """
    rows = [row for row in rows if row.launch == launch]
    several = len({row.problem for row in rows}) > 1
    directions: dict[str, dict[str, Row]] = {}
    for row in rows:
        name = f"{row.provider} on {row.problem}" if several else row.provider
        directions.setdefault(name, {})[row.direction] = row
    lines, reasons = [], []
    for name, found in directions.items():
        ran = {direction: row for direction, row in found.items() if row.status == OK}
        reasons += _reasons(name, [row for row in found.values() if row.status != OK])
        if ran:
            main = ran.get("forward+backward") or ran["forward"]
            cells = [name, *_time(ran.get("forward")), *_time(ran.get("forward+backward"))]
            cells += [number(main.images_per_s), number(main.speedup_over_dense), number(main.peak_bytes, 1e-6)]
            cells += [number(main.prepare_ms), number(main.first_call_ms, 1e-3)]
            cells += [number(main.minimum_bytes, 1e-6), percent(main.copy_share), _bound(main)]
            cells += [number(main.scheduled_bytes, 1e-6), number(main.scheduled_bytes_per_s, 1e-9)]
            lines.append(("forward+backward" not in ran, main.median_ms, cells))
    ordered = [cells for *_, cells in (lines if several else sorted(lines, key=lambda line: line[:2]))]
    return "\n".join((_aligned(filled([list(_HEADER), *ordered])) if ordered else "nothing ran", *reasons))


def rivals(rows: Iterable[Row], ours: Row) -> list[tuple[float, Row]]:
    """Those who did in the same rounds what a row of ours did, with their milliseconds, the fastest first."""
    same = (ours.group, ours.problem, ours.direction, ours.launch)
    found = [
        (row.median_ms, row)
        for row in rows
        # bounds compute another problem
        if row.median_ms and not row.provider.startswith(("pargo", "bound-"))
        if (row.group, row.problem, row.direction, row.launch) == same
    ]
    return sorted(found, key=lambda pair: pair[0])


def standings(rows: list[Row]) -> list[str]:
    """How "pargo" stands to rivals, dense, and the machine: a line for each problem, direction and way to launch."""
    several = len({row.problem for row in rows}) > 1
    lines = []
    for row in rows:
        if row.provider != "pargo" or row.direction not in DIRECTIONS or not row.median_ms:
            continue
        said = [f"{number(row.median_ms)} ms"]
        if others := rivals(rows, row):
            time, rival = others[0]
            said.append(f"{time / row.median_ms:.2f} x the strongest rival ({rival.provider})")
        if row.speedup_over_dense:
            said.append(f"{row.speedup_over_dense:.2f} x dense")
        if row.copy_share is not None and (bound := row.bound) is not None:
            said.append(f"{percent(row.copy_share)} of the copy's bandwidth")
            said.append(f"{row.median_ms / bound[0]:.2f} x what {bound[1]} allows")
        if row.peak_bytes is not None:
            said.append(f"peak {number(row.peak_bytes, 1e-6)} MB")
        if row.first_call_ms is not None:
            said.append(f"first call {number(row.first_call_ms, 1e-3)} s")
        name = f"pargo on {row.problem}" if several else "pargo"
        lines.append(f"{name}, {row.direction}{'' if row.launch == 'eager' else ', replayed'}: {'; '.join(said)}")
    return lines


def training_table(rows: list[Row]) -> str:
    """One line per way of the training step that ran, then the others with their reasons.

    tokens: of the examples, as a share of what the language model computes on. MFU is left out where the device's peak is not
    known. GiB: weights and optimizer; the most in a step beyond them; what was expected in all.
    """
    header = ("way", "rows", "tokens", "step ms", "20-80 %", "encoder", "forward", "backward", "AdamW", "tokens/s", "images/s",
              "x dense", "GFLOP/s", "MFU", "held GiB", "peak GiB", "expected GiB", "gradient off")  # fmt: skip
    parts = {(row.provider, row.direction): row.median_ms for row in rows}
    lines, reasons = [], []
    for row in (row for row in rows if row.direction == "step"):
        if row.status != OK:
            reasons.append(f"  {row.provider}: {row.status}: {row.reason}")
            continue
        known, tokens = row.details, row.configuration["tokens"]
        computed = known["num_rows"] * known["row_length"]
        cells = [row.provider, f"{known['num_rows']} x {known['row_length']}", f"{tokens / computed:.0%}", *_time(row)]
        cells += [number(parts[row.provider, part]) for part in ("encoder", "forward", "backward", "optimizer")]
        cells += [*map(number, (known["tokens_per_s"], row.images_per_s, row.speedup_over_dense))]
        cells += [number(known["flops_per_s"], 1e-9), "" if known["mfu"] is None else f"{known['mfu']:.1%}"]
        cells += [number(size, 2**-30) for size in (known["held_bytes"], row.peak_bytes, known.get("estimated_bytes"))]
        cells += ["" if row.error is None else f"{row.error:.1e}"]
        lines.append(cells)
    return "\n".join((_aligned([list(header), *lines]) if lines else "nothing ran", *reasons))


def growth(rows: Iterable[Row]) -> str | None:
    """How a provider's time grows with the visual tokens, from a group that measured several sizes; None if it did not."""
    rows = [row for row in rows if row.op == "pgp" and row.direction == "forward+backward" and row.median_ms]
    # at small sizes an eager call is mostly launches, which do not grow
    launch = "graph" if any(row.launch == "graph" for row in rows) else "eager"
    points = {row.configuration["num_keys"]: row.median_ms or 0.0 for row in rows if row.launch == launch}
    if len(points) < 2:
        return None
    sizes = sorted(points)
    exponent = fitted_exponent(sizes, [points[size] for size in sizes])
    how = "" if launch == "eager" else ", replayed as a CUDA graph,"
    return (
        f"{rows[0].provider}: forward + backward{how} grows as n_v^{exponent:.2f} from {sizes[0]} to {sizes[-1]} visual tokens"
    )


def _reasons(name: str, rows: list[Row]) -> list[str]:
    """One line for each different reason; what cannot run on this machine at all is said once, above all tables."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status != UNAVAILABLE:
            by_reason.setdefault((row.status, row.reason), []).append(row.direction)
    return [
        f"  {name}: {status}" + (f" ({directions[0]})" if len(directions) == 1 else "") + f": {reason}"
        for (status, reason), directions in by_reason.items()
    ]


def _time(row: Row | None) -> list[str]:
    if row is None or row.median_ms is None:
        return ["", ""]
    return [number(row.median_ms), f"{number(row.q20_ms)}-{number(row.q80_ms)}"]


def percent(share: float | None) -> str:
    """A share in words; "" for none."""
    if share is None:
        return ""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _bound(row: Row) -> str:
    return "" if row.bound is None else f"{number(row.bound[0])} {row.bound[1]}"


def number(value: float | None, factor: float = 1.0) -> str:
    """Three digits, or all before the point; "" for None."""
    if value is None:
        return ""
    value *= factor
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def filled(cells: list[list[str]]) -> list[list[str]]:
    """Without the columns that have nothing below their header."""
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*columns, strict=True)]


def _aligned(cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )
