"""One list; the form of the release is not published."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    (folder / "images").mkdir()
    rows, pictures, said = [], {}, {}
    for number in range(5):
        image = f"{number:09d}.jpg"
        noise_picture(30, 40, number).save(folder / "images" / image)
        rows.append({"image": image, "caption": f"At the top of {number} there is a thing. Below it is another one."})
        pictures[f"row-{number}"], said[f"row-{number}"] = f"images/{image}", (rows[-1]["caption"],)
    turns = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "A record of LLaVA's."}]
    rows.append({"id": "llava", "image": "000000000.jpg", "conversations": turns})
    pictures["llava"], said["llava"] = "images/000000000.jpg", ("A record of LLaVA's.",)
    rows += [
        {"image": "000000001.jpg", "caption": " "},
        {"image": "000000001.jpg"},
        "no row",
        {"image": 7, "caption": "x"},
    ]
    (folder / "captions.json").write_text(json.dumps(rows))
    return Truth(pictures, said, skipped=4)
