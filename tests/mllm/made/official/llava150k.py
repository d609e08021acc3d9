"""``llava_instruct_150k.json`` and ``train2017/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    (folder / "train2017").mkdir()
    rows, pictures, said = [], {}, {}
    for number in range(6):
        # three records about each photograph have its id
        image = f"{33471 + number // 3:012d}"
        noise_picture(40, 50, number // 3).save(folder / "train2017" / f"{image}.jpg")
        turns = [
            {"from": "human", "value": f"<image>\nWhat is {number}?" if number % 2 else f"What is {number}?\n<image>"},
            {"from": "gpt", "value": f"It is {number},  with two blanks "},
            {"from": "human", "value": "And then?"},
            {"from": "gpt", "value": "Nothing."},
        ]
        # some of the official ones are misspelt so
        key = "conversatons" if number == 4 else "conversations"
        rows.append({"id": image, "image": f"{image}.jpg", key: turns})
        id = image if number % 3 == 0 else f"{image}-{number % 3 + 1}"
        pictures[id] = f"train2017/{image}.jpg"
        said[id] = tuple(turn["value"] for turn in turns)
    # it ends with a question; it shows nothing where it says so
    rows.append({"id": "open", "image": rows[0]["image"], "conversations": rows[0]["conversations"][:3]})
    rows.append({"id": "blind", "conversations": rows[0]["conversations"]})
    (folder / "llava_instruct_150k.json").write_text(json.dumps(rows))
    return Truth(pictures, said, skipped=2)
