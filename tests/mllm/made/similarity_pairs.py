"""Pairs of picture and text as a list with pictures beside it."""

import json

from pargo_mllm.data.scenes.layout import scene_and_picture
from tests.mllm.made.similarity_models import coarse


def write_list(folder, pairs):
    """A record a pair, s0, s1, …; pictures are PNG."""
    (folder / "images").mkdir(parents=True)
    records = []
    for index, (picture, text) in enumerate(pairs):
        picture.save(folder / "images" / f"{index}.png", compress_level=1)
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
        records.append({"id": f"s{index}", "image": f"{index}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records, indent=2))


def unseen(count):
    """(picture, coarse caption) of scenes of the test split."""
    scenes = [scene_and_picture("test", 0, index) for index in range(count)]
    return [(picture, coarse(scene)[0]) for scene, picture in scenes]


def write_swapped(folder, pairs):
    """A list in which every second pair has the caption of the next such pair; the folder, and which are as they were."""
    told = [caption for _, caption in pairs]
    wrong = list(range(0, len(told), 2))
    for index, other in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        told[index] = pairs[other][1]
    write_list(folder / "data", [(picture, f"{said}.") for (picture, _), said in zip(pairs, told, strict=True)])
    return folder / "data", [said == caption for said, (_, caption) in zip(told, pairs, strict=True)]
