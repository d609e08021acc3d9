"""Whether a file of what is where in pictures fits the pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pargo_mllm.data.corpus import CorpusError, Tally
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.preparation.patches.pictures import Pictures
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.data.sources.region_lines import PictureLine, same_shape

UNKNOWN = "of pictures that are not there"
UNREADABLE = "of pictures that cannot be read"
OTHER_SHAPE = "of pictures that have another shape than the file says"


@dataclass
class Checked:
    """What is in a file: ``used + skipped = entries``, of its lines and of the regions in them; how often regions are called
    so.
    """

    lines: Tally
    regions: Tally
    names: Counter[str] = field(default_factory=Counter)


def check_patches(file: Path, pictures: Pictures) -> Checked:
    """Read a file as training does, and look for its pictures by their names: training looks nowhere else.

    Raises:
        CorpusError: see :class:`pargo_mllm.data.sources.region_file.RegionFile`.
    """
    regions = RegionFile(file)
    pictures_said, regions_said = regions.tallies["pictures"], regions.tallies["regions"]
    lost_lines: Counter[str] = Counter()
    lost_regions: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for line in regions.lines():
        problem = _problem(line, pictures)
        if problem is None:
            names.update(names[0] for thing in line.things for names in thing.labels)
            continue
        lost_lines[f"lines {problem}"] += 1
        lost_regions.update({f"regions {problem}": len(line.things)} if line.things else {})
    return Checked(_without(pictures_said, lost_lines), _without(regions_said, lost_regions), names)


def _problem(line: PictureLine, pictures: Pictures) -> str | None:
    if not pictures.has(line.image):
        return UNKNOWN
    try:
        upright = pictures.upright(line.image)
    except (PictureError, CorpusError, OSError):
        return UNREADABLE
    return None if same_shape(line.size, upright) else OTHER_SHAPE


def _without(tally: Tally, lost: Counter[str]) -> Tally:
    return Tally(tally.entries, tally.used - lost.total(), skipped=tally.skipped + lost)
