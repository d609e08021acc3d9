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
    """The mean input embedding of each word's tokens: fp32 ``[words, C]`` from ``[vocabulary, C]``; 0 for no tokens."""
    ids = torch.tensor([token for word in words for token in word], dtype=torch.int64)
    starts = torch.tensor([0, *map(len, words)], dtype=torch.int64).cumsum(0)[:-1]
    return mean_rows(embeddings, ids, starts)


def mean_rows(embeddings: torch.Tensor, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """The same of words one behind the other in ``ids``, each from ``starts`` on: int64 both."""
    rows = embeddings[ids.to(embeddings.device)].float()
    if not len(starts):
        return rows.new_zeros(0, embeddings.shape[1])
    places = torch.arange(len(rows), device=rows.device)
    return torch.nn.functional.embedding_bag(places, rows, starts.to(rows.device), mode="mean")
