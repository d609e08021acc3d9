"""Tokens and patches as grids: which grid a number of tokens makes, and the order that turns slices into 2-D tiles."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

# a grid four times as stretched as the picture pools lines, not parts
_MOST_STRETCHED = 4.0


def token_grid(num_tokens: int, rows: int, columns: int) -> tuple[int, int]:
    """The grid of ``num_tokens`` cells whose shape is nearest to a picture of ``rows x columns`` patches.

    The paper's 304 tokens of a square picture are 16 x 19.

    Raises:
        ValueError: if ``num_tokens`` makes only a line, as a prime does.
    """
    divisors = (height for height in range(1, num_tokens + 1) if num_tokens % height == 0)
    stretch, height = min((_ratio(num_tokens * rows, height**2 * columns), height) for height in divisors)
    if stretch > _MOST_STRETCHED:
        raise ValueError(
            f"num_partial_tokens + num_global_tokens={num_tokens} makes no grid near the shape of {rows} x {columns} patches; "
            f"choose a number with two close factors, as {math.isqrt(num_tokens) ** 2} has."
        )
    return height, num_tokens // height


def band_height(rows: int, columns: int, patches: int) -> int:
    """Rows of a band such that ``patches`` patches, taken column by column, make a tile that is nearest to a square.

    Tiles are exact rectangles wherever one fits the grid. Of two that are equally near, the taller.
    """
    exact = [
        height
        for height in range(1, rows + 1)
        if patches % height == 0 and rows % height == 0 and columns % (patches // height) == 0
    ]
    if exact:
        return min(exact, key=lambda height: (_ratio(height**2, patches), -height))
    return max(1, min(rows, round(math.sqrt(patches))))


def _ratio(one: int, other: int) -> float:
    return max(one, other) / min(one, other)


@lru_cache(maxsize=64)
def tile_order(rows: int, columns: int, num_partial: int, num_pictures: int = 1) -> torch.Tensor:
    """An order of the patches in which the slices of Eq. 1 are 2-D tiles: int64 ``[num_pictures * rows * columns]``.

    ``features[:, tile_order(…)]`` puts patches of raster order into bands of a few rows, and inside a band column by column,
    there and back.

    Args:
        rows, columns: patches of one picture, or of one tile of a large picture.
        num_partial: ``n_p``: the size of a slice decides the height of the bands.
        num_pictures: tiles of the large picture, whose patches follow each other.
    """
    height = band_height(rows, columns, max(1, num_pictures * rows * columns // max(1, num_partial)))
    patches = torch.arange(rows * columns).view(rows, columns)
    bands = [band.T for band in patches.split(height)]
    # every other band runs back: a slice across two bands stays at one side of the picture
    within = torch.cat([band.flip(0).flatten() if number % 2 else band.flatten() for number, band in enumerate(bands)])
    return (torch.arange(num_pictures)[:, None] * (rows * columns) + within).flatten()
