"""What stage 0 learns from names everything that the stages will ask for."""

import pytest
import torch

from pargo_mllm.data.scenes.corpus import SceneCorpus, Scenes
from pargo_mllm.data.scenes.drawing import SHAPES
from pargo_mllm.data.scenes.layout import CELLS, scene_layout
from pargo_mllm.miniature.lessons import PATCH_CLASSES, PATCH_COLOURS, SceneLessons

COUNT = 40
SMALL = Scenes(train=COUNT, held_out=COUNT)
LESSONS = SceneLessons(SMALL, text=8)


def test_what_was_trained_before_scenes_had_boxes_is_taken_from_its_cache():
    numbers = {"seed": 0, "train": COUNT, "held_out": COUNT, "questions_per_kind": 4}
    assert LESSONS.settings() == {"lessons": "scenes", "text": 8, **numbers}


def test_the_detailed_caption_and_the_patch_labels_name_everything():
    pictures, labels, counts = LESSONS.patch_lessons(CELLS)
    assert counts == [len(PATCH_CLASSES), len(PATCH_COLOURS)]
    for index in range(COUNT):
        scene, (coarse, detailed) = scene_layout("train", 0, index), pictures.said(index)
        assert coarse.answer.endswith(f"photograph of {scene.photo[0]}")
        told = detailed.answer.split("; ")[-1].split(", ") if scene.items else []
        expected = {f"{item.cell} {item.colour or ''} {item.what}".replace("  ", " ") for item in scene.items}
        assert set(told) == expected
        grid = labels[index].reshape(CELLS, CELLS, 2)
        for item in scene.items:
            what, colour = grid[item.row, item.column]
            assert PATCH_CLASSES[what] == item.what
            assert PATCH_COLOURS[colour] == (item.colour or "no colour")
        shown = [PATCH_CLASSES[what] for what in grid[..., 0].flatten()]
        assert shown.count(f"photograph {scene.photo[0]}") == (9 if scene.big else 64)
        if scene.big:
            assert shown.count(f"big {scene.big[1]}") == 16
            assert sum(what in SHAPES or len(what) == 1 for what in shown) == len(scene.items)


def test_the_vocabulary_knows_every_word_that_is_said():
    from pargo_mllm.language.tokenizer import word_tokenizer

    tokenizer = word_tokenizer(LESSONS.vocabulary())
    for corpus in (SceneCorpus(SMALL, stage, split) for stage in (1, 2) for split in ("train", "test")):
        for said in (said for index in range(COUNT) for said in corpus.said(index)):
            assert tokenizer.unk_token_id not in tokenizer(f"{said.text} {said.answer}")["input_ids"]
    for lesson in LESSONS.text_lessons():
        for fact in lesson.facts:
            assert tokenizer.unk_token_id not in tokenizer(" ".join(fact))["input_ids"]


def test_labels_are_integers_for_cross_entropy():
    _, labels, _ = SceneLessons(Scenes(train=2), 1).patch_lessons(CELLS)
    assert labels.dtype == torch.int64
    assert labels.shape == (2, 64, 2)


def test_another_number_of_patches_is_refused():
    with pytest.raises(ValueError, match=r"patches=16: scenes have 8 x 8 cells"):
        LESSONS.patch_lessons(16)
