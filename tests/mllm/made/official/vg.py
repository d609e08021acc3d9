"""``region_descriptions.json``, ``image_data.json``, ``VG_100K/`` and ``VG_100K_2/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture

# x, y, width, height, phrase; what can be a record, of a photograph 120 wide and 90 high
REGIONS = (
    ((0, 0, 120, 90), "the whole street", True),
    ((10, 20, 30, 40), " a clock,\n green in colour", True),
    # counted from 1
    ((91, 1, 30, 40), "the right edge", True),
    ((-1, 5, 30, 40), "the left edge", True),
    ((-5, 5, 30, 40), "beyond it", False),
    ((10, 20, 30, 0), "nothing", False),
    ((10, 20, "30", 40), "no number", False),
    ((10, 20, 30, 40), "", False),
)


def write(name: str, folder: Path) -> Truth:
    photographs, sizes, pictures, said, boxes, skipped = [], [], {}, {}, {}, 0
    for image, place in ((1, "VG_100K_2"), (61, "VG_100K"), (107899, "VG_100K")):
        file = folder / place / f"{image}.jpg"
        file.parent.mkdir(exist_ok=True)
        noise_picture(90, 120, image).save(file)
        shared = {"coco_id": None, "flickr_id": None, "url": f"https://example.org/{place}/{image}.jpg"}
        sizes.append({"image_id": image, "width": 120, "height": 90, **shared})
        regions = []
        for number, ((x, y, width, height), phrase, right) in enumerate(REGIONS):
            id = 1000 * image + number
            regions.append(
                {"region_id": id, "width": width, "height": height, "image_id": image, "phrase": phrase, "y": y, "x": x}
            )
            if not right:
                skipped += 1
                continue
            pictures[str(id)] = f"{place}/{image}.jpg"
            said[str(id)] = (" ".join(phrase.split()),)
            boxes[str(id)] = ((max(x, 0), y, min(x + width, 120), y + height), (120, 90))
        # one of another photograph
        regions.append({**regions[0], "region_id": 1000 * image + 99, "image_id": image + 1})
        skipped += 1
        photographs.append({"id": image, "regions": regions})
    # a photograph whose size nobody tells
    photographs.append({"id": 404, "regions": [{**regions[0], "region_id": 404000, "image_id": 404}]})
    (folder / "region_descriptions.json").write_text(json.dumps(photographs))
    (folder / "image_data.json").write_text(json.dumps(sizes))
    return Truth(pictures, said, skipped + 1, boxes)
