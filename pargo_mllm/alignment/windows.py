"""Which part of a picture each feature of the encoder shows, and which things cover it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from pargo_mllm.configuration import WITHOUT_CLASS_TOKEN, ParGoConfig
from pargo_mllm.data.regions import WHOLE, Region, Window, label_coverage, seen_through
from pargo_mllm.vision.framing import OBLONG, seen_part
from pargo_mllm.vision.tiling import tile_grid

# pixels of the shorter side of what an image processor is asked about, and of the longer one at most
_SHORT, _LONG = 96, 1536
# of a side: nearer than that to the picture's edge is the edge
_EXACT = 0.01


def windows(processor: Any, size: tuple[int, int] | None) -> tuple[Window, ...]:
    """What the encoder is shown of a picture: its tiles in the order of the processor, or one window.

    Args:
        processor: a ParGoProcessor.
        size: width and height of the picture in pixels; not needed where the processor does not :func:`need_size`.
    """
    if not need_size(processor):
        return (WHOLE,)
    assert size is not None
    if processor.max_tiles == 1:
        return (_framed(processor.image_processor, *size),)
    side = processor.tile_side()
    rows, columns = tile_grid(*size, side, processor.max_tiles)
    tiles = [
        (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        for row in range(rows)
        for column in range(columns)
    ]
    if processor.overview_tile and len(tiles) > 1:
        tiles.insert(0, WHOLE)
    framed = _framed(processor.image_processor, side, side)
    return tuple(seen_through(tile, framed) for tile in tiles)


def need_size(processor: Any) -> bool:
    """Whether what the encoder is shown depends on the picture's size: not where it is always the whole picture."""
    return processor.max_tiles > 1 or not _shows_all(processor.image_processor)


def feature_coverage(
    regions: Sequence[Region], processor: Any, config: ParGoConfig, size: tuple[int, int] | None
) -> tuple[tuple[str, ...], torch.Tensor]:
    """How much of each feature's patch the things of each name cover: the names, and fp32 ``[names, tiles * n_v]``.

    In the order of the features, tile by tile; a class token in front of a tile's patches is covered by nothing.

    Args:
        regions: of the picture; their first names count.
        size: as for :func:`windows`.
    """
    names = tuple(dict.fromkeys(region.names[0] for region in regions))
    side = config.vision_config.image_size // config.vision_config.patch_size
    front = class_tokens(config)
    seen = windows(processor, size)
    coverage = np.zeros((len(names), len(seen), front + side * side), dtype=np.float32)
    for tile, window in enumerate(seen):
        covered = label_coverage(regions, (side, side), window)
        for label, name in enumerate(names):
            coverage[label, tile, front:] = covered[name].ravel()
    return names, torch.from_numpy(coverage.reshape(len(names), coverage.shape[1] * coverage.shape[2]))


def class_tokens(config: ParGoConfig) -> int:
    """How many features in front of the patches are no part of the picture."""
    kept = config.vision_feature_select_strategy == "full"
    return int(kept and config.vision_config.model_type not in WITHOUT_CLASS_TOKEN)


@lru_cache(maxsize=64)
def _shows_all(image_processor: Any) -> bool:
    return all(_framed(image_processor, *shape) == WHOLE for shape in OBLONG)


def _framed(image_processor: Any, width: int, height: int) -> Window:
    if getattr(image_processor, "do_resize", True):
        # what is resized is framed by its shape alone
        scale = min(_SHORT / min(width, height), _LONG / max(width, height))
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return _asked(image_processor, width, height)


@lru_cache(maxsize=4096)
def _asked(image_processor: Any, width: int, height: int) -> Window:
    left, top, right, bottom = seen_part(image_processor, width, height)

    def exact(place: float) -> float:
        return round(place) if abs(place - round(place)) < _EXACT else place

    return exact(left), exact(top), exact(right), exact(bottom)
