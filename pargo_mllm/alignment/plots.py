"""Drawings of what was found: figures of models side by side, words on pictures, and where tokens come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from PIL import Image

from pargo_mllm.alignment.closely import Close
from pargo_mllm.alignment.comparing import FIGURES, spread
from pargo_mllm.alignment.run import Outcome
from pargo_mllm.pictures.style import FAINT, INK, PAPER, RULE, SERIES, new_figure, save_figure

# pictures, words of a picture and tokens that are drawn
PICTURES, WORDS, TOKENS = 4, 6, 6
# inches of a panel
_PANEL = 2.7
_HEAT = matplotlib.colormaps["inferno"]


def draw(outcome: Outcome, folder: Path) -> dict[str, Path]:
    """Draw all that there is something of, as PNG files in ``folder``: what each shows, and its file."""
    drawn: dict[str, Path] = {}
    models = outcome.told["models"]
    if any(model["by_picture"] for model in models):
        drawn["figures of the models, means over pictures with their standard errors"] = draw_figures(
            models, folder / "figures.png"
        )
    names = list(outcome.close)
    several = list(zip(*outcome.close.values(), strict=True))
    for looks in several[:PICTURES]:
        if looks[0].said:
            title = f"words of patches: {looks[0].name}"
            drawn[title] = draw_words(names, looks, title, folder / f"words-{looks[0].number:03d}.png")
        if any(look.maps for look in looks):
            title = f"maps of words: {looks[0].name}"
            drawn[title] = draw_maps(names, looks, title, folder / f"maps-{looks[0].number:03d}.png")
    for place, (name, looks) in enumerate(outcome.close.items()):
        if looks and looks[0].sources:
            title = f"where tokens of {name} come from: {looks[0].name}"
            drawn[title] = draw_sources(looks[0], title, folder / f"sources-{place}.png")
    return drawn


def draw_figures(models: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """Bars of every figure that has a value a picture, one panel a figure, one bar a model."""
    shown = [figure for figure in FIGURES if any(spread(model["by_picture"].get(figure, ()))["pictures"] for model in models)]
    rows = -(-len(shown) // 2)
    bar = 0.3 + 0.32 * len(models)
    figure = new_figure(11, 0.5 + rows * (bar + 0.75))
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax, key in zip(axes.flat, shown, strict=False):
        for place, model in enumerate(models):
            values = spread(model["by_picture"].get(key, ()))
            if values["mean"] is None:
                continue
            whisker = {"xerr": values["error"], "error_kw": {"ecolor": INK, "lw": 1.2, "capsize": 3}} if values["error"] else {}
            ax.barh(place, values["mean"], 0.72, color=SERIES[place % len(SERIES)], **whisker)
            end = max(0.0, values["mean"]) + (values["error"] or 0)
            ax.annotate(f" {values['mean']:.3f}", (end, place), va="center", fontsize=8.5, color=INK)
        ax.set_yticks(range(len(models)), [_plain(_short(model["name"])) for model in models], fontsize=8.5)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.margins(x=0.14)
        _frame(ax, FIGURES[key])
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    figure.tight_layout(h_pad=1.6, w_pad=2.0)
    return save_figure(figure, file)


def draw_words(names: Sequence[str], looks: Sequence[Close], title: str, file: Path) -> Path:
    """A picture, what is where in it, and the word that each model's tokens speak at each patch."""
    there = [names_there[-1] if names_there else "" for names_there in looks[0].there]
    boards = [("what is there", there, looks[0].grid)]
    boards += [(name, list(look.said), look.grid) for name, look in zip(names, looks, strict=True)]
    # what is there first: its colours stand apart
    words = dict.fromkeys(word for _, board, _ in boards for word in board if word)
    colours = {
        word: matplotlib.colormaps["turbo"](0.05 + 0.9 * (place * 0.61803 % 1.0))[:3] for place, word in enumerate(words)
    }
    figure, axes = _panels(1, 1 + len(boards), title)
    axes[0, 0].imshow(looks[0].picture)
    _name(axes[0, 0], "the picture, as the encoder sees it")
    side = looks[0].picture.size[0]
    for ax, (name, board, grid) in zip(axes[0, 1:], boards, strict=True):
        ax.imshow(looks[0].picture.convert("L").convert("RGB"), alpha=0.55)
        tint = np.array([(*colours[word], 0.55) if word else (0, 0, 0, 0) for word in board])
        ax.imshow(tint.reshape(*grid, 4), extent=(-0.5, side - 0.5, side - 0.5, -0.5), interpolation="nearest")
        for word, row, column in _one_place_each(board, grid):
            x, y = (column + 0.5) * side / grid[1], (row + 0.5) * side / grid[0]
            halo = [matplotlib.patheffects.withStroke(linewidth=2, foreground=PAPER)]
            ax.text(x, y, _plain(_short(word, 14)), ha="center", va="center", fontsize=6.5, color=INK, path_effects=halo)
        _name(ax, name)
    return save_figure(figure, file)


def draw_maps(names: Sequence[str], looks: Sequence[Close], title: str, file: Path) -> Path:
    """Maps of words that a picture shows, one row a model: bright where the word fits best of this picture's patches."""
    words = list(looks[0].maps)[:WORDS]
    figure, axes = _panels(len(looks), len(words), title)
    for row, (name, look) in enumerate(zip(names, looks, strict=True)):
        for column, word in enumerate(words):
            ax = axes[row, column]
            values = look.maps[word]
            low, high = float(values.min()), float(values.max())
            _heat(ax, look.picture, (values - low) / max(high - low, 1e-9))
            _name(ax, f"{word} · {name}" if column == 0 else word, f"cosine {low:.2f} … {high:.2f}")
            _outline(ax, np.array([word in there for there in look.there]).reshape(look.grid), look.picture.size[0])
    return save_figure(figure, file)


def draw_sources(look: Close, title: str, file: Path) -> Path:
    """Where some tokens come from, one row a method."""
    tokens = sorted({round(place) for place in np.linspace(0, len(look.local) - 1, TOKENS)})
    figure, axes = _panels(len(look.sources), len(tokens), title)
    for row, (method, shares) in enumerate(look.sources.items()):
        for column, token in enumerate(tokens):
            values = shares[token].reshape(look.grid)
            _heat(axes[row, column], look.picture, values / max(float(values.max()), 1e-12), smooth=False)
            kind = "" if look.local[token] else " (global)"
            _name(axes[row, column], f"{method} · token {token + 1}{kind}", f"most in one patch: {100 * values.max():.0f} %")
    return save_figure(figure, file)


def _panels(rows: int, columns: int, title: str) -> tuple[Any, np.ndarray]:
    width, height = 0.3 + columns * (_PANEL + 0.15), 0.75 + rows * (_PANEL + 0.5)
    figure = new_figure(max(width, 6.5), height)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.15 / width,
        right=1 - 0.15 / width,
        top=1 - 0.8 / height,
        bottom=0.32 / height,
        wspace=0.07,
        hspace=0.24,
    )
    figure.text(
        0.15 / width, 1 - 0.35 / height, _short(title, 110), fontsize=12.5, fontweight="bold", color=INK, parse_math=False
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_color(RULE)
    return figure, axes


def _heat(ax: Axes, picture: Image.Image, share: np.ndarray, smooth: bool = True) -> None:
    """A picture, dark where a share is 0 and glowing where it is 1."""
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    glow = np.asarray(Image.fromarray(share.astype(np.float32)).resize(picture.size, how)).clip(0, 1)[..., None]
    pixels = np.asarray(picture, dtype=np.float32) / 255
    grey = 0.5 * pixels.mean(axis=-1, keepdims=True)
    ax.imshow(grey * (1 - glow) + glow * (0.45 * pixels + 0.55 * _HEAT(glow[..., 0])[..., :3]))


def _outline(ax: Axes, mask: np.ndarray, side: int) -> None:
    """A line around the patches of a mask."""
    padded = np.pad(mask, 1)
    high, wide = side / mask.shape[0], side / mask.shape[1]
    upright = np.argwhere(padded[1:-1, :-1] != padded[1:-1, 1:])
    level = np.argwhere(padded[:-1, 1:-1] != padded[1:, 1:-1])
    lines = [[(column * wide - 0.5, (row + end) * high - 0.5) for end in (0, 1)] for row, column in upright]
    lines += [[((column + end) * wide - 0.5, row * high - 0.5) for end in (0, 1)] for row, column in level]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=1.1), autolim=False)


def _one_place_each(board: Sequence[str], grid: tuple[int, int]) -> list[tuple[str, int, int]]:
    """For every word a patch at which to write it: the one nearest to the middle of its patches."""
    found = []
    for word in dict.fromkeys(board):
        if word:
            places = np.array([divmod(patch, grid[1]) for patch, other in enumerate(board) if other == word])
            row, column = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
            found.append((word, int(row), int(column)))
    return found


def _name(ax: Axes, name: str, below: str = "") -> None:
    ax.set_title(_plain(_short(name, 36)), loc="left", fontsize=8.5, color=INK, pad=3)
    if below:
        ax.set_xlabel(below, loc="left", fontsize=7.5, color=FAINT, labelpad=2)


def _frame(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=6)
    ax.set_facecolor(PAPER)
    ax.grid(axis="x", color=RULE, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, colors=INK, labelsize=8.5)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(RULE)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _plain(name: str) -> str:
    # a dollar sign of a name is no formula, and a leading underscore hides nothing
    return f" {name}".replace("$", r"\$") if name.startswith("_") else name.replace("$", r"\$")
