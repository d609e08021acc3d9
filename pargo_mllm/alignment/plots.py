"""Drawings of what was found: figures of models side by side, words on pictures, and where tokens come from."""

from __future__ import annotations

import warnings
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
from pargo_mllm.data.corpus import shown
from pargo_mllm.pictures.attention import percent
from pargo_mllm.pictures.style import DPI, FAINT, INK, PAPER, RULE, SERIES, new_figure, save_figure

# pictures, words of a picture and tokens that are drawn
PICTURES, WORDS, TOKENS = 4, 6, 6
# pixels of a panel, beside it, between two rows, and above the first one
_PANEL, _MARGIN, _BETWEEN, _HEAD = 232, 14, 46, 76
_HEAT = matplotlib.colormaps["inferno"]
# pixels that a letter and a line of a word on a panel take, and how many lines up or down it may go
_LETTER, _LINE, _LINES = 8, 14, 12


def draw(outcome: Outcome, folder: Path) -> dict[str, Path]:
    """Draw all that there is something of, as PNG files in ``folder``: what each shows, and its file."""
    with warnings.catch_warnings():
        # of letters that the font has not
        warnings.filterwarnings("ignore", message="Glyph")
        return _drawn(outcome, folder)


def _drawn(outcome: Outcome, folder: Path) -> dict[str, Path]:
    drawn: dict[str, Path] = {}
    models = outcome.told["models"]
    if _figures(models):
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
    for place, (name, own) in enumerate(outcome.close.items()):
        if own and own[0].sources:
            title = f"where tokens of {name} come from: {own[0].name}"
            drawn[title] = draw_sources(own[0], title, folder / f"sources-{place}.png")
    return drawn


def _figures(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that have a value of any picture."""
    return [figure for figure in FIGURES if any(spread(model["by_picture"].get(figure, ()))["pictures"] for model in models)]


def draw_figures(models: Sequence[Mapping[str, Any]], file: Path) -> Path:
    """Bars of every figure that has a value a picture, one panel a figure, one bar a model."""
    shown = _figures(models)
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
    words = dict.fromkeys(word for _, board, _ in boards for word in board if word)
    colours = {
        word: matplotlib.colormaps["turbo"](0.05 + 0.9 * (place * 0.61803 % 1.0))[:3] for place, word in enumerate(words)
    }
    sheet = _Sheet(1, 1 + len(boards), title)
    pixels = _pixels(looks[0].picture)
    sheet.put(0, 0, pixels, "as the encoder sees it")
    grey = 0.45 + 0.55 * pixels.mean(axis=-1, keepdims=True)
    for column, (name, board, grid) in enumerate(boards, start=1):
        tint = np.array([(*colours[word], 0.55) if word else (0, 0, 0, 0) for word in board]).reshape(*grid, 4)
        tint = _stretched(tint)
        sheet.put(0, column, grey * (1 - tint[..., 3:]) + tint[..., :3] * tint[..., 3:], name)
        for word, row, place in _one_place_each(board, grid):
            sheet.write(0, column, word, (place + 0.5) / grid[1], (row + 0.5) / grid[0])
    return sheet.save(file)


def draw_maps(names: Sequence[str], looks: Sequence[Close], title: str, file: Path) -> Path:
    """Maps of words that a picture shows, one row a model: bright where the word fits best of this picture's patches."""
    words = list(looks[0].maps)[:WORDS]
    sheet = _Sheet(len(looks), len(words), title)
    for row, (name, look) in enumerate(zip(names, looks, strict=True)):
        for column, word in enumerate(words):
            values = look.maps[word]
            low, high = float(values.min()), float(values.max())
            heat = _heat(look.picture, (values - low) / max(high - low, 1e-9), smooth=True)
            told = f"{word} · {name}" if column == 0 else word
            sheet.put(row, column, heat, told, f"cosine {low:.2f} … {high:.2f}")
            sheet.outline(row, column, np.array([word in there for there in look.there]).reshape(look.grid))
    return sheet.save(file)


def draw_sources(look: Close, title: str, file: Path) -> Path:
    """Where some tokens come from, one row a method."""
    tokens = sorted({round(place) for place in np.linspace(0, len(look.local) - 1, TOKENS)})
    sheet = _Sheet(len(look.sources), len(tokens), title)
    for row, (method, shares) in enumerate(look.sources.items()):
        for column, token in enumerate(tokens):
            values = shares[token].reshape(look.grid)
            heat = _heat(look.picture, values / max(float(values.max()), 1e-12), smooth=False)
            kind = "" if look.local[token] else " (global)"
            sheet.put(row, column, heat, f"{method} · token {token + 1}{kind}", f"most in one patch: {percent(values.max())}")
    return sheet.save(file)


class _Sheet:
    """Panels of :data:`_PANEL` pixels in rows, each with a name above it and a line below it, drawn as one picture."""

    def __init__(self, rows: int, columns: int, title: str):
        self.height = _HEAD + rows * (_PANEL + _BETWEEN)
        self.width = max(_MARGIN + columns * (_PANEL + _MARGIN), 620)
        # of each panel the words on it: left, right and middle
        self._written: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
        self.canvas = np.ones((self.height, self.width, 3))
        self.figure = new_figure(self.width / DPI, self.height / DPI)
        self.ax = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        self.ax.set_axis_off()
        self._text(_MARGIN, 34, _short(title, self.width // 11), fontsize=12.5, fontweight="bold", color=INK)

    def put(self, row: int, column: int, pixels: np.ndarray, name: str, below: str = "") -> None:
        """Lay a picture ``[_PANEL, _PANEL, 3]`` in 0...1."""
        x, y = self._corner(row, column)
        self.canvas[y : y + _PANEL, x : x + _PANEL] = pixels.clip(0, 1)
        self._text(x, y - 6, _short(name, 34), fontsize=8.5, color=INK)
        self._text(x, y + _PANEL + 14, below, fontsize=7.5, color=FAINT)

    def write(self, row: int, column: int, word: str, across: float, down: float) -> None:
        """Write a word at a place of a panel, in shares of it."""
        x, y = self._corner(row, column)
        text = _short(word, 14)
        wide, high = _LETTER * len(text), _LINE
        left = min(max(x + across * _PANEL - wide / 2, x), x + _PANEL - wide)
        middle, taken = y + down * _PANEL, self._written.setdefault((row, column), [])
        # the nearest line above or below on which no other word stands
        for step in sorted(range(-_LINES, _LINES + 1), key=lambda step: (abs(step), step)):
            line = middle + step * high
            is_free = all(left >= end or left + wide <= begin or abs(line - other) >= high for begin, end, other in taken)
            if is_free and y <= line - high / 2 and line + high / 2 <= y + _PANEL:
                middle = line
                break
        taken.append((left, left + wide, middle))
        halo = [matplotlib.patheffects.withStroke(linewidth=2, foreground=PAPER)]
        self._text(left + wide / 2, middle, text, ha="center", va="center", fontsize=6.5, color=INK, path_effects=halo)

    def outline(self, row: int, column: int, mask: np.ndarray) -> None:
        """A line around the patches of a mask ``[rows, columns]``."""
        x, y = self._corner(row, column)
        padded = np.pad(mask, 1)
        high, wide = _PANEL / mask.shape[0], _PANEL / mask.shape[1]
        upright = np.argwhere(padded[1:-1, :-1] != padded[1:-1, 1:])
        level = np.argwhere(padded[:-1, 1:-1] != padded[1:, 1:-1])
        lines = [[(x + right * wide, y + (down + end) * high) for end in (0, 1)] for down, right in upright]
        lines += [[(x + (right + end) * wide, y + down * high) for end in (0, 1)] for down, right in level]
        self.ax.add_collection(LineCollection(lines, colors="white", linewidths=1.1), autolim=False)

    def save(self, file: Path) -> Path:
        """Write it as a PNG."""
        self.ax.imshow(self.canvas, extent=(0, self.width, self.height, 0), interpolation="nearest", aspect="auto", zorder=0)
        return save_figure(self.figure, file)

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        return _MARGIN + column * (_PANEL + _MARGIN), _HEAD + row * (_PANEL + _BETWEEN)

    def _text(self, x: float, y: float, words: str, **style: Any) -> None:
        # names come from users: a dollar sign is no formula
        self.ax.text(x, y, words, parse_math=False, **style)


def _pixels(picture: Image.Image) -> np.ndarray:
    """``[_PANEL, _PANEL, 3]`` in 0...1."""
    return np.asarray(picture.resize((_PANEL, _PANEL), Image.Resampling.LANCZOS), dtype=np.float64) / 255


def _stretched(patches: np.ndarray) -> np.ndarray:
    """Values of patches ``[rows, columns, ...]`` at each pixel of a panel."""
    rows, columns = (np.arange(_PANEL) * size // _PANEL for size in patches.shape[:2])
    return patches[rows[:, None], columns]


def _heat(picture: Image.Image, share: np.ndarray, smooth: bool) -> np.ndarray:
    """A picture, dark where a share is 0 and glowing where it is 1."""
    if smooth:
        small = Image.fromarray(share.astype(np.float32))
        glow = np.asarray(small.resize((_PANEL, _PANEL), Image.Resampling.BILINEAR))
    else:
        glow = _stretched(share)
    glow = glow.clip(0, 1)[..., None]
    pixels = _pixels(picture)
    grey = 0.5 * pixels.mean(axis=-1, keepdims=True)
    return grey * (1 - glow) + glow * (0.45 * pixels + 0.55 * _HEAT(glow[..., 0])[..., :3])


def _one_place_each(board: Sequence[str], grid: tuple[int, int]) -> list[tuple[str, int, int]]:
    """For every word a patch at which to write it: the one nearest to the middle of its patches."""
    found = []
    for word in dict.fromkeys(board):
        if word:
            places = np.array([divmod(patch, grid[1]) for patch, other in enumerate(board) if other == word])
            row, column = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
            found.append((word, int(row), int(column)))
    return found


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
    return shown(name, most - 1)


def _plain(name: str) -> str:
    # a dollar sign of a name is no formula, and a leading underscore hides nothing
    return f" {name}".replace("$", r"\$") if name.startswith("_") else name.replace("$", r"\$")
