"""RefCOCO and RefCOCO+ as MDETR has them; RefCOCOg in its first form, ``refs(umd).p`` beside ``instances.json``."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture

# width, height, COCO's box, what is wrong with it
OBJECTS = (
    (640, 480, (0.0, 45.95, 238.92, 408.64), None),
    (64, 90, (10.5, 20.25, 31.0, 42.0), None),
    (300, 200, (0, 0, 300, 200), None),
    # rounded past the border
    (120, 90, (100.6, 10, 20, 30), None),
    (120, 90, (100, 10, 30, 30), "outside"),
    (120, 90, (60, 10, -30, 30), "reversed"),
    (120, 90, (60, 10, 0, 30), "empty"),
    (120, 90, (60, 10, float("nan"), 30), "no number"),
)


def write(name: str, folder: Path) -> Truth:
    (folder / "train2014").mkdir()
    rows, pictures, said, boxes, skipped = [], {}, {}, {}, 0
    for number, (width, height, box, fault) in enumerate(OBJECTS):
        id, file = str(262407 + number), f"COCO_train2014_{519404 + number:012d}.jpg"
        noise_picture(height, width, number).save(folder / "train2014" / file)
        phrase = f"thing {number} of {name}"
        rows.append((int(id), file, width, height, box, phrase))
        if fault is not None:
            skipped += 1
            continue
        pictures[id] = f"train2014/{file}"
        said[id] = (phrase,)
        x, y, w, h = box
        boxes[id] = ((x, y, min(x + w, width), y + h), (width, height))
    if name == "refcocog":
        _first_form(name, folder, rows)
    else:
        _mdetr(name, folder, rows)
    return Truth(pictures, said, skipped, boxes)


def write_both_sides(name: str, folder: Path, form: str) -> dict[str, tuple[str, tuple[float, float, float, float]]]:
    """Files to train on and to evaluate with: the same phrases in both, on pictures so long or high that a box in another frame
    than its own overlaps nothing. Returns the picture and the box in pixels, as corners, by phrase."""
    (folder / "train2014").mkdir(parents=True)
    rows, truth = [], {}
    for number in range(12):
        file, at = f"COCO_train2014_{number:012d}.jpg", 8 * number
        size, box = ((400, 100), (40 + at, 10, 80, 30)) if number % 2 else ((100, 400), (10, 40 + at, 30, 80))
        noise_picture(size[1], size[0], number).save(folder / "train2014" / file)
        phrase = f"the thing with the letter {chr(ord('a') + number)}."
        rows.append((7000 + number, file, *size, box, phrase))
        truth[phrase] = (file, (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    if form == "pickle":
        _first_form(name, folder, rows, "refs(umd).p" if name == "refcocog" else "refs(unc).p")
    else:
        _mdetr(name, folder, rows)
        later = [(id + 500, *rest) for id, *rest in rows]
        _mdetr(name, folder, later[:7], "val")
        _mdetr(name, folder, later[7:], "testA")
    return truth


def _mdetr(name: str, folder: Path, rows: list, split: str = "train") -> None:
    images, annotations = [], []
    for id, file, width, height, box, phrase in rows:
        shared = {"original_id": id % 1000, "dataset_name": name}
        images.append({"file_name": file, "height": height, "width": width, "id": id, "caption": phrase, **shared})
        more = {"area": 1.5, "iscrowd": 0, "category_id": 1, "tokens_positive": [[0, 5]]}
        annotations.append({"image_id": id, "id": id, "bbox": list(box), **more})
    told = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (folder / f"finetune_{name}_{split}.json").write_text(json.dumps(told))


def _first_form(name: str, folder: Path, rows: list, pickled: str = "refs(umd).p") -> None:
    refs, images, annotations = [], [], []
    for id, file, width, height, box, phrase in rows:
        ref = {"ref_id": id % 100, "ann_id": id + 5, "image_id": id + 7, "category_id": 1, "file_name": "never_used.jpg"}
        sentence = {"sent_id": id, "sent": phrase, "raw": phrase.upper(), "tokens": phrase.split()}
        refs.append({**ref, "split": "train", "sentences": [sentence], "sent_ids": [id]})
        # what is evaluated is not trained on
        refs.append({**ref, "split": "val", "sentences": [{**sentence, "sent_id": id + 1000}], "sent_ids": [id + 1000]})
        images.append({"id": id + 7, "file_name": file, "width": width, "height": height})
        annotations.append({"id": id + 5, "image_id": id + 7, "bbox": list(box), "segmentation": [[1.0, 2.0]], "iscrowd": 0})
    (folder / name).mkdir()
    (folder / name / pickled).write_bytes(pickle.dumps(refs, protocol=2))
    (folder / name / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
