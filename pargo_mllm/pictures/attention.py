"""A picture of what the tokens of a ParGo projector look at."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.collections
import matplotlib.lines
import matplotlib.patheffects
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pargo_mllm.pictures.style import FAINT, INK, RULE, new_figure, save_figure
from pargo_mllm.pictures.token_maps import TokenMaps, token_maps

COLUMNS = 6
# inches
WIDTH, MARGIN, GAP, TITLE = 13.0, 0.45, 0.16, 0.3
PANEL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
HEADING, SECTION, BELOW = 0.85, 0.74, 0.32
HEAT = matplotlib.colormaps["inferno"]
REACH = "#58c4f5"
MOSAIC = matplotlib.colormaps["turbo"]


@dataclass(frozen=True)
class Panel:
    """One drawing: a line above it, how to draw it, how many columns wide it is, and its height as a share of its width."""

    title: str
    draw: Callable[[Axes], None]
    size: float = 1
    aspect: float = 1.0

    @property
    def width(self) -> float:
        """Inches."""
        return self.size * PANEL + (self.size - 1) * GAP

    @property
    def height(self) -> float:
        """Inches."""
        return self.aspect * self.width


@dataclass(frozen=True)
class Section:
    """A heading, a line that says how to read what follows, and rows of panels."""

    title: str
    note: str
    rows: list[list[Panel]]


def draw_token_attention(
    model, processor, picture: Image.Image, path: str | os.PathLike, *, title: str, device: str | torch.device | None = None
) -> Path:
    """Draw what partial and global tokens of the model's projector look at on ``picture``, as a PNG at ``path``.

    Shows the slices of the partial tokens, the attention of some of them and of the global tokens over the patches, and
    layer by layer how far the cascade lets a partial token know the picture.

    Raises:
        ValueError: if the projector has no attention to show (one token a patch).
    """
    return save_figure(attention_figure(token_maps(model, processor, picture, device), title), path)


def attention_figure(maps: TokenMaps, title: str) -> Figure:
    """The figure of :func:`draw_token_attention`."""
    sections = [_overview(maps)]
    if maps.num_partial:
        sections.append(_partial_tokens(maps))
    if maps.num_global:
        sections.append(_global_tokens(maps))
    if maps.among_partial is not None:
        sections.append(_cascade(maps, maps.among_partial))
    return _lay_out(title, _subtitle(maps), sections)


def _subtitle(maps: TokenMaps) -> str:
    rows, columns = maps.grid
    return (
        f"{maps.num_partial} partial and {maps.num_global} global tokens · {rows} × {columns} patches · "
        f"{maps.num_layers} {'layer' if maps.num_layers == 1 else 'layers'} · weights are means over the heads"
    )


def _overview(maps: TokenMaps) -> Section:
    aspect = _aspect(maps)
    panels = [Panel("the picture, as the encoder sees it", partial(_show, pixels=maps.picture), 2, aspect)]
    if maps.num_partial:
        panels.append(Panel("slices: one colour, one partial token", partial(_mosaic, maps=maps), 2, aspect))
    together = maps.cross[-1, maps.num_partial :].mean(axis=0) if maps.num_global else maps.cross[-1].mean(axis=0)
    panels.append(
        Panel(
            "all global tokens together, last layer" if maps.num_global else "all tokens together, last layer",
            partial(show_heat, maps=maps, weights=together),
            2,
            aspect,
        )
    )
    note = "Partial tokens share the picture out among them in raster order; global tokens may look everywhere."
    if not maps.num_partial:
        note = "No token is partial: every token may look everywhere."
    return Section("The picture and its tokens", note, [panels])


def _partial_tokens(maps: TokenMaps) -> Section:
    tokens = spread(maps.num_partial, COLUMNS)
    rows = []
    for layer in spread(maps.num_layers, 3):
        rows.append(
            [
                Panel(
                    f"token {token + 1} · layer {layer + 1}",
                    partial(_slice, maps=maps, token=token, weights=maps.cross[layer, token]),
                    _filling(len(tokens)),
                    _aspect(maps),
                )
                for token in tokens
            ]
        )
    note = (
        f"A partial token sees its slice and nothing else (numbers: % of its attention). {len(tokens)} of {maps.num_partial}, "
        "enlarged; the mosaic says where."
    )
    return Section("Partial tokens: attention inside the slice", note, rows)


def _global_tokens(maps: TokenMaps) -> Section:
    tokens, layers = spread(maps.num_global, COLUMNS), spread(maps.num_layers, 2)
    # few tokens: their layers fit side by side
    columns = len(tokens) * len(layers) if len(tokens) * len(layers) <= COLUMNS else len(tokens)
    panels = [_global_panel(maps, token, layer, _filling(columns)) for layer in layers for token in tokens]
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    note = (
        f"Dark: none of its attention. Bright yellow: most of it, in one patch as many % as the title says. {len(tokens)} of "
        f"{maps.num_global}."
    )
    return Section("Global tokens: attention over the whole picture", note, rows)


def _global_panel(maps: TokenMaps, token: int, layer: int, size: float) -> Panel:
    weights = maps.cross[layer, maps.num_partial + token]
    title = f"global {token + 1} · layer {layer + 1} · {percent(weights.max())}"
    return Panel(title, partial(show_heat, maps=maps, weights=weights), size, _aspect(maps))


def _cascade(maps: TokenMaps, among_partial: np.ndarray) -> Section:
    layers = spread(maps.num_layers, COLUMNS)
    reach, knowledge = maps.reach(), maps.knowledge()
    matrices = [
        Panel(
            f"layer {layer + 1} · window {maps.windows[layer]} of {maps.num_partial}",
            partial(_matrix, weights=among_partial[layer]),
        )
        for layer in layers
    ]
    count = max(1, (COLUMNS - len(layers)) // len(layers))
    # the middle of the picture, and what lies around it
    tokens = [spread(maps.num_partial, 2 * count + 1)[i] for i in range(1, 2 * count + 1, 2)]
    reached = [
        Panel(
            f"token {token + 1} · layer {layer + 1} · {percent(reach[layer, token].mean())}",
            partial(_reached, maps=maps, reach=reach[layer, token], knowledge=knowledge[layer, token], token=token),
            aspect=_aspect(maps),
        )
        for token in tokens
        for layer in layers
    ]
    rows = [matrices + reached] if len(matrices) + len(reached) <= COLUMNS else [matrices, reached]
    note = (
        "Squares: which token (row) looks at which (column). Pictures: % of the picture that can have reached a token (blue "
        "line); glow: what did, from beyond its slice."
    )
    return Section("The cascade: partial tokens learn from their neighbours, layer by layer", note, rows)


def percent(share: float) -> str:
    """A share of 1 as a short percentage."""
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers ``0 ... count - 1``, evenly spread, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))}) if count else []


def _aspect(maps: TokenMaps) -> float:
    height, width = maps.picture.shape[:2]
    return height / width


def _filling(count: int) -> float:
    """The size that makes a row of few panels as wide as the page."""
    return min(2.0, COLUMNS / count)


def _lay_out(title: str, subtitle: str, sections: list[Section]) -> Figure:
    row_height = [[TITLE + max(panel.height for panel in row) + GAP for row in section.rows] for section in sections]
    height = HEADING + sum(SECTION + sum(rows) + BELOW for rows in row_height)
    figure = new_figure(WIDTH, height)

    def text(x: float, y: float, words: str, **style) -> None:
        # names of files come from users: a dollar sign is no formula
        figure.text(x / WIDTH, 1 - y / height, words, parse_math=False, va="baseline", **style)

    text(MARGIN, 0.5, title, fontsize=19, fontweight="bold", color=INK)
    text(MARGIN, 0.77, subtitle, fontsize=10.5, color=FAINT)
    y = HEADING
    for section, heights in zip(sections, row_height, strict=True):
        figure.add_artist(
            matplotlib.lines.Line2D([MARGIN / WIDTH, 1 - MARGIN / WIDTH], [1 - (y + 0.1) / height] * 2, color=RULE, lw=1)
        )
        text(MARGIN, y + 0.4, section.title, fontsize=13.5, fontweight="bold", color=INK)
        text(MARGIN, y + 0.63, section.note, fontsize=10, color=FAINT)
        y += SECTION
        for row, row_tall in zip(section.rows, heights, strict=True):
            x = MARGIN
            for panel in row:
                text(x, y + TITLE - 0.07, panel.title, fontsize=9 if panel.size == 1 else 10, color=INK)
                ax = figure.add_axes(_inches(x, y + TITLE, panel, height))
                ax.set(xticks=[], yticks=[])
                for spine in ax.spines.values():
                    spine.set_color(RULE)
                panel.draw(ax)
                x += panel.width + GAP
            y += row_tall
        y += BELOW
    return figure


def _inches(x: float, y: float, panel: Panel, height: float) -> tuple[float, float, float, float]:
    """Shares of the figure for a panel whose top left corner is at (x, y) inches from the page's."""
    return x / WIDTH, 1 - (y + panel.height) / height, panel.width / WIDTH, panel.height / height


def _show(ax: Axes, pixels: np.ndarray) -> None:
    ax.imshow(pixels, interpolation="lanczos")


def _grey(maps: TokenMaps, brightness: float = 0.5) -> np.ndarray:
    grey = maps.picture.astype(np.float32).mean(axis=-1, keepdims=True) / 255
    return np.repeat(grey * brightness, 3, axis=-1)


def _on_pixels(maps: TokenMaps, patches: np.ndarray) -> np.ndarray:
    """Values of patches ``[n_v, ...]`` for every pixel of the picture, ``[H, W, ...]``."""
    values = patches[-maps.grid[0] * maps.grid[1] :].reshape(*maps.grid, *patches.shape[1:])
    rows = np.arange(maps.picture.shape[0]) * maps.grid[0] // maps.picture.shape[0]
    columns = np.arange(maps.picture.shape[1]) * maps.grid[1] // maps.picture.shape[1]
    return values[rows[:, None], columns[None, :]]


def _mosaic(ax: Axes, maps: TokenMaps) -> None:
    owners = maps.owners()
    colours = MOSAIC(np.linspace(0.06, 0.94, maps.num_partial))[:, :3]
    picture = maps.picture.astype(np.float32) / 255
    ax.imshow(0.5 * picture + 0.5 * _on_pixels(maps, colours[owners]), interpolation="lanczos")
    _outline(ax, maps, owners, color="white", lw=0.9)
    for token in spread(maps.num_partial, COLUMNS):
        _outline(ax, maps, owners == token, color="black", lw=2.0)
        row, column = np.argwhere((owners == token).reshape(maps.grid)).mean(axis=0) + 0.5
        x, y = _pixel(maps, row, column)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
        ax.text(x, y, str(token + 1), ha="center", va="center", fontsize=8, fontweight="bold", color=INK, bbox=box)


def show_heat(ax: Axes, maps: TokenMaps, weights: np.ndarray, lit: np.ndarray | float = 1.0) -> None:
    """The picture, dark where no weight is and glowing where most of it is.

    Args:
        weights: ``[n_v]``, at least 0.
        lit: ``[H, W, 1]`` in 0...1, how bright what has no weight is.
    """
    share = weights / max(weights[-maps.grid[0] * maps.grid[1] :].max(), 1e-12)
    smooth = Image.fromarray(share[-maps.grid[0] * maps.grid[1] :].reshape(maps.grid).astype(np.float32))
    height, width = maps.picture.shape[:2]
    glow = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    heat = HEAT(glow[..., 0])[..., :3]
    picture = maps.picture.astype(np.float32) / 255
    # where there is attention the picture shines through in its own colours
    dim = _grey(maps, 0.5) * (0.35 + 0.65 * lit)
    ax.imshow((dim * (1 - glow) + glow * (0.45 * picture + 0.55 * heat)).clip(0, 1), interpolation="lanczos")


def _slice(ax: Axes, maps: TokenMaps, token: int, weights: np.ndarray) -> None:
    mine = maps.owners() == token
    share = weights[-len(mine) :]
    lit = _on_pixels(maps, mine.astype(np.float32)[:, None])
    picture = maps.picture.astype(np.float32) / 255
    ax.imshow(lit * picture + (1 - lit) * _grey(maps, 0.45), interpolation="lanczos")
    tint = np.zeros((*lit.shape[:2], 4))
    tint[..., :3] = HEAT(0.78)[:3]
    tint[..., 3] = 0.62 * _on_pixels(maps, share * mine / max(share.max(), 1e-12))
    ax.imshow(tint, interpolation="nearest")
    _outline(ax, maps, mine, color="white", lw=1.6)
    cells = np.argwhere(mine.reshape(maps.grid))
    across = _enlarge(ax, maps, cells)
    # two digits must fit into a patch
    size = min(10.0, 72 * 0.5 * ax.get_position().width * WIDTH / across)
    if len(cells) <= 9 and size >= 4:
        for (row, column), value in zip(cells, share[mine], strict=True):
            x, y = _pixel(maps, row + 0.5, column + 0.5)
            ax.text(
                x,
                y,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=size,
                fontweight="bold",
                color="white",
                path_effects=[matplotlib.patheffects.withStroke(linewidth=2.2, foreground="black")],
            )


def _enlarge(ax: Axes, maps: TokenMaps, cells: np.ndarray) -> float:
    """Show the slice with patches around it, in a window of the picture's form inside it. Returns how many patches wide."""
    size = np.array(maps.picture.shape[:2])
    patch = size / maps.grid
    low, high = cells.min(axis=0) * patch, (cells.max(axis=0) + 1) * patch
    window = size * min(1.0, ((high - low + 3 * patch) / size).max())
    start = ((low + high) / 2 - window / 2).clip(0, size - window)
    end = start + window
    ax.set(xlim=(start[1] - 0.5, end[1] - 0.5), ylim=(end[0] - 0.5, start[0] - 0.5))
    return window[1] / patch[1]


def _reached(ax: Axes, maps: TokenMaps, reach: np.ndarray, knowledge: np.ndarray, token: int) -> None:
    own = maps.owners() == token
    beyond = knowledge[-len(own) :] * ~own
    show_heat(ax, maps, beyond, lit=_on_pixels(maps, reach.astype(np.float32)[:, None]))
    mine = _on_pixels(maps, own.astype(np.float32)[:, None])
    ax.imshow(np.dstack((maps.picture / 255, mine)), interpolation="nearest")
    _outline(ax, maps, reach, color=REACH, lw=2.0)
    _outline(ax, maps, own, color="white", lw=1.4)


def _matrix(ax: Axes, weights: np.ndarray) -> None:
    # a square root shows weak weights beside strong ones; what is not seen stays paper
    shown = np.ma.masked_where(weights <= 0, np.sqrt(weights / weights.max()))
    ax.imshow(shown, cmap="inferno_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")


def _outline(ax: Axes, maps: TokenMaps, labels: np.ndarray, color: str, lw: float) -> None:
    """Lines between patches whose labels differ; around a mask at the picture's edge too."""
    grid = labels.reshape(maps.grid)
    if labels.dtype == bool:
        padded = np.pad(grid, 1)
    else:
        padded = np.pad(grid, 1, mode="edge")
    upright = padded[1:-1, :-1] != padded[1:-1, 1:]
    level = padded[:-1, 1:-1] != padded[1:, 1:-1]
    segments = [((row, column), (row + 1, column)) for row, column in np.argwhere(upright)]
    segments += [((row, column), (row, column + 1)) for row, column in np.argwhere(level)]
    lines = [[_pixel(maps, *end) for end in segment] for segment in segments]
    ax.add_collection(
        matplotlib.collections.LineCollection(lines, colors=color, linewidths=lw, capstyle="projecting", clip_on=True),
        autolim=False,
    )


def _pixel(maps: TokenMaps, row: float, column: float) -> tuple[float, float]:
    """Where a place on the grid of patches lies on the shown picture, (x, y)."""
    height, width = maps.picture.shape[:2]
    return column * width / maps.grid[1] - 0.5, row * height / maps.grid[0] - 0.5
