"""What --data may be: each form is recognised, and everything else is told what the forms look like."""

import json

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.questions import Question, Sample
from pargo_mllm.data.sources.coco import FolderError, read_coco_folder
from pargo_mllm.data.sources.folder_corpus import FolderCorpus
from pargo_mllm.data.sources.llava import LlavaCorpus
from pargo_mllm.data.sources.photographs_folder import FolderSource
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


@pytest.mark.parametrize(("stage", "what"), [(1, "captions"), (2, "questions")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_photographs(tmp_path, stage, what, split):
    folder = photographs(tmp_path / "coco")
    corpus = open_corpus(folder, stage, split, views=16, seed=3)
    samples = FolderSource(folder, train_views=16, seed=3).samples(split)
    assert len(corpus) == len(samples) == (16 if split == "train" else 2)
    assert corpus.parts == [len(samples)]
    for index, sample in enumerate(samples):
        expected = [(None, question.text, question.answer) for question in getattr(sample, what)]
        assert said(corpus[index]) == expected
        assert corpus.length_hint(index) == PICTURE_LENGTH + sum(len(text) + len(answer) for _, text, answer in expected)
        assert corpus[index].name == sample.name
        (show,) = corpus[index].pictures
        assert np.array_equal(np.asarray(show()), np.asarray(sample.load()))
    assert corpus.skipped == read_coco_folder(folder).skipped
    assert open_corpus(folder, stage, split, views=16, seed=3).settings() == corpus.settings()
    assert open_corpus(folder, stage, split, views=16, seed=4).settings() != corpus.settings()
    assert open_corpus(folder, 3 - stage, split, views=16, seed=3).settings() != corpus.settings()
    (folder / "images" / "5.png").write_bytes(b"another picture")
    assert open_corpus(folder, stage, split, views=16, seed=3).settings() != corpus.settings()


def test_samples_about_which_nothing_is_said_are_left_out():
    caption, question = Question("caption", "describe", "red"), Question("what", "colour?", "red")
    samples = [
        Sample("a", lambda: "a", (), (question,)),
        Sample("b", lambda: "b", (caption, caption), ()),
        Sample("c", lambda: "c", (caption,), (question, question)),
    ]
    captions, questions = FolderCorpus(samples, "captions"), FolderCorpus(samples, "questions")
    assert [[corpus[index].name for index in range(len(corpus))] for corpus in (captions, questions)] == [
        ["b", "c"],
        ["a", "c"],
    ]
    assert [captions[index].pictures[0]() for index in range(2)] == ["b", "c"]
    assert [len(questions[index].conversations) for index in range(2)] == [1, 2]
    assert captions.settings() != questions.settings()
    other = [*samples[:2], Sample("c", lambda: "c", (Question("caption", "describe", "blue"),))]
    assert FolderCorpus(other, "captions").settings() != captions.settings()
    with pytest.raises(CorpusError, match="none of the 1 samples has captions"):
        FolderCorpus(samples[:1], "captions")
    with pytest.raises(ValueError, match="what='facts' is unknown"):
        FolderCorpus(samples, "facts")
    for index in (-1, 2):
        with pytest.raises(IndexError, match=f"index={index} must be from 0 to 1"):
            captions[index]


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
