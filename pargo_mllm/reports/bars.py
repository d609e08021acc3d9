"""Bars as a drawing inside a page: groups of them with whiskers, drawn by the browser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pargo_mllm.reports.page import text

# apart in lightness too, so that they survive a grey print
COLOURS = ("#1f4e8c", "#e07b39", "#3a9a78", "#8e6bbf", "#c2577a", "#7a7f87", "#b59a2c", "#3f9fbf")
_INK, _FAINT, _RULE = "#1d2433", "#667085", "#d9dee7"
# units of the drawing, about pixels: names, bars, figures behind them; a bar and the space between groups
_WIDTH, _NAMES, _FIGURES = 940, 250, 120
_BAR, _GAP, _HEAD = 15, 13, 24
# characters that fit in front of the bars
_LONGEST = 34


@dataclass(frozen=True)
class Bar:
    """A value of at least 0, its standard error where there is one, and what is written behind the bar."""

    value: float
    error: float | None
    label: str


def draw_bars(series: Sequence[str], groups: Mapping[str, Sequence[Bar | None]], title: str) -> str:
    """Horizontal bars, one group a name, in it one bar a series; whiskers of one standard error.

    Args:
        series: names, of a legend where there are several.
        groups: the bars of each group in the order of the series; None where a series has none.
        title: what the drawing shows, for those who do not see it.
    """
    bars = [bar for group in groups.values() for bar in group if bar is not None]
    most = _round_above(max((bar.value + (bar.error or 0) for bar in bars), default=1.0))
    if all(bar.value <= 1 for bar in bars):
        # of shares, whose whiskers end at the edge as well
        most = min(most, 1.0)
    scale = (_WIDTH - _NAMES - _FIGURES) / most
    legend = len(series) * 18 if len(series) > 1 else 0
    height = legend + _HEAD + len(groups) * (len(series) * _BAR + _GAP)
    parts = [
        _rect(_NAMES, index * 18 + 3, 12, 11, COLOURS[index % len(COLOURS)]) + _text(_NAMES + 19, index * 18 + 13, name)
        for index, name in enumerate(series)
        if legend
    ]
    for tick in range(5):
        x = _NAMES + tick / 4 * most * scale
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{legend + _HEAD - 6}' y2='{height}' stroke='{_RULE}'/>")
        parts.append(_text(x, legend + 13, f"{tick / 4 * most:g}", _FAINT, "middle"))
    y = float(legend + _HEAD)
    for name, group in groups.items():
        parts.append(_text(_NAMES - 10, y + len(series) * _BAR / 2 + 4, _short(name), anchor="end", whole=name))
        for index, bar in enumerate(group):
            if bar is not None:
                parts += _drawn(bar, y + index * _BAR, scale, COLOURS[index % len(COLOURS)])
        y += len(series) * _BAR + _GAP
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' role='img' font-family='sans-serif'>"
    return f"{head}<title>{text(title)}</title>{''.join(parts)}</svg>"


def _drawn(bar: Bar, y: float, scale: float, colour: str) -> list[str]:
    middle, end = y + _BAR / 2, _NAMES + bar.value * scale
    parts = [_rect(_NAMES, y + 1, bar.value * scale, _BAR - 2, colour)]
    if bar.error:
        edge = float(_WIDTH - _FIGURES)
        low, high = _NAMES + max(0.0, bar.value - bar.error) * scale, min(edge, _NAMES + (bar.value + bar.error) * scale)
        for x1, x2, y1, y2 in (
            (low, high, middle, middle),
            (low, low, middle - 3, middle + 3),
            (high, high, middle - 3, middle + 3),
        ):
            parts.append(f"<line x1='{x1:.1f}' x2='{x2:.1f}' y1='{y1:.1f}' y2='{y2:.1f}' stroke='{_INK}' stroke-width='1.3'/>")
        end = high
    parts.append(_text(end + 6, middle + 4, bar.label))
    return parts


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'/>"


def _text(x: float, y: float, words: str, colour: str = _INK, anchor: str = "start", whole: str | None = None) -> str:
    title = "" if whole is None or whole == words else f"<title>{text(whole)}</title>"
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='12' fill='{colour}' text-anchor='{anchor}'"
    return f"<text {place}>{text(words)}{title}</text>"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _round_above(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten, which four ticks share out well."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * (1 - 1e-9))
