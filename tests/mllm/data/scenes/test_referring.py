"""Referring expressions about scenes: who is meant, and that the box is where the thing is painted."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageChops

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.frames import iou
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.scenes.corpus import SceneCorpus, Scenes
from pargo_mllm.data.scenes.layout import CELL, Item, Scene, draw, scene_layout
from pargo_mllm.data.scenes.photographs import PHOTOGRAPHS
from pargo_mllm.data.scenes.referring import read_cells, referred, write_cells
from pargo_mllm.miniature.lessons import SceneLessons

COUNT = 40
SMALL = Scenes(train=COUNT, held_out=COUNT)
OTHER = {"red": "blue", "blue": "red", "green": "purple", "purple": "green", "yellow": "blue"}


def changed(scene, thing):
    """The scene with the thing in another colour, another photograph, or another word: all else is painted alike."""
    if thing.kind == "photograph":
        other = "cat" if scene.photo[0] != "cat" else "coffee"
        return replace(scene, photo=(other, *scene.photo[1:]))
    if thing.kind == "big":
        return replace(scene, big=(OTHER[scene.big[0]], *scene.big[1:]))
    words = tuple(thing.expression.split())
    letters = {letter.place(): replace(letter, colour="red") for letter in scene.letters()}
    items = [
        letters.get(item.place(), item)
        if thing.kind == "word"
        else (replace(item, colour=OTHER[item.colour]) if item.words() == words else item)
        for item in scene.items
    ]
    return replace(scene, items=tuple(items))


def test_a_box_is_where_the_thing_is_painted():
    kinds = []
    for index in range(COUNT):
        scene = scene_layout("test", 0, index)
        painted = draw(scene, np.random.default_rng(index), "test")
        for thing in referred(scene):
            other = draw(changed(scene, thing), np.random.default_rng(index), "test")
            x1, y1, x2, y2 = ImageChops.difference(painted, other).convert("L").getbbox()
            # figures and letters are narrower than their cell
            least = 0.2 if thing.kind in ("digit", "word") else 0.5
            assert iou((x1 / CELL, y1 / CELL, x2 / CELL, y2 / CELL), thing.box) > least, (index, thing)
            left, top, right, bottom = (CELL * one for one in thing.box)
            assert left <= x1 < x2 <= right, (index, thing)
            assert top <= y1 < y2 <= bottom, (index, thing)
            kinds.append(thing.kind)
    assert {kind: kinds.count(kind) for kind in kinds}.keys() == {"photograph", "big", "word", "shape", "digit"}


def test_an_expression_means_one_thing():
    left_out = 0
    for index in range(300):
        scene = scene_layout("train", 0, index)
        shown = [set(item.words()) for item in scene.things()]
        shown += [{"big", *scene.big[:2]}] if scene.big else []
        expressions = [thing.expression for thing in referred(scene)]
        assert len(set(expressions)) == len(expressions)
        for thing in referred(scene):
            if thing.kind in ("shape", "digit", "big"):
                assert sum(set(thing.expression.split()) <= words for words in shown) == 1, (index, thing)
        left_out += len(scene.things()) - sum(thing.kind in ("shape", "digit") for thing in referred(scene))
    assert left_out > 30


def test_a_small_shape_like_the_big_one_has_no_name_of_its_own():
    items = (Item(0, 0, "circle", "red"), Item(0, 2, "ring", "red"), Item(0, 4, "ring", "red"), Item(6, 0, "b", None))
    scene = Scene(("cat", 5, 5), ("red", "circle", 1, 1), "b", items)
    assert [(thing.expression, thing.box) for thing in referred(scene)] == [
        ("photograph of cat", (5, 5, 8, 8)),
        ("big red circle", (1, 1, 5, 5)),
        ("word b", (0, 6, 1, 9)),
    ]


def test_the_miniature_can_write_all_of_it():
    words = {word for text in SceneLessons(Scenes(), 8).vocabulary() for word in _words(text)}
    for split in ("train", "test"):
        corpus = SceneCorpus(replace(SMALL, boxes=1), 2, split)
        for index in range(COUNT):
            for question in corpus.said(index):
                assert {*_words(question.text), *_words(question.answer)} <= words
    # each photograph can be asked about
    assert set(PHOTOGRAPHS) <= words


def _words(text):
    for mark in ",;:.":
        text = text.replace(mark, f" {mark} ")
    return text.replace("?", "").split()


def test_boxes_are_an_option_that_changes_nothing_else():
    plain, boxes = (SceneCorpus(replace(SMALL, boxes=number), 2) for number in (0, 1))
    assert boxes.shows() == plain.shows()
    assert boxes.settings() == {**plain.settings(), "what": "boxes"}
    # a run that was begun before there were boxes goes on
    assert "boxes" not in plain.settings()
    assert SceneCorpus(replace(SMALL, boxes=1), 1).said(3) == SceneCorpus(SMALL, 1).said(3)
    said = boxes.said(0)
    assert said == open_corpus(f"scenes:train={COUNT},boxes=1", 2).said(0) != plain.said(0)
    assert {question.kind for question in said} == {"photograph", "big", "word", "shape", "digit"}
    known = {thing.expression: thing.box for thing in referred(scene_layout("train", 0, 0))}
    assert all(read_cells(one.answer) == known[one.text.removeprefix("the ").removesuffix(" is at?")] for one in said)
    few = SceneCorpus(replace(SMALL, boxes=1, questions_per_kind=1), 2).said(0)
    assert len(few) == 5
    with pytest.raises(CorpusError, match="boxes=2 must be a whole number from 0 to 1"):
        open_corpus("scenes:boxes=2", 2)


@pytest.mark.parametrize("text", ["A3,D6", "A3 , D6", " A3,D6\n", "It is at A3,D6.", "A3,D6,B2,B2"])
def test_boxes_are_read_as_they_are_written(text):
    # columns A to D, lines 3 to 6
    assert read_cells(text) == (0, 2, 4, 6)
    assert write_cells((0, 2, 4, 6)) == "A3,D6"


@pytest.mark.parametrize(
    "text", ["", "A3", "A3 D6", "A3,", "A0,D6", "A3,D9", "a3,d6", "I3,D6", "A3,D66", "AA3,D6", "A3." * 50_000]
)
def test_what_is_no_box_is_none(text):
    assert read_cells(text) is None
