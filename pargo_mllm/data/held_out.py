"""Which examples are held out: a share of them, chosen by a hash of their names.

The choice depends on a name alone: not on the order of a file, on what else it holds, or on how many files there are. A picture
that several records of a corpus show under one name is wholly trained on or wholly held out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Split:
    """One side of a corpus.

    Args:
        name: "train", or "test" for what is held out.
        held_out: the share that is held out, 0 to 1.

    Raises:
        ValueError: for another name, a share out of range, or the test side where nothing is held out.
    """

    name: str = "train"
    held_out: float = 0.0

    def __post_init__(self):
        if self.name not in SPLITS:
            raise ValueError(f"split={self.name!r} is unknown; it must be one of {', '.join(SPLITS)}.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be from 0 to below 1: the share of examples that is held out.")
        if self.name == "test" and not self.held_out:
            raise ValueError("held_out=0 leaves nothing for split='test'; hold out a share, 0.01 for one in a hundred.")

    @property
    def border(self) -> int:
        """Names whose :func:`name_hash` is below it are held out."""
        return int(Fraction(self.held_out) * 2**64)

    def __contains__(self, name: str) -> bool:
        return (name_hash(name) < self.border) == (self.name == "test")


def name_hash(name: str) -> int:
    """64 bits of a name's SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "little")
