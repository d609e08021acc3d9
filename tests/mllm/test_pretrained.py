"""Parts as people have them: what does not belong together is refused by name when a model is assembled."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Tokenizer

from pargo_mllm.answering import answer
from pargo_mllm.cli import main
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.language.families import FamilyError
from pargo_mllm.loading import open_model
from pargo_mllm.pretrained import PartError, load_language_model, unpacked
from tests.mllm.made.chat_templates import make_tokenizer
from tests.mllm.made.miniature_families import around, make_family_around, make_language_model

QUESTION = [{"role": "user", "content": "Why is it so?"}]


@pytest.fixture
def folder(tmp_path):
    """A chat model of two layers with its tokenizer."""
    tokenizer = make_tokenizer("qwen2")
    make_language_model("vicuna", tokenizer).save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    return tmp_path / "chat"


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_tokenizer_without_a_vocabulary_is_refused():
    tokenizer = Qwen2Tokenizer(vocab={"<|im_end|>": 0}, merges=[])
    with pytest.raises(FamilyError, match=r"Qwen2Tokenizer, .* makes no tokens of text: its vocabulary is missing"):
        around(LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1)), tokenizer)


def test_another_models_tokenizer_is_refused():
    tokenizer = make_tokenizer("qwen2")
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=1))
    with pytest.raises(FamilyError, match=rf"has {tokenizer.vocab_size} tokens and the language model embeds 100"):
        around(model, tokenizer)


def test_an_end_token_that_is_none_is_refused():
    tokenizer = make_tokenizer("qwen2")
    model = make_language_model("vicuna", tokenizer)
    model.generation_config.eos_token_id = [9999]
    with pytest.raises(FamilyError, match=r"eos_token_id=\[9999\] holds 9999, outside"):
        around(model, tokenizer)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"num_beams": 2, "num_return_sequences": 2},
        {"return_dict_in_generate": True},
        {"forced_eos_token_id": 7},
        {"no_repeat_ngram_size": 1},
        {"do_sample": True, "temperature": 2.0},
    ],
    ids=str,
)
def test_generation_settings_are_taken_over_and_stand_in_no_ones_way(settings):
    tokenizer = make_tokenizer("qwen2")
    model = make_language_model("vicuna", tokenizer)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    made, _ = around(model, tokenizer)
    assert {name: getattr(made.generation_config, name) for name in settings} == settings
    assert {name: getattr(model.generation_config, name) for name in settings} == settings


def test_tensors_that_a_configuration_has_no_layer_for_are_named(folder):
    change_config(folder, num_hidden_layers=1)
    with pytest.warns(
        UserWarning, match=r"9 tensors of the weights are of no layer.*: model\.layers\.1\.input_layernorm\.weight"
    ):
        load_language_model(str(folder))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"lack model\.norm\.weight"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(7)}),
            r"have model\.norm\.weight of shape \[7\] in place of \[32\]",
        ),
    ],
    ids=["missing", "misshapen"],
)
def test_a_part_with_other_weights_than_its_own_is_refused(folder, damage, said):
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PartError, match=rf"language model {folder}: the weights {said}"):
        load_language_model(str(folder))


def test_the_command_assembles_a_folder_that_opens_and_says_what_it_chose(folder, tmp_path, capsys):
    model, processor = make_family_around(make_tokenizer("qwen2"))
    model.model.vision_tower.save_pretrained(tmp_path / "encoder")
    processor.image_processor.save_pretrained(tmp_path / "encoder")
    projector = "{num_partial_tokens: 8, num_global_tokens: 2, num_attention_heads: 2, num_hidden_layers: 1}"
    parts = ["--vision-model", str(tmp_path / "encoder"), "--language-model", str(folder), "--projector", projector]
    assert main(["assemble", *parts, "--dtype", "bfloat16", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "chat template: the tokenizer's own; an answer ends with '<|im_end|>'" in told
    assert "it says " in told
    made, _ = open_model(tmp_path / "out")
    dtypes = {name.split(".")[1]: weight.dtype for name, weight in made.named_parameters()}
    assert dtypes["language_model"] == dtypes["vision_tower"] == torch.bfloat16
    assert dtypes["projector"] == torch.float32
    before = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(made.model.language_model.layers[0].mlp.up_proj.weight, before.bfloat16())
    for wrong, said in (
        (["--out", str(tmp_path / "out")], "exists"),
        (["--out", str(tmp_path / "x"), "--projector", "nonsense"], "nonsense"),
        (["--out", str(tmp_path / "x"), "--gguf", "absent.gguf"], "absent.gguf is no file"),
        (["--out", str(tmp_path / "x"), "--language-model", "./absent"], "./absent is no folder"),
        (["--out", str(tmp_path / "x"), "--vision-model", str(folder)], "is of type 'llama'"),
    ):
        assert main(["assemble", *parts, *wrong]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1


def test_what_a_packed_file_held_is_saved_like_any_other(tmp_path):
    """A model out of a GGUF file says that it is quantised, and transformers would not save it; a tied head stays tied."""
    tokenizer = make_tokenizer("qwen2")
    packed = make_language_model("vicuna", tokenizer)
    packed.config.tie_word_embeddings = True
    packed.tie_weights()
    packed.config.quantization_config = {"quant_method": "gguf"}
    plain = unpacked(packed)
    plain.save_pretrained(tmp_path)
    assert plain.lm_head.weight is plain.get_input_embeddings().weight
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ids = torch.arange(3, 20)[None]
    assert torch.equal(LlamaForCausalLM.from_pretrained(tmp_path)(ids).logits, packed(ids).logits)


def test_a_conversation_that_is_longer_than_the_models_positions_is_refused():
    """Learned positions end; what is said before them is cut to what is left."""
    tokenizer = make_tokenizer("qwen2")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=4, n_positions=160, eos_token_id=0)
    model, processor = around(GPT2LMHeadModel(config), tokenizer)
    model.generation_config.suppress_tokens = [processor.image_token_id, *model.generation_config.eos_token_id]
    taken = len(processor.chat_format.prompt_tokens(QUESTION))
    for asked, own in ((1000, None), (None, 1000)):
        model.generation_config.max_new_tokens = own
        (said,) = answer(model.eval(), processor, [QUESTION], **({} if asked is None else {"max_new_tokens": asked}))
        assert len(tokenizer(said, add_special_tokens=False)["input_ids"]) <= 160 - taken
    with pytest.raises(ConversationError, match=r"has \d+ tokens and the language model takes 160"):
        answer(model, processor, [[{"role": "user", "content": "why " * 60}]])
