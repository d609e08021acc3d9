"""Captions of a model folder are what the model says to each picture alone."""

import json

import pytest
import torch

from pargo_mllm.answering import answer
from pargo_mllm.data.pictures import load_picture
from tests.mllm.made.command_line import ended
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.photographs import noise_picture


def speak_in_characters(model, processor, ends):
    """Where it would say a byte that is no character by itself, it says one that is."""
    weight = model.get_output_embeddings().weight
    texts = [processor.tokenizer.decode([token]) for token in range(len(weight))]
    good = [token for token, text in enumerate(texts) if text.isascii() and text.isprintable() and text.strip()]
    with torch.no_grad():
        for token in set(range(len(weight))) - {*good, *ends}:
            weight[token] = weight[good[token % len(good)]] / 2


@pytest.fixture
def folder(tmp_path):
    """A miniature with so many ends of an answer that some captions are short, and some are not."""
    model, processor = make_family("qwen")
    ends = [*model.generation_config.eos_token_id, 12, 26, 57]
    model.generation_config.eos_token_id = ends
    speak_in_characters(model, processor, ends)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "pictures").mkdir()
    for number in range(7):
        noise_picture(20 + 5 * number, 30, seed=number).save(tmp_path / "pictures" / f"{number}.png")
    noise_picture(20, 30, seed=0).save(tmp_path / "pictures" / "equal.png")
    whole = (tmp_path / "pictures" / "6.png").read_bytes()
    (tmp_path / "pictures" / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "prompt.txt").write_text("what is it?")
    return model, processor, tmp_path


def caption(capsys, tmp_path, *words):
    said = ended(
        capsys,
        *("caption", tmp_path / "pictures", "--out", tmp_path / "out", "--local", tmp_path / "model", "--json"),
        *("--prompt-file", tmp_path / "prompt.txt", "--batch-size", 3, "--device", "cpu", *words),
    )
    assert said.status == 0, said.said
    records = json.loads((tmp_path / "out" / "data.json").read_text())
    return json.loads(said.printed), {record["id"]: record["conversations"][1]["value"] for record in records}


def test_what_a_model_says(folder, capsys):
    model, processor, tmp_path = folder
    expected = {}
    for most in (4, 64):
        for file in sorted((tmp_path / "pictures").glob("[0-9e]*.png")):
            content = [{"type": "image", "image": load_picture(file)}, {"type": "text", "text": "what is it?"}]
            conversation = [{"role": "user", "content": content}]
            one, more = (answer(model, processor, [conversation], max_new_tokens=most + k)[0] for k in (0, 1))
            # one token more changes nothing: it has ended
            if one == more and one:
                expected[most, file.name] = one
    short = {name: text for (most, name), text in expected.items() if most == 4}
    assert 0 < len(short) < 8, "the miniature does not show both kinds"
    about, said = caption(capsys, tmp_path, "--max-tokens", 4)
    assert said == short
    assert about["skipped"]["pictures that are missing or cannot be read"] == 1
    assert about["records"] + sum(about["skipped"].values()) == about["entries"] == 9
    # longer ones for those that were cut off, and the others stay
    about, said = caption(capsys, tmp_path, "--max-tokens", 64, "--retry-failed")
    assert said == {name: text for (most, name), text in expected.items() if most == 64}
    assert len(said) > len(short)
