"""What an answer looked at: the attention of the model's own forward, carried to the patches; the model stays as it was."""

import numpy as np
import pytest
import torch
from PIL import Image

from pargo_mllm.pictures.answer_attention import NoAttentionError, answer_map, draw_answer_map
from pargo_mllm.pictures.token_maps import token_maps
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family


def asked(picture):
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "what is it?"}]}]


def whole_attention(model, processor, conversation, said):
    """Rows of one forward over prompt and answer, every weight kept: ``[rows, heads * layers, L]``."""
    inputs = processor.prompts([conversation])
    prompt = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat((inputs["input_ids"], torch.tensor([said], dtype=torch.long)), dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    model.set_attn_implementation({"text_config": "eager"})
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation({"text_config": "sdpa"})
    rows = torch.cat([layer[0] for layer in attentions])[:, prompt - 1 :]
    return rows.mean(dim=(0, 1)).numpy()[:prompt], inputs["input_ids"][0, :prompt].numpy()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_step_by_step_is_the_whole_forward(family, pictures):
    model, processor = make_family(family)
    conversation, answer = asked(pictures[1]), "no, two of them"
    said = processor.tokenizer(answer, add_special_tokens=False)["input_ids"][:3]
    expected, ids = whole_attention(model, processor, conversation, said)
    found = answer_map(model, processor, conversation, pictures[1], answer)
    np.testing.assert_allclose(found.tokens, expected[ids == model.config.image_token_id], atol=1e-6)
    cross = token_maps(model, processor, pictures[1]).cross
    by_hand = sum(weight * cross[:, token].mean(axis=0) for token, weight in enumerate(found.tokens))
    np.testing.assert_allclose(found.patches, by_hand, atol=1e-6)
    assert 0 < found.patches.sum() < 1, "the rest went to the text"


@pytest.mark.parametrize("how", ["sdpa", "eager"])
def test_the_model_answers_as_before(how, pictures):
    model, processor = make_family("qwen")
    model.set_attn_implementation({"text_config": how})
    model.train()
    inputs = processor.prompts([asked(pictures[0])])
    with torch.no_grad():
        before = model(**inputs).logits
        answer_map(model, processor, asked(pictures[0]), pictures[0], "yes")
        assert torch.equal(model(**inputs).logits, before)
    assert model.config.text_config._attn_implementation == how
    assert model.model.language_model.config._attn_implementation == how
    assert model.training


@pytest.mark.parametrize("answer", ["", "<|im_end|> <image>", "a" * 400])
def test_any_answer_can_be_followed(answer, pictures):
    model, processor = make_family("qwen")
    assert answer_map(model, processor, asked(pictures[0]), pictures[0], answer).patches.shape == (16,)


def test_models_that_keep_no_attention_say_why(pictures):
    model, processor = make_family("qwen")
    # what a language model without any attention gives
    model.model.language_model.register_forward_hook(lambda _, __, output: output.__setitem__("attentions", (None, None)))
    with pytest.raises(NoAttentionError, match="its layers are recurrent"):
        answer_map(model, processor, asked(pictures[0]), pictures[0], "yes")
    model, processor = make_family("qwen", projector_type="linear")
    with pytest.raises(NoAttentionError, match="'linear' has no attention"):
        answer_map(model, processor, asked(pictures[0]), pictures[0], "yes")
    model, processor = make_family("qwen")
    processor.max_tiles = 4
    wide = Image.new("RGB", (120, 40))
    with pytest.raises(NoAttentionError, match="cut into tiles"):
        answer_map(model, processor, asked(wide), wide, "yes")


def test_the_picture_is_bright_where_the_answer_looked(pictures, tmp_path):
    model, processor = make_family("qwen")
    found = answer_map(model, processor, asked(pictures[0]), pictures[0], "yes")
    found.patches[:] = 0
    found.patches[4 + 2] = 1  # second row, third column of 4 x 4
    with Image.open(draw_answer_map(found, tmp_path / "a.png")) as drawn:
        bright = np.asarray(drawn.convert("L").resize((4, 4), Image.Resampling.BOX)).astype(int)
    assert np.unravel_index(bright.argmax(), bright.shape) == (1, 2)
