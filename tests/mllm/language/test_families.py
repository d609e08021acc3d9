"""Chat templates, special tokens and the end of generation of every family of language models."""

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from pargo_mllm.assembly import model_and_processor
from pargo_mllm.data.corpus import about_image
from pargo_mllm.language.families import FamilyError, LanguageFamily, family_of, prepare_tokenizer
from tests.mllm.made import items
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family, make_language_model, make_tokenizer

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
# written by hand from each family's documentation: what two turns look like, and what of it is the assistant's
EXPECTED = {
    "vicuna": (
        f"<s>{SYSTEM}USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT: Yes.</s>",
        " A cat.</s>",
        " Yes.</s>",
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>",
        "A cat.<|eot_id|>",
        "Yes.<|eot_id|>",
    ),
    "internlm2": (
        "<s><|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n",
        "A cat.<|im_end|>",
        "Yes.<|im_end|>",
    ),
    "qwen": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n",
        "A cat.<|im_end|>",
        "Yes.<|im_end|>",
    ),
}
TURN_END = {"vicuna": "</s>", "llama3": "<|eot_id|>", "internlm2": "<|im_end|>", "qwen": "<|im_end|>"}
TURNS = [
    *about_image("What?", "A cat."),
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    """(name, model, processor)"""
    return request.param, *make_family(request.param)


def test_template_renders_the_familys_format(family):
    name, _, processor = family
    assert processor.apply_chat_template(TURNS, tokenize=False) == EXPECTED[name][0]


def test_a_system_message_replaces_the_default(family):
    name, _, processor = family
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text.count("Be brief.") == 1
    assert "helpful" not in text
    assert text.index("Be brief.") < text.index("Hi")
    assert text.endswith({"vicuna": "Hi ASSISTANT:", "llama3": "assistant<|end_header_id|>\n\n"}.get(name, "assistant\n"))


def test_marks_are_what_the_assistant_says_with_its_end(family):
    name, _, processor = family
    batch = processor.tokenizer.apply_chat_template(TURNS, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, said = batch["input_ids"], batch["assistant_masks"]
    runs, previous = [], 0
    for token, mark in zip(ids, said, strict=True):
        if mark and not previous:
            runs.append([])
        if mark:
            runs[-1].append(token)
        previous = mark
    # Llama's decoder drops a leading space
    assert [processor.tokenizer.decode(run) for run in runs] == [answer.lstrip() for answer in EXPECTED[name][1:]]
    if name == "vicuna":
        assert {processor.tokenizer.convert_ids_to_tokens(run[0]) for run in runs} == {"▁"}
    assert all(run[-1] == processor.tokenizer.eos_token_id for run in runs)


def test_the_prompt_for_generation_is_what_stands_before_the_answer(family):
    _, _, processor = family
    (encoded,) = items.encoded(processor, [("What?", "A cat.")])
    first = encoded.is_answer.index(True)
    prompt = processor.apply_chat_template(TURNS[:1], tokenize=False, add_generation_prompt=True)
    ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    image = processor.image_token_id
    expanded = [token for one in ids for token in [one] * (processor.num_image_tokens if one == image else 1)]
    assert expanded == list(encoded.input_ids[:first])


def test_special_tokens(family):
    name, model, processor = family
    tokenizer = processor.tokenizer
    assert tokenizer.eos_token == TURN_END[name]
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id, processor.image_token_id)
    assert tokenizer.padding_side == "left"
    assert model.config.image_token_id == processor.image_token_id
    assert model.get_input_embeddings().num_embeddings == model.lm_head.out_features == len(tokenizer)
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert tokenizer.decode([processor.image_token_id], skip_special_tokens=True) == ""
    # everything else is as it was before
    original = make_tokenizer(name)
    assert all(tokenizer.get_vocab()[token] == index for token, index in original.get_vocab().items())


@torch.no_grad()
def test_generation_stops_at_the_end_of_the_turn(family, tmp_path):
    """A head that says "ok", ends its turn, and would go on: what is generated ends with the turn."""
    name, model, processor = family
    tokenizer = processor.tokenizer
    says = [*tokenizer("ok", add_special_tokens=False)["input_ids"], tokenizer.convert_tokens_to_ids(TURN_END[name])]
    model.save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path)
    prompt = processor.apply_chat_template([{"role": "user", "content": "Say ok"}], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[prompt], return_tensors="pt", add_special_tokens=False)
    start = inputs["input_ids"].shape[1]

    def dictate(ids, scores):
        wanted = torch.full_like(scores, float("-inf"))
        wanted[:, (says * 4)[ids.shape[1] - start]] = 0
        return wanted

    out = model.generate(**inputs, max_new_tokens=12, do_sample=False, logits_processor=[dictate])
    assert out[0, start:].tolist() == says
    assert tokenizer.decode(out[0, start:], skip_special_tokens=True) == "ok"


def test_llama_3_and_vicuna_are_told_apart_by_their_vocabularies():
    for name in ("llama3", "vicuna"):
        tokenizer = make_tokenizer(name)
        assert family_of(make_language_model(name, tokenizer).config, tokenizer).name == name


def test_a_base_models_tokenizer_is_refused():
    with pytest.raises(FamilyError, match=r"internlm2 needs <\|im_start\|>, <\|im_end\|>.*chat model"):
        family_of(AutoConfig.for_model("internlm2"), make_tokenizer("vicuna"))


def test_a_padding_token_is_added_where_the_vocabulary_has_none():
    tokenizer = make_tokenizer("vicuna")
    before = len(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    family = LanguageFamily("own", ("own",), "{{ messages }}", None)
    assert prepare_tokenizer(tokenizer, family) == before + 2
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")


@torch.no_grad()
def test_the_class_token_of_clip_is_left_out():
    tokenizer = make_tokenizer("vicuna")
    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7
    )
    model, processor = model_and_processor(
        CLIPVisionModel(config),
        make_language_model("vicuna", tokenizer),
        tokenizer,
        CLIPImageProcessorPil(size={"height": 28, "width": 28}, crop_size={"height": 28, "width": 28}),
        {"projector_type": "linear", "num_attention_heads": 2},
    )
    batch = processor(text=["<image> what"], images=[[Image.new("RGB", (40, 30))]], return_tensors="pt")
    assert model.get_image_features(batch["pixel_values"]).pooler_output.shape == (1, 16, 32)
    assert torch.isfinite(model(**batch).logits).all()
