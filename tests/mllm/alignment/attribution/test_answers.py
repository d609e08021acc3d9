"""Answers to tokens: gradients are differences of the model's own log-probability, attention is that of the pictures."""

import copy
import logging
from itertools import product

import numpy as np
import pytest
import torch

from pargo_mllm.alignment.attribution import AttributionError, attribute, attribute_answer
from pargo_mllm.alignment.attribution.asked import answer_logits, answered, read
from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.pictures.answer_attention import answer_map
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family


def asked(*pictures):
    shown = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": "what is it?"}]}]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_log_probability_is_that_of_the_whole_conversation(family, pictures):
    model, processor = make_family(family)
    inputs = processor.prompts([asked(pictures[0])])
    one = read(model, processor, asked(pictures[0]), "yes")
    behind = [*one.said, one.answer[-1].item()]
    assert processor.tokenizer.decode(behind).strip() == "yes"
    inputs["input_ids"] = torch.cat((inputs["input_ids"], torch.tensor([behind])), dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = model(**inputs).logits[0, -4:-1].double().log_softmax(-1)
        expected = logits.gather(-1, one.answer[:, None]).sum()
        found, _ = answered(model, one.embeddings[None], one.answer)
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)


def test_said_is_what_generation_says(pictures):
    model, processor = make_family("qwen", projector_type="linear")
    inputs = processor.prompts([asked(pictures[0])])
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)[0, -3:]
        one = read(model, processor, asked(pictures[0]), "abc")
        embeddings = torch.cat((one.embeddings[: -len(one.answer)], model.get_input_embeddings()(out)))
        assert answered(model, embeddings[None], out)[1].tolist() == [True]
        assert answered(model, one.embeddings[None], one.answer)[1].tolist() == [False]


def test_gradients_are_finite_differences(pictures):
    model, processor = make_family("qwen")
    model = model.double()
    one = read(model, processor, asked(pictures[0]), "yes")
    found = attribute_answer(model, processor, asked(pictures[0]), "yes", "gradient")
    step, differences = 1e-4, []
    with torch.no_grad():
        for place in one.places.tolist():
            rows = one.embeddings.repeat(2, 1, 1)
            beyond = one.embeddings[place] - one.tokens.mean(0)
            rows[0, place] += step * beyond
            rows[1, place] -= step * beyond
            p = answer_logits(model, rows, one.answer).double().softmax(-1)
            p = p.gather(-1, one.answer.expand(2, -1)[..., None])[..., 0]
            more, less = (p / (1 - p)).log().sum(-1)
            differences.append(((more - less) / (2 * step)).item())
    # logits are in fp32: of about 30 nats, a difference over 2e-4
    np.testing.assert_allclose(found.tokens, differences, atol=0.03)
    assert found.order[0] == int(np.argmax(found.tokens))


def test_attention_is_that_of_the_pictures(pictures):
    model, processor = make_family("qwen")
    found = attribute_answer(model, processor, asked(pictures[0]), "no", "attention")
    # its two letters are decided on behind the prompt, and behind the first of them
    drawn = answer_map(model, processor, asked(pictures[0]), pictures[0], "n")
    np.testing.assert_allclose(found.tokens, drawn.tokens, atol=1e-6)
    # the pictures leave out what went to the text
    carried = found.patches(attribute(model, processor, pictures[0], "attention"))
    np.testing.assert_allclose(carried, drawn.patches / drawn.patches.sum(), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("qwen", "linear"),
        *(pytest.param(*one, marks=pytest.mark.long) for one in product(FAMILY_NAMES, ("resampler", "c_abstractor"))),
    ],
)
def test_both_methods_for_any_family_and_projector(family, kind, pictures):
    model, processor = make_family(family, projector_type=kind)
    model.train().to(torch.bfloat16)
    origins = attribute(model, processor, pictures[1], "jacobian")
    for method in ("gradient", "attention"):
        found = attribute_answer(model, processor, asked(pictures[1]), "yes", method)
        assert found.tokens.shape == (model.config.num_image_tokens,)
        assert found.tokens.dtype == torch.float32
        assert found.log_probability < 0
        assert found.patches(origins).sum().item() == pytest.approx(1, abs=1e-5)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_traced_is_refused(pictures):
    model, processor = make_family("qwen")
    with pytest.raises(AttributionError, match="shows 2 pictures; what an answer comes from is told of one"):
        attribute_answer(model, processor, asked(*pictures[:2]), "yes")
    with pytest.raises(AttributionError, match="shows 0 pictures"):
        attribute_answer(model, processor, asked(), "yes")
    with pytest.raises(AttributionError, match="method='lime' traces no answer; there are gradient, attention"):
        attribute_answer(model, processor, asked(pictures[0]), "yes", "lime")
    other = attribute(make_family("qwen", projector_type="linear")[0], processor, pictures[0], "slices")
    with pytest.raises(AttributionError, match="the map is of 16 tokens and the answer's of 10"):
        attribute_answer(model, processor, asked(pictures[0]), "yes").patches(other)
    with torch.inference_mode():
        loaded = copy.deepcopy(model)
    with pytest.raises(AttributionError, match="loaded in torch's inference mode"):
        attribute_answer(loaded, processor, asked(pictures[0]), "yes")
    # what a language model without any attention gives
    model.model.language_model.register_forward_hook(lambda _, __, output: output.__setitem__("attentions", (None, None)))
    with pytest.raises(AttributionError, match="its layers are recurrent; use 'gradient'"):
        attribute_answer(model, processor, asked(pictures[0]), "yes", "attention")


def test_an_answer_that_cannot_be_said_is_refused(make_model, processor, pictures):
    model = make_model()
    for answer, why in (
        ("zebra", "no tokens for a part"),
        (None, "is no text"),
        (["red"], "is no text"),
        ("<image>", "for a picture"),
    ):
        with pytest.raises(ConversationError, match=why):
            attribute_answer(model, processor, asked(pictures[0]), answer)


def test_neither_inference_mode_nor_figures_that_are_not_finite_go_unnoticed(make_model, processor, pictures):
    model = make_model()
    with torch.inference_mode():
        found = attribute_answer(model, processor, asked(pictures[0]), "red")
    assert torch.equal(found.tokens, attribute_answer(model, processor, asked(pictures[0]), "red").tokens)
    with torch.no_grad():
        model.model.projector.output_proj.weight[0, 0] = float("nan")
    for method in ("gradient", "attention"):
        with pytest.raises(AlignmentError, match="not finite"):
            attribute_answer(model, processor, asked(pictures[0]), "red", method)
    with pytest.raises(AlignmentError, match="not finite"):
        attribute(model, processor, pictures[0], "jacobian")


def test_attention_is_asked_of_the_language_model_alone(make_model, processor, pictures, monkeypatch, caplog):
    model = make_model(projector_type="d_abstractor")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    attribute_answer(model, processor, asked(pictures[0]), "red", "attention")
    assert not caplog.records
    assert model.config.text_config._attn_implementation == "sdpa"
