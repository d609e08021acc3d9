"""The two lists of captions, beside the folders that the names of their pictures begin with."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture

FILES = {
    "sharegpt4v": "sharegpt4v_instruct_gpt4-vision_cap100k.json",
    "sharegpt4v_pt": "share-captioner_coco_lcs_sam_1246k_1107.json",
}
PLACES = ("coco/train2017/000000000009.jpg", "llava/llava_pretrain/images/00453/004539375.jpg", "sam/images/sa_1.jpg")


def write(name: str, folder: Path) -> Truth:
    records, pictures, said = [], {}, {}
    for number, image in enumerate((*PLACES, "sam/images/sa_404.jpg")):
        id = image.rpartition("/")[2].removesuffix(".jpg")
        caption = f"In picture {number}, " + "there is much to be seen, and it is told at length. " * 12
        turns = [{"from": "human", "value": "What do you see?\n<image>"}, {"from": "gpt", "value": caption}]
        records.append({"id": id, "image": image, "conversations": turns})
        # photographs of SA-1B are had by hand, and some are missing
        if image in PLACES:
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            noise_picture(30, 40, number).save(folder / image)
            pictures[id], said[id] = image, (turns[0]["value"], caption)
    (folder / FILES[name]).write_text(json.dumps(records))
    return Truth(pictures, said, skipped=1)
