"""``random/train.jsonl`` and ``images/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture

ASKED = (
    ("The teddy bear is in front of the person.", "Is the teddy bear in front of the person?", 1),
    ("The dish is right of the iris.", "Is the dish right of the iris?", 0),
    ("The suitcase contains the cat.", "Does the suitcase contain the cat?", 0),
)


def write(name: str, folder: Path) -> Truth:
    (folder / "random").mkdir()
    (folder / "images").mkdir()
    rows, pictures, said = [], {}, {}
    for number, (caption, question, label) in enumerate(ASKED, start=1):
        file = f"{number:012d}.jpg"
        noise_picture(40, 50, number).save(folder / "images" / file)
        rows.append(
            {
                "image": file,
                "image_link": f"http://images.cocodataset.org/train2017/{file}",
                "caption": caption,
                "label": label,
                "relation": "in front of",
                "annotator_id": 31,
                "vote_true_validator_id": "[2, 6]",
                "vote_false_validator_id": "[]",
                "reference_frame": None,
            }
        )
        pictures[str(number)] = f"images/{file}"
        said[str(number)] = (f"phrase. {question} Please answer yes or no.", "yes" if label else "no")
    # no statement; no label; no photograph
    rows += [{**rows[0], "caption": "There is a cat."}, {**rows[0], "label": None}, {**rows[0], "image": "404.jpg"}]
    (folder / "random" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{half\n")
    return Truth(pictures, said, skipped=4)
