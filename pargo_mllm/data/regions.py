"""What is where in a picture: named boxes and masks, and which patches of an encoder they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from pargo_mllm.data.frames import Box

#: what a grid of patches, or a view, shows of a picture: left, top, right, bottom as shares of its width and height. Beyond
#: 0...1 where it is padded; left and right are exchanged where it is mirrored.
Window = tuple[float, float, float, float]
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
# a polygon is looked at on a raster of so many points along the longer side of the picture
_RASTER = 1024


@dataclass(frozen=True)
class Outline:
    """Polygons, each ``((x, y), …)`` as shares of the picture's width and height: together they are one thing."""

    polygons: tuple[tuple[tuple[float, float], ...], ...]
    #: width over height of the picture
    aspect: float = 1.0

    @cached_property
    def pixels(self) -> np.ndarray:
        """bool ``[H, W]``."""
        width = min(_RASTER, max(1, round(_RASTER * min(1.0, self.aspect))))
        height = min(_RASTER, max(1, round(_RASTER * min(1.0, 1 / self.aspect))))
        canvas = Image.new("1", (width, height))
        for polygon in self.polygons:
            # Pillow's pixels have their middles at whole numbers
            ImageDraw.Draw(canvas).polygon([(x * width - 0.5, y * height - 0.5) for x, y in polygon], fill=1)
        return np.asarray(canvas)


@dataclass(frozen=True, eq=False)
class Pixels:
    """A mask of pixels that fill the picture: bool ``[H, W]``."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Region:
    """A thing in a picture.

    Args:
        names: what it is called; several are synonyms, the first one what it is shown as.
        shape: a box, as shares of the picture's width and height, or a mask.
        window: what of that picture is shown, where it is a view of it.
        score: how sure a detector is, 0...1; 1 for what people have drawn.
    """

    names: tuple[str, ...]
    shape: Box | Outline | Pixels
    window: Window = WHOLE
    score: float = 1.0

    def within(self, window: Window) -> Region:
        """The same in a view, which shows ``window`` of the picture that it is in now."""
        return replace(self, window=seen_through(self.window, window))

    def coverage(self, grid: tuple[int, int], window: Window = WHOLE) -> np.ndarray:
        """How much of each patch it covers, 0...1: float64 ``[rows, columns]``.

        Exact for boxes and masks of pixels; polygons are exact on a raster of 1,024 points.

        Args:
            grid: rows and columns of patches.
            window: what the patches show together of the picture.
        """
        rows, columns = grid
        left, top, right, bottom = seen_through(self.window, window)
        across = np.linspace(left, right, columns + 1)
        down = np.linspace(top, bottom, rows + 1)
        if not isinstance(self.shape, (Outline, Pixels)):
            x1, y1, x2, y2 = self.shape
            return np.outer(_shares(down, y1, y2), _shares(across, x1, x2))
        pixels = self.shape.pixels
        height, width = pixels.shape
        # shares of the lines and columns of pixels in each patch: area averages, exactly
        return _overlaps(down, height) @ pixels.astype(np.float64) @ _overlaps(across, width).T


def seen_through(outer: Window, inner: Window) -> Window:
    """What is seen of the first picture in ``inner`` of a view that shows ``outer`` of it."""
    left, top, right, bottom = outer
    width, height = right - left, bottom - top
    return (left + inner[0] * width, top + inner[1] * height, left + inner[2] * width, top + inner[3] * height)


def label_coverage(regions: Sequence[Region], grid: tuple[int, int], window: Window = WHOLE) -> dict[str, np.ndarray]:
    """How much of each patch things of one name cover together, by their first names: float64 ``[rows, columns]`` each.

    Where several overlap, a patch is covered by as much as the one that covers most of it: an undercount, never above 1.
    """
    found: dict[str, np.ndarray] = {}
    for region in regions:
        covered = region.coverage(grid, window)
        name = region.names[0]
        found[name] = np.maximum(found[name], covered) if name in found else covered
    return found


def _shares(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    """Of each interval between neighbouring edges, the share that lies between ``low`` and ``high``."""
    first, last = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    return np.clip(np.minimum(last, high) - np.maximum(first, low), 0, None) / (last - first)


def _overlaps(edges: np.ndarray, count: int) -> np.ndarray:
    """``[intervals, count]``: of each interval, the share that lies in each of ``count`` equal parts of 0...1."""
    return np.stack([_shares(edges, part / count, (part + 1) / count) for part in range(count)], axis=1)
