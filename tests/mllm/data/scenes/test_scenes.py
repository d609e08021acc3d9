"""Generated scenes: the pictures, what is said about them, and the photographs inside them."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.scenes import photographs
from pargo_mllm.data.scenes.corpus import SceneCorpus, Scenes
from pargo_mllm.data.scenes.layout import CELL, CELLS, COLOURS, scene_and_picture, scene_layout, scene_questions

COUNT = 40
SMALL = Scenes(train=COUNT, held_out=COUNT)


def digest(picture):
    return hashlib.sha256(picture.tobytes()).hexdigest()


def test_a_scene_depends_on_its_split_seed_and_index_alone():
    for stage in (1, 2):
        first, later = SceneCorpus(SMALL, stage, "test"), SceneCorpus(Scenes(train=3, held_out=8), stage, "test")
        for index in (7, 3, 7):
            assert digest(first.picture(index)) == digest(later.picture(index))
            assert first.said(index) == later.said(index)
    others = [("train", 0, 7), ("test", 1, 7), ("test", 0, 8)]
    assert len({digest(scene_and_picture(*which)[1]) for which in [("test", 0, 7), *others]}) == 4


def test_the_picture_does_not_depend_on_what_is_asked():
    before = scene_and_picture("test", 0, 5)[1].tobytes()
    scene_questions("test", 0, 5, per_kind=1)
    assert scene_and_picture("test", 0, 5)[1].tobytes() == before


def test_splits_share_no_picture():
    corpora = {split: SceneCorpus(SMALL, 1, split) for split in ("train", "test")}
    seen = {split: {digest(corpus.picture(index)) for index in range(COUNT)} for split, corpus in corpora.items()}
    assert len(seen["train"]) == len(seen["test"]) == COUNT
    assert not seen["train"] & seen["test"]
    # nor is a layout told in one split and painted in another
    layouts = [
        {repr(scene_layout(split, 0, index)) for index in range(200) if scene_layout(split, 0, index).items}
        for split in ("train", "validation", "test", "text")
    ]
    assert len(set.union(*layouts)) == sum(map(len, layouts)) > 600


def true_answer(scene, kind, text):
    """What is right, read off the layout by the words of the question."""
    words = text.rstrip("?").split()
    if kind == "photograph":
        return scene.photo[0]
    if kind == "big":
        return f"{scene.big[0]} {scene.big[1]}"
    if kind == "word":
        letters = [item for item in scene.items if item.colour is None]
        assert len({item.column for item in letters}) == 1
        return " ".join(item.what for item in sorted(letters, key=lambda item: item.row))
    if kind == "digit":
        (found,) = [item for item in scene.items if item.what.isdigit() and item.colour == words[1]]
        return found.what
    column, row = "ABCDEFGH".index(words[-1][0]), int(words[-1][1]) - 1
    (found,) = [item for item in scene.items if (item.row, item.column) == (row, column)]
    return {"colour": found.colour, "object": found.what}[kind]


def test_answers_are_true_and_no_question_comes_twice():
    kinds = set()
    for index in range(COUNT):
        scene, asked = scene_layout("test", 0, index), SceneCorpus(SMALL, 2, "test").said(index)
        assert len({question.text for question in asked}) == len(asked)
        for question in asked:
            assert question.answer == true_answer(scene, question.kind, question.text)
            kinds.add(question.kind)
    assert kinds == {"photograph", "big", "word", "digit", "colour", "object"}


def test_things_never_overlap_nor_touch_side_by_side():
    for index in range(COUNT):
        scene = scene_layout("train", 0, index)
        covered = [(item.row, item.column) for item in scene.items]
        if scene.big is not None:
            name_row, name_column = scene.photo[1:]
            covered += [(scene.big[2] + r, scene.big[3] + c) for r in range(4) for c in range(4)]
            covered += [(name_row + r, name_column + c) for r in range(3) for c in range(3)]
        assert len(set(covered)) == len(covered)
        assert all(0 <= row < CELLS and 0 <= column < CELLS for row, column in covered)
        items = {(item.row, item.column) for item in scene.items}
        assert not any((row, column + 1) in items for row, column in items)


def test_the_picture_shows_what_the_layout_says():
    palette = {name: np.array(colour, dtype=float) for name, colour in COLOURS.items()}
    checked = 0
    for index in range(COUNT):
        scene, picture = scene_and_picture("test", 0, index)
        pixels = np.asarray(picture).astype(float)
        for item in scene.items:
            cell = pixels[item.row * CELL : (item.row + 1) * CELL, item.column * CELL : (item.column + 1) * CELL].reshape(-1, 3)
            if item.colour is None:
                assert (cell.min(axis=1) > 170).sum() > 10, "a white letter"
                continue
            # the pixels that are no background: noise has a spread of 10 in each channel
            painted = cell[cell.max(axis=1) > 140]
            nearest = {name: (np.abs(painted - colour).max(axis=1) < 60).sum() for name, colour in palette.items()}
            assert max(nearest, key=nearest.get) == item.colour
            assert nearest[item.colour] > 10
            checked += 1
    assert checked > 100


def test_unknown_splits_and_stages_are_refused():
    with pytest.raises(ValueError, match=r"split='dev' is unknown; it must be one of train, test"):
        SceneCorpus(SMALL, 1, "dev")
    with pytest.raises(ValueError, match=r"stage=3 must be 1 or 2"):
        SceneCorpus(SMALL, 3)


def test_every_block_of_a_photograph_belongs_to_one_split():
    owners = [photographs.split_of_block(row, column) for row in range(6) for column in range(6)]
    assert {owner: owners.count(owner) for owner in set(owners)} == {"train": 24, "validation": 6, "test": 6}


@pytest.fixture
def blocks(monkeypatch):
    """Photographs in which every block has a colour of its own; 6 divides neither side. Gives the block of a colour."""
    width, height = 131, 100
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for index in range(6):
        pixels[index * height // 6 : (index + 1) * height // 6, :, 0] = 40 * index
        pixels[:, index * width // 6 : (index + 1) * width // 6, 1] = 40 * index
    monkeypatch.setattr(photographs, "photograph", lambda name: Image.fromarray(pixels))

    def block_of(crop):
        colours = {tuple(pixel.tolist()) for pixel in np.asarray(crop).reshape(-1, 3)}
        assert len(colours) == 1, "a crop comes from one block"
        ((red, green, _),) = colours
        return red // 40, green // 40

    return block_of


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_crops_stay_inside_the_blocks_of_their_split(blocks, split):
    rng = np.random.default_rng(0)
    seen = {blocks(photographs.random_crop("cat", split, 8, rng)) for _ in range(400)}
    assert seen == {(r, c) for r in range(6) for c in range(6) if photographs.split_of_block(r, c) == split}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_photograph_of_a_scene_comes_from_its_split(blocks, split):
    for index in range(COUNT):
        scene, picture = scene_and_picture(split, 0, index)
        _, row, column = scene.photo
        side = 8 if scene.big is None else 3
        crop = picture.crop((column * CELL, row * CELL, (column + side) * CELL, (row + side) * CELL))
        assert photographs.split_of_block(*blocks(crop)) == split


def test_photographs_are_real_and_unknown_names_are_refused():
    assert photographs.photograph("cat").size == (451, 300)
    with pytest.raises(ValueError, match=r"'dog' is unknown.*astronaut"):
        photographs.photograph("dog")


@pytest.mark.parametrize(
    ("text", "scenes"),
    [
        ("scenes", Scenes()),
        ("scenes:seed=1,train=50,held_out=4", Scenes(seed=1, train=50, held_out=4)),
        ("scenes: train=7 , questions_per_kind=1", Scenes(train=7, questions_per_kind=1)),
        ("./scenes", None),
        ("scenes.json", None),
        ("", None),
    ],
)
def test_scenes_are_named_in_one_line(text, scenes):
    assert Scenes.parse(text) == scenes
    if scenes is not None:
        assert Scenes.parse(str(scenes)) == scenes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scenes:", "must be key=whole number"),
        ("scenes:train", "'train' must be key=whole number"),
        ("scenes:train=-1", "train=-1 must be a whole number from 1 to 2147483647"),
        ("scenes:train=1.5", "must be key=whole number"),
        ("scenes:train=" + 20 * "9", f"train={20 * '9'} must be a whole number from 1 to 2147483647"),
        ("scenes:seed=" + 5000 * "9", r"seed='9{200}…' must be a whole number from 0 to 2147483647"),
        ("scenes:train=0", "train=0 must be a whole number from 1"),
        ("scenes:tain=5", "'tain' is no option; there are seed, train, held_out"),
        ("scenes:train=5,train=6", "train is given twice"),
        ("scenes:seed=99999999999", "seed=99999999999 must be a whole number from 0 to 2147483647"),
    ],
)
def test_what_names_no_scenes_says_why(text, says):
    with pytest.raises(CorpusError, match=says):
        open_corpus(text, 1)


@pytest.mark.parametrize(("stage", "what"), [(1, "captions"), (2, "questions")])
def test_scenes_as_a_corpus(stage, what):
    corpus, held_out = (open_corpus("scenes:train=9,held_out=3", stage, split) for split in ("train", "test"))
    assert (len(corpus), len(held_out), corpus.parts) == (9, 3, [9])
    for index in range(9):
        example, said = corpus[index], corpus.said(index)
        turns = [[part.get("text") for turn in talk for part in turn["content"]] for talk in example.conversations]
        assert turns == [[None, question.text, question.answer] for question in said]
        assert example.kinds == tuple(question.kind for question in said)
        assert corpus.length_hint(index) == PICTURE_LENGTH + sum(len(q.text) + len(q.answer) for q in said)
        assert digest(example.pictures[0]()) == digest(scene_and_picture("train", 0, index)[1])
    for index in (-1, 9):
        with pytest.raises(IndexError, match=f"index={index} must be from 0 to 8"):
            corpus[index]
    other = open_corpus("scenes:train=9,held_out=3,questions_per_kind=1", stage)
    assert other.settings() != corpus.settings() != held_out.settings()
    # the same pictures, whatever is said about them
    assert other.shows() == corpus.shows() == open_corpus("scenes:train=9", 3 - stage).shows() != held_out.shows()
    with pytest.raises(CorpusError, match="nothing is held out"):
        open_corpus("scenes:held_out=0", stage, "test")


def test_a_folder_of_that_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=r"scenes does not exist.*COCO-style folder"):
        open_corpus("./scenes", 1)
