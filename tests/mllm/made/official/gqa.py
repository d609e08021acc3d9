"""``train_balanced_questions.json`` and ``images/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    (folder / "images").mkdir()
    questions, pictures, said = {}, {}, {}
    # one is not numbered, as some of Visual Genome's are not
    for image in ("2354786", "n161313"):
        noise_picture(40, 50, len(pictures)).save(folder / "images" / f"{image}.jpg")
        pictures[image] = f"images/{image}.jpg"
    for turn in range(8):
        image = ("2354786", "n161313")[turn % 2]
        question, answer = f"What is left of tray {turn}?", f"cup {turn}"
        questions[f"0{turn}930152"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "cup (722332)"}],
            "entailed": [],
            "equivalent": [f"0{turn}930152"],
            "question": question,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": None, "local": "06-cup_tray"},
            "answer": answer,
            "semanticStr": "select: cup (722332)",
            "annotations": {"answer": {}, "question": {"2": "722332"}, "fullAnswer": {}},
            "types": {"detailed": "verifyRelTF", "semantic": "rel", "structural": "verify"},
            "fullAnswer": "Nothing of this is asked for.",
        }
        said[image] = (*said.get(image, ()), f"single word or phrase. {question}", answer)
    # without an answer, as those of the test split; about no photograph; of one that is not there
    questions["1"] = {"question": "Who is it?", "imageId": "2354786"}
    questions["2"] = {"question": "Who is it?", "answer": "man"}
    questions["3"] = {"question": "Who is it?", "answer": "man", "imageId": "404"}
    (folder / "train_balanced_questions.json").write_text(json.dumps(questions))
    return Truth(pictures, said, skipped=3)
