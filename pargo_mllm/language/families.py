"""What differs between families of language models: chat template, the token that ends a turn, the padding token."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from pargo_mllm.data.feeding import templates


@dataclass(frozen=True)
class LanguageFamily:
    """A family of language models.

    Args:
        name: of the family.
        model_types: of the configurations that belong to it.
        template: the chat template, with generation marks.
        turn_end: the token that ends what the assistant says: generation stops there. None for the tokenizer's end token.
        needs: tokens that the template uses, which the vocabulary must hold.
        padding: tokens to pad with, the first one in the vocabulary counts.
    """

    name: str
    model_types: tuple[str, ...]
    template: str
    turn_end: str | None
    needs: tuple[str, ...] = ()
    padding: tuple[str, ...] = ()


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML = ("<|im_start|>", "<|im_end|>")

# Llama 3 stands before Vicuna: both are Llamas, and only the vocabulary tells them apart
FAMILIES = (
    LanguageFamily(
        "llama3",
        ("llama",),
        templates.LLAMA3,
        "<|eot_id|>",
        _HEADERS,
        ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>"),
    ),
    LanguageFamily("vicuna", ("llama",), templates.VICUNA, None, (), ("<unk>",)),
    LanguageFamily("internlm2", ("internlm2",), templates.INTERNLM2, "<|im_end|>", _CHATML, ("</s>",)),
    LanguageFamily(
        "qwen", ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), templates.QWEN, "<|im_end|>", _CHATML, ("<|endoftext|>",)
    ),
)


def family_of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> LanguageFamily:
    """The family of a language model, from its configuration's ``model_type`` and its vocabulary.

    Raises:
        ValueError: for a model of no known family, or a vocabulary that lacks the family's tokens.
    """
    candidates = [family for family in FAMILIES if config.model_type in family.model_types]
    if not candidates:
        known = ", ".join(dict.fromkeys(kind for family in FAMILIES for kind in family.model_types))
        raise ValueError(
            f"model_type={config.model_type!r} belongs to no known family ({known}); pass family=LanguageFamily(...) with its "
            "chat template and the token that ends a turn."
        )
    vocabulary = tokenizer.get_vocab()
    for family in candidates:
        if all(token in vocabulary for token in family.needs):
            return family
    missing = [token for token in candidates[0].needs if token not in vocabulary]
    raise ValueError(
        f"the tokenizer lacks {', '.join(missing)}, which the chat template of {candidates[0].name} needs; take the tokenizer "
        "of the chat model, not of the base model."
    )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, family: LanguageFamily) -> int:
    """Give a tokenizer the family's chat template, the image token, a padding token, left padding and its end of a turn.

    The padding token differs from the token that ends a turn: a model that is never shown its end never stops.

    Returns:
        The vocabulary's size, which the embeddings must have at least.
    """
    if family.turn_end is not None:
        tokenizer.eos_token = family.turn_end
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        vocabulary = tokenizer.get_vocab()
        found = [token for token in family.padding if token in vocabulary and token != tokenizer.eos_token]
        tokenizer.add_special_tokens({"pad_token": found[0] if found else "<pad>"})
    tokenizer.add_special_tokens({"extra_special_tokens": [templates.IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = family.template
    tokenizer.padding_side = "left"
    return len(tokenizer)


def set_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make ``model.generate`` stop where a turn ends, and pad with the tokenizer's padding token.

    End tokens that the model knew already stay: a text may end without a turn.
    """
    generation = model.generation_config
    before = generation.eos_token_id
    known = [] if before is None else [before] if isinstance(before, int) else list(before)
    generation.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *known]))
    generation.bos_token_id = tokenizer.bos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
