"""What is where in a picture: named boxes and masks, and which patches of an encoder they cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pargo_mllm.data.frames import Box

#: what a grid of patches, or a view, shows of a picture: left, top, right, bottom as shares of its width and height. Beyond
#: 0...1 where it is padded; left and right are exchanged where it is mirrored.
Window = tuple[float, float, float, float]
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
# polygons are looked at on a raster of so many lines and columns over the box around them
_RASTER = 512
# along the longer side of a picture that they are drawn on
_SIDE = 1024
# where in each pixel of a line is looked: by the golden ratio, so that no border of a polygon lies along a row of these places
_PLACES = (np.arange(_RASTER) + 0.5) * ((5**0.5 - 1) / 2) % 1
# rasters that are kept, a quarter of a megabyte each: a picture in tiles is asked for once a tile
_KEPT = 256
# a coordinate is at most so many widths or heights of the picture away
_FARTHEST = 1e6


@dataclass(frozen=True)
class Outline:
    """Polygons, each ``((x, y), …)`` as shares of the picture's width and height: together they are one thing. What lies inside
    one is what a line out of it crosses an odd number of times.

    Raises:
        ValueError: for a coordinate that is no finite number, or far out of the picture.
    """

    polygons: tuple[tuple[tuple[float, float], ...], ...]
    #: width over height of the picture
    aspect: float = 1.0

    def __post_init__(self):
        if not all(abs(number) <= _FARTHEST for polygon in self.polygons for point in polygon for number in point):
            raise ValueError(f"a polygon's coordinates must be finite numbers of at most {_FARTHEST:g} widths or heights")
        if not 0 < self.aspect < math.inf:
            raise ValueError(f"aspect={self.aspect!r} must be above 0: width over height of the picture")

    @property
    def pixels(self) -> np.ndarray:
        """bool ``[H, W]``, the longer side 1,024: whether the middle of each pixel lies inside."""
        width = max(1, round(_SIDE * min(1.0, self.aspect)))
        height = max(1, round(_SIDE * min(1.0, 1 / self.aspect)))
        return _drawn(self, WHOLE, width, np.full(height, 0.5))

    @property
    def around(self) -> Box | None:
        """The box around what of it lies in the picture; None where nothing does."""
        points = np.array([point for polygon in self.polygons for point in polygon]).reshape(-1, 2).clip(0, 1)
        if not len(points) or not (points.max(axis=0) > points.min(axis=0)).all():
            return None
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return (float(left), float(top), float(right), float(bottom))


@dataclass(frozen=True, eq=False)
class Pixels:
    """A mask of pixels that fill the picture: bool ``[H, W]``.

    Raises:
        ValueError: for another shape or dtype.
    """

    pixels: np.ndarray

    def __post_init__(self):
        if self.pixels.dtype != np.bool_ or self.pixels.ndim != 2 or not self.pixels.size:
            raise ValueError(f"a mask of {self.pixels.dtype} {list(self.pixels.shape)} must be bool [H, W], neither of them 0")


@dataclass(frozen=True, eq=False)
class Runs:
    """A mask of pixels that fill the picture, as COCO counts it: pixels of one kind that follow each other from top to bottom,
    column by column, first those outside.

    Args:
        counts: int64 ``[n]``; they sum to ``height * width``.
        size: ``(height, width)`` of the mask.

    Raises:
        ValueError: for other counts.
    """

    counts: np.ndarray
    size: tuple[int, int]

    def __post_init__(self):
        height, width = self.size
        if min(self.size) < 1 or (self.counts < 0).any() or int(self.counts.sum()) != height * width:
            raise ValueError(f"the runs of a mask must be at least 0 and sum to its {height} x {width} pixels")

    @property
    def pixels(self) -> np.ndarray:
        """bool ``[H, W]``."""
        inside = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(inside, self.counts).reshape(self.size[1], self.size[0]).T


Shape = Box | Outline | Pixels | Runs


@dataclass(frozen=True)
class Region:
    """A thing in a picture.

    Args:
        names: what it is called; several are synonyms, the first one what it is shown as.
        shape: a box, as shares of the picture's width and height, or a mask.
        window: what of that picture is shown, where it is a view of it.
        score: how sure a detector is, 0...1; 1 for what people have drawn.

    Raises:
        ValueError: for no names or one that is no text, a box or window that is not four finite numbers, a window that shows
            nothing, and a score that is none.
    """

    names: tuple[str, ...]
    shape: Shape
    window: Window = WHOLE
    score: float = 1.0

    def __post_init__(self):
        if isinstance(self.names, str) or not self.names or not all(isinstance(name, str) and name for name in self.names):
            raise ValueError(f"a region must have a name, or several: names={self.names!r} is no tuple of texts")
        if isinstance(self.shape, tuple) and not _four(self.shape):
            raise ValueError(f"a box must have four finite numbers, not {self.shape}")
        if not _shows(self.window):
            raise ValueError(f"window={self.window} shows nothing of the picture")
        if not 0 <= self.score <= 1:
            raise ValueError(f"score={self.score!r} must be 0...1")

    def within(self, window: Window) -> Region:
        """The same in a view, which shows ``window`` of the picture that it is in now.

        Raises:
            ValueError: for a window that shows nothing.
        """
        return replace(self, window=seen_through(self.window, window))

    def coverage(self, grid: tuple[int, int], window: Window = WHOLE) -> np.ndarray:
        """How much of each patch it covers, 0...1: float64 ``[rows, columns]``.

        Exact for boxes and masks of pixels; polygons are looked at on a raster of 512 x 512 points over the box around them. A
        patch beyond the picture's border is covered by nothing there.

        Args:
            grid: rows and columns of patches.
            window: what the patches show together of the picture.

        Raises:
            ValueError: for a window that shows nothing, and a grid without patches.
        """
        rows, columns = grid
        if rows < 1 or columns < 1:
            raise ValueError(f"grid={grid} must be rows and columns of patches, one at least")
        left, top, right, bottom = seen = seen_through(self.window, window)
        if not _shows(seen):
            raise ValueError(f"window={window} shows nothing of the picture")
        across = np.linspace(left, right, columns + 1)
        down = np.linspace(top, bottom, rows + 1)
        if isinstance(self.shape, tuple):
            x1, y1, x2, y2 = self.shape
            return np.outer(_shares(down, y1, y2), _shares(across, x1, x2))
        if isinstance(self.shape, Outline):
            around = self.shape.around
            if around is None:
                return np.zeros(grid)
            (x1, y1, x2, y2), pixels = around, _raster(self.shape)
        else:
            (x1, y1, x2, y2), pixels = WHOLE, self.shape.pixels
        height, width = pixels.shape
        # the lines and columns of pixels that it has anything in
        lines, files = _extent(pixels.any(axis=1)), _extent(pixels.any(axis=0))
        # shares of the lines and columns of pixels in each patch: area averages, exactly
        borders_down, borders_across = np.linspace(y1, y2, height + 1), np.linspace(x1, x2, width + 1)
        in_lines = _shares(down[:, None], borders_down[:-1][lines], borders_down[1:][lines])
        in_files = _shares(across[:, None], borders_across[:-1][files], borders_across[1:][files])
        return np.clip(in_lines @ pixels[lines, files].astype(np.float64) @ in_files.T, 0.0, 1.0)


def _four(numbers: Sequence[float]) -> bool:
    return len(numbers) == 4 and all(map(math.isfinite, numbers))


def _shows(window: Window) -> bool:
    return _four(window) and window[0] != window[2] and window[1] != window[3]


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


def _shares(edges: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Of each interval between neighbouring edges, the share that lies between ``low`` and ``high``."""
    first, last = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    return np.clip(np.minimum(last, high) - np.maximum(first, low), 0, None) / (last - first)


def _extent(filled) -> slice:
    """From the first to the last that is filled."""
    places = np.flatnonzero(filled)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


@lru_cache(_KEPT)
def _raster(outline: Outline) -> np.ndarray:
    """An outline over the box around it: bool ``[512, 512]``."""
    assert outline.around is not None
    return _drawn(outline, outline.around, _RASTER, _PLACES)


def _drawn(outline: Outline, window: Window, width: int, places: np.ndarray) -> np.ndarray:
    """The pixels of a window of which a point lies inside an outline: bool ``[height, width]``. The point is in the middle of
    the pixel's height; ``places``, ``[height]``, say of each line of pixels how far from their left borders, 0...1.
    """
    left, top, right, bottom = window
    height = len(places)
    found = np.zeros((height, width), dtype=bool)
    for polygon in outline.polygons:
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2) - (left, top)
        found |= _filled(points * (width / (right - left), height / (bottom - top)), width, places)
    found.flags.writeable = False
    return found


def _filled(points: np.ndarray, width: int, places: np.ndarray) -> np.ndarray:
    """The same of a polygon ``[points, (x, y)]`` in pixels."""
    height = len(places)
    changes = np.zeros((height, width + 1), dtype=bool)
    ends = np.roll(points, -1, axis=0)
    # so many edges at a time that they take megabytes
    for part in range(0, len(points), 256):
        (x, y), (x2, y2) = points[part : part + 256].T, ends[part : part + 256].T
        # an edge crosses the middles of these lines of pixels
        first, last = (np.clip(np.ceil(either(y, y2) - 0.5), 0, height).astype(int) for either in (np.minimum, np.maximum))
        crossed = last - first
        edge = np.repeat(np.arange(len(x)), crossed)
        line = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
        place = x[edge] + (line + 0.5 - y[edge]) * (x2 - x)[edge] / (y2 - y)[edge]
        np.logical_xor.at(changes, (line, np.clip(np.ceil(place - places[line]), 0, width).astype(int)), True)
    return np.logical_xor.accumulate(changes, axis=1)[:, :width]
