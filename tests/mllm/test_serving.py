"""What vLLM's and SGLang's Transformers backends ask of a model, asked here."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, dynamic_module_utils
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import pargo_mllm
from pargo_mllm import ParGoModel
from pargo_mllm.serving import prepare_for_serving
from tests.mllm.made.miniature_families import make_family


@pytest.fixture(scope="module")
def family():
    return make_family("vicuna")


def test_the_processor_counts_tokens_and_rows_of_pixels(family, pictures):
    _, processor = family
    sizes = [(picture.height, picture.width) for picture in pictures]
    counted = processor._get_num_multimodal_tokens(image_sizes=sizes)
    text = " ".join(["<image>"] * 3)
    batch = processor(text=[text], images=[pictures], return_tensors="pt", return_mm_token_type_ids=True)
    assert sum(counted["num_image_tokens"]) == int((batch["mm_token_type_ids"] == 1).sum()) == 30
    assert sum(counted["num_image_patches"]) == len(batch["pixel_values"])
    assert torch.equal(batch["mm_token_type_ids"] == 1, batch["input_ids"] == processor.image_token_id)
    assert "num_image_tokens" not in processor._get_num_multimodal_tokens()


def test_the_processor_says_what_each_placeholder_became(family, pictures):
    _, processor = family
    batch = processor(text=["a <image> b <image>"], images=[pictures[:2]], return_text_replacement_offsets=True)
    offsets = batch["text_replacement_offsets"][0]
    assert len(offsets) == 2
    assert all("<image>" * 10 in str(one) for one in offsets)


@torch.no_grad()
def test_the_bare_model_as_an_engine_runs_it(family, pictures):
    """Features first, then embeddings of the whole prompt with a tuple asked for, no cache."""
    full, processor = family
    model = full.model
    assert type(model) is ParGoModel
    assert ParGoModel.is_backend_compatible()
    batch = processor(text=["<image> what <image>"], images=[pictures[:2]], return_tensors="pt")
    features = model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output
    assert features.shape == (2, 10, 32)
    assert isinstance(model.get_image_features(batch["pixel_values"], return_dict=False), tuple)
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    embeddings[batch["input_ids"] == processor.image_token_id] = features.flatten(0, 1)
    positions = torch.arange(embeddings.shape[1])[None]
    hidden = model(inputs_embeds=embeddings, position_ids=positions, use_cache=False, return_dict=False)[0]
    expected = full(**batch).logits
    torch.testing.assert_close(full.lm_head(hidden), expected, rtol=0, atol=1e-5)
    assert isinstance(full(**batch, return_dict=False), tuple)


def test_engines_find_the_parts(family):
    full, _ = family
    assert full.model.get_encoder(modality="image") is full.model.vision_tower
    assert full.get_decoder() is full.model.language_model
    assert full.config.get_text_config() is full.config.text_config
    assert full.config.get_text_config().num_attention_heads == 4


def test_a_prepared_folder_names_its_classes(family, tmp_path, monkeypatch):
    model, processor = family
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    prepare_for_serving(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    classes = {
        **json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"],
        **json.loads((tmp_path / "model" / "processor_config.json").read_text())["auto_map"],
    }
    assert set(classes) == {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"}
    for reference in classes.values():
        found = get_class_from_dynamic_module(reference, str(tmp_path / "model"))
        assert found is getattr(pargo_mllm, reference.split(".")[1])
    # it stays a folder like any other
    assert type(AutoConfig.from_pretrained(tmp_path / "model")) is pargo_mllm.ParGoConfig
    assert type(AutoModel.from_pretrained(tmp_path / "model")) is ParGoModel
    assert AutoProcessor.from_pretrained(tmp_path / "model").num_image_tokens == 10


def test_only_a_pargo_folder_can_be_prepared(tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json"):
        prepare_for_serving(tmp_path)
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"type 'llama'; give a folder with a ParGo model"):
        prepare_for_serving(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "processor_config.json"]
