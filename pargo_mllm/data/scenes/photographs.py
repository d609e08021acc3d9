"""Photographs that come inside the scikit-image wheel: real pictures without a download.

Only pictures with a clear licence are used (scikit-image's own list): CC0 for cat, coffee, camera, retina and brick,
public domain for astronaut, rocket and the Hubble deep field.

Every photograph is cut into a grid of blocks and each block belongs to one split, so that no pixel of a test crop was
ever seen in training.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

# the word the model answers with -> the loader in skimage.data
PHOTOGRAPHS = {
    "astronaut": "astronaut",
    "cat": "cat",
    "coffee": "coffee",
    "rocket": "rocket",
    "galaxies": "hubble_deep_field",
    "retina": "retina",
    "bricks": "brick",
    "photographer": "camera",
}

GRID = 6
# one letter a block, tiled over the grid: two thirds train, one sixth each for validation and test
_SPLIT_OF_BLOCK = ("train", "train", "test", "train", "train", "validation")


@functools.cache
def photograph(name: str) -> Image.Image:
    """The whole RGB photograph ``name``, one of :data:`PHOTOGRAPHS`.

    Raises:
        ImportError: if scikit-image is not installed.
        ValueError: for an unknown name.
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"photograph {name!r} is unknown; it must be one of {', '.join(PHOTOGRAPHS)}.")
    try:
        import skimage.data
    except ImportError as error:
        raise ImportError(
            "the photographs of the generated scenes come with scikit-image, which is not installed: pip install 'pargo[demo]'"
        ) from error
    pixels = getattr(skimage.data, PHOTOGRAPHS[name])()
    return Image.fromarray(pixels).convert("RGB")


def split_of_block(row: int, column: int) -> str:
    """The split that owns a block of the :data:`GRID` x :data:`GRID` grid: diagonals, so that every split sees every part."""
    return _SPLIT_OF_BLOCK[(row * 2 + column) % len(_SPLIT_OF_BLOCK)]


def random_crop(name: str, split: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random square from one block of photograph ``name`` that belongs to ``split``, resized to ``side`` pixels.

    Returns:
        uint8 ``[side, side, 3]``.
    """
    picture = photograph(name)
    blocks = [(r, c) for r in range(GRID) for c in range(GRID) if split_of_block(r, c) == split]
    row, column = blocks[rng.integers(len(blocks))]
    left, right = column * picture.width // GRID, (column + 1) * picture.width // GRID
    top, bottom = row * picture.height // GRID, (row + 1) * picture.height // GRID
    window = int(min(right - left, bottom - top) * rng.uniform(0.7, 1.0))
    x = int(rng.integers(left, right - window + 1))
    y = int(rng.integers(top, bottom - window + 1))
    # cropped before it is resized: the filter must not reach over the block's border
    crop = picture.crop((x, y, x + window, y + window))
    return np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR))
