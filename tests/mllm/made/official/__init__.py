"""Small sets in their official layout, one file each as in ``pargo_mllm.data.preparation.sets``, and what must come of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from pargo_cli.data_sets import DATA_SETS


@dataclass(frozen=True)
class Truth:
    """What was written, told without the product.

    Args:
        pictures: of each record that must come of it, by id: the file (below the source), or its content where it lies in
            another file or at an address, or None where the record has none.
        said: of each record, texts that its turns must hold, in their order.
        skipped: how many entries can be no record.
        boxes: of records with a box, the box in pixels (corners) and the picture's (width, height).
    """

    pictures: Mapping[str, str | bytes | None]
    said: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skipped: int = 0
    boxes: Mapping[str, tuple[tuple[float, float, float, float], tuple[int, int]]] = field(default_factory=dict)


def write(name: str, folder: Path) -> Truth:
    """Write a set's official files into an empty folder."""
    return import_module(f"{__name__}.{DATA_SETS[name]}").write(name, folder)
