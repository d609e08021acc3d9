"""What is asked about things whose place is known, and how models are compared."""

import numpy as np
import pytest
import torch
from PIL import Image

from pargo_mllm.alignment.comparing import compared, spread
from pargo_mllm.alignment.questions import questions_about_things
from pargo_mllm.data.corpus import about_image

PICTURE = Image.new("RGB", (28, 28))
COVERAGE = {
    "red": torch.tensor([1.0, 1.0, 0.0, 0.0]),
    "circle": torch.tensor([0.0, 1.0, 1.0, 0.0]),
    "stop sign": torch.tensor([0.0, 0.0, 0.0, 0.6]),
    "sign": torch.tensor([0.0, 0.0, 0.0, 0.6]),
    "speck": torch.tensor([0.1, 0.0, 0.0, 0.0]),
}


def asked(*pairs, most=9, seed=0):
    conversations = [about_image(*pair) for pair in pairs]
    found = questions_about_things(conversations, PICTURE, COVERAGE, "a picture", most, seed)
    return {(one.conversation[0]["content"][1]["text"], one.answer): one for one in found}


def test_what_is_named_lies_where_all_that_is_named_is():
    found = asked(
        ("which colour has the Circle?", "red"),
        ("is there a stop sign?", "yes"),
        # no thing, a thing that is no word of its own, one too small, and things that share no patch
        ("is there a dog?", "no"),
        ("how many circles?", "redder"),
        ("where is the speck?", "left"),
        ("describe the picture", "a circle and a stop sign"),
    )
    assert set(found) == {("which colour has the Circle?", "red"), ("is there a stop sign?", "yes")}
    circle, sign = found.values() if next(iter(found))[1] == "red" else reversed(found.values())
    assert circle.coverage.tolist() == [0, 1, 0, 0]
    assert sign.coverage.tolist() == pytest.approx([0, 0, 0, 0.6])
    assert circle.conversation[0]["content"][0]["image"] is PICTURE
    assert len(circle.conversation) == 1
    assert (circle.group, circle.other[1], sign.other[1]) == ("a picture", "yes", "red")


def test_a_control_is_about_another_place_and_few_are_drawn_of_many():
    pairs = [(f"is thing {number} a circle?", "red") for number in range(20)]
    assert {one.other for one in asked(*pairs).values()} == {None}
    assert len(asked(*pairs)) == 9
    assert list(asked(*pairs, most=3)) == list(asked(*pairs, most=3))
    assert list(asked(*pairs, most=3)) != list(asked(*pairs, most=3, seed=1))


def test_conversations_of_no_single_picture_and_no_answer_are_passed_over():
    two = about_image("the circle?", "red")
    two[0]["content"].insert(0, {"type": "image"})
    for conversation in (two, about_image("the circle?", " "), two[1:], []):
        assert questions_about_things([conversation], PICTURE, COVERAGE, "a picture", 9, 0) == []


def test_differences_are_paired_by_picture():
    first = [0.1, 0.4, None, 0.9, 0.2]
    second = [0.3, 0.5, 0.7, None, 0.1]
    models = [
        {"name": "a", "by_picture": {"iou": first, "auc": [None] * 5}},
        {"name": "b", "by_picture": {"iou": second, "auc": [0.5] * 5}},
    ]
    (row,) = compared(models)
    changes = np.array([0.2, 0.1, -0.1])
    assert (row["first"], row["second"], row["figure"], row["pictures"]) == ("a", "b", "iou", 3)
    assert (row["higher"], row["lower"]) == (2, 1)
    assert row["difference"] == pytest.approx(changes.mean())
    assert row["error"] == pytest.approx(changes.std(ddof=1) / np.sqrt(3))
    assert spread(first)["mean"] == pytest.approx(0.4)
    assert spread([None]) == {"mean": None, "error": None, "pictures": 0}
    assert compared(models[:1]) == compared([]) == []
