"""Folders of photographs that hold coloured boxes."""

import json

import numpy as np
from PIL import Image

CATEGORIES = ("cup", "dog", "kite")


def write_photographs(root, count=7, instances=True):
    """A COCO-style folder whose photographs show up to three coloured boxes; one file is damaged, one shows nothing."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, captions, objects = [], [], []
    for index in range(count):
        pixels = rng.integers(0, 60, (90, 120, 3), dtype=np.uint8)
        names = [] if index == 1 else list(CATEGORIES[: 1 + index % 3])
        for category, name in enumerate(names):
            x, y, side = 5 + 38 * category, int(rng.integers(0, 40)), 30 - 8 * category
            pixels[y : y + side, x : x + side, category] = 220
            box = {"image_id": index, "category_id": CATEGORIES.index(name), "bbox": [x, y, side, side], "iscrowd": 0}
            objects.append({"id": len(objects), **box})
        Image.fromarray(pixels).save(root / "images" / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 120, "height": 90})
        captions.append({"image_id": index, "caption": f"A picture of {' and '.join(names) or 'nothing'}."})
    (root / "images" / "3.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    if instances:
        categories = [{"id": index, "name": name} for index, name in enumerate(CATEGORIES)]
        (root / "instances.json").write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return root


def noise_picture(height, width, seed=0):
    """A picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
