"""Words as tokenizers spell them, and the forms of a word."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pargo_mllm.alignment.words import forms, plural, singular, spelled, word_ids, word_vectors
from pargo_mllm.language.tokenizer import word_tokenizer
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_tokenizer

# the labels of COCO whose plural is no word with an s behind it, and some that look like plurals
PLURALS = {
    "person": "people",
    "bus": "buses",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "scissors": "scissors",
    "sandwich": "sandwiches",
    "toothbrush": "toothbrushes",
    "wine glass": "wine glasses",
    "couch": "couches",
    "box": "boxes",
    "bench": "benches",
    "baby": "babies",
    "toy": "toys",
    "tie": "ties",
    "cookie": "cookies",
    "giraffe": "giraffes",
    "orange": "oranges",
    "horse": "horses",
    "vase": "vases",
    "broccoli": "broccoli",
    "skis": "skis",
    "tennis racket": "tennis rackets",
    "traffic light": "traffic lights",
    "woman": "women",
    "tomato": "tomatoes",
    "dog": "dogs",
    "lens": "lenses",
    "canvas": "canvases",
    "quiz": "quizzes",
    "axis": "axes",
    "passer-by": "passers-by",
}


@pytest.mark.parametrize(("word", "several"), PLURALS.items())
def test_plurals(word, several):
    assert plural(word) == several
    assert singular(several) == (word if word != "skis" else "ski")
    assert plural(several) == several or word not in ("skis", "person", "mouse")
    assert singular(word) in (word, "ski")


def test_what_counts_as_naming_a_thing():
    assert forms("bus") == ("bus", "Bus", "buses", "Buses")
    assert forms("People")[0] == "People"
    assert set(forms("People")) == {"People", "people", "person", "Person"}
    assert set(forms("tv", ["television"])) == {
        "tv",
        "Tv",
        "tvs",
        "Tvs",
        "television",
        "Television",
        "televisions",
        "Televisions",
    }
    assert set(forms(" traffic \n light ")) >= {"traffic light", "Traffic light", "traffic lights"}
    assert forms(" ") == ()


def tokenizer_of(*words):
    """One token a word; no other word can be said."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["<unk>", "a", *words])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_names_that_cannot_be_spelled_are_told():
    tokenizer = tokenizer_of("dog", "traffic", "light", "television", "cats", "a")
    found = spelled(
        tokenizer,
        ["dog", "traffic light", "tv", "cat", "zebra", "dog", " ", "\ud800", "x" * 300, "aardvark"],
        {"tv": ["set", "television"]},
    )
    assert {name: [tokenizer.convert_ids_to_tokens(index) for index in ids] for name, ids in found.ids.items()} == {
        "dog": ["dog"],
        "traffic light": ["traffic", "light"],
        # by a synonym that is given, by its plural
        "tv": ["television"],
        "cat": ["cats"],
    }
    assert list(found.missing) == ["zebra", " ", "\ud800", "x" * 300, "aardvark"]
    assert "no tokens for it that are words" in found.missing["zebra"]
    assert "half a character" in found.missing["\ud800"]
    assert "300 characters" in found.missing["x" * 300]
    table = torch.arange(24.0).reshape(8, 3).bfloat16()
    vectors = found.vectors(table)
    assert vectors.dtype == torch.float32
    assert vectors[1].tolist() == ((table[found.ids["traffic light"][0]] + table[found.ids["traffic light"][1]]) / 2).tolist()
    assert word_vectors(table, []).shape == (0, 3)


def test_control_tokens_are_no_words():
    # here they are rows of the vocabulary like any other
    tokenizer = word_tokenizer(["the red circle"])
    names = ["<s>", "</s>", "<pad>", "<unk>", "<image>", "<|user|>", "the <image> red"]
    found = spelled(tokenizer, [*names, "the red"], {"<pad>": ["circle"]})
    assert list(found.ids) == ["<pad>", "the red"]
    assert found.ids["<pad>"] == word_ids(tokenizer, "circle")
    assert list(found.missing) == [name for name in names if name != "<pad>"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tokenizer: spelled(tokenizer, "dog"),
        lambda tokenizer: spelled(tokenizer, ["zebra"], {"zebra": "dog"}),
        lambda tokenizer: spelled(tokenizer, None),
        lambda tokenizer: spelled(tokenizer, ["dog", 7]),
        lambda tokenizer: forms("dog", "pup"),
        lambda tokenizer: forms("dog", [None]),
        lambda tokenizer: forms(7),
    ],
)
def test_a_text_is_no_list_of_letters(wrong):
    with pytest.raises(TypeError, match=r"stands where several belong|is no text"):
        wrong(tokenizer_of("dog", "p", "u", "d", "o", "g"))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_word_is_spelled_as_behind_another(family):
    tokenizer = make_tokenizer(family)
    ids = word_ids(tokenizer, "  dog  house ")
    assert ids
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*before, *ids]) == "a dog house"
    # what stands for control in a file of labels is text
    for name in tokenizer.all_special_tokens:
        assert not set(word_ids(tokenizer, name)) & set(tokenizer.all_special_ids)
