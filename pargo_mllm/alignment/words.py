"""Words as a language model spells and embeds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def word_ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    """The tokens of a word in the middle of a sentence; empty where the tokenizer has none for it.

    A word behind another one is spelled otherwise than one at the beginning of a text, in most vocabularies by a space that
    belongs to it.
    """
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    both = tokenizer(f"a {word}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = both[len(before) :] if both[: len(before)] == before else []
    return () if unknown is not None and unknown in ids else tuple(ids)


def word_vectors(embeddings: torch.Tensor, words: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean input embedding of each word's tokens: fp32 ``[words, C]`` from ``[vocabulary, C]``."""
    rows = [embeddings[list(ids)].float().mean(dim=0) for ids in words]
    return torch.stack(rows) if rows else embeddings.new_zeros(0, embeddings.shape[1], dtype=torch.float32)
