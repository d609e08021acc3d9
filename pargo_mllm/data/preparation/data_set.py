"""What a data set is: what it needs, whose it is, and how its files are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pargo_mllm.data.frames import TRAINING
from pargo_mllm.data.preparation.entries import Entry, Skipped
from pargo_mllm.data.preparation.need import Need
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.errors import UserError

__all__ = ["COARSE", "DETAILED", "INSTRUCTIONS", "DataSet", "Need", "Options", "PreparationError"]

# what a set teaches
COARSE, DETAILED, INSTRUCTIONS = "coarse captions", "detailed captions", "instructions"


class PreparationError(UserError):
    """Official files that are missing, damaged, or not what they should be; the message names the file."""


@dataclass(frozen=True)
class Options:
    """What a user may choose; the outcome depends on it.

    Args:
        seed: of what a template leaves to chance.
        frame: of the boxes that are written.
        split: the set's own part, where it has several; None: the one that is trained on.
    """

    seed: int = 0
    frame: str = TRAINING
    split: str | None = None


@dataclass(frozen=True)
class DataSet:
    """An official data set.

    Args:
        title: its name, as its authors write it.
        kind: :data:`COARSE`, :data:`DETAILED` or :data:`INSTRUCTIONS`.
        about: a line on what it holds.
        needs: what must lie below ``--src``.
        licence: of its annotations and of its pictures, with what is not granted.
        size: entries, pictures and bytes of the official download.
        entries: reads the official files; lazily, in an order that is always the same.
        weight: in a mixture, relative to other sets (Honeybee's, arXiv 2312.06742, where it has the set).
        splits: parts that it can be asked for by name; the first is the one that is trained on.
        has_boxes: whether its texts hold boxes.
    """

    name: str
    title: str
    kind: str
    about: str
    needs: tuple[Need, ...]
    licence: str
    size: str
    entries: Callable[[OfficialFiles, Options], Iterator[Entry | Skipped]]
    weight: float = 1.0
    splits: tuple[str, ...] = ("train",)
    has_boxes: bool = False
