"""``problems.json``, ``pid_splits.json`` and ``train/ID/image.png``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    problems, pictures, said = {}, {}, {}
    for number in range(1, 7):
        id, shown = str(number), number % 2 == 0
        problems[id] = {
            "question": f"Which of these is number {number}?",
            "choices": [f"it is {number}", f"it is {number}0", f"it is {number}00"][: 2 + number % 2],
            "answer": 0,
            "hint": f"Read this first,\nit is about {number}." if number % 3 == 0 else "",
            "image": "image.png" if shown else None,
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "physics",
            "category": "Magnets",
            "skill": "Count",
            "lecture": "Not to be shown.",
            "solution": "Not to be shown.",
            "split": "test" if number == 6 else "train",
        }
        if shown:
            (folder / "train" / id).mkdir(parents=True)
            noise_picture(40, 50, number).save(folder / "train" / id / "image.png")
        if number < 6:
            pictures[id] = f"train/{id}/image.png" if shown else None
            hint = (f"Context: Read this first, it is about {number}.",) if number % 3 == 0 else ()
            said[id] = (
                f"letter from the given choices directly. Which of these is number {number}?",
                *hint,
                f". it is {number}",
            )
    problems["7"] = {**problems["1"], "answer": 5}
    problems["8"] = {**problems["1"], "choices": ["one", None]}
    (folder / "problems.json").write_text(json.dumps(problems))
    splits = {"train": ["1", "2", "3", "4", "5", "7", "8", "404"], "val": [], "test": ["6"], "minitrain": ["1"]}
    (folder / "pid_splits.json").write_text(json.dumps(splits))
    return Truth(pictures, said, skipped=3)
