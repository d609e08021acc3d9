"""One picture per question, drawn from the rows of a result file alone."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench.contest.records import OK, Row, read_rows
from bench.rivals.peers import PROVIDERS

# more panels than this are no picture: sweeps have line plots
MAX_PANELS = 6
MIN_POINTS = 3
_WHOLE, _FORWARD = "forward+backward", "forward"
_COLOURS = {name: plt.get_cmap("tab20")(index % 20) for index, name in enumerate(PROVIDERS)}


def draw(path: Path, out: Path) -> list[Path]:
    """Draw every picture that the rows of ``path`` can fill into the folder ``out``; returns the files."""
    rows = [row for row in read_rows(path) if row.status == OK and row.median_ms]
    files = []
    launches = dict.fromkeys(row.launch for row in rows)
    # growth is the kernels': launches do not grow
    main = "graph" if "graph" in launches else "eager"
    for launch in launches:
        ours = [row for row in rows if row.launch == launch]
        stem = f"{path.stem}{'' if launch == main else '_' + launch}"
        files += [
            draw_comparison(ours, out / f"{stem}_time.png"),
            draw_curves(ours, "pgp", _time, "milliseconds", out / f"{stem}_pgp_time_by_visual_tokens.png"),
            draw_curves(ours, "pgp", _peak, "peak MB beyond the inputs", out / f"{stem}_pgp_memory_by_visual_tokens.png"),
            draw_curves(ours, "cpp", _time, "milliseconds", out / f"{stem}_cpp_time_by_window.png"),
        ]
    return [file for file in files if file is not None]


def draw_comparison(rows: list[Row], file: Path) -> Path | None:
    """Which provider is fastest? One panel per problem; None without two providers to compare, or for too many problems."""
    groups = _by(rows, lambda row: (row.group, row.problem)).values()
    panels = [found for found in groups if len({row.provider for row in found}) > 1]
    if not 0 < len(panels) <= MAX_PANELS:
        return None
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    most = max(len({row.provider for row in found}) for found in panels)
    size = (7 * across, down * (1.2 + 0.42 * most))
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, found in zip(axes.flat, panels, strict=False):
        _panel_of_points(axis, found)
    how = ", replayed as CUDA graphs" if rows[0].launch == "graph" else ""
    figure.suptitle(f"Time of one call{how}: median, and 20 % to 80 % quantile")
    return _save(figure, file)


def draw_curves(rows: list[Row], op: str, value: Callable[[Row], float | None], label: str, file: Path) -> Path | None:
    """How does a quantity of forward + backward grow with visual tokens (pgp) or the window (cpp)? One panel per sweep."""
    rows = [row for row in rows if row.op == op and row.direction == _WHOLE and value(row)]
    sweeps = {key: found for key, found in _by(rows, _sweep_key).items() if len({_x(row) for row in found}) >= MIN_POINTS}
    if not sweeps:
        return None
    figure, axes = plt.subplots(1, len(sweeps), figsize=(7.5 * len(sweeps), 5.5), squeeze=False, layout="constrained")
    for axis, found in zip(axes.flat, sweeps.values(), strict=True):
        _panel_of_curves(axis, found, value, with_floor=value is _time)
        first = found[0]
        how = ", CUDA graphs" if first.launch == "graph" else ""
        sizes = first.configuration
        keys, heads = sizes["num_keys"], f"H{sizes['num_heads']} D{sizes['head_dim']}"
        shape = f"B{sizes['batch']} {heads}, {first.dtype}, forward + backward{how}"
        if op == "pgp":
            axis.set(xlabel="visual tokens n_v", title=f"PGP {shape}, n_v / n_p = {keys / sizes['num_partial']:g}")
        else:
            axis.set(xlabel="window w (dotted: n / 2)", title=f"CPP n {keys} {shape}")
            axis.axvline(keys / 2, color="grey", linestyle=":", linewidth=1)
        axis.set_ylabel(label)
    return _save(figure, file)


def draw_training(path: Path, file: Path) -> Path | None:
    """What does a training step reach, and what memory does it take? A line of panels a stage; None where nothing ran."""
    rows = [row for row in read_rows(path) if row.status == OK and row.median_ms and row.direction == "step"]
    stages = list(_by(rows, lambda row: row.group).values())
    if not stages:
        return None
    most = max(map(len, stages))
    size = (14, len(stages) * (1.6 + 0.5 * most))
    figure, axes = plt.subplots(len(stages), 2, figsize=size, squeeze=False, sharey="row", layout="constrained")
    for (speed, memory), found in zip(axes, stages, strict=True):
        _training_panels(speed, memory, found)
    first = rows[0].configuration
    parameters = f"{first['parameters'] / 1e6:,.3g} million parameters, {rows[0].dtype}"
    figure.suptitle(f"One training step, size {first['size']}: {parameters}")
    return _save(figure, file)


def _training_panels(speed, memory, rows: list[Row]) -> None:
    rows = sorted(rows, key=lambda row: row.details["tokens_per_s"])
    takes = [row.details["held_bytes"] + (row.peak_bytes or 0) for row in rows]
    unit, size = ("GiB", 2**30) if max(takes) >= 2**30 else ("MiB", 2**20)
    for place, row in enumerate(rows):
        assert row.median_ms is not None
        rate, mfu = row.details["tokens_per_s"], row.details["mfu"]
        # the slow end of the time is the low end of the rate
        low, high = (row.configuration["tokens"] * 1e3 / (ms or row.median_ms) for ms in (row.q80_ms, row.q20_ms))
        colour = _colour(row.configuration["projector"])
        spread = [[rate - low], [high - rate]]
        speed.errorbar(rate, place, xerr=spread, fmt="o", color=colour, capsize=3)
        reached = f"{row.details['flops_per_s'] / 1e9:,.3g} GFLOP/s" if mfu is None else f"MFU {mfu:.1%}"
        speed.annotate(f"   {rate:,.0f}: {reached}", (high, place), va="center", fontsize=8)
        held, peak = ((number or 0) / size for number in (row.details["held_bytes"], row.peak_bytes))
        memory.barh(place, held, color=colour, alpha=0.4)
        memory.barh(place, peak, left=held, color=colour)
        memory.annotate(f"  {held + peak:.3g}", (held + peak, place), va="center", fontsize=8)
    first = rows[0].configuration
    speed.set_yticks(range(len(rows)), [row.provider for row in rows], fontsize=9)
    speed.set_ylim(-0.6, len(rows) - 0.4)
    what = f"{first['pictures']} pictures with {first['lengths']}, {first['tokens']:,} tokens"
    speed.set_title(f"stage {first['stage']}: {what}", fontsize=10)
    speed.set_xlabel("tokens/s: median, and 20 % to 80 % quantile", fontsize=9)
    memory.set_title("memory", fontsize=10)
    memory.set_xlabel(f"{unit}. Light: weights and optimizer; full: the most in a step beyond them", fontsize=9)
    # room for the numbers
    speed.set_xlim(0, 1.4 * max(row.details["tokens_per_s"] for row in rows))
    memory.set_xlim(0, 1.15 * max(takes) / size)
    for axis in (speed, memory):
        axis.grid(True, axis="x", alpha=0.3)


def _panel_of_points(axis, rows: list[Row]) -> None:
    times = {(row.provider, row.direction): (row.q20_ms or 0.0, row.median_ms or 0.0, row.q80_ms or 0.0) for row in rows}
    # the fastest at the top; those that only run forward below
    order = sorted(
        {row.provider for row in rows},
        key=lambda name: ((name, _WHOLE) in times, -max(times[key][1] for key in times if key[0] == name)),
    )
    for direction, filled, shift in ((_WHOLE, True, 0.15), (_FORWARD, False, -0.15)):
        found = [row for row in rows if row.direction == direction]
        for row in found:
            low, middle, high = times[row.provider, direction]
            place, colour = order.index(row.provider) + shift, _colour(row.provider)
            axis.errorbar(
                middle, place, xerr=[[middle - low], [high - middle]], fmt="o", color=colour,
                markerfacecolor=colour if filled else "white", markersize=7 if row.provider.startswith("pargo") else 5,
            )  # fmt: skip
            axis.annotate(f"  {middle:.0f}" if middle >= 100 else f"  {middle:.3g}", (high, place), va="center", fontsize=7)
        bound = found[0].bound if found else None
        if bound:
            axis.axvline(bound[0], color="black", linestyle="--" if filled else ":", linewidth=1)
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_yticks(range(len(order)), order, fontsize=8)
    axis.set_title(f"{rows[0].problem}, {rows[0].dtype}", fontsize=10)
    axis.set_xlabel("ms. Filled: forward + backward (floor dashed); hollow: forward (floor dotted)", fontsize=8)
    axis.grid(True, axis="x", which="major", alpha=0.3)


def _panel_of_curves(axis, rows: list[Row], value: Callable[[Row], float | None], with_floor: bool) -> None:
    for name, found in _by(rows, lambda row: row.provider).items():
        # a size measured in several groups counts once
        points = sorted({_x(row): row for row in found}.items())
        sizes = [size for size, _ in points]
        style = {"color": _colour(name), "linewidth": 2.5 if name.startswith("pargo") else 1.5}
        axis.plot(sizes, [value(row) for _, row in points], "o-", label=name, markersize=4, **style)
        if with_floor:
            low, high = ([getattr(row, end) for _, row in points] for end in ("q20_ms", "q80_ms"))
            axis.fill_between(sizes, low, high, color=_colour(name), alpha=0.2, linewidth=0)
    if with_floor:
        floors = sorted({_x(row): row.bound[0] if row.bound else None for row in rows}.items())
        axis.plot(*zip(*floors, strict=True), "k--", linewidth=1, label="floor: least traffic or work")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    sizes = sorted({_x(row) for row in rows})
    axis.set_xticks(sizes, [str(size) for size in sizes], rotation=45, fontsize=8)
    axis.minorticks_off()
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)


def _colour(provider: str):
    # the ways of the projector's suite are no providers
    return _COLOURS.get(provider) or plt.get_cmap("tab10")(zlib.crc32(provider.encode()) % 10)


def _time(row: Row) -> float | None:
    return row.median_ms


def _peak(row: Row) -> float | None:
    return row.peak_bytes / 1e6 if row.peak_bytes else None


def _x(row: Row) -> int:
    return row.configuration["num_keys" if row.op == "pgp" else "window"]


def _sweep_key(row: Row) -> tuple:
    sizes = row.configuration
    same = (*(sizes[name] for name in ("batch", "num_heads", "head_dim", "num_global")), row.dtype)
    keys = sizes["num_keys"]
    return (*same, keys / sizes["num_partial"]) if row.op == "pgp" else (*same, keys, sizes["edge"])


def _by(rows: Iterable[Any], key: Callable[[Any], object]) -> dict:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _save(figure, file: Path) -> Path:
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
