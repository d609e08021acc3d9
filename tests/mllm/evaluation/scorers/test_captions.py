"""Captions' words and metrics, against the files that Stanford's tokenizer and the official code gave."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.scorers.caption_tokens import ptb_tokens
from pargo_mllm.evaluation.scorers.captions import TOKENIZERS, score

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java: Stanford's own tokenizer was not compared with")


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden/scores/caption/coco_sample_scores.json").read_text())


def test_every_caption_of_the_token_file_is_cut_alike(golden):
    candidates, references = golden["first_caption_vs_other_four"]["candidates"], golden["references"]
    ours = {key: [ptb_tokens(text) for text in (candidates[key], *references[key])] for key in references}
    assert ours == golden["ptb_tokenized_all"]


def test_metrics_are_those_of_the_official_code_picture_by_picture(golden):
    told = golden["first_caption_vs_other_four"]
    keys = list(golden["references"])
    ours = score([told["candidates"][key] for key in keys], [golden["references"][key] for key in keys], "ptb")
    official = told["scores"]
    assert ours.cider == pytest.approx(official["CIDEr"], abs=1e-12)
    assert ours.rouge_l == pytest.approx(official["ROUGE_L"], abs=1e-12)
    assert ours.bleu == pytest.approx([official[f"Bleu_{n}"] for n in (1, 2, 3, 4)], abs=1e-12)
    assert ours.each_cider == pytest.approx([told["cider_per_image"][key] for key in keys], abs=1e-12)


def test_without_a_tokenizer_it_is_another_cider(golden):
    told = golden["first_caption_vs_other_four"]
    keys = list(golden["references"])
    ours = score([told["candidates"][key] for key in keys], [golden["references"][key] for key in keys], "spaces")
    assert abs(ours.cider - told["scores"]["CIDEr"]) > 0.2


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        # as Stanford's program said when it was asked
        ("A man's dog can't, and isn't!", "a man 's dog ca n't and is n't"),
        ("Cannot wanna gimme 'tis couldn't've", "can not wan na gim me 't is could n't 've"),
        ("a T-shirt, black-and-white; 1/2 and/or 24/7", "a t-shirt black-and-white 1/2 and/or 24/7"),
        ('(a) "quoted" [b] {c}', "-lrb- a -rrb- quoted -lsb- b -rsb- -lcb- c -rcb-"),
        ("Mr. Smith in the U.S. at 3 p.m. etc.", "mr. smith in the u.s. at 3 p.m. etc."),
        ("in. lb. no. 4 no. yes approx.", "in lb no. 4 no yes approx"),
        ("one end.No space... here -- there – fast", "one end.no space here there fast"),
        ("$5.00 50% #1 #tag @user £5 AT&T a&b 1,000 5'10\"", "$ 5.00 50 % # 1 #tag @user # 5 at&t a & b 1,000 5 10"),
        ("rock 'n' roll y'all o'clock ma'am lookin' dogs' ol' man", "rock 'n' roll y' all o'clock ma'am lookin dogs ol' man"),
        ("don’t it’s “so” …", "do n't it 's so"),
        ("wow!! what?! ok!", "wow !! what ?! ok"),
        ("½ cup 😀 ❤", "1/2 cup ❤"),
        ("plan B.", "plan b"),
        ("a fork., a skate-board.; end.", "a fork. a skate-board. end"),
        ("", ""),
        (" \t\n", ""),
    ],
)  # fmt: skip
def test_how_captions_are_cut(caption, tokens):
    assert ptb_tokens(caption) == tokens


@needs_java
def test_the_java_program_cuts_the_same(golden, shared):
    captions = [text for some in golden["references"].values() for text in some]
    captions += [row["caption"] for row in json.loads((shared / "data/coco_sample/captions.json").read_text())["annotations"]]
    captions += ["", "line\nend and\ttab", "A man's U.S. T-shirt isn't (all) black/white, is it?"]
    assert TOKENIZERS["ptb-java"](captions) == TOKENIZERS["ptb"](captions)


@given(st.text(max_size=80))
@settings(max_examples=300)
def test_any_text_is_cut_and_nothing_but_spaces_parts_it(text):
    tokens = ptb_tokens(text)
    assert "  " not in tokens
    assert tokens == tokens.strip()


def test_long_texts_are_cut_at_once():
    for text in ("a" * 50_000, "a-" * 20_000, "a." * 20_000, "<a" * 20_000, "a+" * 20_000, "'" * 20_000, "1," * 20_000):
        ptb_tokens(text)


def test_empty_captions_are_worth_nothing():
    ours = score(["", "a cat on a mat"], [["a dog runs"], ["a cat on a mat"]], "ptb")
    assert ours.each_cider[0] == ours.each_rouge_l[0] == 0
    assert ours.each_rouge_l[1] == pytest.approx(1)
    assert score([""], [["..."]], "ptb").cider == 0


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(ScoringError, match=r"pip install 'pargo\[eval\]'"):
        score(["a"], [["a"]], "ptb")


def test_a_missing_java_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ScoringError, match="--rule ptb needs none"):
        score(["a"], [["a"]], "ptb-java")
