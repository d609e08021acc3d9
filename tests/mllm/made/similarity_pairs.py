"""Pairs of picture and text as a list with pictures beside it."""

import json


def write_list(folder, pairs):
    """A record a pair, by number; pictures are PNG."""
    (folder / "images").mkdir(parents=True)
    records = []
    for index, (picture, text) in enumerate(pairs):
        picture.save(folder / "images" / f"{index}.png", compress_level=1)
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
        records.append({"id": index, "image": f"{index}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records, indent=2))
