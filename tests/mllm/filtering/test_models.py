"""Scores are those that transformers' own forward gives; the end token stands in every text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

from pargo_mllm.filtering.models import COSINE, FAMILIES, MATCH, SimilarityModelError, look_at, open_scorer
from pargo_mllm.filtering.tokens import TextTokens, TokenError
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.similarity_models import (
    KINDS,
    WORDS,
    bert_tokenizer,
    clip_tokenizer,
    gemma_tokenizer,
    of_kind,
    unigram_tokenizer,
    xlm_r_tokenizer,
)

TEXTS = ["a big red dog", "the cat .", "small blue cat and a big dog of the red photograph"]
MEASURED = [(kind, measure) for kind in KINDS for measure in FAMILIES[kind].scorer]


@pytest.mark.parametrize(("kind", "measure"), MEASURED)
def test_a_score_is_what_the_model_itself_says(kind, measure, tmp_path):
    model, tokenizer = of_kind(kind, tmp_path)
    scorer = open_scorer(look_at(tmp_path, measure), "float32", "cpu", batch=2)
    pictures = [noise_picture(60, 70, seed) for seed in range(3)]
    pairs = [(picture, text) for picture in range(3) for text in range(3)]
    with torch.inference_mode():
        looked = scorer.look([scorer.see(picture) for picture in pictures])
        found = scorer.compare(looked, scorer.read(scorer.tokens(TEXTS)), pairs).reshape(3, 3)
    assert found == pytest.approx(own_scores(model, tokenizer, tmp_path, pictures, measure), abs=2e-5)
    # pictures and texts are told apart, or the comparison would say nothing
    assert found.std(0).min() > 1e-5
    assert found.std(1).min() > 1e-5
    # the longest text that it has positions for
    long = scorer.tokens(["dog " * 300])
    assert long.cut == [True]
    with torch.inference_mode():
        assert np.isfinite(scorer.compare(looked, scorer.read(long), [(0, 0)])).all()


def own_scores(model, tokenizer, folder, pictures, measure):
    """[pictures, texts] by the model's forward."""
    seen = AutoImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    kind = model.config.model_type
    fill = (
        {"padding": "max_length", "max_length": tokenizer.model_max_length} if kind.startswith("siglip") else {"padding": True}
    )
    read = tokenizer(TEXTS, return_tensors="pt", **fill)
    read.pop("token_type_ids", None)
    with torch.inference_mode():
        if kind == "blip":
            if measure == COSINE:
                return model(**read, **seen, use_itm_head=False).itm_score.numpy()
            rows = [model(**read, pixel_values=seen["pixel_values"][[n] * 3]).itm_score.softmax(-1)[:, 1] for n in range(3)]
            return torch.stack(rows).numpy()
        if kind == "blip-2":
            matching = measure == MATCH
            rows = [
                model(**read, pixel_values=seen["pixel_values"][[n] * 3], use_image_text_matching_head=matching)
                for n in range(3)
            ]
            if matching:
                return torch.stack([row.logits_per_image.softmax(-1)[:, 1] for row in rows]).numpy()
            return np.stack([row.logits_per_image[0].numpy() for row in rows])
        logits = model(**read, **seen).logits_per_image
    return ((logits - getattr(model, "logit_bias", 0)) / model.logit_scale.exp()).detach().numpy()


TOKENIZERS = {
    "CLIP": (lambda: clip_tokenizer(WORDS), False, "<|endoftext|>"),
    "BERT": (bert_tokenizer, False, "[SEP]"),
    "SigLIP": (unigram_tokenizer, True, "</s>"),
    "SigLIP 2": (gemma_tokenizer, True, "<eos>"),
    "XLM-R": (xlm_r_tokenizer, False, "</s>"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("words", [0, 1, 13, 300])
def test_the_end_token_is_always_there(name, words):
    make, fills, end = TOKENIZERS[name]
    tokenizer = make()
    texts = ["dog " * words, "a cat", f"a {end} big dog"]
    tokens = TextTokens(tokenizer, 16, fills, name)(texts)
    number = tokenizer.convert_tokens_to_ids(end)
    own = tokens.ids.tolist()
    assert all(len(row) == 16 if fills else len(row) <= 16 for row in own)
    whole = [tokenizer(text)["input_ids"] for text in texts[:2]]
    assert tokens.cut[:2] == [len(row) > 16 for row in whole]
    for row, mask in zip(own, (None,) * 3 if tokens.mask is None else tokens.mask.tolist(), strict=True):
        inside = row if mask is None else row[: sum(mask)]
        # at its place: in front of what fills up, and nowhere else
        first = inside.index(number)
        assert set(inside[first + 1 :]) <= {tokenizer.pad_token_id}
        assert mask is None or first == len(inside) - 1
    # nothing of a text that is whole is lost, and a cut one keeps its beginning
    for row, expected in zip(own, whole, strict=False):
        kept = expected if len(expected) <= 16 else [*expected[:15], number]
        assert row[: len(kept)] == kept


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = unigram_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.eos_token = None
    with pytest.raises(TokenError, match="no token for the end"):
        TextTokens(tokenizer, 16, True, "it")


def test_a_model_that_reads_texts_at_another_token_than_their_end_is_refused(tmp_path):
    of_kind("clip", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SimilarityModelError, match="reads a text at its token 7"):
        open_scorer(look_at(tmp_path, None), "float32", "cpu", 2)


def test_what_a_folder_lacks_and_what_a_model_does_not_measure_is_said_before_it_is_loaded(tmp_path):
    of_kind("clip", tmp_path)
    with pytest.raises(SimilarityModelError, match=r"--measure match: .* gives cosine alone"):
        look_at(tmp_path, MATCH)
    processors = [path for path in tmp_path.iterdir() if "processor" in path.name]
    contents = [path.read_bytes() for path in processors]
    for path in processors:
        path.unlink()
    with pytest.raises(SimilarityModelError, match="holds no image processor"):
        look_at(tmp_path, None)
    for path, content in zip(processors, contents, strict=True):
        path.write_bytes(content)
    for path in tmp_path.iterdir():
        if path.name.startswith(("tokenizer", "vocab", "merges")):
            path.unlink()
    with pytest.raises(SimilarityModelError, match=r"holds no tokenizer \(tokenizer.json or vocab.json"):
        look_at(tmp_path, None)
