"""Features on disk: what the encoder gives bit for bit, once, for whatever picture is the same."""

import threading
from collections import Counter
from functools import partial

import pytest
import torch
from PIL import Image

from pargo_mllm.data.corpus import Example, about_image
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.scenes.corpus import SceneCorpus, Scenes
from pargo_mllm.training import feature_store
from pargo_mllm.training.feature_store import FeatureStore, encode_corpus, encoder_digest
from pargo_mllm.training.trainer.frozen_features import frozen_features


class Pictures:
    """A corpus of one picture an example; ``broken`` ones cannot be read."""

    def __init__(self, pictures, broken=(), kind="one"):
        self.pictures = pictures
        self.broken = broken
        self.kind = kind
        self.opened = Counter()

    parts = property(lambda self: [len(self.pictures)])

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return Example(f"example {index}", (about_image("which colour", "red"),), (lambda: self.open(index),))

    def open(self, index):
        self.opened[index] += 1
        if index in self.broken:
            raise PictureError("broken")
        return self.pictures[index]

    def length_hint(self, index):
        return 1

    def settings(self):
        return {"kind": self.kind, "examples": len(self)}


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (5, 28, 28, 3), generator=generator, dtype=torch.uint8).numpy()
    return [Image.fromarray(one) for one in noise]


@pytest.fixture
def model(make_model):
    return make_model()


def test_features_are_the_encoders_bit_for_bit(model, processor, pictures, tmp_path):
    corpus = Pictures([*pictures, pictures[0]], broken=[2])
    encoded = encode_corpus(corpus, model, processor, FeatureStore(tmp_path, model, False))
    distinct = [picture for index, picture in enumerate(pictures) if index != 2]
    expected = frozen_features(model.model, processor.encode_pictures(distinct)[0], False)
    found = {index: encoded[index].features for index in range(6)}
    # the broken one stays what it is: opening it says why
    assert found.pop(2) is None
    with pytest.raises(PictureError):
        encoded[2].pictures[0]()
    for features, row in zip((found[index][0]() for index in (0, 1, 3, 4, 5)), (0, 1, 2, 3, 0), strict=True):
        assert torch.equal(features, expected[row : row + 1])
    # equal pictures are kept once
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert len(encoded) == len(corpus)
    assert encoded.settings() == corpus.settings()


def test_nothing_is_opened_or_computed_again(model, processor, pictures, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, model, False)
    encode_corpus(Pictures(pictures), model, processor, store)
    monkeypatch.setattr(feature_store, "frozen_features", lambda *_: pytest.fail("computed again"))
    again = Pictures(pictures)
    encode_corpus(again, model, processor, store)
    assert not again.opened
    # another corpus with the same pictures has to look, and finds them
    other = Pictures(pictures[::-1], kind="two")
    assert encode_corpus(other, model, processor, store)[0].features[0]().shape == (1, 16, 24)


def test_captions_and_questions_show_the_same_scenes(model, processor, tmp_path, monkeypatch):
    store, scenes = FeatureStore(tmp_path, model, False), Scenes(train=5, held_out=5)
    captions = encode_corpus(SceneCorpus(scenes, 1), model, processor, store)
    monkeypatch.setattr(SceneCorpus, "picture", lambda *_: pytest.fail("drawn again"))
    questions = encode_corpus(SceneCorpus(scenes, 2), model, processor, store)
    for index in range(5):
        assert torch.equal(questions[index].features[0](), captions[index].features[0]())
    monkeypatch.undo()
    # another split, another seed: other pictures
    for others, split in ((scenes, "test"), (Scenes(seed=1, train=5), "train")):
        other = encode_corpus(SceneCorpus(others, 2, split), model, processor, store)
        assert not any(torch.equal(other[index].features[0](), captions[index].features[0]()) for index in range(5))


def test_what_was_lost_is_computed_as_before(model, processor, pictures, tmp_path):
    store = FeatureStore(tmp_path, model, False)
    encode_corpus(Pictures(pictures), model, processor, store)
    files = sorted(tmp_path.rglob("*.safetensors"))
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    # a run that was killed in the middle: its group is computed whole, only what is missing is written
    kept = [file.stat().st_mtime_ns for file in files if file != files[1]]
    encode_corpus(Pictures(pictures), model, processor, store)
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns for file in files if file != files[1]] == kept


def test_damage_is_named(model, processor, pictures, tmp_path):
    store = FeatureStore(tmp_path, model, False)
    encoded = encode_corpus(Pictures(pictures), model, processor, store)
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"half")
    with pytest.raises(PictureError, match="delete it"):
        encoded[0].features[0]()


def test_another_encoder_has_features_of_its_own(model, make_model):
    other = make_model()
    assert encoder_digest(model, False) == encoder_digest(other, False)
    assert encoder_digest(model, True) != encoder_digest(model, False)
    before = encoder_digest(other, False)
    other.set_attn_implementation("eager")
    assert encoder_digest(other, False) != before
    other.set_attn_implementation("sdpa")
    with torch.no_grad():
        next(other.model.projector.parameters()).add_(1)
    assert encoder_digest(model, False) == encoder_digest(other, False)
    with torch.no_grad():
        next(other.model.vision_tower.parameters()).flatten()[0].add_(1e-3)
    assert encoder_digest(model, False) != encoder_digest(other, False)


def test_processes_share_the_work(model, processor, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "GROUP", 2)
    barrier, given = threading.Barrier(2), [None, None]

    def from_all(rank, value):
        given[rank] = value
        barrier.wait()
        values = list(given)
        barrier.wait()
        return values

    store = FeatureStore(tmp_path, model, False)
    corpora = [Pictures(pictures), Pictures(pictures)]
    found = [None, None]

    def work(rank):
        found[rank] = encode_corpus(corpora[rank], model, processor, store, rank, 2, partial(from_all, rank))

    def both():
        threads = [threading.Thread(target=work, args=(rank,), name=f"process {rank}") for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads)

    both()
    assert set(corpora[0].opened) == {0, 1, 4}
    assert set(corpora[1].opened) == {2, 3}
    for index in range(5):
        assert torch.equal(found[0][index].features[0](), found[1][index].features[0]())
    # one that is early has computed what was lost before the other one looks: it is waited for all the same
    lost = store.path(found[0].pictures[0].tobytes())
    lost.unlink()
    there = store.has
    looks_late = lambda self, picture: there(picture) or threading.current_thread().name == "process 1"  # noqa: E731
    monkeypatch.setattr(FeatureStore, "has", looks_late)
    both()
    assert lost.is_file()
