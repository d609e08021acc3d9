"""What a data set needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """A file or folder that must lie below ``--src``.

    Args:
        name: as the official download calls it.
        what: what it holds.
        home: where it is to be had.
    """

    name: str
    what: str
    home: str
