"""Wrong answers that are kept to be looked at: which, and what lies in the folder."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.pictures import PictureError, load_picture
from pargo_mllm.evaluation.runs.failures import chosen, save_failures
from tests.mllm.made.evaluated import benchmark, drawn_marks, marked
from tests.mllm.made.miniature_families import make_family


def test_parts_take_turns_and_pictures_come_once():
    marks = [
        marked(0, "a1", "p1", "a"),
        marked(1, "a2", "p2", "a"),
        marked(0, "a3", "p1", "a"),
        marked(0, "a4", "p3", "a"),
        marked(0.3, "b1", "p4", "b"),
        marked(0, "b2", "p1", "b"),
        marked(0, "c1", "", "c"),
        marked(0.7, "c2", "p9", "c"),
    ]
    # b2 comes before b1, being worth less, but its picture has been shown
    assert [mark.item.id for mark in chosen(marks)] == ["a1", "c1", "b1", "a4", "b2", "a3"]
    assert [mark.item.id for mark in chosen(marks, 3)] == ["a1", "c1", "b1"]
    assert chosen([marked(1, "x")]) == []


def test_the_same_answers_give_the_same_ones():
    marks = drawn_marks(pictures=200)
    assert len(chosen(marks)) == 24
    assert chosen(marks) == chosen(list(marks))
    assert len({mark.item.picture for mark in chosen(marks)}) == 24
    assert {mark.item.part for mark in chosen(marks)} == {"left", "right"}


def test_pictures_are_small_and_what_cannot_be_opened_is_said(tmp_path):
    wide, missing = Image.new("RGB", (900, 300), "red"), tmp_path / "missing.jpg"
    marks = [
        marked(0, "seen", "p1", pictures=(lambda: wide,)),
        marked(0, "../../gone", "p2", pictures=(partial(load_picture, missing),)),
        marked(0, "text alone"),
    ]
    with pytest.raises(PictureError):
        marks[1].item.pictures[0]()
    said = save_failures(tmp_path, marks)
    assert len(said) == 1
    assert str(missing) in said[0]
    seen, gone, text = json.loads((tmp_path / "failures.json").read_text())
    assert seen == {"id": "seen", "picture": "failures/001.jpg", "attention": None}
    assert gone == {"id": "../../gone", "picture": None, "attention": None, "reason": said[0]}
    assert text["picture"] is None
    with Image.open(tmp_path / seen["picture"]) as kept:
        assert (kept.format, kept.size) == ("JPEG", (512, 171))
    # a later run leaves nothing of an earlier one
    save_failures(tmp_path, [])
    assert json.loads((tmp_path / "failures.json").read_text()) == []
    assert list((tmp_path / "failures").iterdir()) == []


def test_what_answers_looked_at_lies_beside(pictures, tmp_path):
    model, processor = make_family("qwen")
    marks = [marked(0, str(n), f"p{n}", pictures=(partial(Image.Image.copy, picture),)) for n, picture in enumerate(pictures)]
    said = save_failures(tmp_path, marks, benchmark().conversation, model, processor)
    entries = json.loads((tmp_path / "failures.json").read_text())
    assert said == []
    assert len(entries) == 3
    drawn = [np.asarray(Image.open(tmp_path / entry["attention"])) for entry in entries]
    assert all(min(picture.shape[:2]) > 200 and picture.std() > 10 for picture in drawn)


def test_why_there_is_no_attention_is_said_once(pictures, tmp_path):
    model, processor = make_family("qwen", projector_type="linear")
    marks = [marked(0, str(n), f"p{n}", pictures=(partial(Image.Image.copy, pictures[0]),)) for n in range(3)]
    marks.append(marked(0, "two", "p9", pictures=(partial(Image.Image.copy, pictures[0]),) * 2))
    none, several = save_failures(tmp_path, marks, benchmark().conversation, model, processor)
    assert "'linear' has no attention to show" in none
    assert none.endswith("(3 answers)")
    assert "several" in several
    entries = json.loads((tmp_path / "failures.json").read_text())
    assert [entry["attention"] for entry in entries] == [None] * 4
    assert all((tmp_path / entry["picture"]).is_file() for entry in entries)
