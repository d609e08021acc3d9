"""What differs between families of language models: chat template, the token that ends a turn, the padding token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from pargo_mllm.data.feeding import templates
from pargo_mllm.errors import UserError


class FamilyError(UserError):
    """A language model for which no chat format can be chosen; the message says what is missing."""


@dataclass(frozen=True)
class LanguageFamily:
    """A family of language models: the format in which one that has no chat template of its own is trained and asked.

    Args:
        name: of the family.
        model_types: of the configurations that belong to it; none for a format that any model may learn.
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
    LanguageFamily("vicuna", ("llama",), templates.VICUNA, None, ("<s>", "</s>"), ("<unk>",)),
    LanguageFamily("internlm2", ("internlm2",), templates.INTERNLM2, "<|im_end|>", _CHATML, ("</s>",)),
    LanguageFamily(
        "qwen", ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"), templates.QWEN, "<|im_end|>", _CHATML, ("<|endoftext|>",)
    ),
    LanguageFamily("chatml", (), templates.CHATML, "<|im_end|>", _CHATML, ("<|endoftext|>", "</s>")),
)
# what tokenizers call a token that says nothing
_PADDING = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>", "<|reserved_special_token_0|>")


def chosen_family(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, family: LanguageFamily | str | None = None
) -> LanguageFamily:
    """The format that a language model is trained and asked in.

    Args:
        family: a family, or the name of one. None keeps the tokenizer's own chat template; a tokenizer that has none is a base
            model's, and gets the family of :func:`family_of`.

    Raises:
        FamilyError: for a name that is no family's, or a vocabulary that lacks what the family needs.
    """
    if isinstance(family, LanguageFamily):
        return family
    if family is not None:
        named = [one for one in FAMILIES if one.name == family]
        if not named:
            raise FamilyError(f"family={family!r} is unknown; it must be one of {', '.join(one.name for one in FAMILIES)}.")
        return _fitting(named, tokenizer, f"family={family!r}: the tokenizer has")
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own:
        return LanguageFamily("own", (config.model_type,), own, None, (), _PADDING)
    return family_of(config, tokenizer)


def family_of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> LanguageFamily:
    """The family of a base model, chosen by the vocabulary that it needs; its configuration's ``model_type`` decides where
    several would do.

    Raises:
        FamilyError: for a vocabulary that no family can do with, or that lacks the tokens of the family of its type.
    """
    of_type = [family for family in FAMILIES if config.model_type in family.model_types]
    return _fitting(of_type or list(FAMILIES), tokenizer)


def _fitting(
    families: Sequence[LanguageFamily], tokenizer: PreTrainedTokenizerBase, why: str = "the tokenizer has no chat template, and"
) -> LanguageFamily:
    vocabulary = tokenizer.get_vocab()
    for family in families:
        if all(token in vocabulary for token in family.needs):
            return family
    needs = "; ".join(f"{family.name} needs {', '.join(family.needs)}" for family in families)
    raise FamilyError(
        f"{why} not the tokens of a format that it could be given: {needs}. Take the "
        "tokenizer of the chat model, not of the base model; or pass family=LanguageFamily(...) with a chat template and the "
        "token that ends a turn."
    )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a tokenizer that makes no tokens of text, or has more of them than there are ``rows`` of embeddings: words of
    another model's would stand for rows that were never trained.

    Raises:
        FamilyError: naming the tokenizer.
    """
    if not tokenizer("What is the capital of France?", add_special_tokens=False)["input_ids"]:
        raise FamilyError(
            f"the tokenizer ({type(tokenizer).__name__}, {len(tokenizer)} tokens) makes no tokens of text: its vocabulary is "
            "missing (tokenizer.json, or vocab.json and merges.txt, or tokenizer.model)."
        )
    if tokenizer.vocab_size > rows:
        raise FamilyError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the language model embeds {rows}: they do not belong "
            "together."
        )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, family: LanguageFamily) -> int:
    """Give a tokenizer the family's chat template, the image token, a padding token, left padding and its end of a turn.

    The padding token differs from the token that ends a turn: a model that is never shown its end never stops.

    Returns:
        The vocabulary's size, which the embeddings must have at least.
    """
    if family.turn_end is not None:
        tokenizer.eos_token = family.turn_end
    if tokenizer.pad_token in (None, tokenizer.eos_token, family.turn_end):
        vocabulary = tokenizer.get_vocab()
        found = [token for token in family.padding if token in vocabulary and token != tokenizer.eos_token]
        tokenizer.add_special_tokens({"pad_token": found[0] if found else "<pad>"})
    tokenizer.add_special_tokens({"extra_special_tokens": [templates.IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = family.template
    tokenizer.padding_side = "left"
    return len(tokenizer)


def set_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, turn_end: str | None = None) -> None:
    """Make ``model.generate`` stop where a turn ends, and pad with the tokenizer's padding token.

    End tokens that the model knew already stay: a text may end without a turn.

    Args:
        turn_end: the token that ends what the assistant says; the tokenizer's end token when None.
    """
    generation = model.generation_config
    before = generation.eos_token_id
    known = [] if before is None else [before] if isinstance(before, int) else list(before)
    for end in known:
        if not 0 <= end < len(tokenizer):
            raise FamilyError(
                f"the generation settings' eos_token_id={before!r} holds {end}, outside of the tokenizer's {len(tokenizer)} "
                "tokens; correct generation_config.json."
            )
    ends = [tokenizer.eos_token_id if turn_end is None else tokenizer.convert_tokens_to_ids(turn_end), tokenizer.eos_token_id]
    generation.eos_token_id = list(dict.fromkeys([*(end for end in ends if end is not None), *known]))
    generation.bos_token_id = tokenizer.bos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
