"""What --data may be: each form is recognised, and everything else is told what the forms look like."""

import json

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.sources.coco import FolderError, read_coco_folder
from pargo_mllm.data.sources.llava import LlavaCorpus
from pargo_mllm.data.sources.photographs_folder import PhotographFolder, captions_of
from pargo_mllm.data.sources.shards import ShardCorpus, write_shards


def photographs(folder, count=10, instances=True):
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / "images" / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png", "width": 30, "height": 20} for number in range(count)]
    captions = [{"image_id": number, "caption": f"thing {number}"} for number in range(count)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    if instances:
        boxes = [{"image_id": number, "category_id": 1, "bbox": [3, 3, 20, 9]} for number in range(count)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cup"}]}
        (folder / "instances.json").write_text(json.dumps(content))
    return folder


def records(count=3):
    turns = [{"from": "human", "value": "<image> what?"}, {"from": "gpt", "value": "a cat"}]
    return json.dumps([{"id": number, "image": f"{number}.png", "conversations": turns} for number in range(count)])


def said(example):
    return [tuple(part.get("text") for message in talk for part in message["content"]) for talk in example.conversations]


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_photographs(tmp_path, stage, split):
    folder = photographs(tmp_path / "coco")
    corpus = open_corpus(folder, stage, split, views=16, seed=3)
    source = PhotographFolder(folder, train_views=16, seed=3)
    views = source.views(split)
    assert len(corpus) == len(views) == (16 if split == "train" else 2)
    assert corpus.parts == [len(views)]
    for index, view in enumerate(views):
        asked = captions_of(view.image) if stage == 1 else source.asked(view, index)
        expected = [(None, question.text, question.answer) for question in asked]
        assert said(corpus[index]) == expected
        assert corpus[index].kinds == tuple(question.kind for question in asked)
        assert corpus.length_hint(index) == PICTURE_LENGTH + sum(len(text) + len(answer) for _, text, answer in expected)
        assert corpus[index].name == f"{view.image.path.name} (view {index})"
        (show,) = corpus[index].pictures
        assert np.array_equal(np.asarray(show()), np.asarray(view.load()))
    assert corpus.skipped == read_coco_folder(folder).skipped
    assert open_corpus(folder, stage, split, views=16, seed=3).settings() == corpus.settings()
    assert open_corpus(folder, stage, split, views=16, seed=4).settings() != corpus.settings()
    assert open_corpus(folder, 3 - stage, split, views=16, seed=3).settings() != corpus.settings()
    (folder / "images" / "5.png").write_bytes(b"another picture")
    assert open_corpus(folder, stage, split, views=16, seed=3).settings() != corpus.settings()


def test_photographs_about_which_nothing_is_asked_are_left_out(tmp_path):
    folder = photographs(tmp_path / "coco")
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"] = content["annotations"][:6]
    (folder / "instances.json").write_text(json.dumps(content))
    every, asked = open_corpus(folder, 1), open_corpus(folder, 2)
    names = [[corpus.name(index) for index in range(len(corpus))] for corpus in (every, asked)]
    # the last four show nothing
    assert names[1] == [name for name in names[0] if int(name.split(".")[0]) < 6]
    assert len(names[1]) < len(names[0]) == 8
    for index in (-1, len(asked)):
        with pytest.raises(IndexError, match=f"index={index} must be from 0 to {len(asked) - 1}"):
            asked[index]


@pytest.mark.parametrize("inside", ["images", "."])
def test_a_llava_list_with_pictures_beside_it(tmp_path, inside):
    (tmp_path / inside).mkdir(exist_ok=True)
    Image.new("RGB", (8, 6)).save(tmp_path / inside / "0.png")
    (tmp_path / "llava.json").write_text(records())
    corpus = open_corpus(tmp_path / "llava.json", 2)
    assert isinstance(corpus, LlavaCorpus)
    assert corpus[0].pictures[0]().size == (8, 6)
    sides = [open_corpus(tmp_path / "llava.json", 1, split, held_out=0.5) for split in ("train", "test")]
    assert sum(map(len, sides)) == 3


def test_shards(tmp_path):
    write_shards([(str(number), {"txt": b"x", "jpg": b""}) for number in range(40)], tmp_path, per_shard=20)
    corpus = open_corpus(str(tmp_path), 1, prompt="say", index_folder=tmp_path / "unused")
    assert isinstance(corpus, ShardCorpus)
    assert said(corpus[0]) == [(None, "say", "x")]
    assert corpus.parts == [20, 20]
    assert open_corpus(tmp_path / "000001.tar", 2).parts == [20]
    sides = [open_corpus(tmp_path, 1, split, held_out=0.5) for split in ("train", "test")]
    assert sum(map(len, sides)) == 40
    # pictures that were unpacked next to them change nothing
    (tmp_path / "images").mkdir()
    assert isinstance(open_corpus(tmp_path, 1), ShardCorpus)


@pytest.mark.parametrize("name", ["missing", "missing.json", "missing.tar", "empty", "a.csv", "a.tar.gz"])
def test_anything_else_is_told_what_the_forms_look_like(tmp_path, name):
    (tmp_path / "empty").mkdir()
    for other in ("a.csv", "a.tar.gz"):
        (tmp_path / other).write_bytes(b"x")
    with pytest.raises(CorpusError, match=rf"{name}.*COCO-style folder \(images/ and captions\.json.*LLaVA list.*000123\.jpg"):
        open_corpus(tmp_path / name, 1)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.json.gz"])
def test_compressed_data_says_so(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CorpusError, match=r"compressed.*unpack"):
            open_corpus(path, 1)
    write_shards([("0", {"txt": b"x", "jpg": b""})], tmp_path)
    assert open_corpus(tmp_path, 1).tallies["files"].skipped.total() == 1


@pytest.mark.parametrize(("before", "after"), [("a.json", "a.JSON"), ("000000.tar", "000000.TAR")])
def test_upper_case_is_no_other_form(tmp_path, before, after):
    (tmp_path / "a.json").write_text(records())
    write_shards([("0", {"txt": b"x", "jpg": b""})], tmp_path)
    (tmp_path / before).rename(tmp_path / after)
    assert len(open_corpus(tmp_path / after, 2)) > 0


def test_damaged_data_is_refused_by_its_own_form(tmp_path):
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(FolderError, match="is no COCO-style folder"):
        open_corpus(tmp_path / "a", 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "captions.json").write_text("{}")
    with pytest.raises(FolderError, match="is no COCO-style folder"):
        open_corpus(tmp_path / "b", 1)
    (tmp_path / "c.json").write_text('{"images": []}')
    with pytest.raises(CorpusError, match=r"c\.json cannot be read as a JSON list"):
        open_corpus(tmp_path / "c.json", 1)
    (tmp_path / "d.tar").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"d\.tar cannot be read as a tar shard"):
        open_corpus(tmp_path / "d.tar", 1)


def test_impossible_options_say_why(tmp_path):
    folder = photographs(tmp_path / "coco")
    with pytest.raises(ValueError, match="stage=3 must be 1 or 2"):
        open_corpus(folder, 3)
    with pytest.raises(ValueError, match="split='dev' is unknown"):
        open_corpus(folder, 1, "dev")


@pytest.mark.parametrize("about", [True, False])
def test_a_prepared_folder_is_a_list_with_its_pictures(tmp_path, about):
    folder = tmp_path / "prepared"
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 6 + number)).save(folder / "images" / f"{number}.png")
    (folder / "data.json").write_text(records())
    if about:
        (folder / "about.json").write_text("{}")
    corpus = open_corpus(folder, 2)
    assert isinstance(corpus, LlavaCorpus)
    assert [corpus[number].pictures[0]().size for number in range(3)] == [(8, 6), (8, 7), (8, 8)]
    # a copy elsewhere is the same content
    assert corpus.settings() == open_corpus(folder / "data.json", 2).settings()
    with pytest.raises(CorpusError, match="is none: leave it out"):
        open_corpus(folder, 2, image_root=tmp_path)


def test_a_folder_that_is_half_made_is_not_trained_on(tmp_path):
    folder = tmp_path / "prepared"
    picture = tmp_path / "0.png"
    Image.new("RGB", (8, 6)).save(picture)
    write_shards([("0", {"png": picture.read_bytes(), "txt": b"a cat"})], folder)
    assert len(open_corpus(folder, 1)) == 1
    (folder / ".work").mkdir()
    with pytest.raises(CorpusError, match="is half made: run the command that makes it again"):
        open_corpus(folder, 1)
    # what is left of a finished job is in nobody's way
    (folder / "about.json").write_text("{}")
    assert len(open_corpus(folder, 1)) == 1
