"""Histograms of lengths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pargo_mllm.pictures.style import ACCENT, FAINT, INK, RULE, SERIES, new_figure, save_figure

_BARS = 40


def draw_lengths(counts: Mapping[int, int], mean: float, unit: str, path: str | os.PathLike) -> Path:
    """How many answers have how many characters or words; a line marks the mean. What is longer than 99 of 100 stands in the
    last bar.

    Args:
        counts: answers by their length; not empty.
        mean: of all of them, in the same unit.
        unit: what is counted: "characters".
    """
    end = max(_BARS, quantile(counts, 0.99) + 1)
    width = -(-end // _BARS)
    bars = [0] * (_BARS + 1)
    for length, count in counts.items():
        bars[min(length // width, _BARS)] += count
    used = max(number for number, count in enumerate(bars) if count) + 1
    figure = new_figure(7.4, 3.1)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.11, right=0.98, top=0.9, bottom=0.19)
    axes.bar([number * width for number in range(used)], bars[:used], width * 0.92, align="edge", color=SERIES[0])
    axes.axvline(mean, color=ACCENT, linewidth=1.4)
    right = mean < used * width * 0.7
    axes.annotate(
        f"mean {mean:,.1f}",
        (mean, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4 if right else -4, 3),
        textcoords="offset points",
        ha="left" if right else "right",
        color=ACCENT,
        fontsize=9,
    )
    axes.set_xlim(0, used * width)
    behind = f"; the last bar: {_BARS * width:,} and more" if bars[_BARS] else ""
    axes.set_xlabel(f"{unit} of an answer, {width:,} a bar{behind}" if width > 1 else f"{unit} of an answer{behind}", color=INK)
    axes.set_ylabel("answers", color=INK)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else "")
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    return save_figure(figure, path)


def quantile(counts: Mapping[int, int], share: float) -> int:
    """The smallest value that at least this share of what is counted does not exceed."""
    wanted, passed = share * sum(counts.values()), 0
    for value in sorted(counts):
        passed += counts[value]
        if passed >= wanted:
            return value
    raise ValueError("nothing is counted")
