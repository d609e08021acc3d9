"""The whole model, against the language model alone fed by hand."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
)

from pargo_mllm import ParGoConfig, ParGoForConditionalGeneration, ParGoModel, ParGoProcessor

PROMPTS = ("<image> what shape", "<image> which colour is at the top", "small <image> big <image>")


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def language_model(model):
    """The same weights in transformers' own Llama."""
    alone = LlamaForCausalLM(model.config.text_config).eval()
    alone.model.load_state_dict(model.model.language_model.state_dict())
    alone.lm_head.load_state_dict(model.lm_head.state_dict())
    return alone


@pytest.fixture
def inputs(processor, pictures):
    """A batch of two samples with one picture each."""
    return processor(text=list(PROMPTS[:2]), images=[[pictures[0]], [pictures[1]]], padding=True, return_tensors="pt")


def embedded_by_hand(model, input_ids, tokens):
    """Word embeddings with the projected tokens put in one at a time."""
    rows, taken = [], iter(tokens.flatten(0, 1))
    for row in input_ids:
        vectors = [
            next(taken) if token == model.config.image_token_id else model.get_input_embeddings().weight[token] for token in row
        ]
        rows.append(torch.stack(vectors))
    assert next(taken, None) is None
    return torch.stack(rows)


@torch.no_grad()
def test_logits_are_the_language_models_on_projected_features(model, language_model, processor, pictures):
    batch = processor(text=[PROMPTS[2]], images=[pictures[:2]], return_tensors="pt")
    encoded = model.model.vision_tower(batch["pixel_values"]).last_hidden_state
    tokens = model.model.projector(encoded)
    expected = language_model(inputs_embeds=embedded_by_hand(model, batch["input_ids"], tokens)).logits
    out = model(**batch)
    torch.testing.assert_close(out.logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.image_hidden_states, tokens)


@torch.no_grad()
def test_text_alone_is_the_language_model(model, language_model, tokenizer):
    batch = tokenizer(["which colour is at the top", "what shape"], padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = language_model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_features_kept_from_the_encoder_replace_its_run(model, inputs):
    expected = model(**inputs).logits
    pixels = inputs.pop("pixel_values")
    features = model.model.get_vision_features(pixels)
    assert features.shape == (2, 16, 24)
    assert torch.equal(model(**inputs, vision_features=features).logits, expected)
    assert not torch.allclose(model(**inputs, vision_features=features.flip(0)).logits, expected)


@pytest.mark.parametrize("given", ["neither", "both"])
def test_pixels_or_features_not_both(model, inputs, given):
    values = {} if given == "neither" else {"pixel_values": inputs["pixel_values"], "vision_features": torch.zeros(2, 16, 24)}
    with pytest.raises(ValueError, match=r"either pixel_values or vision_features"):
        model.get_image_features(**values)


@torch.no_grad()
def test_left_padding_changes_no_logits(model, processor, pictures, inputs):
    logits = model(**inputs).logits
    assert (inputs["attention_mask"].sum(-1).diff() != 0).all(), "one of them is padded"
    for index in range(2):
        alone = processor(text=[PROMPTS[index]], images=[[pictures[index]]], return_tensors="pt")
        expected = model(**alone).logits[0]
        torch.testing.assert_close(logits[index, -len(expected) :], expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_placeholders_that_do_not_fit_are_refused(model, inputs):
    inputs["input_ids"][0, inputs["input_ids"][0].tolist().index(model.config.image_token_id)] = 5
    with pytest.raises(ValueError, match=r"19 image tokens \(by sample: 9, 10\) and 2 pictures of 10 tokens each need 20"):
        model(**inputs)


@torch.no_grad()
def test_embeddings_instead_of_ids(model, inputs):
    expected, ids = model(**inputs).logits, inputs.pop("input_ids")
    embeddings = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(**inputs, inputs_embeds=embeddings).logits, expected)
    with pytest.raises(ValueError, match=r"exactly one of input_ids and inputs_embeds"):
        model(**inputs, input_ids=ids, inputs_embeds=embeddings)


def test_loss_is_the_cross_entropy_of_the_labels(model, inputs):
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    labels[0, -2] = -100
    out = model(**inputs, labels=labels)
    total, count = 0.0, 0
    for row in range(labels.shape[0]):
        for position in range(1, labels.shape[1]):
            if labels[row, position] != -100:
                probabilities = out.logits[row, position - 1].double().exp()
                total -= (probabilities[labels[row, position]] / probabilities.sum()).log().item()
                count += 1
    assert count == 7
    assert out.loss.item() == pytest.approx(total / count, rel=1e-5)
    # under gradient accumulation the trainer says how many labels the whole batch has
    accumulated = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(14))
    assert accumulated.loss.item() == pytest.approx(total / 14, rel=1e-5)


@torch.no_grad()
def test_only_the_wanted_logits(model, inputs):
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=3).logits, logits[:, -3:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([1, 4])).logits, logits[:, [1, 4]])


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("source", ["pixel_values", "vision_features"])
def test_generate_is_a_loop_over_forward(model, processor, inputs, source, use_cache):
    if source == "vision_features":
        inputs["vision_features"] = model.model.get_vision_features(inputs.pop("pixel_values"))
    generated = model.generate(**inputs, max_new_tokens=5, do_sample=False, use_cache=use_cache, eos_token_id=None)
    length = inputs["input_ids"].shape[1]
    for index in range(2):
        start = int(inputs["attention_mask"][index].argmax())
        ids = inputs["input_ids"][index : index + 1, start:]
        for _ in range(5):
            logits = model(input_ids=ids, **{source: inputs[source][index : index + 1]}).logits
            ids = torch.cat((ids, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
        assert generated[index, length:].tolist() == ids[0, length - start :].tolist()


@torch.no_grad()
def test_saved_and_reloaded_through_the_auto_classes_it_is_the_same(model, processor, pictures, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ParGoForConditionalGeneration
    assert type(loaded_processor) is ParGoProcessor
    again = loaded_processor(text=list(PROMPTS[:2]), images=[[pictures[0]], [pictures[1]]], padding=True, return_tensors="pt")
    for name, tensor in inputs.items():
        assert torch.equal(again[name], tensor), name
    assert torch.equal(loaded(**again).logits, model(**inputs).logits)
    assert (loaded_processor.num_image_tokens, loaded_processor.image_token_id) == (10, model.config.image_token_id)
    assert (tmp_path / "model.safetensors").is_file()
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(bare) is ParGoModel
    assert torch.equal(bare.projector.query_tokens, model.model.projector.query_tokens)


@torch.no_grad()
def test_clips_class_token_is_no_feature(make_config):
    config = make_config()
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    fields = {"vision_config": vision, "text_config": config.text_config, "image_token_id": config.image_token_id}
    fields["projector_config"] = config.projector_config
    pixels = torch.randn(2, 3, 28, 28)
    for select, layer, first in (("default", -1, 1), ("full", -1, 0), ("default", -2, 1)):
        model = ParGoModel(ParGoConfig(**fields, vision_feature_select_strategy=select, vision_feature_layer=layer)).eval()
        tower = CLIPVisionModel(vision).eval()
        tower.load_state_dict(model.vision_tower.state_dict())
        hidden = tower(pixels, output_hidden_states=True).hidden_states[layer]
        torch.testing.assert_close(model.get_vision_features(pixels), hidden[:, first:])


def test_every_part_gets_a_gradient(model, inputs):
    model.train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # SigLIP's last LayerNorm and everything in front of it are part of the graph
    assert without == []


def test_tied_embeddings_stay_tied(make_config, tmp_path):
    config = make_config()
    config.text_config.tie_word_embeddings = True
    config = ParGoConfig(
        vision_config=config.vision_config,
        text_config=config.text_config,
        projector_config=config.projector_config,
        image_token_id=config.image_token_id,
    )
    model = ParGoForConditionalGeneration(config)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = ParGoForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
