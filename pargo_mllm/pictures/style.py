"""How every picture of this package looks, and how it gets onto the disk."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pargo_mllm.files import whole_file

INK = "#1d2433"
FAINT = "#667085"
RULE = "#d9dee7"
PAPER = "#ffffff"
ACCENT = "#d9480f"
# for bars and lines: apart in lightness too, so that they survive a grey print
SERIES = ("#1f4e8c", "#e07b39", "#3a9a78", "#8e6bbf", "#c2577a", "#7a7f87", "#b59a2c", "#3f9fbf")
DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches that draws without a screen."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> Path:
    """Write a PNG: a file of that name is either complete or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, shared=True) as aside:
        figure.savefig(aside, format="png")
    return path
