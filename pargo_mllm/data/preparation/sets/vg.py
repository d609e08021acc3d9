"""Visual Genome: phrases on regions of photographs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pargo_mllm.data.preparation.data_set import INSTRUCTIONS, DataSet, Need, Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped
from pargo_mllm.data.preparation.fields import line, numbers, text, whole
from pargo_mllm.data.preparation.instructions import AGAIN
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.preparation.regions import Region, region_entry

HOME = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"
DESCRIBE = "Please provide a short description of this region: {box}"
NO_REGIONS = "photographs without a list of regions"
ELSEWHERE = "regions that name another photograph than the one they stand with"
_BOX = ("x", "y", "width", "height")


def entries(files: OfficialFiles, options: Options) -> Iterator[Entry | Skipped]:
    """A record a region, in the order of the file; of which a photograph at a time is in memory."""
    sizes = {
        text(row, "image_id") or text(row, "id"): (whole(row, "width"), whole(row, "height"))
        for row in files.rows("image_data.json")
    }
    seen = set()
    for row in files.rows("region_descriptions.json"):
        # both names are in use, by version
        image = text(row, "image_id") or text(row, "id")
        regions = row.get("regions") if isinstance(row, dict) else None
        if not image or not isinstance(regions, list) or image in seen:
            yield Skipped(image or "?", AGAIN if image in seen else NO_REGIONS)
            continue
        seen.add(image)
        yield from _regions(image, regions, sizes.get(image, (0, 0)), files, options)


def _regions(
    image: str, regions: list[Any], size: tuple[int, int], files: OfficialFiles, options: Options
) -> Iterator[Entry | Skipped]:
    name = f"{image}.jpg"
    place = files.first(*(f"{folder}/{name}" for folder in ("VG_100K", "VG_100K_2", "images")))
    picture, seen = Picture.file(place, f"vg/{name}"), set()
    for one in regions:
        id = text(one, "region_id") or text(one, "id", "?")
        if id in seen:
            yield Skipped(id, AGAIN)
            continue
        seen.add(id)
        if isinstance(one, dict) and one.get("image_id") is not None and text(one, "image_id") != image:
            yield Skipped(id, ELSEWHERE)
            continue
        box = numbers([one.get(key) for key in _BOX]) if isinstance(one, dict) else []
        yield region_entry(Region(id, line(one, "phrase"), box, size, picture), "vg", DESCRIBE, options)


ALL = [
    DataSet(
        name="vg",
        title="Visual Genome, regions",
        kind=INSTRUCTIONS,
        about="a phrase on a region of a photograph and its box, either asked for by the other",
        needs=(
            Need("region_descriptions.json", "phrases with their boxes", HOME),
            Need("image_data.json", "sizes of the photographs", HOME),
            Need("VG_100K/", "photographs", HOME),
            Need("VG_100K_2/", "photographs", HOME),
        ),
        licence="annotations CC BY 4.0; photographs from COCO and YFCC100M, each with its own Flickr licence",
        size="5.4 million regions of 108,077 photographs, 15 GB",
        entries=entries,
        weight=0.051,
        has_boxes=True,
    )
]
