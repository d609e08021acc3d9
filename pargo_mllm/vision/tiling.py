"""Large and non-square pictures as tiles of the encoder's size, without padding."""

from __future__ import annotations

import math

from PIL import Image


def tile_grid(width: int, height: int, side: int, max_tiles: int) -> tuple[int, int]:
    """Rows and columns of the tiles for a picture of ``width x height`` pixels.

    Of all grids of at most ``max_tiles`` tiles, and no more along an edge than the picture has pixels for, the one that loses
    least: the detail that shrinking takes from each edge, and the stretching of the picture's shape, both as logarithms. Of
    equals, the one with fewer tiles.
    """

    def loss(grid: tuple[int, int]) -> tuple[float, int]:
        rows, columns = grid
        shrunk = max(0.0, math.log(width / (columns * side))) + max(0.0, math.log(height / (rows * side)))
        stretched = abs(math.log((columns / rows) / (width / height)))
        # rounding must not decide between equals
        return round(shrunk + stretched, 9), rows * columns

    most_rows, most_columns = math.ceil(height / side), math.ceil(width / side)
    grids = [
        (rows, columns)
        for rows in range(1, min(most_rows, max_tiles) + 1)
        for columns in range(1, min(most_columns, max_tiles // rows) + 1)
    ]
    return min(grids, key=loss)


def cut_tiles(picture: Image.Image, side: int, max_tiles: int, overview: bool = False) -> list[Image.Image]:
    """Tiles of ``side x side`` pixels in raster order, of the picture stretched to fill their grid.

    Args:
        max_tiles: the cap; the overview does not count.
        overview: put the whole picture, shrunk to one tile, in front where there is more than one.
    """
    rows, columns = tile_grid(*picture.size, side, max_tiles)
    filled = picture.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    tiles = [
        filled.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]
    if overview and len(tiles) > 1:
        tiles.insert(0, picture.resize((side, side), Image.Resampling.BICUBIC))
    return tiles
