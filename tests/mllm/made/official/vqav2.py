"""``v2_OpenEnded_mscoco_train2014_questions.json``, ``v2_mscoco_train2014_annotations.json`` and ``train2014/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture

# questions about each photograph: more than one conversation holds, about the second
COUNTS = {9: 3, 25: 23, 30: 1}


def write(name: str, folder: Path) -> Truth:
    (folder / "train2014").mkdir()
    questions, annotations, pictures, said = [], [], {}, {}
    for image, count in COUNTS.items():
        file = f"train2014/COCO_train2014_{image:012d}.jpg"
        noise_picture(40, 50, image).save(folder / file)
        for turn in range(count):
            questions.append(
                {"image_id": image, "question": f"what is thing {turn} of {image}?", "question_id": 1000 * image + turn}
            )
            # most people's answer is among them, and not the first
            people = ["yes"] * 4 + [f"answer {turn}"] * 6
            answers = [
                {"answer": answer, "answer_confidence": "maybe", "answer_id": number}
                for number, answer in enumerate(people, start=1)
            ]
            annotations.append(
                {
                    "question_type": "what is",
                    "multiple_choice_answer": f"answer {turn}",
                    "answers": answers,
                    "image_id": image,
                    "answer_type": "other",
                    "question_id": 1000 * image + turn,
                }
            )
        for part in range(-(-count // 10)):
            id = f"{image}-{part + 1}" if part else str(image)
            turns = range(10 * part, min(count, 10 * part + 10))
            pictures[id] = file
            said[id] = tuple(
                text
                for turn in turns
                for text in (f"single word or phrase. what is thing {turn} of {image}?", f"answer {turn}")
            )
    # nobody answered it; nobody asked it; it says nothing
    questions.append({"image_id": 9, "question": "and this?", "question_id": 9999})
    questions.append({"image_id": 9, "question": " ", "question_id": 9998})
    questions.append(questions[0])
    # of no question; of one that has another
    annotations.append({**annotations[0], "question_id": 424242, "multiple_choice_answer": "of nothing"})
    annotations.append({**annotations[0], "multiple_choice_answer": "another"})
    # questions about photographs take turns in the official file
    questions[:3], questions[3:6] = questions[3:6], questions[:3]
    info = {"info": {"version": "2.0"}, "license": {}, "data_subtype": "train2014"}
    told = {**info, "task_type": "Open-Ended", "data_type": "mscoco", "questions": questions}
    (folder / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps(told))
    (folder / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({**info, "annotations": annotations}))
    return Truth(pictures, said, skipped=5)
