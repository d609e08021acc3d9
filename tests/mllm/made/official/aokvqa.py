"""``aokvqa_v1p0_train.json`` and ``train2017/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    (folder / "train2017").mkdir()
    rows, pictures, said = [], {}, {}
    for number in range(5):
        id, file = f"22jbM6gDxdaMaunuzgrs{number}", f"train2017/{461751 + number:012d}.jpg"
        noise_picture(40, 50, number).save(folder / file)
        rows.append(
            {
                "split": "train",
                "image_id": 461751 + number,
                "question_id": id,
                "question": f"What is in mouth {number}?",
                "choices": ["toothpick", "food", "popsicle stick", "cigarette"],
                "correct_choice_idx": number % 4,
                "direct_answers": ["cigarette"] * 10,
                "difficult_direct_answer": False,
                "rationales": ["It is not to be shown."],
            }
        )
        pictures[id] = file
        said[id] = (f"choices directly. What is in mouth {number}?\nA. ", "\nB. ", "\nC. ", "\nD. ")
    # as in the test split, and whose right choice stands twice
    rows.append({key: value for key, value in rows[0].items() if key != "correct_choice_idx"} | {"question_id": "open"})
    rows.append({**rows[0], "question_id": "twice", "choices": ["one", "two", "one", "three"]})
    (folder / "aokvqa_v1p0_train.json").write_text(json.dumps(rows))
    return Truth(pictures, said, skipped=2)
