"""``annotations/captions_train2017.json`` and ``train2017/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    (folder / "annotations").mkdir()
    (folder / "train2017").mkdir()
    images, captions, pictures, said = [], [], {}, {}
    for number in range(6):
        file = f"{number:012d}.jpg"
        noise_picture(40, 48 + number, number).save(folder / "train2017" / file)
        images.append({"id": number, "file_name": file, "width": 48 + number, "height": 40})
        for turn in range(5):
            id = 100 * number + turn
            captions.append({"id": id, "image_id": number, "caption": f"caption {turn} of photograph {number} "})
            pictures[str(id)], said[str(id)] = f"train2017/{file}", (f"caption {turn} of photograph {number}",)
    # of a photograph that is not there, and one without words
    captions += [{"id": 9001, "image_id": 77, "caption": "of nothing"}, {"id": 9002, "image_id": 0, "caption": " "}]
    told = {"info": {}, "licenses": [], "images": images, "annotations": captions}
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps(told))
    return Truth(pictures, said, skipped=2)
