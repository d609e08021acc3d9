"""The word-level tokenizer and the chat template of the miniature language model.

A real model brings its own tokenizer; this one exists because a miniature trained from nothing in a minute needs a small
vocabulary. Its template marks what the assistant says with ``{% generation %}``, as every template used for training must:
labels come from those marks.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pargo_mllm.data.feeding.templates import IMAGE_TOKEN, said_macro

_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_TURNS = ("<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    said_macro()
    + """{{- bos_token -}}
{%- for message in messages -%}
  {%- if message['role'] == 'assistant' -%}
    {{- '<|assistant|>' -}}
    {%- generation -%}{{- said(message['content']) + eos_token -}}{%- endgeneration -%}
  {%- else -%}
    {{- '<|user|>' + said(message['content']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
)


# a question mark tells the miniature nothing; other marks are words of their own
_NORMALIZER = normalizers.Sequence(
    [normalizers.Replace("?", ""), *(normalizers.Replace(mark, f" {mark} ") for mark in (",", ";", ":", "."))]
)


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each distinct word of ``texts``; words are what whitespace and
    punctuation separate.

    Unknown words become ``<unk>``. The order of the vocabulary depends on the words alone.
    """
    special = [*_SPECIAL.values(), IMAGE_TOKEN, *_TURNS]
    words = sorted({word for text in texts for word in _NORMALIZER.normalize_str(text).split()} - set(special))
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = _NORMALIZER
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[IMAGE_TOKEN, *_TURNS],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **_SPECIAL,
    )
