"""Texts as the tokens of a model of pictures and text: whole, or cut in front of the end token, which is always there.

transformers cuts on request only, and whoever cuts its tokens by hand loses the token at which CLIP reads what a text means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pargo_mllm.errors import UserError

# one of them is a token in every vocabulary
_PROBES = ("a", "the", "1", "A", ".", "中")


class TokenError(UserError):
    """A tokenizer that does not fit its model; the message names the folder."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of texts.

    Args:
        ids: [texts, tokens].
        mask: [texts, tokens], 1 for a token and 0 for what fills up; None for a model that was trained without one.
        cut: of each text, whether it was longer than the model reads.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    cut: list[bool]


class TextTokens:
    """How texts become tokens: what the tokenizer puts in front, the text as far as there is room, the end.

    Args:
        tokenizer: of transformers.
        longest: tokens that the model reads, those in front and at the end among them.
        fills: whether every text is filled up to ``longest`` and none is masked, as SigLIP was trained.
        name: what errors call it.

    Raises:
        TokenError: for a tokenizer that makes nothing of any text, or has no end token.
    """

    def __init__(self, tokenizer: Any, longest: int, fills: bool, name: str):
        self.tokenizer, self.fills = tokenizer, fills
        limit = tokenizer.model_max_length
        self.longest = min(longest, limit) if isinstance(limit, int) and limit > 0 else longest
        self.front, self.end = _around(tokenizer, name)
        if self.longest <= len(self.front) + len(self.end):
            raise TokenError(f"{name}: its model reads {self.longest} tokens, which leaves no room for a text.")
        pad = tokenizer.pad_token_id
        self.pad = self.end[-1] if pad is None else pad
        # a text that spells them would end, for the model, in its middle
        self._structure = {*self.front, *self.end, self.pad}

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The tokens of texts, filled up to one length."""
        bare = self.tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
        room = self.longest - len(self.front) - len(self.end)
        inside = [[token for token in tokens if token not in self._structure] for tokens in bare]
        rows = [[*self.front, *tokens[:room], *self.end] for tokens in inside]
        width = self.longest if self.fills else max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            # CLIP counts positions from the first token; where nothing is masked, the side is the one that was trained with
            place = width - len(row) if self.fills and self.tokenizer.padding_side == "left" else 0
            ids[number, place : place + len(row)] = torch.tensor(row)
            mask[number, place : place + len(row)] = 1
        return Tokens(ids, None if self.fills else mask, [len(tokens) > room for tokens in inside])


def _around(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """What the tokenizer puts in front of every text and behind it."""
    for probe in _PROBES:
        bare = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
        whole = list(tokenizer(probe)["input_ids"])
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                end = whole[start + len(bare) :]
                if not end:
                    known = (tokenizer.eos_token_id, tokenizer.sep_token_id)
                    end = [next((token for token in known if token is not None), None)]
                if end[0] is None:
                    raise TokenError(f"{name}: its tokenizer has no token for the end of a text.")
                return whole[:start], end
    raise TokenError(f"{name}: its tokenizer makes nothing of {', '.join(map(repr, _PROBES))}.")
