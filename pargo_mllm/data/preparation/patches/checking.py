"""Whether a file of what is where in pictures fits the pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pargo_mllm.data.preparation.patches.pictures import Pictures
from pargo_mllm.data.sources.region_file import RegionFile

UNKNOWN = "lines of pictures that are not there"


@dataclass
class Checked:
    """What is in a file: lines and regions, those that are used, and the others by reason; how often regions are called so."""

    pictures: int
    entries: int
    used: int
    skipped: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)


def check_patches(file: Path, pictures: Pictures) -> Checked:
    """Read a file as training does, and look for its pictures by their names: training looks nowhere else.

    Raises:
        CorpusError: see :class:`pargo_mllm.data.sources.region_file.RegionFile`.
    """
    regions = RegionFile(file)
    tally = regions.tallies["regions"]
    found = Checked(len(regions), tally.entries, tally.used, tally.skipped + regions.tallies["pictures"].skipped)
    for line in regions.lines():
        found.names.update(names[0] for thing in line.things for names in thing.labels)
        if not pictures.has(line.image):
            found.skipped[UNKNOWN] += 1
    return found
