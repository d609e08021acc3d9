"""``dataset.json`` and ``images/``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.mllm.made.official import Truth
from tests.mllm.made.photographs import noise_picture


def write(name: str, folder: Path) -> Truth:
    (folder / "images").mkdir()
    covers, pictures, said = {}, {}, {}
    for number in range(6):
        id = f"0{761183272 + number}"
        # one cover's address ends otherwise than its file
        ending = ".gif" if number in (1, 2) else ".jpg"
        file = f"images/{id}{'.jpg' if number == 2 else ending}"
        noise_picture(50, 40, number).save(folder / file)
        questions = ["Who wrote this book?", "What is the title of this book?", "What is the year printed on this calendar?"]
        answers = [f"Author {number}", f"Title {number}: a novel", 2015]
        covers[id] = {
            "imageURL": f"http://covers.example/images/I/61Y5cOdHJ{number}{ending}",
            "questions": questions,
            "answers": answers,
            "title": f"Title {number}: a novel",
            "authorName": f"Author {number}",
            "genre": "Calendars",
            # the fifth is validated with, the sixth tested
            "split": max(1, number - 2),
        }
        if number < 4:
            pictures[id] = file
            said[id] = tuple(
                text for asked, told in zip(questions, answers, strict=True) for text in (f"phrase. {asked}", str(told))
            )
    first = next(iter(covers))
    # a question more than answers; an answer that says nothing; no split
    covers["uneven"] = {**covers[first], "answers": ["one"]}
    covers[first] = {
        **covers[first],
        "questions": [*covers[first]["questions"], "Who?"],
        "answers": [*answers[:0], "Author 0", "Title 0: a novel", 2015, ""],
    }
    covers["lost"] = {**covers[first], "split": None}
    (folder / "dataset.json").write_text(json.dumps(covers))
    return Truth(pictures, said, skipped=3)
