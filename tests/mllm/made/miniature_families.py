"""Random-weight miniatures of the real classes of every family, with real tokenizer classes over small vocabularies."""

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from pargo_mllm.assembly import model_and_processor
from pargo_mllm.language.internlm2 import InternLM2Config

FAMILY_NAMES = ("vicuna", "llama3", "internlm2", "qwen")
SIDE, PATCH = 28, 7
_CHATML = ("<|im_start|>", "<|im_end|>")


def sentencepiece_tokenizer(special=()):
    """Llama's class: byte fallback, no merges, so that every text can be said."""
    base = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokenizer = LlamaTokenizer(vocab={token: index for index, token in enumerate(base)}, merges=[], add_bos_token=False)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def byte_level_tokenizer(special, **roles):
    """Qwen's class with the 256 byte letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={token: index for index, token in enumerate([*letters, "<|endoftext|>"])}, merges=[])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def llama3_tokenizer():
    names = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    backend = byte_level_tokenizer((*names, "<|finetune_right_pad_id|>")).backend_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=names[0], eos_token=names[1])


def make_tokenizer(family):
    return {
        "vicuna": lambda: sentencepiece_tokenizer(),
        "llama3": llama3_tokenizer,
        "internlm2": lambda: sentencepiece_tokenizer(_CHATML),
        "qwen": lambda: byte_level_tokenizer(_CHATML),
    }[family]()


def make_language_model(family, tokenizer, seed=0):
    """Two layers, 32 wide, grouped queries."""
    torch.manual_seed(seed)
    config_class = {"internlm2": InternLM2Config, "qwen": Qwen2Config}.get(family, LlamaConfig)
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def small_encoder():
    """One layer, 24 wide, 4 x 4 patches."""
    return SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )


def make_family(family, seed=0, **projector):
    """(model, processor) of a family; keyword arguments go to the projector."""
    tokenizer = make_tokenizer(family)
    return around(make_language_model(family, tokenizer, seed), tokenizer, seed, **projector)


def make_family_around(tokenizer, family=None):
    """(model, processor) of a Llama that has the vocabulary of a tokenizer."""
    return around(make_language_model("vicuna", tokenizer), tokenizer, family=family)


def around(language_model, tokenizer, seed=0, family=None, **projector):
    """(model, processor) with a language model behind pictures."""
    vision = small_encoder()
    options = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_partial_tokens": 8,
        "num_global_tokens": 2,
        "initializer_range": 0.2,
        "query_initializer_range": 1.0,
        "output_initializer_range": 0.2,
    }
    model, processor = model_and_processor(
        SiglipVisionModel(vision),
        language_model,
        tokenizer,
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        {**options, **projector},
        family,
        seed,
    )
    return model.eval(), processor
