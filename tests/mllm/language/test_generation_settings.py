"""A model that transformers loads can be saved, whatever its generation settings are, and generates as before."""

import json
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, SiglipImageProcessorPil, SiglipVisionModel

from pargo_mllm.assembly import model_and_processor
from pargo_mllm.language.generation import make_savable
from pargo_mllm.loading import open_model, save_model
from tests.mllm.made.miniature_families import SIDE, make_language_model, make_tokenizer, small_encoder

# every setting of which transformers says that it has no effect beside the others
WITHOUT_EFFECT = {
    "temperature": 0.9,
    "top_p": 0.6,
    "min_p": 0.1,
    "top_h": 0.4,
    "typical_p": 0.5,
    "top_k": 10,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "early_stopping": True,
    "length_penalty": 2.0,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
}


def assembled(tmp_path, settings):
    """A model around a language model whose folder has these generation settings, loaded as a user loads it."""
    tokenizer = make_tokenizer("vicuna")
    make_language_model("vicuna", tokenizer).save_pretrained(tmp_path / "llm")
    (tmp_path / "llm" / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2, **settings}))
    return model_and_processor(
        SiglipVisionModel(small_encoder()),
        AutoModelForCausalLM.from_pretrained(tmp_path / "llm"),
        tokenizer,
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        {"num_hidden_layers": 1, "num_attention_heads": 2, "num_partial_tokens": 4, "num_global_tokens": 2},
    )


@pytest.mark.parametrize("name", [*WITHOUT_EFFECT, "all"])
def test_a_model_with_a_setting_without_effect_is_saved_without_it(tmp_path, name):
    settings = WITHOUT_EFFECT if name == "all" else {name: WITHOUT_EFFECT[name]}
    with pytest.warns(UserWarning, match="without effect beside the others are left out") as said:
        model, processor = assembled(tmp_path, settings)
    told = next(str(one.message) for one in said if "left out" in str(one.message))
    assert all(f"{name}={value!r}" in told for name, value in settings.items())
    model.save_pretrained(tmp_path / "out")
    processor.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert not set(saved) & set(settings)
    assert saved["eos_token_id"] == [2]
    ids = torch.tensor([[1, 70, 80]])
    generated = {folder: open_model(folder)[0].generate(ids, max_new_tokens=4) for folder in [tmp_path / "out"]}
    language_model = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
    # the image token, which the language model does not have, is never generated
    plain = {"return_dict_in_generate": False, "suppress_tokens": model.generation_config.suppress_tokens}
    language_model.resize_token_embeddings(model.config.text_config.vocab_size)
    expected = language_model.generate(ids, max_new_tokens=4, suppress_tokens=plain["suppress_tokens"])
    assert torch.equal(generated[tmp_path / "out"], expected)


def test_settings_with_effect_stay(tmp_path):
    sampling = {"do_sample": True, "temperature": 0.9, "top_p": 0.6, "repetition_penalty": 1.2, "max_length": 64}
    beams = {"num_beams": 3, "early_stopping": True, "length_penalty": 2.0, "num_return_sequences": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model, _ = assembled(tmp_path, {**sampling, **beams})
    model.save_pretrained(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {name: saved[name] for name in (*sampling, *beams)} == {**sampling, **beams}


def test_settings_changed_after_loading_do_not_stop_a_stage_from_being_saved(tmp_path):
    model, processor = assembled(tmp_path, {})
    model.generation_config.temperature = 0.2
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "refused")
    with pytest.warns(UserWarning, match="left out: temperature=0.2"):
        save_model(model, processor, tmp_path / "out")
    open_model(tmp_path / "out")


def test_what_can_never_be_saved_is_an_error():
    generation = GenerationConfig()
    generation.max_new_tokens = -1
    with pytest.raises(ValueError, match="max_new_tokens"):
        make_savable(generation)
